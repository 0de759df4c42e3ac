import json
import shutil

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.data.splits import ItemColdStart, Part, RandomHoldout, Split, make_split
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender import examples
from prismrec.recommender.evaluate import evaluate, open_part
from prismrec.recommender.examples import choose_examples
from prismrec.recommender.insights import categories, category_column, expert_load, modality_weights
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.report import evaluate_run, read_result
from prismrec.recommender.train import train


@pytest.fixture(scope="module")
def own_split(shop):
    return make_split(shop, ItemColdStart(valid=0.15, test=0.15, seed=77))


@pytest.fixture
def folder(own_split, config, plan, tmp_path):
    train(config, own_split, plan=plan, out=tmp_path / "runs" / "mamex")
    return tmp_path / "runs" / "mamex"


def openings(split):
    book = split.ledger / f"{split.hash}.json"
    return json.loads(book.read_text())["openings"] if book.exists() else []


def test_everything_is_written(folder, own_split):
    before = len(openings(own_split))
    result = evaluate_run(folder)
    assert [(p.part, p.candidates) for p in result.parts] == [
        (part, mode) for part in ("test", "valid") for mode in ("strict", "as_released", "all_items")
    ]
    assert len(openings(own_split)) == before + 1  # opened once, for everything
    assert result.test_openings_before == before
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"test", "valid"}
    assert set(metrics["test"]) == {"strict", "as_released", "all_items"}
    mean = metrics["test"]["strict"]["ndcg@10"]["mean"]
    assert result.parts[0].metrics["ndcg@10"].mean == mean
    assert read_result(folder) == result
    assert f"{mean:.4f}" in (folder / "evaluation.md").read_text()
    page = (folder / "report.html").read_text()
    assert "<polyline" in page  # the learning curve
    assert "Expert 1" in page
    assert "data:image/jpeg" in page
    assert "drawn at random (seed 0)" in page
    loaded = Recommender.load(folder)  # the manifest is still whole, and remembers
    assert len(loaded.manifest.test_openings) == 1


def test_the_numbers_are_those_of_evaluate(folder):
    recommender = Recommender.load(folder)
    expected = evaluate(recommender, part="valid", candidates=["all_items"], ks=[5])
    result = evaluate_run(folder, parts=["valid"], candidates=["all_items"], ks=[5], report=False)
    assert result.parts[0].metrics == expected.parts[0].metrics
    assert result.test_openings_before is None
    assert not (folder / "report.html").exists()


def test_a_device_ranks_the_same(folder, ranked_by_torch):
    here = evaluate_run(folder, parts=["valid"], ks=[5], report=False)
    assert not ranked_by_torch
    there = evaluate_run(folder, parts=["valid"], ks=[5], report=False, device="cuda")
    assert ranked_by_torch
    assert [p.metrics for p in there.parts] == [p.metrics for p in here.parts]


def test_validation_alone_leaves_the_test_part_sealed(folder, own_split):
    before = openings(own_split)
    evaluate_run(folder, parts=["valid"])
    assert openings(own_split) == before
    assert "validation part" in (folder / "report.html").read_text()


def test_wrong_arguments_do_not_open_the_test_part(folder, own_split):
    before = openings(own_split)
    for wrong in ({"ks": [500]}, {"parts": ["test", "valid", "train"]}, {"parts": []}, {"candidates": ["x"]}):
        with pytest.raises(InputError):
            evaluate_run(folder, **wrong)
    assert openings(own_split) == before
    assert not (folder / "metrics.json").exists()


def test_a_warm_split_is_ranked_on_warm_items(shop, config, plan, tmp_path):
    train(config, make_split(shop, RandomHoldout(seed=5)), plan=plan, out=tmp_path / "run")
    result = evaluate_run(tmp_path / "run", parts=["valid"])
    assert [p.candidates for p in result.parts] == ["warm"]


def test_a_split_without_validation_part(own_split, config, plan, tmp_path):
    parts = np.where(own_split.parts == 1, 0, own_split.parts).astype(np.int8)
    split = Split(ItemColdStart(valid=0.0, test=0.15, seed=77), own_split.users, own_split.items,
                  own_split.pairs, parts, own_split.dataset)  # fmt: skip
    train(config, split, plan=plan, out=tmp_path / "run")
    result = evaluate_run(tmp_path / "run", candidates=["strict"])
    assert [p.part for p in result.parts] == ["test"]
    assert "no validation part" in " ".join(result.notes)
    with pytest.raises(InputError, match="no candidate"):
        evaluate_run(tmp_path / "run", parts=["valid"])


def test_runs_beside_it_are_compared(folder, own_split, shop, config, plan):
    home = folder.parent
    train(PopularityConfig(), own_split, out=home / "popular")
    evaluate_run(home / "popular", parts=["valid"])
    train(PopularityConfig(), make_split(shop, RandomHoldout(seed=6)), out=home / "foreign")
    evaluate_run(home / "foreign", parts=["valid"], ks=[10])
    shutil.copytree(home / "popular", home / "broken")
    (home / "broken" / "evaluation.json").write_text('{"run": 3}')
    far = shutil.copytree(home / "popular", home / "far" / "away")
    evaluate_run(far, parts=["valid"])
    evaluate_run(folder, parts=["valid"])
    page = (folder / "report.html").read_text()
    assert "<small>popular</small>" in page
    assert "<small>away</small>" not in page
    assert "<small>foreign</small>" not in page
    evaluate_run(folder, parts=["valid"], compare=[far])
    assert "<small>away</small>" in (folder / "report.html").read_text()


