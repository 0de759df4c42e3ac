"""`evaluate`: the one way to the sealed test part."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix
from prismrec.base.progress import SILENT, Progress
from prismrec.data.interactions import Pairs
from prismrec.data.splits import Candidates, Part, Split, TrainOnAll
from prismrec.evaluation.beyond import Content, beyond_accuracy
from prismrec.evaluation.metrics import Metric, UserMetrics, expected_random, metric_name, per_user
from prismrec.evaluation.ranking import Ranks, require_k, top_k
from prismrec.evaluation.result import Beyond, EvaluationResult, PartResult, SliceRow
from prismrec.evaluation.significance import mean_intervals
from prismrec.evaluation.slices import (
    by_degree,
    by_modalities,
    by_popularity,
    by_temperature,
    slice_items,
    slice_users,
)
from prismrec.recommender.part_ranking import Floats, Ranking, default_candidates, ranking_device
from prismrec.recommender.recommender import Recommender


def evaluate(
    recommender: Recommender,
    split: Split | None = None,
    *,
    part: str = "test",
    candidates: Sequence[str] | None = None,
    ks: Sequence[int] = (10, 20),
    device: str = "cpu",
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure a recommender on a held-out part.

    Parameters
    ----------
    recommender
        What to measure.
    split
        The split that it was trained on; None: the one it carries.
    part
        "valid", or "test", which opens the sealed part and writes that down.
    candidates
        Candidate modes; None: the one that fits the split.
    ks
        Lengths of the lists.
    device
        Where to rank: "cpu", "cuda", "mps" (which ranks on the processor) or "auto". Results are the same.
    progress
        Where to report to.

    Returns
    -------
    EvaluationResult
        One `PartResult` for each mode.

    Raises
    ------
    InputError
        If the split is another one than the recommender was trained on, was trained on all, or K is larger
        than the number of candidates.
    ConfigError
        If there is no such device here. Then nothing was opened.
    """
    there = ranking_device(device)
    opened = open_part(recommender, split or recommender.split, part, candidates, ks)
    return measure(recommender, opened, progress, device=there)


@dataclass(frozen=True)
class OpenedPart:
    """A part that may be read.

    Parameters
    ----------
    split
        Whose.
    part
        Which.
    modes
        Candidates to measure with.
    ks
        Lengths of the lists, ascending.
    pairs
        Its pairs.
    openings_before
        How often the test part had been opened before; None for the validation part.
    """

    split: Split
    part: Part
    modes: tuple[Candidates, ...]
    ks: tuple[int, ...]
    pairs: Pairs
    openings_before: int | None


def open_part(
    recommender: Recommender, split: Split, part: str, candidates: Sequence[str] | None, ks: Sequence[int]
) -> OpenedPart:
    """Check what is asked for and open the part; an opening of the test part is written down.

    Raises
    ------
    InputError
        See `evaluate`. Then nothing was opened.
    """
    _require_same(recommender, split)
    wanted = _part(part)
    modes = [_mode(m) for m in candidates] if candidates else [default_candidates(split)]
    if not ks:
        raise InputError("No length K of the lists was given.", "For instance: 10 and 20.")
    for mode in modes:
        for k in ks:
            require_k(k, len(split.candidates(mode, wanted)))
    before = None
    if wanted is Part.TEST:
        note = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": _run_name(recommender),
            "model": recommender.manifest.model,
            "seed": recommender.manifest.seed,
            "candidates": [str(mode) for mode in modes],
            "ks": list(ks),
        }
        pairs, before = split.open_test(note)
        recommender.manifest.test_openings.append({**note, "openings_before": before})
    else:
        pairs = split.valid
    return OpenedPart(split, wanted, tuple(modes), tuple(sorted(set(ks))), pairs, before)


def measure(
    recommender: Recommender, opened: OpenedPart, progress: Progress = SILENT, *, device: str = "cpu"
) -> EvaluationResult:
    """Measure a recommender on a part that has been opened; `device` is "cpu" or "cuda"."""
    split, ks = opened.split, list(opened.ks)
    parts = [
        _evaluate_part(recommender, split, opened.pairs, mode, opened.part, ks, progress, device)
        for mode in opened.modes
    ]
    manifest = recommender.manifest
    return EvaluationResult(
        run=_run_name(recommender),
        model=manifest.model if manifest.preset is None else f"{manifest.model} ({manifest.preset})",
        config=manifest.config,
        dataset=manifest.dataset,
        split=manifest.split,
        parts=parts,
        notes=_notes(recommender, split),
        test_openings_before=opened.openings_before,
    )


def _run_name(recommender: Recommender) -> str:
    return recommender.path.resolve().name if recommender.path else "in memory"


