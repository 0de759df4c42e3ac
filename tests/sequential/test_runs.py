"""Folders of runs: who may take one, what a manifest keeps, and what must not have changed since."""

import json
import shutil

import polars as pl
import pytest

torch = pytest.importorskip("torch")

from prismrec.base.errors import ConfigError, DamagedError, InputError  # noqa: E402
from prismrec.sequential.backbone import ADAPTER, MODEL, Origin  # noqa: E402
from prismrec.sequential.runs import (  # noqa: E402
    MANIFEST,
    PLAN,
    AlignConfig,
    Manifest,
    Plan,
    adapter_digest,
    align_config,
    begin,
    begin_together,
    clear,
    open_run,
    read_manifest,
    tuned_origin,
)
from prismrec.sequential.settings import Tuning, tuning_of  # noqa: E402


def planned(**changes):
    values = {
        "step": "sft",
        "prepared": "/questions",
        "questions": "1-2-3-4-5",
        "asked": "some/model",
        "revision": "0" * 40,
        "adapters": (),
        "tuning": tuning_of("published-sft", {"epochs": 1}),
    }
    return Plan(**{**values, **changes})


def finished(plan=None):
    return Manifest(
        plan=plan or planned(),
        trained=ADAPTER,
        steps=3,
        loss=1.5,
        examples=9,
        parameters=100,
        trainable=10,
        seconds=1.0,
        notes=("Something happened.",),
        versions={"torch": "0"},
    )


def finish(out, manifest):
    (out / MANIFEST).write_text(manifest.model_dump_json())


# Taking a folder.


def test_a_new_folder_is_taken_with_its_plan(tmp_path):
    plan = planned(align=AlignConfig(), step="align", adapters=("/a", "/b"), most=7, seed=3)
    out = tmp_path / "deep" / "run"
    assert begin(out, plan) is None
    assert Plan.model_validate_json((out / PLAN).read_text()) == plan


def test_an_empty_folder_is_taken(tmp_path):
    assert begin(tmp_path, planned()) is None
    assert (tmp_path / PLAN).is_file()


@pytest.mark.parametrize("restart", [False, True])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, restart):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="not an empty folder, nor one of a run"):
        begin(tmp_path, planned(), restart=restart)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match=r"thesis\.tex: this is not"):
        begin(tmp_path / "thesis.tex", planned(), restart=restart)
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_an_unfinished_run_goes_on(tmp_path):
    begin(tmp_path, planned())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "some").touch()
    assert begin(tmp_path, planned()) is None
    assert (tmp_path / "checkpoints" / "some").exists()


def test_a_finished_run_is_left_alone(tmp_path):
    begin(tmp_path, planned())
    finish(tmp_path, finished())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert begin(tmp_path, planned()) == finished()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, r"\(seed differ\)"),
        ({"most": 5, "asked": "other/model"}, r"\(asked, most differ\)"),
        ({"tuning": tuning_of("published-sft", {"epochs": 2})}, r"\(tuning differ\)"),
        ({"questions": "other"}, r"\(questions differ\)"),
        ({"adapters": ("/x",)}, r"\(adapters differ\)"),
        ({"align": AlignConfig()}, r"\(align differ\)"),
    ],
)
@pytest.mark.parametrize("done", [False, True])
def test_other_settings_are_an_error_that_names_them(tmp_path, changes, named, done):
    begin(tmp_path, planned())
    if done:
        finish(tmp_path, finished())
    with pytest.raises(InputError, match=named):
        begin(tmp_path, planned(**changes))
    assert begin(tmp_path, planned()) == (finished() if done else None)


def test_restart_loses_what_was_there_and_nothing_beside(tmp_path):
    out = tmp_path / "run"
    begin(out, planned())
    finish(out, finished())
    (out / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "neighbour").touch()
    assert begin(out, planned(seed=4), restart=True) is None
    assert [path.name for path in out.iterdir()] == [PLAN]
    assert json.loads((out / PLAN).read_text())["seed"] == 4
    assert (tmp_path / "neighbour").exists()


def test_restart_of_nothing_begins(tmp_path):
    assert begin(tmp_path / "run", planned(), restart=True) is None


def test_a_plan_is_removed_last(tmp_path, monkeypatch):
    begin(tmp_path, planned())
    finish(tmp_path, finished())
    for name in ("a", "zzz"):
        (tmp_path / name).mkdir()
    gone = []
    real = shutil.rmtree

    def killed(path):
        gone.append(path.name)
        real(path)
        if len(gone) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(tmp_path)
    # It is still known as a run's folder, so the next --restart may take it.
    assert (tmp_path / PLAN).is_file()


def test_one_process_takes_a_folder_as_begin_does(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert begin_together(tmp_path, planned(), device="cpu") is None
    finish(tmp_path, finished())
    assert begin_together(tmp_path, planned(), device="cpu") == finished()
    assert begin_together(tmp_path, planned(), device="cpu", restart=True) is None
    assert not (tmp_path / MANIFEST).exists()


# Manifests.


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    plan = planned(step="align", align=align_config("s-dpo", "small", {"tuning.adapter.rank": 2}))
    begin(tmp_path, plan)
    finish(tmp_path, finished(plan))
    assert read_manifest(tmp_path) == finished(plan)


def test_an_unfinished_run_cannot_be_read(tmp_path):
    begin(tmp_path, planned())
    with pytest.raises(DamagedError, match="not finished"):
        read_manifest(tmp_path)


def test_what_is_no_run_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"not a run of `prismrec sequential`, run\.json is missing"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"plan": {"step": "dance"}}'])
def test_a_damaged_manifest_is_an_error(tmp_path, text):
    begin(tmp_path, planned())
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DamagedError, match=r"run\.json"):
        read_manifest(tmp_path)


