"""The folder of prepared questions: whole or refused, and of a first stage that was not told the answers."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

import prismrec as pr
from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.splits import LeaveLast, RandomHoldout, TrainOnAll, make_split
from prismrec.features.store import FeatureStore
from prismrec.models.linear_map import LinearMapConfig
from prismrec.sequential.examples import Task
from prismrec.sequential.popularity import popularity
from prismrec.sequential.prepare import PrepareConfig
from prismrec.sequential.prepared import prepare, read_prepared
from prismrec.sequential.template import Template

USERS, ITEMS, EACH = 24, 30, 10


def records(changed: bool = False) -> Dataset:
    """Return a data set in memory: users take items of their half of the catalogue, one after the other."""
    random = np.random.default_rng(0)
    ids = [f"r{n:02d}" for n in range(ITEMS)]
    rows = []
    for user in range(USERS):
        half = np.arange(ITEMS // 2) + (user % 2) * (ITEMS // 2)
        taken = random.permutation(half)[:EACH]
        rows += [(f"u{user:02d}", ids[item], float(place)) for place, item in enumerate(taken)]
    if changed:
        rows.append(("u00", ids[-1], 99.0))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": ids, "title": [f"Record {n}" for n in range(ITEMS)]})
    return Dataset(Interactions(log), Catalog(items, ("title",)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the data set on the disk, with features. Not to be changed."""
    home = tmp_path_factory.mktemp("records") / "records"
    data = records().write(home)
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 6)).astype(np.float32)
    vectors[: ITEMS // 2, 0] += 5
    store = FeatureStore("text", vectors, data.items.ids, ("",) * ITEMS, {"name": "drawn"})
    store.write(home / "features" / "text")
    return data


CONFIG = PrepareConfig(task=Task.TOP3, noun="record", plural="records", windows=0, history=2)


@pytest.fixture
def folder(data, tmp_path):
    return prepare(data, tmp_path / "questions", CONFIG).path


def test_what_is_read_is_what_was_made(data, tmp_path):
    made = prepare(data, tmp_path / "questions", CONFIG)
    read = read_prepared(tmp_path / "questions")
    for one in (made, read):
        assert one.config == CONFIG
        assert one.task is Task.TOP3
        assert one.template == Template.default()
        assert one.ids == data.items.ids
        assert one.titles == tuple(f"Record {n}" for n in range(ITEMS))
        assert one.dataset.content_hash == data.content_hash
    assert made.digest == read.digest
    assert made.notes == read.notes
    for part in ("train", "valid", "test"):
        assert made.part(part) == read.part(part)
        assert len(read.part(part)) >= USERS / 2
    assert read.train == read.part("train")
    np.testing.assert_array_equal(read.counts(), popularity(read.train, ITEMS))
    assert read.shelf.titles == read.titles
    with pytest.raises(InputError, match=r"'dev'(.|\n)*train, valid, test"):
        read.part("dev")


def test_what_was_left_out_is_told(data, tmp_path):
    log = data.interactions.frame.filter((pl.col("user_id") != "u03") | (pl.col("timestamp") < 2))
    short = Dataset(Interactions(log), data.catalog).write(tmp_path / "short")
    made = prepare(short, tmp_path / "questions", CONFIG)
    assert "Left out: 1 users with fewer than 6 interactions." in made.notes


def test_the_same_data_and_settings_give_the_same_questions_anywhere(data, folder, tmp_path):
    elsewhere = prepare(records().write(tmp_path / "copy"), tmp_path / "again", CONFIG)
    assert elsewhere.digest == read_prepared(folder).digest
    for change in ({"seed": 1}, {"noun": "disc"}, {"plural": "discs"}, {"history": 1}):
        other = prepare(data, tmp_path / "other", CONFIG.model_copy(update=change))
        assert other.digest != elsewhere.digest, change


def test_a_folder_of_questions_is_made_anew(data, folder):
    before = read_prepared(folder)
    digest = before.digest
    assert before.open_test({"run": "one"}) == 0
    again = prepare(data, folder, CONFIG.model_copy(update={"task": Task.NEXT}))
    assert again.task is read_prepared(folder).task is Task.NEXT
    assert again.digest != digest
    # What is known of the test part does not go away with the questions.
    assert again.open_test({"run": "two"}) == 1


def test_openings_of_the_test_part_are_counted(folder):
    prepared = read_prepared(folder)
    assert [prepared.open_test({"run": f"r{n}"}) for n in range(3)] == [0, 1, 2]
    assert [json.loads(line) for line in (folder / "test-openings.jsonl").read_text().splitlines()] == [
        {"run": "r0"},
        {"run": "r1"},
        {"run": "r2"},
    ]


def test_a_foreign_folder_is_refused_and_left_alone(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="not an empty folder, nor one of prepared questions"):
        prepare(data, tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"thesis\.tex: this is not"):
        prepare(data, tmp_path / "thesis.tex", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_data_set_in_memory_has_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        prepare(records(), tmp_path / "questions", CONFIG)
    assert not (tmp_path / "questions").exists()


# Damage.


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_damaged_part_is_named(folder, part):
    (folder / f"{part}.parquet").write_bytes(b"PAR1 and no more")
    prepared = read_prepared(folder)
    with pytest.raises(DamagedError, match=rf"{part}\.parquet"):
        prepared.part(part)


def test_damaged_or_missing_titles_are_an_error(folder):
    (folder / "titles.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedError, match="cannot be read"):
        read_prepared(folder)
    pl.DataFrame({"item_id": ["r00"]}).write_parquet(folder / "titles.parquet")
    with pytest.raises(DamagedError, match="cannot be read"):
        read_prepared(folder)
    (folder / "titles.parquet").unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_prepared(folder)


@pytest.mark.parametrize("key", ["dataset", "dataset_hash", "config", "notes"])
def test_a_manifest_that_lacks_something_is_an_error_that_names_it(folder, key):
    manifest = json.loads((folder / "sequential.json").read_text())
    del manifest[key]
    (folder / "sequential.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=rf"sequential\.json.*{key}"):
        read_prepared(folder)


def test_a_manifest_that_is_no_json_or_absent_is_an_error(folder, tmp_path):
    (folder / "sequential.json").write_text("{")
    with pytest.raises(DamagedError, match=r"sequential\.json"):
        read_prepared(folder)
    # As a kill in the middle of `prepare` leaves it.
    (folder / "sequential.json").unlink()
    with pytest.raises(InputError, match=r"sequential\.json is missing"):
        read_prepared(folder)
    with pytest.raises(InputError, match="not prepared questions"):
        read_prepared(tmp_path / "nowhere")


def test_a_manifest_with_impossible_settings_is_an_error(folder):
    manifest = json.loads((folder / "sequential.json").read_text())
    manifest["config"]["task"] = "dance"
    (folder / "sequential.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match="dance"):
        read_prepared(folder)


def test_a_killed_preparation_can_be_given_again(data, folder, monkeypatch):
    from prismrec.sequential import prepared as module

    whole = read_prepared(folder).digest
    real = module.write_examples

    def killed(path, examples):
        if path.name == "valid.parquet":
            raise KeyboardInterrupt
        real(path, examples)

    monkeypatch.setattr(module, "write_examples", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, folder, CONFIG)
    with pytest.raises(InputError, match="missing"):
        read_prepared(folder)
    monkeypatch.undo()
    assert prepare(data, folder, CONFIG).digest == whole


# The data set.


def test_a_changed_data_set_is_an_error_that_names_it(data, tmp_path):
    home = shutil.copytree(data.path, tmp_path / "shop")
    folder = prepare(Dataset.read(home), tmp_path / "questions", CONFIG).path
    shutil.rmtree(home)
    records(changed=True).write(home)
    with pytest.raises(InputError, match=r"shop is not the data set"):
        read_prepared(folder)


def test_a_moved_data_set_is_found_where_it_is_said_to_be(data, tmp_path):
    home = shutil.copytree(data.path, tmp_path / "shop")
    folder = prepare(Dataset.read(home), tmp_path / "questions", CONFIG).path
    home.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"shop, is gone(.|\n)*--shop"):
        read_prepared(folder)
    assert read_prepared(folder, tmp_path / "moved").dataset.path == tmp_path / "moved"
    records(changed=True).write(tmp_path / "other")
    with pytest.raises(InputError, match="other is not the data set"):
        read_prepared(folder, tmp_path / "other")


# Words.


def test_words_of_ones_own_are_kept_with_the_questions(data, tmp_path):
    (tmp_path / "words.toml").write_text('[top3]\nprompt = "After {history} of {candidates}:"\n')
    made = prepare(data, tmp_path / "questions", CONFIG, template=tmp_path / "words.toml")
    (tmp_path / "words.toml").unlink()
    read = read_prepared(tmp_path / "questions")
    assert read.template == made.template
    assert read.template.top3 == "After {history} of {candidates}:"
    assert read.template.next == Template.default().next
    assert read.digest != prepare(data, tmp_path / "plain", CONFIG).digest


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[top3]\nprompt = "{history} {candidate}"', r"words\.toml: top3.prompt: .*\{candidate\}"),
        ('[top3]\nprompt = "{history}"', r"\{candidates\} is missing"),
        ("[top3", "not TOML"),
    ],
)
def test_wrong_words_are_an_error_before_anything_is_written(data, tmp_path, text, named):
    (tmp_path / "words.toml").write_text(text)
    with pytest.raises(InputError, match=named):
        prepare(data, tmp_path / "questions", CONFIG, template=tmp_path / "words.toml")
    assert not (tmp_path / "questions").exists()


def test_words_that_are_broken_or_lost_later_are_an_error(folder):
    (folder / "template.toml").write_text('yes = "No"\n')
    with pytest.raises(InputError, match=r"template\.toml: yes and no"):
        read_prepared(folder)
    (folder / "template.toml").unlink()
    with pytest.raises(InputError, match=r"template\.toml"):
        read_prepared(folder)


# A first stage.

RERANK = PrepareConfig(task=Task.RERANK, noun="record", plural="records", negatives=5)


@pytest.fixture(scope="module")
def first_stage(data, tmp_path_factory):
    """Return a function from a split to a run."""
    made = {}

    def train(plan):
        if plan not in made:
            out = tmp_path_factory.mktemp("runs") / "run"
            made[plan] = pr.train(LinearMapConfig(), make_split(data, plan), out=out, seed=0)
        return made[plan]

    return train


def test_a_first_stage_gives_the_candidates(data, first_stage, tmp_path):
    run = first_stage(LeaveLast())
    made = prepare(data, tmp_path / "questions", RERANK, first_stage=run)
    assert json.loads((made.path / "sequential.json").read_text())["first_stage"] == str(run.path)
    lists = run.recommend(data.users.ids, k=ITEMS)
    touched = data.interactions.frame.group_by("user_id").agg("item_id")
    touched = dict(zip(touched["user_id"], map(set, touched["item_id"]), strict=True))
    found = 0
    for part in ("train", "valid", "test"):
        examples = made.part(part)
        assert len(examples) == USERS
        for example in examples:
            (positive,) = example.positives
            names = lists.filter(pl.col("user_id") == example.user).sort("rank")["item_id"].to_list()
            own = data.items.names(np.array([positive]))[0]
            best = [n for n in names if n == own or n not in touched[example.user]][:5]
            offered = list(data.items.names(np.array(example.candidates)))
            if part == "train" and own not in best:
                best = [*best[:-1], own]
            assert sorted(offered) == sorted(best)
            found += positive in example.candidates
    assert found > USERS, "a first stage that finds nothing shows nothing"


def test_a_first_stage_that_was_trained_on_what_is_held_out_is_refused(data, first_stage, tmp_path):
    for split in (TrainOnAll(), RandomHoldout()):
        with pytest.raises(InputError, match=r"was trained on what it is asked(.|\n)*holds out"):
            prepare(data, tmp_path / "questions", RERANK, first_stage=first_stage(split))
    assert not (tmp_path / "questions").exists()


def test_a_first_stage_is_for_rerank_alone(data, first_stage, tmp_path):
    with pytest.raises(InputError, match="'rerank', and a first stage was not given"):
        prepare(data, tmp_path / "questions", RERANK)
    with pytest.raises(InputError, match="'top3', and a first stage was given"):
        prepare(data, tmp_path / "questions", CONFIG, first_stage=first_stage(LeaveLast()))


def test_all_that_a_first_stage_finds_may_be_asked(data, first_stage, tmp_path):
    config = RERANK.model_copy(update={"negatives": "all"})
    made = prepare(data, tmp_path / "questions", config, first_stage=first_stage(LeaveLast()))
    # All but what the user has touched, the positive of the question aside.
    assert {len(example.candidates) for example in made.part("test")} == {ITEMS - EACH + 1}
