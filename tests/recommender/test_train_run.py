from dataclasses import replace
from pathlib import Path

import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.dataset import Dataset
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.features.encode import EncodePlan, encode_catalog
from prismrec.recommender import train_run as module
from prismrec.recommender.recipe import Job, overridden, resolve
from prismrec.recommender.train_run import train_run

WORDS = ["dim=4", "experts=2", "training.epochs=3", "training.patience=0"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train_run") / "shop"
    config = GeneratedConfig(items=200, users=60, interactions_per_user=8, pictures=False, sounds=False)
    encode_catalog(generate(config).write(folder), EncodePlan())
    return folder


@pytest.fixture
def job() -> Job:
    return resolve(overridden(None, model="mamex", assignments=WORDS))


def test_a_finished_run_is_left_alone_and_another_is_refused(shop: Path, job: Job, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert not train_run(shop, job, out).already
    before = (out / "run.json").read_bytes()
    again = train_run(shop, job, out)
    assert again.already
    assert again.recommender.manifest.config == job.config.model_dump(mode="json")
    with pytest.raises(InputError, match="seed 0, now 1"):
        train_run(shop, replace(job, seed=1), out)
    with pytest.raises(InputError, match="model mamex, now random"):
        train_run(shop, resolve(overridden(None, model="random")), out)
    with pytest.raises(InputError, match=r"split\.test 0\.1, now 0\.2"):
        train_run(shop, resolve(overridden(None, model="mamex", assignments=[*WORDS, "split.test=0.2"])), out)
    assert (out / "run.json").read_bytes() == before
    (out / "metrics.json").write_text("{}")
    anew = train_run(shop, replace(job, seed=1), out, restart=True)
    assert (anew.already, anew.recommender.manifest.seed) == (False, 1)
    assert not (out / "metrics.json").exists()


def test_data_that_changed_is_another_run(shop: Path, job: Job, tmp_path: Path) -> None:
    data = tmp_path / "shop"
    dataset = Dataset.read(shop)
    encode_catalog(dataset.write(data), EncodePlan())
    train_run(data, job, tmp_path / "run")
    encode_catalog(Dataset.read(data), EncodePlan(refit=True, fit_on=dataset.items.ids[:150]))
    with pytest.raises(InputError, match="the features have changed"):
        train_run(data, job, tmp_path / "run")


def test_a_killed_run_goes_on_to_the_same_result(
    shop: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_run(shop, job, tmp_path / "whole").recommender
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        from prismrec.recommender.recommender import Recommender

        def killed(self: Recommender, path: Path) -> None:
            raise KeyboardInterrupt

        patch.setattr(Recommender, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_run(shop, job, out)
    assert (out / "checkpoint.safetensors").exists()
    resumed = train_run(shop, job, out)
    assert not resumed.already
    assert (resumed.recommender.items.vectors == whole.items.vectors).all()
    assert (resumed.recommender.users == whole.users).all()
    assert not (out / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_settings_needs_a_restart(
    shop: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    train_run(shop, job, out)
    (out / "run.json").unlink()
    (out / "checkpoint.safetensors").write_bytes(b"of somebody")
    with pytest.raises(DamagedError, match="checkpoint"):
        train_run(shop, job, out)
    assert not train_run(shop, job, out, restart=True).already


def test_a_damaged_run_says_how_to_repair_it(shop: Path, job: Job, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_run(shop, job, out)
    (out / "vectors.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedError, match="--restart"):
        train_run(shop, job, out)
    assert not train_run(shop, job, out, restart=True).already


def test_tensorboard_of_a_killed_run_is_no_foreign_thing(
    shop: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / module.TENSORBOARD).mkdir(parents=True)
    assert not train_run(shop, job, tmp_path / "run").already


def test_no_modality_at_all_is_no_model_of_content(shop: Path, job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="content"):
        train_run(shop, replace(job, modalities=()), tmp_path / "run")