def _evaluate_part(
    recommender: Recommender,
    split: Split,
    pairs: Pairs,
    mode: Candidates,
    part: Part,
    ks: list[int],
    progress: Progress,
    device: str,
) -> PartResult:
    began = time.perf_counter()
    ranking = Ranking.of(split, pairs, mode, part)
    users = recommender.all_user_vectors()
    items = ranking.matrix(recommender.items.vectors[ranking.candidates])
    ranks = ranking.ranks(users, items, progress, device=device)
    measured = per_user(ranks, ks)
    names = [metric_name(metric, k) for metric in Metric for k in ks]
    intervals = mean_intervals(np.stack([measured[name][measured.counted] for name in names]))
    degrees = np.bincount(split.train.users, minlength=len(split.users))[ranking.users]
    return PartResult(
        part=part,
        candidates=mode,
        n_candidates=len(ranking.candidates),
        users_counted=measured.n_counted,
        users_without_history=int((degrees == 0).sum()),
        n_positives=int(ranks.positives.sum()),
        metrics=dict(zip(names, intervals, strict=True)),
        random_floor=_floor(ranking, ks),
        slices=_slices(recommender, split, ranking, ranks, measured, degrees, ks),
        beyond=_beyond(recommender, split, ranking, users, items, ks[0], device),
        seconds=time.perf_counter() - began,
    )


def _floor(ranking: Ranking, ks: list[int]) -> dict[str, float]:
    open_to = len(ranking.candidates) - (0 if ranking.masked is None else ranking.masked.sizes)
    return {
        metric_name(metric, k): float(np.mean(expected_random(metric, k, ranking.positives.sizes, open_to)))
        for metric in Metric
        for k in ks
    }


def _slices(
    recommender: Recommender,
    split: Split,
    ranking: Ranking,
    ranks: Ranks,
    measured: UserMetrics,
    degrees: npt.NDArray[np.int64],
    ks: list[int],
) -> list[SliceRow]:
    names = [metric_name(metric, ks[0]) for metric in (Metric.NDCG, Metric.RECALL)]
    counts = np.bincount(split.train.items, minlength=len(split.items))
    present = recommender.items.present[ranking.candidates]
    groupings = [by_popularity(counts, ranking.candidates)] if ranking.masked is not None else []
    if ranking.masked is not None:
        groupings.append(by_temperature(split.warm_items[ranking.candidates]))
    if present.shape[1]:
        contents = {name: present[:, m] for m, name in enumerate(recommender.modalities)}
        groupings.append(by_modalities(contents))
    rows = slice_users(measured, ranks.positives, by_degree(degrees), names)
    for grouping in groupings:
        rows += slice_items(ranks, grouping, names)
    return rows


def _beyond(
    recommender: Recommender,
    split: Split,
    ranking: Ranking,
    users: Floats,
    items: ItemMatrix,
    k: int,
    device: str,
) -> Beyond:
    lists, _ = top_k(users[ranking.users], items, k, ranking.masked, device=device)
    counts = np.bincount(split.train.items, minlength=len(split.items))
    return beyond_accuracy(lists, ranking.candidates, counts, _content(recommender, ranking))


def _content(recommender: Recommender, ranking: Ranking) -> Content | None:
    """Return unit content vectors of the candidates, where the data set's features are at hand."""
    features = recommender.training_features()
    if features is None:
        return None
    vectors, present = features.gather(ranking.candidates)
    return {
        name: (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12), present[:, m])
        for m, (name, v) in enumerate(zip(features.names, vectors, strict=True))
    }


def _require_same(recommender: Recommender, split: Split) -> None:
    if isinstance(split.plan, TrainOnAll):
        raise InputError("This run was trained on all interactions: nothing was held out to evaluate on.")
    if split.hash != recommender.manifest.split_hash:
        raise InputError(
            "This is another split than the recommender was trained on: its training part may hold what "
            "is tested here.",
            "Evaluate on the split that it was trained on (leave out the argument).",
        )


def _part(name: str) -> Part:
    try:
        return Part(name)
    except ValueError:
        raise InputError(f"There is no part {name!r} to evaluate.", f"Parts: {', '.join(Part)}.") from None


def _mode(name: str) -> Candidates:
    try:
        return Candidates(name)
    except ValueError:
        raise InputError(
            f"There are no candidates {name!r}.", f"Candidates: {', '.join(Candidates)}."
        ) from None


def _notes(recommender: Recommender, split: Split) -> list[str]:
    notes = []
    usable = recommender.can_recommend()[: len(split.items)]
    empty = int((~usable).sum())
    if not recommender.model.config.recommends_cold_items:
        notes.append(
            f"{recommender.manifest.model} knows items by their interactions only: {empty:,} cold items have "
            "the score 0 for everybody, and figures among cold items mean nothing (ties go by id)."
        )
    elif empty and recommender.model.config.uses_content:
        notes.append(f"{empty:,} items have no content and the score 0 for everybody.")
    return notes
