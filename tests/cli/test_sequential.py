"""The steps of `prismrec sequential` with a tiny language model, from questions to a merged folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import polars as pl
import pytest

from prismrec.recommender.recommender import Recommender

pytest.importorskip("peft")

SMALL = {"adapter.rank": 4, "epochs": 1, "batch_size": 4, "max_pixels": 784, "learning_rate": 0.02}
TUNED = tuple(w for name, value in SMALL.items() for w in ("--set", f"{name}={value}"))
ALIGNED = tuple(w for name, value in SMALL.items() for w in ("--set", f"tuning.{name}={value}"))
STEPS = ("prepare", "sft", "align", "evaluate", "recommend", "merge", "estimate")


@dataclass(frozen=True)
class Walk:
    """Folders of the steps, what each said, and who was asked about."""

    home: Path
    said: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Path:
        return self.home / name


@pytest.fixture(scope="module")
def walk(call, shop, tmp_path_factory) -> Walk:
    """Return what each step left and said, one after the other as a person would give them."""
    from prismrec.testing.tiny_models import tiny_model

    its = Walk(tmp_path_factory.mktemp("sequential"))
    titles = [title for title in pl.read_parquet(shop.drawn.today.items)["title"] if title]
    tiny_model(its.model, "qwen2.5-vl", titles, picture=28, dim=32, layers=1)

    def step(name: str, *words: object) -> None:
        done = call(*words, "--json")
        assert done.code == 0, f"{name}: {done.stderr}"
        its.said[name] = done

    ask = ("sequential", "prepare", shop.data, "--task", "next", "--noun", "thing", "--set", "negatives=6")
    step("prepare", *ask, "--out", its.questions)
    model = ("--model", its.model, "--preset", "small", *TUNED, "--most", 8, "--seed", 3)
    step("sft", "sequential", "sft", its.questions, *model, "--out", its.sft)
    loss = ("--loss", "hanorec", "--preset", "small", *ALIGNED, "--most", 8)
    step("align", "sequential", "align", its.sft, *loss, "--out", its.hanorec)
    held_out = ("--split", "leave-last", "--set", "split.n=2")
    step("first stage", "train", shop.data, "--model", "content-profile", *held_out, "--out", its.first)
    others = ("--before", its.sft, "--beside", f"profile={its.first}", "--most", 9)
    step("evaluate", "sequential", "evaluate", its.hanorec, *others)
    users = ("--user", shop.drawn.customer, "--user", "nobody", "-k", 3, "--depth", 9)
    step("recommend", "sequential", "recommend", its.hanorec, "--first-stage", its.first, *users)
    step("merge", "sequential", "merge", its.hanorec, "--out", its.merged)
    return its


def test_the_whole_walk(walk, shop) -> None:
    said = {name: done.document for name, done in walk.said.items()}
    assert said["prepare"]["task"] == "next"
    assert said["prepare"]["examples"] == {"train": 108, "valid": 108, "test": 108}
    assert any("no title" in note for note in said["prepare"]["notes"])
    assert all(note in walk.said["prepare"].stderr for note in said["prepare"]["notes"])

    sft, align = said["sft"], said["align"]
    assert (sft["already_trained"], sft["steps"], sft["examples"]) == (False, 2, 8)
    assert (sft["plan"]["step"], sft["plan"]["seed"], sft["plan"]["most"]) == ("sft", 3, 8)
    assert sft["plan"]["tuning"]["adapter"]["rank"] == 4
    assert sft["plan"]["tuning"]["prompt_loss"] == 0.5  # of the preset
    assert 0 < sft["trainable"] < sft["parameters"]
    assert align["plan"]["step"] == "align"
    assert align["plan"]["adapters"] == [str(walk.sft / "adapter")]
    assert align["plan"]["align"]["preference"]["loss"] == "hanorec"
    assert align["plan"]["align"]["noise"]["where"] == "weights"
    assert any(note.startswith("HaRS: ") for note in align["notes"])

    evaluation = said["evaluate"]
    assert [one["name"] for one in evaluation["measured"]] == ["popularity", "profile", "sft", "hanorec"]
    assert evaluation["random"]["hit_rate@1"] == pytest.approx(1 / 7)
    assert (evaluation["part"], evaluation["test_openings_before"]) == ("test", 0)
    assert evaluation["costs"]["requests"] == 9
    assert evaluation["settings"]["plan"] == align["plan"]
    written = json.loads((walk.hanorec / "evaluation-test" / "sequential.json").read_text())
    assert written == evaluation

    rows = said["recommend"]["recommendations"]
    assert [(r["user_id"], r["rank"]) for r in rows] == [
        (user, rank) for user in (shop.drawn.customer, "nobody") for rank in (1, 2, 3)
    ]
    scores = [r["score"] for r in rows]
    assert scores[:3] == sorted(scores[:3], reverse=True)
    assert scores[3:] == [None] * 3
    assert [r["first_rank"] for r in rows[3:]] == [1, 2, 3]
    assert "'nobody'" in walk.said["recommend"].stderr
    assert said["merge"]["parameters"] == sft["parameters"] - sft["trainable"]
    # Warnings of the libraries below are nothing that a person could act on.
    assert not any("Warning" in done.stderr for done in walk.said.values())


def test_the_merged_folder_is_the_runs_model(walk) -> None:
    import torch

    from prismrec.sequential.backbone import Origin, load_backbone
    from prismrec.sequential.runs import load_run

    _, prepared, tuned, writer = load_run(walk.hanorec)
    merged = load_backbone(Origin(str(walk.merged)), max_pixels=784)
    prompt = writer.prompt(prepared.train[0], 10)
    with torch.inference_mode():
        ids = prompt.ids[prompt.seen == 0][None]
        found, expected = merged.model(input_ids=ids).logits, tuned.model(input_ids=ids).logits
        before = load_run(walk.sft)[2].model(input_ids=ids).logits
    torch.testing.assert_close(found, expected)
    assert (before - expected).abs().max() > 1e-4
    assert merged.processor.prompt is not None
    assert torch.equal(merged.processor.answer("Yes"), tuned.processor.answer("Yes"))


def test_a_finished_step_is_left_alone_and_another_is_not_lost(call, walk) -> None:
    words = ("sequential", "sft", walk.questions, "--model", walk.model, "--preset", "small", *TUNED)
    words += ("--seed", 3, "--out", walk.sft, "--json")
    before = (walk.sft / "run.json").read_bytes()
    again = call(*words, "--most", 8)
    assert again.code == 0
    assert again.document["already_trained"]
    assert "already trained" in again.stderr
    other = call(*words, "--most", 9)
    assert other.code == 3
    assert "most" in other.document["error"]["problem"]
    assert "--restart" in other.document["error"]["hint"]
    assert (walk.sft / "run.json").read_bytes() == before


def test_tables_for_people(call, walk, shop) -> None:
    part = ("--part", "valid", "--most", 3, "--out", walk.home / "tables")
    shown = call("sequential", "evaluate", walk.hanorec, *part)
    assert shown.code == 0, shown.stderr
    assert all(name in shown.stdout for name in ("random", "popularity", "hanorec", "ndcg@3"))
    assert (walk.home / "tables" / "sequential.md").is_file()
    assert not (walk.hanorec / "evaluation-valid").exists()
    first = ("--first-stage", walk.first, "--user", shop.drawn.customer)
    lists = call("sequential", "recommend", walk.hanorec, *first, "-k", 2, "--depth", 4, "-q")
    assert lists.stderr == ""
    assert "before" in lists.stdout
    assert "p0" in lists.stdout


def test_written_and_summed_scores_can_be_asked_for(call, walk) -> None:
    words = ("sequential", "evaluate", walk.hanorec, "--part", "valid", "--most", 2, "--json")
    words += ("--out", walk.home / "modes")
    for more, mode, normalised in (
        ((), "likelihood", True),
        (("--summed",), "likelihood", False),
        (("--mode", "written"), "written", True),
    ):
        settings = call(*words, *more).document["settings"]
        assert (settings["mode"], settings["normalised"]) == (mode, normalised)


# --- prismrec recommend --rerank --------------------------------------------------------------------------


def test_recommend_puts_its_lists_in_the_models_order(call, walk, shop) -> None:
    from prismrec.sequential.rerank import Reranker, rerank_lists

    user = shop.drawn.customer
    words = ("recommend", walk.first, "--rerank", walk.hanorec, "--user", user, "--user", "nobody")
    done = call(*words, "-k", 4, "--depth", 8, "--json")
    assert done.code == 0, done.stderr
    first = Recommender.load(walk.first)
    expected = rerank_lists(first.recommend([user, "nobody"], k=8), first, Reranker.load(walk.hanorec), k=4)
    found = done.document["users"]
    assert [u["user_id"] for u in found] == [user, "nobody"]
    rows = [row for one in found for row in one["items"]]
    for name in ("item_id", "rank", "first_rank", "score"):
        assert [row[name] for row in rows] == pytest.approx(expected[name].to_list(), nan_ok=True) or (
            [row[name] for row in rows] == expected[name].to_list()
        )
    assert max(row["first_rank"] for row in rows[:4]) > 4
    assert done.document["fallback_users"] == ["nobody"]
    # The other way to ask for the same, with other numbers.
    same = call(*words, "-k", 3, "--depth", 9, "--json").document["users"][0]["items"]
    listed = walk.said["recommend"].document["recommendations"][:3]
    assert [(r["item_id"], r["score"]) for r in listed] == [(r["item_id"], r["score"]) for r in same]
    plain = call("recommend", walk.first, "--user", user, "-k", 4, "--json").document["users"][0]["items"]
    assert "first_rank" not in plain[0]
    assert "first_rank" in call(*words[:-2], "-k", 2, "--depth", 3).stdout


def test_recommend_reranks_for_somebody_anonymous_and_into_a_file(call, walk, shop, tmp_path) -> None:
    liked = Recommender.load(walk.first).history(shop.drawn.customer)[:2]
    words = [word for item in liked for word in ("--liked", item)]
    rerank = ("--rerank", walk.hanorec, "-k", 3, "--depth", 6)
    (found,) = call("recommend", walk.first, *words, *rerank, "--json").document["users"]
    assert found["user_id"] is None
    scores = [row["score"] for row in found["items"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert not set(liked) & {row["item_id"] for row in found["items"]}

    out = tmp_path / "lists.parquet"
    done = call("recommend", walk.first, *words, *rerank, "--explain", "--out", out, "--json")
    assert done.code == 0, done.stderr
    kept = pl.read_parquet(out)
    assert kept["item_id"].to_list() == [row["item_id"] for row in found["items"]]
    assert {"first_rank", "because", "weights"} <= set(kept.columns)


def test_new_items_of_the_first_stage_are_reranked(call, walk, tmp_path) -> None:
    first = copytree(walk.first, tmp_path / "first")
    new = tmp_path / "new.csv"
    pl.DataFrame({"item_id": ["n1", "n2"], "title": ["Walnut desk lamp", "Walnut lamp"]}).write_csv(new)
    assert call("add-items", first, new, "--json").code == 0
    words = ("--liked", "n1", "--rerank", walk.hanorec, "-k", 100, "--depth", 100)
    # So many candidates do not fit into the prompt of this run: it says so.
    tight = call("recommend", first, *words, "--json")
    assert tight.code == 3
    assert "max_tokens" in tight.document["error"]["problem"]
    words = ("--liked", "n1", "--items", "new", "--rerank", walk.hanorec, "-k", 20)
    (found,) = call("recommend", first, *words, "--json").document["users"]
    assert all(row["score"] is not None for row in found["items"])
    assert "n2" in {row["item_id"] for row in found["items"]}


# --- help -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_each_step_has_help_with_an_example_of_itself(call, step) -> None:
    done = call("sequential", step, "--help")
    assert done.code == 0
    example = done.stdout.partition("Example")[2]
    assert f"prismrec sequential {step}" in example
    for option in ("--json", "--quiet", "--debug"):
        assert option in done.stdout


def test_help_lists_the_steps(call) -> None:
    done = call("sequential", "--help")
    assert all(f" {step} " in done.stdout for step in STEPS)
    assert "--rerank" in call("recommend", "--help").stdout


# --- what goes wrong --------------------------------------------------------------------------------------


def tune(walk, *words, questions=None, model=None):
    return ("sft", questions or walk.questions, "--model", model or walk.model, "--preset", "small", *words)


def align(walk, *words, run=None):
    return ("align", run or walk.sft, "--preset", "small", *ALIGNED, *words)


def unfinished(walk, home):
    """A run that was killed: its plan is there, and no more."""
    (home / "killed").mkdir()
    (home / "killed" / "plan.json").write_bytes((walk.sft / "plan.json").read_bytes())
    return home / "killed"


def broken(walk, home):
    run = copytree(walk.hanorec, home / "broken")
    (run / "run.json").write_text('{"format": 1, "plan": {}}')
    return run


def without_adapter(walk, home):
    run = copytree(walk.hanorec, home / "bare")
    (run / "adapter" / "adapter_config.json").unlink()
    return run


# How the call comes about, given the walk, the shop and a folder of its own; its exit code; what is said.
# fmt: off
STOPPED = {
    "unknown task": (
        lambda w, s, h: ("prepare", s.data, "--task", "rerunk"), 3, ("'task'", "rerunk", "'rerank'")),
    "unknown setting of the questions": (
        lambda w, s, h: ("prepare", s.data, "--set", "histroy=3"), 3, ("'histroy'", "'history'")),
    "setting without a value": (
        lambda w, s, h: ("prepare", s.data, "--set", "history"), 3, ("'history'", "field=value")),
    "setting out of its bounds": (
        lambda w, s, h: ("prepare", s.data, "--set", "history=0"), 3, ("'history'", "0")),
    "no data set": (lambda w, s, h: ("prepare", h / "nowhere"), 3, ("nowhere", "prismrec ingest")),
    "rerank without a first stage": (
        lambda w, s, h: ("prepare", s.data, "--task", "rerank"), 3, ("'rerank'", "first stage")),
    "first stage without rerank": (
        lambda w, s, h: ("prepare", s.data, "--first-stage", w.first), 3, ("'next'", "first stage")),
    "first stage that has seen the answers": (
        lambda w, s, h: ("prepare", s.data, "--task", "rerank", "--first-stage", s.run),
        3, ("run", "was trained on what it is asked")),
    "no template": (
        lambda w, s, h: ("prepare", s.data, "--template", h / "no.toml"), 3, ("no.toml", "no such file")),
    "no recipe": (
        lambda w, s, h: ("prepare", s.data, "--recipe", h / "no.toml"), 3, ("no.toml", "no such file")),
    "no questions": (
        lambda w, s, h: tune(w, questions=h / "nowhere"), 3, ("nowhere", "prepared questions")),
    "a data set as questions": (
        lambda w, s, h: tune(w, questions=s.data), 3, ("prepared questions", "sequential.json")),
    "no folder of a model": (
        lambda w, s, h: tune(w, model=h / "nowhere"), 3, ("nowhere", "no such folder", "hub id")),
    "a folder that is no model": (
        lambda w, s, h: tune(w, model=s.data), 3, ("shop", "config.json")),
    "a hub that cannot be reached": (
        lambda w, s, h: tune(w, model="nobody/no-such-model"),
        3, ("nobody/no-such-model", "cannot be reached")),
    "unknown preset": (
        lambda w, s, h: ("sft", w.questions, "--model", w.model, "--preset", "smal"),
        3, ("'smal'", "'small'")),
    "unknown preset of align": (
        lambda w, s, h: ("align", w.sft, "--preset", "published-alain"),
        3, ("'published-alain'", "'published-align'")),
    "unknown setting of the training": (
        lambda w, s, h: tune(w, "--set", "epoch=3"), 3, ("'epoch'", "'epochs'")),
    "unknown setting of the adapter": (
        lambda w, s, h: tune(w, "--set", "adapter.rnk=3"), 3, ("'adapter.rnk'", "'adapter.rank'")),
    "unknown device": (lambda w, s, h: tune(w, "--device", "gpu"), 3, ("'gpu'", "cpu")),
    "unknown loss": (
        lambda w, s, h: align(w, "--loss", "hanorek"), 3, ("preference.loss", "hanorek", "'hanorec'")),
    "unknown setting of the noise": (
        lambda w, s, h: align(w, "--set", "noise.sigmo=1"), 3, ("'noise.sigmo'", "'noise.sigma'")),
    "unknown part of the settings": (
        lambda w, s, h: align(w, "--set", "nois.sigma=1"), 3, ("'nois'", "'noise'")),
    "align without an adapter": (
        lambda w, s, h: align(w, "--set", "tuning.adapter.rank=0"), 3, ("adapter", "tuning.adapter.rank")),
    "align of no run": (lambda w, s, h: align(w, run=h / "nowhere"), 3, ("nowhere", "run.json")),
    "align of a run that was killed": (
        lambda w, s, h: align(w, run=unfinished(w, h)), 5, ("killed", "not finished", "again")),
    "hardness from features that are not there": (
        lambda w, s, h: align(w, "--set", "hardness_from=smell"), 3, ("smell",)),
    "a run of another kind": (
        lambda w, s, h: ("evaluate", w.first), 3, ("first", "`prismrec train`", "`prismrec sequential`")),
    "evaluation of no run": (lambda w, s, h: ("evaluate", h / "nowhere"), 3, ("nowhere", "run.json")),
    "evaluation of a run that was killed": (
        lambda w, s, h: ("evaluate", unfinished(w, h)), 5, ("killed", "not finished")),
    "evaluation of a broken run": (
        lambda w, s, h: ("evaluate", broken(w, h)), 5, ("broken", "run.json", "Train it again")),
    "a run whose adapter is gone": (
        lambda w, s, h: ("evaluate", without_adapter(w, h)), 3, ("bare", "adapter")),
    "unknown part": (lambda w, s, h: ("evaluate", w.sft, "--part", "train"), 3, ("'train'", "valid")),
    "unknown mode": (
        lambda w, s, h: ("evaluate", w.sft, "--mode", "spoken"), 3, ("'spoken'", "likelihood", "written")),
    "a run beside without a name": (
        lambda w, s, h: ("evaluate", w.sft, "--beside", w.first), 3, ("--beside", "NAME=RUN")),
    "two beside of one name": (
        lambda w, s, h: ("evaluate", w.sft, "--beside", f"a={w.first}", "--beside", f"a={s.run}"),
        3, ("'a'", "twice")),
    "no run beside": (
        lambda w, s, h: ("evaluate", w.sft, "--beside", f"a={h / 'nowhere'}"), 3, ("nowhere", "run.json")),
    "a run beside that has seen the answers": (
        lambda w, s, h: ("evaluate", w.sft, "--beside", f"a={s.run}"),
        3, ("was trained on what it is asked",)),
    "the run before itself": (
        lambda w, s, h: ("evaluate", w.sft, "--before", w.sft), 3, ("'sft'", "twice")),
    "no run before": (
        lambda w, s, h: ("evaluate", w.sft, "--before", h / "nowhere"), 3, ("nowhere", "run.json")),
    "recommending with no run": (
        lambda w, s, h: ("recommend", h / "nowhere", "--first-stage", w.first, "--user", "u"),
        3, ("nowhere",)),
    "recommending with no first stage": (
        lambda w, s, h: ("recommend", w.sft, "--first-stage", h / "nowhere", "--user", "u"),
        3, ("nowhere",)),
    "merging no run": (lambda w, s, h: ("merge", h / "nowhere"), 3, ("nowhere", "run.json")),
    "no questions to estimate": (
        lambda w, s, h: ("estimate", h / "nowhere"), 3, ("nowhere", "prepared questions")),
}
# fmt: on


@pytest.mark.parametrize("kind", STOPPED)
def test_the_error_says_where_and_what_to_do_and_nothing_is_written(call, walk, shop, kind, tmp_path) -> None:
    make, code, says = STOPPED[kind]
    words = make(walk, shop, tmp_path)
    out = () if words[0] in ("evaluate", "recommend", "estimate") else ("--out", tmp_path / "out")
    ledger = walk.questions / "test-openings.jsonl"
    openings = ledger.read_text()
    done = call("sequential", *words, *out, "--json")
    assert done.code == code, done.stderr
    error = done.document["error"]
    assert error["exit_code"] == code
    assert error["hint"]
    for text in says:
        assert text in f"{error['problem']}\n{error['hint']}"
    assert error["problem"].splitlines()[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()
    assert ledger.read_text() == openings


@pytest.mark.parametrize("step", ["prepare", "sft", "align", "merge"])
def test_a_folder_of_other_things_is_left_alone(call, walk, shop, step, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    words = {
        "prepare": ("prepare", shop.data),
        "sft": tune(walk, "--restart"),
        "align": align(walk, "--restart"),
        "merge": ("merge", walk.sft),
    }[step]
    done = call("sequential", *words, "--out", tmp_path, "--json")
    assert done.code == 3
    assert str(tmp_path) in done.document["error"]["problem"]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("run", "code", "says"),
    [("nowhere", 3, "nowhere"), ("first", 3, "`prismrec train`"), ("killed", 5, "not finished")],
)
def test_recommend_with_a_run_that_does_not_rank(call, walk, tmp_path, run, code, says) -> None:
    folder = unfinished(walk, tmp_path) if run == "killed" else walk.home / run
    done = call("recommend", walk.first, "--user", "u", "--rerank", folder, "--json")
    assert done.code == code
    assert says in done.document["error"]["problem"]


@pytest.mark.parametrize(
    "words",
    [
        ("prepare",),
        ("alain",),
        ("sft", "questions", "--out", "x"),
        ("evaluate", "run", "--most", "0"),
        ("recommend", "run", "--first-stage", "first"),
        ("recommend", "run", "--first-stage", "first", "--user", "u", "--items", "old"),
        ("recommend", "run", "--first-stage", "first", "--user", "u", "-k", "0"),
    ],
)
def test_a_usage_error_is_one_document(call, words) -> None:
    done = call("sequential", *words, "--json")
    assert done.code == 2
    assert done.document["error"]["exit_code"] == 2
    assert done.document["error"]["problem"]
    assert done.stderr.count("Usage:") == 1


def test_a_misspelt_step_names_the_nearest(call) -> None:
    assert "'align'" in call("sequential", "alain").stderr


# --- recipes ----------------------------------------------------------------------------------------------


def test_a_recipe_holds_what_is_not_typed(call, shop, walk, tmp_path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[prepare]\ntask = "top3"\nnoun = "gadget"\nhistory = 2\n'
        f'[sft]\nmodel = "{walk.model}"\npreset = "small"\nset = {{epochs = 1, "adapter.rank" = 2}}\n'
        '[align]\nloss = "s-dpo"\n'
    )
    ask = ("sequential", "prepare", shop.data, "--recipe", recipe, "--out", tmp_path / "q", "--json")
    done = call(*ask, "--set", "history=4")
    assert done.code == 0, done.stderr
    assert done.document["task"] == "top3"
    kept = json.loads((tmp_path / "q" / "sequential.json").read_text())["config"]
    assert (kept["noun"], kept["history"]) == ("gadget", 4)
    assert call(*ask, "--task", "binary").document["task"] == "binary"
    tuned = call(
        "sequential", "sft", tmp_path / "q", "--recipe", recipe, "--out", tmp_path / "run", "--most", 2,
        "--set", "max_pixels=784", "--json",
    )  # fmt: skip
    assert tuned.code == 0, tuned.stderr
    settings = tuned.document["plan"]["tuning"]
    assert (settings["epochs"], settings["adapter"]["rank"], settings["max_pixels"]) == (1, 2, 784)


def test_an_estimate_says_that_it_is_one(call, walk) -> None:
    done = call("sequential", "estimate", walk.questions, "--json")
    assert done.document["estimate"] is True
    assert done.document["examples"] == 108
    assert done.document["steps"]["align"]["seconds"] > done.document["steps"]["sft"]["seconds"] / 5 > 0
    assert "estimated" in call("sequential", "estimate", walk.questions).stdout
