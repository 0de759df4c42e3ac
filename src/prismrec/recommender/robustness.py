"""`robustness_run`: damages what a run reads, measures, and leaves curves, a table and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prismrec.base.errors import InputError
from prismrec.base.files import write_json, write_text
from prismrec.base.progress import SILENT, Progress
from prismrec.data.splits import Candidates
from prismrec.evaluation.flatness import (
    RADII,
    RELATIVE_RADII,
    ascent_gaps,
    curvature,
    landscape_of,
    surface,
)
from prismrec.evaluation.metrics import parse_metric
from prismrec.evaluation.robustness import (
    Subject,
    Values,
    measure_degrees,
    require_protocols,
    run_experiments,
)
from prismrec.evaluation.robustness_page import markdown, write_page
from prismrec.evaluation.robustness_protocols import experiments
from prismrec.evaluation.robustness_result import (
    Chart,
    CurvatureRow,
    Flatness,
    GapRow,
    Protocol,
    RobustnessResult,
)
from prismrec.evaluation.significance import mean_interval
from prismrec.features.store import ItemFeatures
from prismrec.models.base import GradientModel, Model
from prismrec.models.batches import TrainingData
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.evaluate import OpenedPart, open_part
from prismrec.recommender.folder import load, write_manifest
from prismrec.recommender.part_ranking import Floats, Ranking, ranking_device
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.retraining import Again, measure_splits, reopen, retraining
from prismrec.recommender.vectors import average_for_unknown, compute_catalog

RESULT_FILE = "robustness.json"
TABLE_FILE = "robustness.md"
PAGE_FILE = "robustness.html"

_BLOCK = 16_384
_BATCHES = 4


def robustness_run(
    run: Path | str,
    *,
    protocols: Sequence[str] = (),
    repeats: int = 3,
    part: str = "valid",
    candidates: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    retrain: bool = False,
    out: Path | str | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> RobustnessResult:
    """Measure how a run's folder holds up; write ``robustness.json``, ``.md`` and ``.html``.

    Parameters
    ----------
    run
        The run's folder.
    out
        Where to write; None: into the run's folder.
    protocols, repeats, part, candidates, metric, seed, retrain, device, progress
        As for `robustness`.

    Returns
    -------
    RobustnessResult
        All curves.

    Raises
    ------
    InputError
        If the folder is no run, or whatever `robustness` raises.
    DamagedError
        If a file of the run is missing or altered.
    StorageError
        If the disk refuses.
    """
    recommender = load(Path(run))
    result = robustness(
        recommender,
        protocols=protocols,
        repeats=repeats,
        part=part,
        candidates=candidates,
        metric=metric,
        seed=seed,
        retrain=retrain,
        device=device,
        progress=progress,
    )
    folder = Path(run) if out is None else Path(out)
    write_json(folder / RESULT_FILE, result.model_dump(mode="json"))
    write_text(folder / TABLE_FILE, markdown(result))
    write_page(folder / PAGE_FILE, result)
    return result


def robustness(
    recommender: Recommender,
    *,
    protocols: Sequence[str] = (),
    repeats: int = 3,
    part: str = "valid",
    candidates: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    retrain: bool = False,
    features: ItemFeatures | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> RobustnessResult:
    """Measure how a recommender holds up when its input is damaged.

    Parameters
    ----------
    recommender
        What to damage; it stays as it is.
    protocols
        Names of `Protocol`; empty: all that train nothing, with `retrain` all.
    repeats
        Draws of each damage, at least 1.
    part
        "valid", or "test", which opens the sealed part and writes that down.
    candidates
        Candidate mode; None: the one that fits the split.
    metric
        For instance "ndcg@10"; None: the one that the run was trained by.
    seed
        Of all damage.
    retrain
        Whether protocols that train the model anew are run.
    features
        What it was trained on; None: those in the data set's folder.
    device
        Where to rank and train.
    progress
        Where to report to.

    Returns
    -------
    RobustnessResult
        One chart a protocol and modality; protocols that make no sense for the model say why.

    Raises
    ------
    InputError
        If a name is unknown, the features are gone, or K is larger than the number of candidates. Then
        nothing was opened.
    """
    wanted = require_protocols(protocols, retrain)
    if repeats < 1 or seed < 0:
        raise InputError(f"{repeats} repeats with seed {seed} cannot be drawn.", "At least 1, and 0.")
    there = ranking_device(device)
    name = metric or recommender.manifest.training.metric
    _, k = parse_metric(name)
    features = features or recommender.training_features()
    if features is None:
        features = _no_features(recommender)
    again = reopen(recommender, features, device) if any(p.retrains for p in wanted) else None
    opened = open_part(
        recommender, recommender.split, part, None if candidates is None else [candidates], [k]
    )
    if opened.openings_before is not None and recommender.path is not None:
        write_manifest(recommender)
    meter = _Meter(recommender, opened, name, there)
    subject = meter.subject(features)
    clean = meter.values(recommender.model, features)
    charts = run_experiments(experiments(subject, wanted), clean, repeats, seed, progress)
    if Protocol.DEGREE in wanted:
        progress.say("measuring users by degree")
        charts.append(measure_degrees(subject, clean, repeats, seed))
    flat = None
    if Protocol.FLATNESS in wanted:
        progress.say("measuring flatness")
        flat, reason = _flatness(recommender.model, subject.data, recommender.manifest.training, seed)
        if reason is not None:
            charts.append(_skipped_flatness(reason))
    if again is not None:
        charts += _retrained(again, features, meter, wanted, clean, repeats, seed, progress)
    return RobustnessResult(
        run=recommender.path.resolve().name if recommender.path else "in memory",
        model=recommender.manifest.model,
        dataset=recommender.manifest.dataset,
        part=opened.part,
        candidates=opened.modes[0],
        n_candidates=len(meter.ranking.candidates),
        metric=name,
        repeats=repeats,
        seed=seed,
        users=len(clean),
        clean=mean_interval(clean),
        charts=charts,
        flatness=flat,
        notes=_notes(recommender),
        test_openings_before=opened.openings_before,
    )


@dataclass
class _Meter:
    """The ranking of one part, asked again and again."""

    recommender: Recommender
    opened: OpenedPart
    metric: str
    device: str

    def __post_init__(self) -> None:
        mode: Candidates = self.opened.modes[0]
        split = self.opened.split
        self.ranking = Ranking.of(split, self.opened.pairs, mode, self.opened.part)
        self.degrees = np.bincount(split.train.users, minlength=len(split.users))

    def subject(self, features: ItemFeatures) -> Subject:
        split, model = self.opened.split, self.recommender.model
        warm = np.flatnonzero(split.warm_items).astype(np.int32)
        seed = self.recommender.manifest.seed
        data = TrainingData(split.train, model.inputs, features, warm, seed, split.train_order)
        # Everybody who is ranked has a positive, so everybody is counted.
        degrees = self.degrees[self.ranking.users].astype(np.int64)
        return Subject(model, data, self.ranking.candidates, degrees, self.values)

    def values(self, model: Model, features: ItemFeatures) -> Values:
        """Return the metric of each user with a positive."""
        items = compute_catalog(model, features, self.ranking.candidates, explained=False)
        users = average_for_unknown(_user_vectors(model), self.degrees > 0)
        return self._ranked(users, items.vectors)

    def of_recommender(self, other: Recommender) -> Values:
        """Return the same of one that was trained anew, on the same users and candidates."""
        return self._ranked(other.all_user_vectors(), other.items.vectors[self.ranking.candidates])

    def _ranked(self, users: Floats, items: Floats) -> Values:
        _, k = parse_metric(self.metric)
        return self.ranking.metrics(users, items, [k], device=self.device)[self.metric]


@torch.no_grad()
def _user_vectors(model: Model) -> Floats:
    n_users = model.inputs.n_users
    blocks = [
        model.user_vectors(torch.arange(first, min(first + _BLOCK, n_users))).float().numpy()
        for first in range(0, n_users, _BLOCK)
    ]
    return np.concatenate(blocks)


def _retrained(
    again: Again,
    features: ItemFeatures,
    meter: _Meter,
    wanted: Sequence[Protocol],
    clean: Values,
    repeats: int,
    seed: int,
    progress: Progress,
) -> list[Chart]:
    progress.say("training anew")
    made = retraining(again, features, meter.of_recommender, wanted)
    charts = run_experiments(made, clean, repeats, seed, progress)
    if Protocol.SPLITS in wanted:
        with progress.task("splits", 3 * repeats) as task:
            charts.append(measure_splits(again, meter.metric, repeats, task.advance))
    return charts


def _flatness(
    model: Model, data: TrainingData, plan: TrainingPlan, seed: int
) -> tuple[Flatness | None, str | None]:
    """Return what was found, or why nothing can be."""
    if not isinstance(model, GradientModel):
        return None, "not applicable: the model is not trained by gradient steps"
    if model.turns:
        return None, "not applicable: the model trains in turns, which have no one loss"
    landscape = landscape_of(model, data, plan, batches=_BATCHES, seed=seed)
    gaps, curvatures = [], []
    for relative, radii in ((False, RADII), (True, RELATIVE_RADII)):
        for gap in ascent_gaps(landscape, radii, relative=relative):
            gaps.append(GapRow(radius=gap.radius, relative=relative, gap=gap.gap, random=gap.random))
        found = curvature(landscape, relative=relative)
        curvatures.append(
            CurvatureRow(
                relative=relative, largest=found.largest, trace=found.trace, trace_error=found.trace_error
            )
        )
    drawn = surface(landscape)
    flat = Flatness(
        batches=_BATCHES,
        loss=landscape.loss(),
        by_differences=landscape.by_differences,
        gaps=gaps,
        curvatures=curvatures,
        along=drawn.along.tolist(),
        surface=drawn.losses.tolist(),
    )
    return flat, None


def _skipped_flatness(reason: str) -> Chart:
    return Chart(protocol=Protocol.FLATNESS, title="Flatness", axis="", about="", skipped=reason)


def _no_features(recommender: Recommender) -> ItemFeatures:
    if recommender.modalities:
        raise InputError(
            "The features that this run was trained on are not there any more, or others are.",
            f"They were in {recommender.manifest.dataset_path or 'memory'}; encode again or train again.",
        )
    return ItemFeatures([], recommender.split.items.ids)


def _notes(recommender: Recommender) -> list[str]:
    if recommender.model.config.recommends_cold_items:
        return []
    return ["This model knows items by their interactions only: cold items all have the score 0."]
