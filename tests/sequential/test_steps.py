"""Supervision, then preference: each loss and source, runs that go on, models that are loaded as trained."""

import gc
import json
import math
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402

from prismrec.base.errors import InputError  # noqa: E402
from prismrec.data.catalog import Catalog  # noqa: E402
from prismrec.data.dataset import Dataset  # noqa: E402
from prismrec.data.interactions import Interactions  # noqa: E402
from prismrec.features.store import FeatureStore  # noqa: E402
from prismrec.sequential import lessons, steps, tune  # noqa: E402
from prismrec.sequential.backbone import Origin  # noqa: E402
from prismrec.sequential.pairs import read_pairs  # noqa: E402
from prismrec.sequential.prepare import PrepareConfig  # noqa: E402
from prismrec.sequential.prepared import prepare, read_prepared  # noqa: E402
from prismrec.sequential.runs import align_config, load_run, read_manifest, writer_of  # noqa: E402
from prismrec.sequential.scoring import score_examples  # noqa: E402
from prismrec.sequential.settings import tuning_of  # noqa: E402
from prismrec.sequential.steps import PAIRS, align, supervise  # noqa: E402
from prismrec.testing.tiny_models import tiny_model  # noqa: E402

ITEMS, USERS, EACH = 24, 10, 10
COLOURS = ("red", "blue", "green", "grey")
WORDS = """
[next]
prompt = "{history} Of {candidates}:"
[binary]
prompt = "{history} {target}?"
"""
SHORT = {
    "precision": "fp32",
    "checkpointing": False,
    "adapter.rank": 2,
    "learning_rate": 1e-2,
    "epochs": 1,
    "batch_size": 4,
    "accumulation": 1,
    "max_pixels": 56 * 56,
}


def sft_settings(**changes):
    return tuning_of("published-sft", {**SHORT, **changes})


def settings(loss="hanorec", **changes):
    short = {f"tuning.{name}": value for name, value in SHORT.items()}
    return align_config(loss, "published-align", {**short, "neighbours": 3, **changes})


