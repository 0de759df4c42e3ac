import io
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.data.splits import LeaveLast, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.sequential.examples import Example

pytest.importorskip("peft")

from prismrec.sequential.backbone import Origin
from prismrec.sequential.prepare import PrepareConfig
from prismrec.sequential.prepared import prepare
from prismrec.sequential.rerank import Reranker, rerank_lists, shelf_of
from prismrec.sequential.scoring import score_examples
from prismrec.sequential.settings import tuning_of
from prismrec.sequential.steps import supervise
from prismrec.sequential.writer import Shelf, Writer

SETTINGS = {"epochs": 1, "batch_size": 4, "learning_rate": 0.05, "clip_norm": 1e9}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("rerank")


@pytest.fixture(scope="module")
def trained(home, films, tiny):
    """Return a function from a task to the folder of a run on it, made once."""
    made = {}

    def run(task, kind="qwen2.5-vl"):
        if task not in made:
            questions = prepare(films, home / f"questions-{task}", PrepareConfig(task=task, noun="film"))
            tuning = tuning_of("small", SETTINGS)
            supervise(questions, Origin(str(tiny(kind))), home / task, tuning, most=16)
            made[task] = home / task
        return made[task]

    return run


@pytest.fixture(scope="module")
def reranker(trained):
    return Reranker.load(trained("next"))


@pytest.fixture(scope="module")
def first_run(home, films):
    data = films.write(home / "films")
    extract(
        Contents.of(data.catalog, "text"), TfidfSvdEncoder(8), data.path / "features" / "text", name="text"
    )
    train(ContentProfileConfig(), make_split(data, LeaveLast()), out=home / "first")
    return home / "first"


@pytest.fixture
def first(first_run):
    """A first stage of this test's own, in memory: it may take in items."""
    return replace(Recommender.load(first_run), path=None)


def chosen(films, user):
    log = films.interactions.frame.filter(pl.col("user_id") == user).sort("timestamp")
    return log["item_id"].to_list()


def scored_by_hand(reranker, names, history):
    """Scores of a list after a history, by the run's own words."""
    codes = {name: code for code, name in enumerate(reranker.prepared.ids)}
    asked = Example("?", tuple(codes[i] for i in history), (), tuple(codes[i] for i in names))
    (scores,) = score_examples(reranker.backbone, reranker.writer, [asked])
    return scores


def test_lists_are_in_the_models_order(films, first, reranker) -> None:
    users = ["u3", "u11", "u29"]
    lists = first.recommend(users, k=8)
    found = rerank_lists(lists, first, reranker, k=8)
    assert found.columns == [*lists.columns, "first_rank"]
    assert found["user_id"].unique(maintain_order=True).to_list() == users
    moved = 0
    for user in users:
        before, after = (frame.filter(pl.col("user_id") == user) for frame in (lists, found))
        assert after["rank"].to_list() == list(range(1, 9))
        scores = dict(zip(before["item_id"], scored_by_hand(
            reranker, before["item_id"], chosen(films, user)[-5:]
        ), strict=True))  # fmt: skip
        assert after["item_id"].to_list() == sorted(scores, key=scores.get, reverse=True)
        np.testing.assert_allclose(after["score"], [scores[name] for name in after["item_id"]], atol=1e-5)
        places = dict(before.select("item_id", "rank").iter_rows())
        assert dict(after.select("item_id", "first_rank").iter_rows()) == places
        kept = before.select("item_id", "title", "new", "fallback").sort("item_id")
        assert after.select("item_id", "title", "new", "fallback").sort("item_id").equals(kept)
        moved += after["first_rank"].to_list() != after["rank"].to_list()
    assert moved == 3


def test_the_model_reads_more_than_is_kept(first, reranker) -> None:
    lists = first.recommend(["u3", "u4"], k=12)
    whole = rerank_lists(lists, first, reranker, k=12)
    best = rerank_lists(lists, first, reranker, k=3)
    assert best.equals(whole.filter(pl.col("rank") <= 3))
    assert best["first_rank"].max() > 3