def test_what_cannot_be_compared(folder, own_split, shop):
    home = folder.parent
    train(PopularityConfig(), own_split, out=home / "unmeasured")
    with pytest.raises(InputError, match="not evaluated"):
        evaluate_run(folder, parts=["valid"], compare=[home / "unmeasured"])
    train(PopularityConfig(), make_split(shop, RandomHoldout(seed=6)), out=home / "foreign")
    with pytest.raises(InputError, match="another split"):
        evaluate_run(folder, parts=["valid"], compare=[home / "foreign"])
    (home / "unmeasured" / "evaluation.json").write_text("{")
    with pytest.raises(DamagedError):
        evaluate_run(folder, parts=["valid"], compare=[home / "unmeasured"])


def shown(recommender, n=6, candidates=("strict",)):
    opened = open_part(recommender, recommender.split, "valid", candidates, [5])
    people, notes = choose_examples(recommender, opened, n)
    return opened, people, notes


@pytest.mark.parametrize("mode", ["strict", "all_items"])
def test_people_and_their_hits_are_true(recommender, mode):
    opened, people, notes = shown(recommender, candidates=(mode,))
    assert len(people) == 6
    split, titles = opened.split, recommender.catalog.titles()
    hits = 0
    for person in people:
        code = split.users.code(person.name.removeprefix("User "))
        liked = {titles[i] for i in opened.pairs.items[opened.pairs.users == code]}
        history = {titles[i] for i in split.train.items[split.train.users == code]}
        assert {card.title for card in person.history} <= history
        assert person.history_size == (split.train.users == code).sum() >= 5
        assert len(person.recommendations) == 8
        for card in person.recommendations:
            assert card.hit == (card.title in liked)
            assert set(card.because) <= history
            assert sum(card.weights.values()) == pytest.approx(1, abs=1e-5)
        hits += any(card.hit for card in person.recommendations)
    assert hits == 3
    assert "3 with a hit among their first 8 and 3 without" in notes[0]
    assert shown(recommender, candidates=(mode,))[1] == people


def test_lists_are_those_that_are_evaluated(recommender):
    opened, people, _ = shown(recommender)
    cold = {recommender.item_ids.ids[i] for i in opened.split.candidates(opened.modes[0], Part.VALID)}
    everything = recommender.recommend([p.name.removeprefix("User ") for p in people], k=1000)
    for person in people:
        mine = everything.filter(
            (pl.col("user_id") == person.name.removeprefix("User ")) & pl.col("item_id").is_in(list(cold))
        )
        assert [c.title for c in person.recommendations] == mine["title"].to_list()[:8]


def test_no_people_on_request(recommender):
    assert shown(recommender, n=0)[1:] == ([], [])


def test_pictures_are_read_for_shown_items_only(recommender, shop):
    read = []

    class Watched:
        ids = shop.items.ids

        def read(self, item_id):
            read.append(item_id)
            return b"picture"

    recommender.catalog = Catalog(recommender.catalog.items, ("title",), {"image": Watched()})
    _, people, _ = shown(recommender, n=2)
    assert len(read) == sum(len(p.history) + len(p.recommendations) for p in people)
    assert people[0].history[0].picture == b"picture"


def test_halves_are_filled_from_the_other_side():
    for hits, n, expected in ((5, 4, 2), (1, 4, 1), (5, 20, 5), (0, 3, 0)):
        hit = np.array([True] * hits + [False] * 6)
        chosen = examples._mixed(hit, n)
        assert len(set(chosen.tolist())) == len(chosen) == min(n, len(hit))
        assert hit[chosen].sum() == max(expected, n - 6 if n <= len(hit) else hits)


def test_weights_and_load_are_means_over_items_that_have_the_content(recommender):
    weights = modality_weights(recommender)
    there = recommender.items.present.any(axis=1)
    assert len(weights.weights) == there.sum()
    np.testing.assert_array_equal(np.isnan(weights.weights), ~recommender.items.present[there])
    assert len(weights.categories) == there.sum()
    load = expert_load(recommender)
    np.testing.assert_allclose(load.load.sum(axis=1), 1)
    has_text = recommender.items.present[:, 1]
    np.testing.assert_allclose(load.load[1], recommender.items.experts[has_text, 1].mean(axis=0), rtol=1e-4)


def test_models_without_weights_show_none(planted):
    recommender = train(PopularityConfig(), planted.split)
    assert modality_weights(recommender) is None
    assert expert_load(recommender) is None


def frame(**columns):
    n = 30
    filled = {name: [values[i % len(values)] for i in range(n)] for name, values in columns.items()}
    return Catalog(pl.DataFrame({"item_id": [f"i{i}" for i in range(n)], **filled}), ("title",))


TITLES = [f"title {i}" for i in range(30)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"title": TITLES, "brand": ["a", "b"], "Genres": [["x"], ["y", "x"]]}, "Genres"),
        ({"title": TITLES, "brand": ["a", "b"]}, "brand"),
        ({"title": TITLES, "tags": [["a"], ["b"]], "category": ["x", "y"]}, "category"),
        ({"title": TITLES, "price": [1.0, 2.0]}, None),
        ({"title": ["one", "two"]}, None),
        ({"title": TITLES, "genre": ["always"]}, None),
        ({"title": TITLES, "genres": TITLES}, None),
    ],
)
def test_a_sensible_attribute_groups_items(columns, expected):
    assert category_column(frame(**columns)) == expected


def test_categories_in_one_string():
    found = categories(frame(title=TITLES, genres=["War|Drama", None, ""]))
    assert found[:3] == [["War", "Drama"], [], []]


def test_a_picture_that_is_gone_gives_a_stand_in(recommender):
    recommender.catalog = Catalog(recommender.catalog.items, ("title",), {"image": MemoryMedia({})})
    assert shown(recommender, n=1)[1][0].history[0].picture is None
