import json
from dataclasses import asdict
from pathlib import Path
from shutil import copytree

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.splits import LeaveLast, TrainOnAll, make_split
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.train import train
from prismrec.sequential.baselines import first_stage_scores
from prismrec.sequential.examples import write_examples
from prismrec.sequential.measures import Scored, measure
from prismrec.sequential.prepare import PrepareConfig
from prismrec.sequential.prepared import LEDGER, prepare, read_prepared

pytest.importorskip("peft")

from prismrec.sequential import evaluate
from prismrec.sequential.backbone import Origin
from prismrec.sequential.evaluate import evaluate_run
from prismrec.sequential.runs import load_run
from prismrec.sequential.scoring import score_examples, write_choices
from prismrec.sequential.settings import tuning_of
from prismrec.sequential.steps import supervise

SETTINGS = {"epochs": 1, "batch_size": 4, "learning_rate": 0.05, "clip_norm": 1e9}
PLAN = TrainingPlan(sampling="triplets", epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def questions(home, films):
    return prepare(films, home / "questions", PrepareConfig(task="next", negatives=6, noun="film"))


def tuned(questions, tiny, out, seed=0, kind="text", **changes):
    model = Origin(str(tiny(kind)))
    supervise(questions, model, out, tuning_of("small", {**SETTINGS, **changes}), most=8, seed=seed)
    return out


@pytest.fixture(scope="module")
def run(home, questions, tiny):
    return tuned(questions, tiny, home / "ours")


@pytest.fixture(scope="module")
def earlier(home, questions, tiny):
    return tuned(questions, tiny, home / "earlier", seed=5, learning_rate=0.5)


@pytest.fixture(scope="module")
def first_stage(films):
    # Two are held out: the last one may have no title, and is then none of the questions.
    return train(BPRMFConfig(dim=8), make_split(films, LeaveLast(n=2)), plan=PLAN)


def by_hand(run, part, score=score_examples, most=None, **options):
    """What a run's scores measure to."""
    _, prepared, backbone, writer = load_run(run)
    examples = prepared.part(part)[:most]
    scores = score(backbone, writer, examples, **options)
    scored = [Scored(e, s) for e, s in zip(examples, scores, strict=True)]
    return measure(run.name, prepared.task, scored)


def test_figures_are_those_of_the_scores(run) -> None:
    found = evaluate_run(run)
    expected = by_hand(run, "valid")
    assert found.part == "valid"
    assert found.ours.name == "ours"
    assert found.ours.metrics == expected.metrics
    assert found.ours.per_user.equals(expected.per_user)
    assert found.ours.examples == 30
    of_lists = {f"{name}@{k}" for name in ("hit_rate", "ndcg") for k in (1, 3, 5)}
    assert set(found.ours.metrics) == {*of_lists, "mrr"}
    again = evaluate_run(run).to_json()
    for document in (again, first := found.to_json()):
        document["costs"] = {n: v for n, v in document["costs"].items() if not n.startswith("seconds")}
    assert again == first


def test_random_and_popularity_always_stand_beside(run, questions) -> None:
    found = evaluate_run(run)
    # One of seven candidates.
    assert found.random["hit_rate@1"] == pytest.approx(1 / 7)
    assert found.random["hit_rate@3"] == pytest.approx(3 / 7)
    assert found.others == ()
    assert found.popularity.name == "popularity"
    assert [one.name for one in found.against] == ["popularity"]
    # What others took in training, and nothing that was asked here.
    counts = np.zeros(40)
    for example in questions.train:
        counts[list({*example.history, *example.positives})] += 1
    ranks = []
    for example in questions.part("valid"):
        its = counts[list(example.candidates)] - counts[example.positives[0]]
        ranks.append((1 + (its > 0).sum(), (its >= 0).sum()))
    hits = found.popularity.metrics["hit_rate@3"].mean
    # Equals are put in a random order.
    assert np.mean([last <= 3 for _, last in ranks]) <= hits <= np.mean([best <= 3 for best, _ in ranks])
    lines = found.to_markdown().splitlines()
    start = next(n for n, line in enumerate(lines) if "hit_rate@3" in line) + 2
    assert [line.split("|")[1].strip() for line in lines[start : start + 3]] == [
        "random (expected)",
        "popularity",
        "ours",
    ]


def test_a_first_stage_and_an_earlier_run_stand_beside(run, earlier, first_stage, questions) -> None:
    found = evaluate_run(run, beside={"bpr": first_stage}, before=[earlier], most=20)
    assert [one.name for one in found.measured] == ["popularity", "bpr", "earlier", "ours"]
    assert [one.name for one in found.against] == ["popularity", "bpr", "earlier"]
    bpr, before = found.others
    theirs = first_stage_scores(questions.part("valid")[:20], first_stage, questions.ids)
    assert bpr.metrics == measure("bpr", questions.task, theirs.scored).metrics
    assert before.metrics == by_hand(earlier, "valid", most=20).metrics
    assert before.metrics != found.ours.metrics
    # The first stage chose its weights by the validation part: that is said, with its name.
    assert any(line.startswith("bpr: ") and "validation part" in line for line in found.notes)
    comparison = found.against[2].comparison
    difference = found.ours.metrics["ndcg@5"].mean - before.metrics["ndcg@5"].mean
    assert comparison.difference.mean == pytest.approx(difference)
    json.dumps(found.to_json(), allow_nan=False)


def test_an_earlier_run_is_scored_in_the_same_way(run, earlier) -> None:
    written = evaluate_run(run, before=[earlier], most=12, mode="written")
    assert written.ours.metrics == by_hand(run, "valid", write_choices, most=12).metrics
    assert written.others[0].metrics == by_hand(earlier, "valid", write_choices, most=12).metrics
    assert written.settings["mode"] == "written"
    # Of what was not written nothing is found but the worst place.
    assert written.ours.metrics["hit_rate@1"].mean == written.ours.metrics["hit_rate@5"].mean

    summed = evaluate_run(run, before=[earlier], most=12, normalised=False)
    assert summed.ours.metrics == by_hand(run, "valid", most=12, normalised=False).metrics
    assert summed.others[0].metrics == by_hand(earlier, "valid", most=12, normalised=False).metrics
    assert summed.others[0].metrics != by_hand(earlier, "valid", most=12).metrics
    assert summed.settings["normalised"] is False


def test_a_first_stage_that_has_seen_the_answers_is_refused_before_anything_is_scored(
    run, films, monkeypatch
) -> None:
    cheat = train(BPRMFConfig(dim=8), make_split(films, TrainOnAll()), plan=PLAN)

    def no_scores(*args, **kwargs):
        raise AssertionError("scored for nothing")

    monkeypatch.setattr(evaluate, "score_examples", no_scores)
    for part in ("valid", "test"):
        with pytest.raises(InputError, match="was trained on what it is asked"):
            evaluate_run(run, part=part, beside={"cheat": cheat})
    assert not (read_prepared(Path(load_run(run)[0].plan.prepared)).path / LEDGER).exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "sampled"}, "no mode 'sampled'"),
        ({"part": "train"}, "no part 'train'"),
        ({"part": "tset"}, "no part 'tset'"),
        ({"most": 0}, r"At most 0 questions \(most\)"),
    ],
)
def test_what_cannot_be_asked(run, options, says) -> None:
    with pytest.raises(InputError, match=says) as error:
        evaluate_run(run, **options)
    assert error.value.hint