def test_who_has_no_history_keeps_the_first_stages_order(first, reranker) -> None:
    lists = first.recommend(["stranger", "u3", "other"], k=6)
    found = rerank_lists(lists, first, reranker, k=4)
    assert found["user_id"].unique(maintain_order=True).to_list() == ["stranger", "u3", "other"]
    for user in ("stranger", "other"):
        rows = found.filter(pl.col("user_id") == user)
        expected = lists.filter((pl.col("user_id") == user) & (pl.col("rank") <= 4))
        assert rows["item_id"].to_list() == expected["item_id"].to_list()
        assert rows["first_rank"].to_list() == rows["rank"].to_list() == [1, 2, 3, 4]
        assert rows["score"].is_null().all()
    assert found.filter(pl.col("user_id") == "u3")["score"].is_not_null().all()
    assert found.schema["score"] == pl.Float64


def test_of_a_history_what_is_not_known_is_passed_over(first, reranker) -> None:
    lists = first.recommend(["u3"], k=6)
    known = reranker.rerank(lists, {"u3": ["i14", "i20"]})
    assert reranker.rerank(lists, {"u3": ["gone", "i14", "lost", "i20"]}).equals(known)
    nothing = reranker.rerank(lists, {"u3": ["gone"]})
    assert nothing["score"].is_null().all()
    # Only the last five are shown.
    longer = reranker.rerank(lists, {"u3": [*(f"i{n}" for n in range(22, 30)), "i14", "i20"]})
    assert longer.equals(reranker.rerank(lists, {"u3": ["i27", "i28", "i29", "i14", "i20"]}))
    assert not longer.equals(known)


def test_history_is_what_the_models_data_set_tells(films, reranker) -> None:
    assert reranker.history("u7") == chosen(films, "u7")
    assert reranker.history("nobody") == []


def test_a_user_whom_only_the_first_stage_knows_has_its_history(first, reranker, monkeypatch) -> None:
    monkeypatch.setattr(Reranker, "history", lambda self, user: [])
    lists = first.recommend(["u3"], k=6)
    found = rerank_lists(lists, first, reranker, k=6)
    assert found.equals(reranker.rerank(lists, {"u3": first.history("u3")}))
    assert found["score"].is_not_null().all()


def test_somebody_anonymous_is_known_by_what_is_liked(first, reranker) -> None:
    liked = ["i14", "i16", "i20"]
    lists = first.recommend(liked=liked, k=10)
    found = rerank_lists(lists, first, reranker, k=5, liked=liked)
    assert found["user_id"].is_null().all()
    assert found.height == 5
    expected = -np.sort(-scored_by_hand(reranker, lists["item_id"], liked))
    np.testing.assert_allclose(found["score"], expected[:5], atol=1e-5)


def test_lists_of_nobody_stay_empty(first, reranker) -> None:
    lists = first.recommend(["u3"], k=3).clear()
    found = rerank_lists(lists, first, reranker, k=3)
    assert found.height == 0
    assert found.columns == [*lists.columns, "first_rank"]


# --- items that came later --------------------------------------------------------------------------------