@pytest.fixture(scope="module", autouse=True)
def _without_a_long_search():
    """Keep what is imported from the garbage collector, which each training calls."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def shop(films, tmp_path_factory):
    """Return 24 of the films under short titles, of four genres, with features."""
    random = np.random.default_rng(2)
    ids = [f"i{n}" for n in range(ITEMS)]
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"{COLOURS[n % 4]} {n}" for n in range(ITEMS)],
            "genre": [f"genre {n % 4}" for n in range(ITEMS)],
        }
    )
    rows = [
        (f"u{user}", ids[item], float(place))
        for user in range(USERS)
        for place, item in enumerate(random.permutation(ITEMS)[:EACH])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    catalog = Catalog(items, ("title",), films.catalog.media)
    shop = Dataset(Interactions(log), catalog).write(tmp_path_factory.mktemp("steps") / "shop")
    vectors = random.normal(size=(ITEMS, 5)).astype(np.float32)
    FeatureStore("text", vectors, shop.items.ids, ("",) * ITEMS, {"name": "drawn"}).write(
        shop.path / "features" / "text"
    )
    return shop


@pytest.fixture(scope="module")
def asked(shop, tmp_path_factory):
    """Return questions by task."""
    home = tmp_path_factory.mktemp("asked")
    (home / "words.toml").write_text(WORDS)
    made = {}
    for task in ("next", "binary"):
        config = PrepareConfig.parse({"task": task, "negatives": 4, "history": 3})
        made[task] = prepare(shop, home / task, config, template=home / "words.toml")
    return made


@pytest.fixture(scope="module")
def model(asked, tmp_path_factory):
    """Return where a tiny model lies."""
    folder = tmp_path_factory.mktemp("model") / "model"
    texts = [*asked["next"].titles, WORDS]
    return Origin(str(tiny_model(folder, "qwen2.5-vl", texts, dim=32, layers=1)))


@pytest.fixture(scope="module")
def supervised(asked, model, tmp_path_factory):
    """Return the folder of a supervised run on ``next``. Not to be changed."""
    return supervise(asked["next"], model, tmp_path_factory.mktemp("runs") / "sft", sft_settings()).path


@pytest.fixture
def backbones(monkeypatch):
    """Return the models that steps have saved, as they stood in memory."""
    saved = []
    real = steps.save_trained

    def spied(backbone, folder):
        saved.append(backbone)
        return real(backbone, folder)

    monkeypatch.setattr(steps, "save_trained", spied)
    return saved


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def apart(one, two):
    assert one.keys() == two.keys()
    assert one
    return max(float((one[name] - two[name]).abs().max()) for name in one)


# Supervision.


def test_a_run_tells_what_was_done(asked, model, supervised):
    manifest = read_manifest(supervised)
    assert (manifest.plan.step, manifest.plan.questions) == ("sft", asked["next"].digest)
    assert manifest.plan.revision.startswith("files-")
    assert (manifest.plan.asked, manifest.plan.adapters, manifest.trained) == (model.asked, (), "adapter")
    assert (manifest.examples, manifest.steps) == (USERS, math.ceil(USERS / 4))
    assert manifest.trainable == sum(weight.numel() for weight in adapter(supervised).values())
    assert math.isfinite(manifest.loss)
    assert set(manifest.versions) == {"torch", "transformers", "peft", "accelerate"}
    assert manifest.notes == ("Pictures that cannot be read: 1 items.",)


def test_a_finished_run_holds_no_checkpoints(supervised):
    assert {path.name for path in supervised.iterdir()} == {"run.json", "plan.json", "log.jsonl", "adapter"}


def test_a_finished_run_is_left_alone(asked, model, supervised):
    before = files(supervised)
    outcome = supervise(asked["next"], model, supervised, sft_settings())
    assert outcome.already
    assert outcome.manifest == read_manifest(supervised)
    assert files(supervised) == before
    with pytest.raises(InputError, match=r"\(seed differ\)"):
        supervise(asked["next"], model, supervised, sft_settings(), seed=1)
    assert files(supervised) == before


def test_restart_trains_again(asked, model, supervised, tmp_path):
    out = shutil.copytree(supervised, tmp_path / "run")
    outcome = supervise(asked["next"], model, out, sft_settings(), seed=1, restart=True)
    assert not outcome.already
    assert read_manifest(out).plan.seed == 1
    assert apart(adapter(out), adapter(supervised)) > 1e-4


def test_the_seed_also_draws_the_adapters_first_weights(asked, model, tmp_path):
    # Steps that lead nowhere leave them as they were drawn.
    still = sft_settings(learning_rate=1e-12)
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        supervise(asked["next"], model, tmp_path / name, still, most=4, seed=seed)
    first = adapter(tmp_path / "one")
    assert apart(first, adapter(tmp_path / "two")) == 0.0
    assert apart(first, adapter(tmp_path / "other")) > 1e-3


def test_fewer_examples_are_the_first_ones(asked, model, tmp_path):
    outcome = supervise(asked["next"], model, tmp_path / "run", sft_settings(), most=4)
    assert (outcome.manifest.examples, outcome.manifest.steps, outcome.manifest.plan.most) == (4, 1, 4)


def killed_after(monkeypatch, name, stop):
    """Let a training end after some steps as a kill does."""
    real = getattr(tune, name)

    def train(*args, **kwargs):
        real(*args, **kwargs, stop_after=stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, name, train)


def test_a_killed_supervision_goes_on_and_ends_as_if_it_had_not_been(asked, model, monkeypatch, tmp_path):
    tuning = sft_settings(checkpoint_steps=1, epochs=2)
    whole = supervise(asked["next"], model, tmp_path / "whole", tuning)
    with monkeypatch.context() as patch:
        killed_after(patch, "train_supervised", 4)
        with pytest.raises(KeyboardInterrupt):
            supervise(asked["next"], model, tmp_path / "run", tuning)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-4").is_dir()
    outcome = supervise(asked["next"], model, tmp_path / "run", tuning)
    assert not outcome.already
    assert outcome.manifest.steps == whole.manifest.steps == 6
    assert apart(adapter(tmp_path / "run"), adapter(tmp_path / "whole")) == 0.0


def test_a_run_that_is_killed_between_its_last_step_and_its_manifest_is_finished(
    asked, model, supervised, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        patch.setattr(steps, "save_trained", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            supervise(asked["next"], model, tmp_path / "run", sft_settings())
    outcome = supervise(asked["next"], model, tmp_path / "run", sft_settings())
    assert outcome.manifest.loss == read_manifest(supervised).loss
    assert apart(adapter(tmp_path / "run"), adapter(supervised)) == 0.0


# Preference.


def test_a_reference_needs_an_adapter(supervised, tmp_path):
    with pytest.raises(InputError, match=r"needs an adapter(.|\n)*tuning\.adapter\.rank"):
        align(supervised, tmp_path / "run", settings(**{"tuning.adapter.rank": 0}))
    assert not (tmp_path / "run").exists()


LOSSES = ("dpo", "s-dpo", "dmpo", "simpo", "beta-dpo", "hanorec")


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(supervised, tmp_path, loss):
    outcome = align(supervised, tmp_path / "run", settings(loss, **{"pairs.rejected": 2}), most=8)
    manifest = outcome.manifest
    assert (manifest.plan.step, manifest.steps, manifest.examples) == ("align", 2, 8)
    assert manifest.plan.align.preference.loss == loss
    assert math.isfinite(manifest.loss)
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert ("noise" in line) is (loss == "hanorec")
    # B starts at zero: if it has not moved, nothing was learnt.
    assert any(w.abs().max() > 1e-4 for name, w in adapter(tmp_path / "run").items() if "lora_B" in name)
    assert any("HaRS" in note for note in manifest.notes) is (loss == "hanorec")
    pairs = read_pairs(tmp_path / "run" / PAIRS)
    assert len(pairs) == 8
    assert all(len(pair.rejected) == 2 for pair in pairs)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("uniform", {}),
        ("popularity", {}),
        ("neighbours", {}),
        ("neighbours", {"hardness_from": "text"}),
        ("genre", {"pairs.attribute": "genre"}),
        ("policy", {}),
    ],
)
def test_every_source_of_wrong_answers_trains(asked, supervised, tmp_path, source, more):
    config = settings("dpo", **{"pairs.source": source, **more})
    outcome = align(supervised, tmp_path / "run", config, most=8)
    assert math.isfinite(outcome.manifest.loss)
    pairs = read_pairs(tmp_path / "run" / PAIRS)
    examples = asked["next"].train
    if source == "genre":
        assert all(pair.chosen[0] % 4 == pair.rejected[0][0] % 4 for pair in pairs)
    if source == "policy":
        _, _, backbone, writer = load_run(supervised)
        for pair in pairs:
            example = examples[pair.example]
            (scores,) = score_examples(backbone, writer, [example])
            best = [example.candidates[place] for place in np.argsort(-scores)]
            assert pair.rejected[0][0] == next(c for c in best if c not in example.positives)
    if more.get("hardness_from") == "text":
        vectors = np.array(FeatureStore.read(asked["next"].dataset.path / "features" / "text").vectors)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = vectors @ vectors.T
        for pair in pairs:
            taken = {*examples[pair.example].history, pair.chosen[0]}
            (nearest, *_) = [c for c in np.argsort(-alike[pair.chosen[0]]) if c not in taken]
            touched = set(touched_by(asked["next"].dataset, examples[pair.example].user))
            if nearest not in touched:
                assert pair.rejected[0][0] == nearest
    filled = [note for note in outcome.manifest.notes if "were drawn from the catalogue" in note]
    assert not filled or source in ("neighbours", "genre")


def touched_by(dataset, user):
    return dataset.items.codes(
        dataset.interactions.frame.filter(pl.col("user_id") == user)["item_id"].to_list()
    ).tolist()


def test_features_that_are_not_there_are_an_error(supervised, tmp_path):
    config = settings("dpo", **{"pairs.source": "neighbours", "hardness_from": "smell"})
    with pytest.raises(InputError, match="smell"):
        align(supervised, tmp_path / "run", config)


def test_weights_of_pairs_are_told_and_a_low_temperature_draws_them_apart(supervised, monkeypatch, tmp_path):
    seen = {}
    real = lessons.preference_lessons
    for name, temperature in (("inert", 1.0), ("apart", 0.02)):

        def spied(writer, examples, pairs, weights, name=name):
            seen[name] = weights
            return real(writer, examples, pairs, weights)

        monkeypatch.setattr(lessons, "preference_lessons", spied)
        outcome = align(
            supervised,
            tmp_path / name,
            settings(**{"preference.temperature": temperature}),
        )
        (note,) = [note for note in outcome.manifest.notes if note.startswith("HaRS")]
        assert f"from {seen[name].min():.4f} to {seen[name].max():.4f}" in note
        assert ("nearly the same for all" in note) == (name == "inert")
    assert np.ptp(seen["apart"]) > 2 * np.ptp(seen["inert"]) > 0


def test_without_hars_there_are_no_weights_to_tell_of(supervised, tmp_path):
    outcome = align(supervised, tmp_path / "run", settings(**{"preference.hars": False}), most=4)
    assert not any("HaRS" in note for note in outcome.manifest.notes)


def test_yes_and_no_are_aligned_too(asked, model, tmp_path):
    sft = supervise(asked["binary"], model, tmp_path / "sft", sft_settings())
    outcome = align(sft.path, tmp_path / "run", settings(), most=8)
    assert math.isfinite(outcome.manifest.loss)
    assert "HaRS: both answers are words, so that no pair is harder than another." in outcome.manifest.notes
    (scores, *_) = score_examples(*loaded(tmp_path / "run"), asked["binary"].part("test"))
    assert scores.shape == (1,)
    with pytest.raises(InputError, match="Yes or No has one"):
        align(sft.path, tmp_path / "two", settings(**{"pairs.rejected": 2}))


def loaded(folder):
    _, _, backbone, writer = load_run(folder)
    return backbone, writer


def test_a_finished_alignment_is_left_alone(supervised, tmp_path):
    align(supervised, tmp_path / "run", settings("dpo"), most=4)
    before = files(tmp_path / "run")
    assert align(supervised, tmp_path / "run", settings("dpo"), most=4).already
    with pytest.raises(InputError, match=r"\(align, most differ\)"):
        align(supervised, tmp_path / "run", settings("s-dpo"), most=5)
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("loss", ["hanorec", "beta-dpo"])
def test_a_killed_alignment_goes_on_and_ends_as_if_it_had_not_been(supervised, monkeypatch, tmp_path, loss):
    config = settings(
        loss,
        **{
            "pairs.source": "policy",
            "noise.where": "weights",
            "tuning.checkpoint_steps": 2,
            "tuning.epochs": 2,
        },
    )
    align(supervised, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        killed_after(patch, "train_preference", 3)
        with pytest.raises(KeyboardInterrupt):
            align(supervised, tmp_path / "run", config)
    align(supervised, tmp_path / "run", config)
    assert apart(adapter(tmp_path / "run"), adapter(tmp_path / "whole")) == 0.0
    assert files(tmp_path / "run")[Path(PAIRS)] == files(tmp_path / "whole")[Path(PAIRS)]


# What is loaded is what was trained.


@pytest.mark.parametrize("rank", [2, 0])
def test_a_run_upon_a_run_is_loaded_as_it_stood_in_memory(asked, model, backbones, tmp_path, rank):
    sft = sft_settings(**{"adapter.rank": rank})
    supervise(asked["next"], model, tmp_path / "sft", sft)
    # With other pictures than the supervision's: a run is measured with those of its own training.
    config = settings(**{"tuning.max_pixels": 28 * 28, "tuning.max_tokens": 300})
    align(tmp_path / "sft", tmp_path / "run", config)
    before, after = (backbone.model.eval() for backbone in backbones)
    examples = asked["next"].part("valid")
    scores = {}
    for name, folder, backbone, tuning in (
        ("sft", tmp_path / "sft", backbones[0], sft),
        ("run", tmp_path / "run", backbones[1], config.tuning),
    ):
        prepared = read_prepared(asked["next"].path)
        in_memory = score_examples(backbone, writer_of(prepared, backbone, tuning), examples)
        manifest, _, _, writer = load_run(folder)
        scores[name] = score_examples(*loaded(folder), examples)
        np.testing.assert_allclose(np.concatenate(scores[name]), np.concatenate(in_memory), atol=2e-5)
        assert writer.max_tokens == tuning.max_tokens
        assert manifest.trained == ("model" if name == "sft" and rank == 0 else "adapter")
    assert np.abs(np.concatenate(scores["sft"]) - np.concatenate(scores["run"])).max() > 1e-3
    manifest = read_manifest(tmp_path / "run")
    assert len(manifest.plan.adapters) == (1 if rank else 0)
    assert manifest.plan.asked == (model.asked if rank else str(tmp_path / "sft" / "model"))
    assert before is not after


@pytest.mark.parametrize("rank", [2, 0])
def test_a_run_under_a_run_that_was_trained_again_is_an_error(asked, model, tmp_path, rank):
    sft = sft_settings(**{"adapter.rank": rank})
    supervise(asked["next"], model, tmp_path / "sft", sft, most=4)
    align(tmp_path / "sft", tmp_path / "run", settings("dpo"), most=4)
    load_run(tmp_path / "run")
    supervise(asked["next"], model, tmp_path / "sft", sft, most=4, seed=1, restart=True)
    with pytest.raises(InputError, match="trained again" if rank else "not the one that is asked for"):
        load_run(tmp_path / "run")


def test_changed_words_end_what_comes_after(supervised, asked, tmp_path):
    words = asked["next"].path / "template.toml"
    before = words.read_text()
    try:
        words.write_text(before.replace("Of {candidates}", "From {candidates}"))
        with pytest.raises(InputError, match="questions or their words were changed"):
            align(supervised, tmp_path / "run", settings())
        with pytest.raises(InputError, match="questions or their words were changed"):
            load_run(supervised)
    finally:
        words.write_text(before)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_was_moved_is_named(supervised, shop, tmp_path):
    moved = shop.path.rename(shop.path.with_name("moved"))
    try:
        with pytest.raises(InputError, match="--shop"):
            align(supervised, tmp_path / "run", settings("dpo"), most=4)
        outcome = align(supervised, tmp_path / "run", settings("dpo"), most=4, shop=moved)
        assert math.isfinite(outcome.manifest.loss)
        assert load_run(tmp_path / "run", shop=moved)[1].dataset.path == moved
    finally:
        moved.rename(shop.path)


# Several processes.


def test_two_processes_see_one_batch(supervised, tmp_path):
    changes = {
        "neighbours": 3,
        "hardness_from": "text",
        "preference.temperature": 0.05,
        "noise.where": "none",
        **{f"tuning.{name}": value for name, value in SHORT.items()},
        "tuning.adapter.dropout": 0.0,
        "tuning.epochs": 6,
        "tuning.learning_rate": 3e-3,
    }
    logs, weights = {}, {}
    # 8 examples: batches of 4, in one process or in two.
    align(supervised, tmp_path / "one", align_config("hanorec", "published-align", changes), most=8)
    out = tmp_path / "two"
    # What lies there is to be lost: by one of the two, and once.
    shutil.copytree(supervised, out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    order = {
        "supervised": str(supervised),
        "out": str(out),
        "settings": {**changes, "tuning.batch_size": 2},
        "most": 8,
        "port": port,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("together.py")), json.dumps(order)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        logs[name] = [json.loads(t) for t in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        weights[name] = adapter(tmp_path / name)
        assert read_manifest(tmp_path / name).steps == 12
    assert [line["step"] for line in logs["two"]] == [10, 12]
    for one, two in zip(logs["one"], logs["two"], strict=True):
        assert two["eta"] == pytest.approx(one["eta"], abs=1e-5)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    # Equal for any trainer if eta were 1 throughout.
    assert abs(logs["one"][0]["eta"] - 1) > 1e-3
    assert apart(weights["one"], weights["two"]) < 1e-5