def test_two_of_one_name_are_refused_before_anything_is_loaded(run, home, first_stage, monkeypatch) -> None:
    def no_model(*args, **kwargs):
        raise AssertionError("loaded for nothing")

    monkeypatch.setattr(evaluate, "load_run", no_model)
    for options in (
        {"before": [run]},
        {"before": [home / "elsewhere" / "ours"]},
        {"before": [Path("a/sft"), Path("b/sft")]},
        {"beside": {"ours": first_stage}},
        {"beside": {"popularity": first_stage}},
    ):
        with pytest.raises(InputError, match="twice"):
            evaluate_run(run, **options)


def test_a_run_is_called_by_its_folder_from_within(run, monkeypatch) -> None:
    monkeypatch.chdir(run)
    assert evaluate_run(Path(), most=4).ours.name == "ours"


def test_the_first_questions_only(run) -> None:
    found = evaluate_run(run, most=7)
    assert found.ours.examples == found.popularity.examples == found.costs.requests == 7
    assert found.ours.metrics == by_hand(run, "valid", most=7).metrics
    assert evaluate_run(run, most=1000).ours.examples == 30


def test_the_test_part_is_counted_and_validation_is_not(run, earlier, home, films, tiny) -> None:
    own = prepare(films, home / "counted", PrepareConfig(task="next", negatives=6, noun="film"))
    ours = tuned(own, tiny, home / "counting")
    other = tuned(own, tiny, home / "counting-too", seed=3)
    assert evaluate_run(ours, most=3).test_openings_before is None
    assert not (own.path / LEDGER).exists()
    assert evaluate_run(ours, part="test", most=3).test_openings_before == 0
    # All runs on the same questions share the count.
    second = evaluate_run(other, part="test", most=5, mode="written")
    assert second.test_openings_before == 1
    assert second.ours.metrics == by_hand(other, "test", write_choices, most=5).metrics
    lines = [json.loads(line) for line in (own.path / LEDGER).read_text().splitlines()]
    assert [line["mode"] for line in lines] == ["likelihood", "written"]
    assert [Path(line["run"]).name for line in lines] == ["counting", "counting-too"]
    assert evaluate_run(ours, most=3).test_openings_before is None
    assert "opened" in second.to_markdown()


