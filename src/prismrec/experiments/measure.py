"""One run from data to figures: train, measure on validation, open the test part once, measure there."""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

import prismrec
from prismrec.base.machine import machine
from prismrec.data.dataset import Dataset
from prismrec.data.splits import Part, Split
from prismrec.evaluation.result import PartResult
from prismrec.experiments.materials import drawn_users, prepare
from prismrec.experiments.plan import RunSpec
from prismrec.experiments.results import RunNote
from prismrec.models.catalogue import config_of
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.evaluate import OpenedPart, measure, open_part
from prismrec.recommender.insights import expert_load
from prismrec.recommender.part_ranking import Ranking
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train

Ledger = Callable[[Path], AbstractContextManager[None]]


def no_guard(path: Path) -> AbstractContextManager[None]:
    """Guard nothing: for a single process."""
    del path
    return nullcontext()


def fitted(
    spec: RunSpec, dataset: Dataset, device: str = "cpu"
) -> tuple[Recommender, Split, dict[str, float]]:
    """Train a run's model; the test part stays sealed.

    Returns
    -------
    recommender, split
        The model and what it was trained on.
    seconds
        Wall time of each phase.
    """
    began = time.perf_counter()
    split, stores = prepare(spec, dataset)
    prepared = time.perf_counter()
    config = config_of(spec.model).parse(spec.config)
    recommender = train(
        config,
        split,
        plan=TrainingPlan.model_validate(spec.training),
        features=stores if stores or not config.uses_content else None,
        seed=spec.seed,
        preset=spec.preset,
        device=device,
    )
    # Overlaps, so the parts are named apart from the whole.
    inside = {f"train.{name}": value for name, value in recommender.manifest.seconds.items() if name != "fit"}
    return (
        recommender,
        split,
        {"prepare": prepared - began, "train": time.perf_counter() - prepared, **inside},
    )


def run_once(
    spec: RunSpec, dataset: Dataset, *, threads: int, device: str = "cpu", guard: Ledger = no_guard
) -> tuple[RunNote, pl.DataFrame]:
    """Make a run.

    Parameters
    ----------
    spec
        What to run; nothing is chosen any more.
    dataset
        The data set of `spec.data`.
    threads
        What this process may use, for the record.
    device
        Where to train.
    guard
        Keeps other processes from the ledger of test openings, whose folder it is given.

    Returns
    -------
    note, users
        See `prismrec.experiments.results.write_result`.
    """
    recommender, split, seconds = fitted(spec, dataset, device)
    parts: list[PartResult] = []
    users: list[pl.DataFrame] = []
    before = 0
    for part in (Part.VALID, Part.TEST):
        began = time.perf_counter()
        with guard(split.ledger) if part is Part.TEST and split.ledger is not None else nullcontext():
            opened = open_part(recommender, split, part, spec.candidates, spec.ks)
        before = opened.openings_before or before
        opened = _drawn(opened, spec)
        if spec.oracle:
            recommender = _knowing(recommender, opened)
        parts += measure(recommender, opened).parts
        users += by_user(recommender, opened)
        seconds[f"measure.{part}"] = time.perf_counter() - began
    history = recommender.manifest.history
    note = RunNote(
        key=spec.key,
        spec=spec,
        split_hash=split.hash,
        train_pairs=len(split.train),
        modalities={m.name: m.dim for m in recommender.model.inputs.modalities},
        parts=parts,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        epochs=len(history.epochs),
        best_epoch=history.best_epoch,
        curve=[epoch.metrics.get(spec.training["metric"]) for epoch in history.epochs],
        chosen=history.chosen,
        test_openings_before=before,
        experts=_experts(recommender),
        weights=_weights(recommender),
        threads=threads,
        device=device,
        source=source_digest(),
        machine=machine(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return note, pl.concat(users)


def validated(spec: RunSpec, dataset: Dataset, metric: str, device: str = "cpu") -> tuple[float, float]:
    """Train and return the metric on the validation part, over all its users, and the seconds it took."""
    began = time.perf_counter()
    recommender, split, _ = fitted(spec, dataset, device)
    opened = open_part(recommender, split, Part.VALID, spec.candidates[:1], spec.ks)
    (figures,) = by_user(recommender, opened)
    return float(figures[metric].cast(pl.Float64).mean()), time.perf_counter() - began  # type: ignore[arg-type]


def by_user(recommender: Recommender, opened: OpenedPart) -> list[pl.DataFrame]:
    """Return each counted user's figures, one frame for each set of candidates."""
    frames = []
    vectors = recommender.all_user_vectors()
    for mode in opened.modes:
        ranking = Ranking.of(opened.split, opened.pairs, mode, opened.part)
        found = ranking.metrics(vectors, recommender.items.vectors[ranking.candidates], opened.ks)
        frames.append(
            pl.DataFrame(
                {
                    "part": np.full(int(found.n_counted), str(opened.part)),
                    "candidates": np.full(int(found.n_counted), str(mode)),
                    "user": ranking.users[found.counted],
                    **{name: found[name][found.counted].astype(np.float32) for name in found.names},
                }
            )
        )
    return frames


@cache
def source_digest() -> str:
    """Return a digest of the package's code, so that a table can say if it mixes versions."""
    home = Path(prismrec.__file__).parent
    state = hashlib.blake2b(digest_size=8)
    for path in sorted(home.rglob("*.py")):
        state.update(str(path.relative_to(home)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def _drawn(opened: OpenedPart, spec: RunSpec) -> OpenedPart:
    if spec.users is None:
        return opened
    kept = np.isin(opened.pairs.users, drawn_users(opened.pairs.users, spec.users, spec.seed))
    return dataclasses.replace(opened, pairs=opened.pairs.take(kept))


def _knowing(recommender: Recommender, opened: OpenedPart) -> Recommender:
    """Let the popularity baseline rank by the counts of the part itself: a bound, not a method."""
    counts = np.bincount(opened.pairs.items, minlength=len(recommender.items))
    items = dataclasses.replace(recommender.items, vectors=counts[:, None].astype(np.float32))
    users = np.ones((len(recommender.users), 1), dtype=np.float32)
    return dataclasses.replace(recommender, items=items, users=users)


def _experts(recommender: Recommender) -> dict[str, list[float]]:
    load = expert_load(recommender)
    if load is None:
        return {}
    return {name: [round(float(v), 6) for v in row] for name, row in zip(load.names, load.load, strict=True)}


def _weights(recommender: Recommender) -> dict[str, list[float]]:
    items = recommender.items
    if items.weights is None:
        return {}
    found = {}
    for place, name in enumerate(recommender.modalities):
        there = items.weights[items.present[:, place], place]
        if len(there):
            found[name] = [round(float(v), 6) for v in np.quantile(there, np.linspace(0, 1, 11))]
    return found