def png(colour, size=(56, 56)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def newcomers(first, films, **pictures):
    """Give the first stage three items: of a new title, of one that is there, of none."""
    known = films.catalog.items["title"][20]
    items = pl.DataFrame(
        {"item_id": ["n1", "n2", "n3"], "title": ["Winter Sea Royale", known, None], "year": [2020] * 3}
    )
    first.add_items(Catalog(items, ("title",), {"image": MemoryMedia(pictures)}))
    return known


def with_newcomers(reranker, known, **pictures):
    """The run's writer as it should be once it knows them."""
    old = reranker.writer
    media = {name: old.shelf.pictures.read(name) for name in old.shelf.pictures.ids}
    shelf = Shelf(
        [*old.shelf.ids, "n1", "n2", "n3"],
        [*old.shelf.titles, "Winter Sea Royale", f"{known} (n2)", "untitled film n3"],
        MemoryMedia({**media, **pictures}),
    )
    return Writer(old.task, old.template, old.noun, old.plural, shelf, old.processor, old.max_tokens)


def test_new_items_are_ranked_by_their_titles(films, first, reranker) -> None:
    known = newcomers(first, films)
    lists = first.recommend(["u3"], k=100)
    assert {"n1", "n2"} <= set(lists["item_id"])
    found = rerank_lists(lists, first, reranker, k=100)
    writer = with_newcomers(reranker, known)
    codes = {name: code for code, name in enumerate(writer.shelf.ids)}
    history = tuple(codes[name] for name in chosen(films, "u3")[-5:])
    asked = Example("u3", history, (), tuple(codes[name] for name in lists["item_id"]))
    (scores,) = score_examples(reranker.backbone, writer, [asked])
    expected = [lists["item_id"][place] for place in np.argsort(-scores, kind="stable").tolist()]
    assert found["item_id"].to_list() == expected
    np.testing.assert_allclose(found["score"], -np.sort(-scores), atol=1e-5)
    # Of one title and told apart: not the same score.
    twins = found.filter(pl.col("item_id").is_in(["i20", "n2"]))["score"].to_list()
    assert len(twins) == 2
    assert twins[0] != twins[1]


def test_an_item_without_a_title_is_called_as_at_training(films, first, reranker) -> None:
    newcomers(first, films)
    titles = dict(zip(shelf_of(first).ids, shelf_of(first).titles, strict=True))
    assert titles["n3"] == ""
    assert reranker._with(shelf_of(first)).shelf.titles[-3:] == [
        "Winter Sea Royale",
        f"{titles['i20']} (n2)",
        "untitled film n3",
    ]


def test_a_new_item_that_is_liked_is_seen(films, first, reranker) -> None:
    red, blue = png((250, 0, 0)), png((0, 0, 250), (30, 90))
    known = newcomers(first, films, n1=red)
    lists = first.recommend(liked=["n1", "i14"], k=6)
    found = rerank_lists(lists, first, reranker, k=6, liked=["n1", "i14"])
    expected = {}
    for name, picture in (("red", {"n1": red}), ("blue", {"n1": blue}), ("none", {})):
        writer = with_newcomers(reranker, known, **picture)
        codes = {name: code for code, name in enumerate(writer.shelf.ids)}
        asked = Example("?", (codes["n1"], codes["i14"]), (), tuple(codes[i] for i in lists["item_id"]))
        (scores,) = score_examples(reranker.backbone, writer, [asked])
        expected[name] = -np.sort(-scores)
    np.testing.assert_allclose(found["score"], expected["red"], atol=1e-6)
    assert abs(expected["red"] - expected["blue"]).max() > 1e-4
    assert abs(expected["red"] - expected["none"]).max() > 1e-4


def test_the_run_itself_stays_as_it_was(films, first, reranker) -> None:
    before = list(reranker.writer.shelf.ids)
    newcomers(first, films)
    rerank_lists(first.recommend(["u3"], k=5), first, reranker, k=5)
    assert list(reranker.writer.shelf.ids) == before
    # A first stage with nothing new needs nothing else.
    assert reranker._with(reranker.prepared.shelf) is reranker.writer


def test_an_item_that_nobody_knows_is_an_error_that_names_it(films, first, reranker) -> None:
    newcomers(first, films)
    lists = first.recommend(["u3"], k=100)
    missing = next(name for name in lists["item_id"] if name.startswith("n"))
    with pytest.raises(InputError, match=f"'{missing}'"):
        reranker.rerank(lists, {"u3": ["i14"]})
    # Nothing is asked about who has no history, so that nothing is missing.
    assert reranker.rerank(lists, {})["score"].is_null().all()


# --- runs -------------------------------------------------------------------------------------------------


def test_a_run_on_three_titles_ranks_too(first, trained) -> None:
    reranker = Reranker.load(trained("top3", "text"))
    found = rerank_lists(first.recommend(["u3"], k=6), first, reranker, k=6)
    assert found["score"].is_sorted(descending=True)
    assert found["score"].n_unique() == 6


def test_a_run_that_says_yes_or_no_ranks_nothing(trained) -> None:
    with pytest.raises(InputError, match="binary: this run answers Yes or No"):
        Reranker.load(trained("binary", "text"))


def test_no_run(tmp_path) -> None:
    with pytest.raises((DamagedError, InputError), match="nowhere"):
        Reranker.load(tmp_path / "nowhere")