def test_an_adapter_comes_after_those_before_and_a_whole_model_stands_alone(tmp_path):
    plan = planned(adapters=("/first",))
    here = str((tmp_path / ADAPTER).absolute())
    assert tuned_origin(tmp_path, finished(plan)) == Origin("some/model", "0" * 40, ("/first", here))
    whole = finished(planned(tuning=Tuning.presets()["small"])).model_copy(update={"trained": MODEL})
    assert tuned_origin(tmp_path, whole) == Origin(str((tmp_path / MODEL).absolute()))


# What must not have changed since.


@pytest.fixture
def run(films, tmp_path):
    """Return a finished run on questions and a data set of its own, and both."""
    from prismrec.sequential.prepare import PrepareConfig
    from prismrec.sequential.prepared import prepare

    prepared = prepare(films, tmp_path / "questions", PrepareConfig())
    adapter = tmp_path / "before" / ADAPTER
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    plan = planned(
        prepared=str(prepared.path),
        questions=prepared.digest,
        adapters=(str(adapter),),
        adapter_digests=(adapter_digest(adapter),),
    )
    begin(tmp_path / "run", plan)
    finish(tmp_path / "run", finished(plan))
    return tmp_path / "run"


def test_a_run_is_opened_with_its_questions(run):
    manifest, prepared = open_run(run)
    assert manifest.plan.questions == prepared.digest


def test_changed_words_are_an_error_that_names_them(run):
    words = run.parent / "questions" / "template.toml"
    words.write_text(words.read_text().replace("oldest first", "latest last"))
    with pytest.raises(InputError, match=r"questions: the questions or their words were changed since .*run"):
        open_run(run)


def test_words_that_only_look_different_are_the_same(run):
    words = run.parent / "questions" / "template.toml"
    words.write_text("# A remark\n" + words.read_text())
    open_run(run)


@pytest.mark.parametrize("part", ["train", "valid", "test", "titles"])
def test_changed_questions_are_an_error(run, part):
    file = run.parent / "questions" / f"{part}.parquet"
    pl.read_parquet(file)[:-1].write_parquet(file)
    with pytest.raises(InputError, match="questions or their words were changed"):
        open_run(run)


def test_an_adapter_underneath_that_was_trained_again_is_an_error(run):
    (run.parent / "before" / ADAPTER / "adapter_model.safetensors").write_bytes(b"others")
    with pytest.raises(InputError, match=r"adapter: the adapter under .*run was trained again"):
        open_run(run)


def test_a_data_set_that_was_moved_is_found_where_it_is_said_to_be(films, run, tmp_path):
    moved = shutil.copytree(films.path, tmp_path / "moved")
    manifest = run.parent / "questions" / "sequential.json"
    manifest.write_text(manifest.read_text().replace(str(films.path), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"gone, is gone(.|\n)*--shop"):
        open_run(run)
    assert open_run(run, shop=moved)[1].dataset.path == moved


# Settings of a tuning by preference.


def test_the_defaults_are_hanorec_as_published():
    config = align_config("hanorec", "published-align", {})
    assert config == AlignConfig()
    assert (config.preference.loss, config.preference.hars, config.preference.beta) == ("hanorec", True, 0.1)
    assert (config.noise.where, config.noise.sigma) == ("weights", 0.05)
    assert (config.pairs.source, config.neighbours, config.hardness_from) == ("candidates", 10, "model")


def test_noise_belongs_to_hanorec_unless_it_is_asked_for():
    for loss in ("dpo", "s-dpo", "dmpo", "simpo", "beta-dpo"):
        assert align_config(loss, "small", {}).noise.where == "none"
    assert align_config("dpo", "small", {"noise.where": "logits"}).noise.where == "logits"
    assert align_config(None, "small", {}) == align_config("hanorec", "small", {})


def test_changes_reach_every_section():
    config = align_config(
        None,
        "published-align",
        {
            "preference.loss": "dmpo",
            "preference.beta": 0.5,
            "pairs.source": "uniform",
            "pairs.rejected": 3,
            "noise.sigma": 0.01,
            "tuning.adapter.rank": 2,
            "tuning.epochs": 3,
            "hardness_from": "text",
            "neighbours": 4,
        },
    )
    assert (config.preference.loss, config.preference.beta) == ("dmpo", 0.5)
    assert (config.pairs.source, config.pairs.rejected) == ("uniform", 3)
    assert config.noise.sigma == 0.01
    assert (config.tuning.adapter.rank, config.tuning.epochs, config.tuning.batch_size) == (2, 3.0, 4)
    assert (config.hardness_from, config.neighbours) == ("text", 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preference.betta": 1}, r"'preference\.betta'(.|\n)*'preference\.beta'"),
        ({"pairs.source": "genre"}, "attribute"),
        ({"noise.sigma": -1}, r"'noise\.sigma'"),
        ({"tuning.epoch": 1}, "'epochs'"),
        ({"neighbours": 0}, "'neighbours'"),
        ({"loss": "dpo"}, "'loss'"),
        ({"preference": 3}, "'preference'"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        align_config(None, "small", changes)


def test_an_unknown_loss_or_preset_is_named():
    with pytest.raises(ConfigError, match='"grpo"'):
        align_config("grpo", "small", {})
    with pytest.raises(ConfigError, match="'huge'"):
        align_config("dpo", "huge", {})
