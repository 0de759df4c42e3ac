"""Training into a folder: begin, go on after a kill, or leave a finished run alone."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import storage_errors
from prismrec.base.progress import SILENT, Progress
from prismrec.data.dataset import Dataset
from prismrec.evaluation.metrics import parse_metric
from prismrec.features.store import FeatureStore
from prismrec.recommender.folder import CHECKPOINT, MANIFEST, RESULTS, load, read_manifest, require_home
from prismrec.recommender.recipe import Job
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import open_features, train
from prismrec.training.loop import require_device
from prismrec.training.processes import team_of

TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class TrainOutcome:
    """What `train_run` leaves.

    Parameters
    ----------
    recommender
        As it lies in the folder.
    already
        Whether it had been trained before with the same settings, data and seed; then nothing was done.
    """

    recommender: Recommender
    already: bool


def train_run(
    dataset: Path,
    job: Job,
    out: Path,
    *,
    restart: bool = False,
    device: str = "cpu",
    tensorboard: bool = False,
    progress: Progress = SILENT,
) -> TrainOutcome:
    """Train on a data set's folder, into a run's folder.

    Parameters
    ----------
    dataset, out
        Folders.
    job
        What to train.
    restart
        Begin anew, whatever run lies in `out`.
    device
        "cpu", "cuda", "mps" or "auto".
    tensorboard
        Log into ``tensorboard/`` of the run.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If `out` holds another run, or something that is no run; and whatever `train` raises.
    DamagedError
        If `out` holds the run, damaged.
    """
    out = Path(out)
    require_home(out)
    opened = Dataset.read(dataset)
    split = opened.split(job.split)
    stores = open_features(opened, job.modalities)
    if (out / MANIFEST).exists() and not restart:
        _require_same(out, job, opened.content_hash, split.hash, stores)
        return TrainOutcome(_finished(out), True)
    team = team_of(require_device(device))
    parse_metric(job.training.metric)
    if restart and team.first:
        _clear(out)
    # None of them may find a checkpoint that is about to be removed.
    team.told(None)
    recommender = train(
        job.config,
        split,
        plan=job.training,
        features=stores if job.modalities is not None else stores or None,
        seed=job.seed,
        out=out,
        preset=job.preset,
        device=device,
        log_dir=out / TENSORBOARD if tensorboard else None,
        progress=progress,
    )
    return TrainOutcome(recommender, False)


def _require_same(
    out: Path, job: Job, dataset_hash: str, split_hash: str, stores: Sequence[FeatureStore]
) -> None:
    there = read_manifest(out)
    old: dict[str, Any] = {"model": there.model, "seed": there.seed, **there.config}
    old |= {f"training.{k}": v for k, v in there.training.model_dump(mode="json").items()}
    old |= {f"split.{k}": v for k, v in there.split.items()}
    new: dict[str, Any] = {"model": job.config.name, "seed": job.seed, **job.config.model_dump(mode="json")}
    new |= {f"training.{k}": v for k, v in job.training.model_dump(mode="json").items()}
    new |= {f"split.{k}": v for k, v in job.split.model_dump(mode="json").items()}
    if old["model"] != new["model"]:
        differing = [f"model {old['model']}, now {new['model']}"]
    else:
        names = [n for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
        differing = [f"{n} {old.get(n)}, now {new.get(n)}" for n in names]
    if there.dataset_hash != dataset_hash or (there.split_hash != split_hash and not differing):
        differing.append("the data set has changed")
    if {f.name: f.content_hash for f in there.features} != {s.name: s.content_hash for s in stores}:
        differing.append("the features have changed")
    if differing:
        raise InputError(
            f"{out}: holds a run with other settings: {'; '.join(differing)}.",
            "Choose another --out, or train anew here with --restart (what is there is lost).",
        )


def _finished(out: Path) -> Recommender:
    try:
        return load(out)
    except DamagedError as error:
        raise DamagedError(error.problem, "Train it anew with --restart.") from error


def _clear(out: Path) -> None:
    """Remove a run; its manifest first, so that it is no run any more. `train` replaces the rest."""
    with storage_errors(out):
        for name in (MANIFEST, CHECKPOINT, *RESULTS):
            (out / name).unlink(missing_ok=True)
        if (out / TENSORBOARD).exists():
            shutil.rmtree(out / TENSORBOARD)