def test_costs_are_counted(run) -> None:
    found = evaluate_run(run, most=6)
    _, prepared, _, writer = load_run(run)
    examples = prepared.part("valid")[:6]
    lengths = [
        [len(writer.processor.answer(f'"{prepared.titles[item]}"', ends=False)) for item in e.candidates]
        for e in examples
    ]
    prompts = [len(writer.prompt(e, max(its))) for e, its in zip(examples, lengths, strict=True)]
    costs = asdict(found.costs)
    assert costs.pop("seconds") > 0
    assert costs == {
        "requests": 6,
        "candidates": 42,
        "candidate_tokens": sum(map(sum, lengths)),
        "prompt_tokens": sum(prompts),
        "longest_prompt": max(prompts),
        "shortened_prompts": 0,
        "unreadable_pictures": 0,
        "unparsable_answers": 0,
    }


def test_prompts_that_are_cut_and_pictures_that_cannot_be_read_are_counted(home, questions, tiny) -> None:
    whole = tuned(questions, tiny, home / "seeing", kind="qwen2.5-vl")
    costs = evaluate_run(whole).costs
    shown = {item for example in questions.part("valid") for item in example.history}
    assert costs.unreadable_pictures == (questions.ids.index("i13") in shown) == 1
    assert costs.shortened_prompts == 0
    room = costs.longest_prompt - 10
    tight = tuned(questions, tiny, home / "tight", kind="qwen2.5-vl", max_tokens=room)
    assert 0 < evaluate_run(tight).costs.shortened_prompts < 30
    assert evaluate_run(tight).costs.longest_prompt <= room


def test_runs_on_other_questions_are_not_compared(run, home, films, tiny, monkeypatch) -> None:
    other = prepare(films, home / "others", PrepareConfig(task="next", negatives=6, noun="film", seed=8))
    theirs = tuned(other, tiny, home / "theirs")

    def no_scores(*args, **kwargs):
        raise AssertionError("scored for nothing")

    monkeypatch.setattr(evaluate, "score_examples", no_scores)
    with pytest.raises(InputError, match="theirs: this run was trained on other questions"):
        evaluate_run(run, before=[theirs])
    with pytest.raises(InputError, match="nowhere"):
        evaluate_run(run, before=[home / "nowhere"])


def test_questions_that_were_changed_or_are_gone(run, questions, home, films, tiny) -> None:
    own = prepare(films, home / "touched", PrepareConfig(task="next", negatives=6, noun="film"))
    ours = tuned(own, tiny, home / "touching")
    write_examples(own.path / "valid.parquet", own.part("valid")[:-1])
    with pytest.raises(InputError, match="were changed since"):
        evaluate_run(ours)
    for path in sorted(own.path.iterdir()):
        path.unlink()
    with pytest.raises((InputError, DamagedError), match="touched"):
        evaluate_run(ours)


def test_a_data_set_that_was_moved(run, home, films, questions) -> None:
    moved = copytree(films.path, home / "moved")
    found = evaluate_run(run, shop=moved, most=5)
    assert found.ours.metrics == evaluate_run(run, most=5).ours.metrics
    with pytest.raises(InputError, match="nowhere"):
        evaluate_run(run, shop=home / "nowhere")


def test_a_part_without_questions(home, films, tiny) -> None:
    config = PrepareConfig(task="next", negatives=6, split="users", valid=0.0, test=0.2)
    ours = tuned(prepare(films, home / "no-valid", config), tiny, home / "unvalidated")
    with pytest.raises(InputError, match="'valid' has no questions"):
        evaluate_run(ours)
    assert evaluate_run(ours, part="test").ours.examples == 6


def test_yes_or_no_is_measured_by_auc_in_both_modes(home, films, tiny) -> None:
    asked = prepare(films, home / "binary", PrepareConfig(task="binary", noun="film"))
    ours = tuned(asked, tiny, home / "answering")
    found = evaluate_run(ours)
    assert list(found.ours.metrics) == ["auc"]
    assert found.random == {"auc": 0.5}
    assert found.costs.candidates == 30
    _, prepared, backbone, writer = load_run(ours)
    examples = prepared.part("valid")
    scores = np.concatenate(score_examples(backbone, writer, examples))
    labels = np.array([e.label for e in examples])
    above = scores[labels][:, None] - scores[~labels][None]
    assert found.ours.metrics["auc"].mean == pytest.approx(((above > 0) + (above == 0) / 2).mean())
    assert evaluate_run(ours, mode="written").ours.metrics == found.ours.metrics


def test_result_is_written_and_holds_the_plan(run, earlier, tmp_path) -> None:
    found = evaluate_run(run, before=[earlier], most=12)
    found.write(tmp_path)
    kept = json.loads((tmp_path / "sequential.json").read_text())
    assert kept["settings"]["plan"]["tuning"]["max_tokens"] == 1024
    assert kept["settings"]["prepared"]["task"] == "next"
    rows = pl.read_parquet(tmp_path / "sequential.parquet")
    assert set(rows["name"]) == {"popularity", "earlier", "ours"}
    assert rows.height == 36
