"""How a recommender holds up when its input is damaged: curves with intervals, beside a control.

What is measured comes in as a function from damage to each user's metric, so that damage at inference and
damage in training make the same curves.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress
from prismrec.evaluation.corruption import Noise, Statistics
from prismrec.evaluation.robustness_result import Chart, Curve, Point, Protocol
from prismrec.evaluation.significance import ALPHA, Comparison, compare, holm, mean_interval, seed_interval
from prismrec.evaluation.slices import by_degree
from prismrec.features.store import ItemFeatures
from prismrec.models.base import Model
from prismrec.models.batches import TrainingData

Values = npt.NDArray[np.float64]

_DEGREE_SIGMA = 0.5


@dataclass(frozen=True)
class Subject:
    """What damage is done to.

    Parameters
    ----------
    model
        Fitted, on the CPU. It stays as it is, bit for bit: damage is done to copies.
    data
        Training part and sound features.
    candidates
        Codes of the items that are ranked.
    degrees
        Training interactions of each user that is counted, shape ``(users,)``.
    measure
        From a model and the content that it is to see to the metric of each user that is counted.
    """

    model: Model
    data: TrainingData
    candidates: npt.NDArray[np.int32]
    degrees: npt.NDArray[np.int64]
    measure: Callable[[Model, ItemFeatures], Values]

    def under(self, features: ItemFeatures) -> Values:
        """Return the metric of each user where content is as given, for the batch and in the model."""
        changed = copy.deepcopy(self.model)
        changed.see(features, self.data.features, self.data.warm)
        return self.measure(changed, features)


@dataclass(frozen=True)
class Variant:
    """A curve to be measured.

    Parameters
    ----------
    name
        Of the curve.
    values
        From level and seed to each user's metric.
    control
        Whether it is a control. All other curves are tested against the chart's first control.
    """

    name: str
    values: Callable[[float, int], Values]
    control: bool = False


@dataclass(frozen=True)
class Experiment:
    """A chart to be measured.

    Parameters
    ----------
    protocol, title, axis, about
        Of the chart.
    levels
        Ascending, without 0.
    variants
        Its curves.
    skipped
        Why there is nothing to measure.
    clean
        What the curves start from, where that is another one than the run itself: from the seed.
    """

    protocol: Protocol
    title: str
    axis: str
    about: str
    levels: tuple[float, ...] = ()
    variants: tuple[Variant, ...] = ()
    skipped: str | None = None
    clean: Callable[[int], Values] | None = None

    def measurements(self, repeats: int) -> int:
        """Return how often something will be measured."""
        own = 1 if self.clean is not None else 0
        return repeats * (own + len(self.levels) * len(self.variants))


def measure_chart(
    experiment: Experiment, clean: Values, repeats: int, seed: int, advance: Callable[[], None] = lambda: None
) -> Chart:
    """Measure the curves of a chart.

    Parameters
    ----------
    experiment
        What to measure.
    clean
        The metric of each user without damage.
    repeats
        Draws of each damage, at least 1; the same for damage and control.
    seed
        Repeat r has the seed ``1000 seed + r``.
    advance
        Called after each measurement.
    """
    if experiment.skipped is not None:
        return _chart(experiment, [])
    seeds = [1000 * seed + repeat for repeat in range(repeats)]

    def drawn(values: Callable[[int], Values]) -> list[Values]:
        found = []
        for one in seeds:
            found.append(values(one))
            advance()
        return found

    start = [clean] if experiment.clean is None else drawn(experiment.clean)
    found = {
        (variant.name, level): drawn(lambda s, v=variant, x=level: v.values(x, s))  # type: ignore[misc]
        for level in experiment.levels
        for variant in experiment.variants
    }
    base = np.mean(start, axis=0)
    control = next((v.name for v in experiment.variants if v.control), None)
    keys = list(found)
    means = {key: np.mean(found[key], axis=0) for key in keys}
    of_clean = dict(zip(keys, compare_pairs([(base, means[key]) for key in keys]), strict=True))
    damages = {variant.name for variant in experiment.variants if not variant.control}
    beside = [key for key in keys if control is not None and key[0] in damages]
    pairs = [(means[control, level], means[name, level]) for name, level in beside if control is not None]
    of_control = dict(zip(beside, compare_pairs(pairs), strict=True))
    curves = []
    for variant in experiment.variants:
        points = [_point(0.0, start, base)]
        for level in experiment.levels:
            key = variant.name, level
            points.append(_point(level, found[key], base, of_clean[key], of_control.get(key)))
        curves.append(Curve(name=variant.name, control=variant.control, points=points))
    return _chart(experiment, curves)


def compare_pairs(pairs: Sequence[tuple[Values, Values]]) -> list[Comparison]:
    """Compare the two of each pair over the same users, p-values adjusted by Holm for the number of pairs."""
    single = [compare(a, b) for a, b in pairs]
    ranked = holm([c.wilcoxon_p for c in single])
    flipped = holm([c.randomisation_p for c in single])
    found = []
    for comparison, by_rank, by_flip in zip(single, ranked, flipped, strict=True):
        low, high = comparison.difference.low, comparison.difference.high
        holds_zero = low is None or high is None or low <= 0 <= high
        tie = holds_zero or max(by_rank, by_flip) >= ALPHA
        found.append(
            comparison.model_copy(
                update={"wilcoxon_holm": by_rank, "randomisation_holm": by_flip, "tie": tie}
            )
        )
    return found


def measure_degrees(subject: Subject, clean: Values, repeats: int, seed: int) -> Chart:
    """Return the metric by how much is known of a user, without damage and under noise in all modalities."""
    grouping = by_degree(subject.degrees)
    groups = [code for code in range(len(grouping.labels)) if (grouping.codes == code).any()]
    start = [clean]
    noisy: list[Values] = []
    if subject.model.config.uses_content and subject.data.features.names:
        statistics = Statistics.of(subject.data.features, subject.data.warm)
        every = range(len(subject.data.features.names))
        for repeat in range(repeats):
            damage = Noise(subject.data.features, statistics, _DEGREE_SIGMA, every, 1000 * seed + repeat)
            noisy.append(subject.under(damage))
    rows = [(grouping.labels[code], grouping.codes == code) for code in groups]
    sound = [_group(n, label, start, mask, None) for n, (label, mask) in enumerate(rows)]
    curves = [Curve(name="content as it is", points=sound)]
    if noisy:
        mean = np.mean(noisy, axis=0)
        compared = compare_pairs([(clean[mask], mean[mask]) for _, mask in rows])
        points = [_group(n, label, noisy, mask, clean, compared[n]) for n, (label, mask) in enumerate(rows)]
        curves.append(Curve(name=f"noise, {_percent(_DEGREE_SIGMA)}", points=points))
    return Chart(
        protocol=Protocol.DEGREE,
        title="Users by degree",
        axis=grouping.kind,
        about="Users grouped by their number of training interactions: with content as it is, and with "
        f"noise of {_percent(_DEGREE_SIGMA)} of the standard deviation in all modalities.",
        curves=curves,
    )


def run_experiments(
    found: Sequence[Experiment], clean: Values, repeats: int, seed: int, progress: Progress = SILENT
) -> list[Chart]:
    """Measure charts one after the other."""
    charts = []
    with progress.task("damage", sum(e.measurements(repeats) for e in found)) as task:
        for experiment in found:
            task.advance(0, experiment.title)
            charts.append(measure_chart(experiment, clean, repeats, seed, task.advance))
    return charts


def require_protocols(names: Sequence[str], retrain: bool) -> list[Protocol]:
    """Return the protocols that are meant: those named, or all of them; those that train only if allowed.

    Raises
    ------
    InputError
        If there is no such protocol, or one that trains was named and training is not allowed.
    """
    if not names:
        return [protocol for protocol in Protocol if retrain or not protocol.retrains]
    wanted = []
    for name in dict.fromkeys(names):
        if name not in list(Protocol):
            raise InputError(f"There is no protocol {name!r}.", f"Protocols: {', '.join(Protocol)}.")
        if Protocol(name).retrains and not retrain:
            raise InputError(
                f"The protocol {name!r} trains the model anew, once for each level and repeat.",
                "Allow that with --retrain (in Python: retrain=True).",
            )
        wanted.append(Protocol(name))
    return wanted


def _chart(experiment: Experiment, curves: list[Curve]) -> Chart:
    return Chart(
        protocol=experiment.protocol,
        title=experiment.title,
        axis=experiment.axis,
        about=experiment.about,
        curves=curves,
        skipped=experiment.skipped,
    )


def _point(
    level: float,
    repeats: Sequence[Values],
    base: Values,
    against_clean: Comparison | None = None,
    against_control: Comparison | None = None,
) -> Point:
    return Point(
        level=level,
        label=_percent(level),
        value=mean_interval(np.mean(repeats, axis=0)),
        repeats=seed_interval([float(values.mean()) for values in repeats]) if len(repeats) > 1 else None,
        users=len(base),
        kept=_share(float(np.mean(repeats)), float(base.mean())),
        against_clean=against_clean,
        against_control=against_control,
    )


def _group(
    number: int,
    label: str,
    repeats: Sequence[Values],
    mask: npt.NDArray[np.bool_],
    base: Values | None,
    comparison: Comparison | None = None,
) -> Point:
    inside = [values[mask] for values in repeats]
    return Point(
        level=number,
        label=label,
        value=mean_interval(np.mean(inside, axis=0)),
        repeats=seed_interval([float(values.mean()) for values in inside]) if len(inside) > 1 else None,
        users=int(mask.sum()),
        kept=None if base is None else _share(float(np.mean(inside)), float(base[mask].mean())),
        against_clean=comparison,
    )


def _share(value: float, base: float) -> float | None:
    return None if base == 0 else value / base


def _percent(level: float) -> str:
    return f"{100 * level:.3g} %"
