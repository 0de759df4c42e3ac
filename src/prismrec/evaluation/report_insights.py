"""What the report shows of the inside of a model: learning curves, modality weights, experts' load."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from markupsafe import Markup

from prismrec.evaluation.charts import Points, histogram, line_chart
from prismrec.evaluation.report_inputs import Epoch, ExpertLoad, ModalityWeights
from prismrec.evaluation.report_views import Row, interval_row, number, percent
from prismrec.evaluation.result import Interval

_BINS = 25
_MAX_LINES = 6
_MAX_CATEGORIES = 20


@dataclass(frozen=True)
class Curve:
    """A drawing with its legend: name, last value of each line."""

    title: str
    drawing: Markup
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class Training:
    """Learning curves in words and drawings."""

    epochs: int
    minutes: str
    best: int | None
    curves: list[Curve]


@dataclass(frozen=True)
class Distribution:
    """How one modality's weight is spread over the items that have it."""

    name: str
    items: int
    mean: str
    drawing: Markup | None


@dataclass(frozen=True)
class Share:
    """A part of a stacked bar."""

    name: str
    color: int
    percent: float
    text: str


@dataclass(frozen=True)
class CategoryRow:
    """Mean weights of the items of a category."""

    name: str
    items: int
    shares: list[Share]


@dataclass(frozen=True)
class Experts:
    """The load of one modality's experts."""

    name: str
    effective: str
    rows: list[Row]


def training(epochs: Sequence[Epoch], best: int | None) -> Training | None:
    """Return the learning curves; None without epochs.

    The best epoch is the one given, else that with the highest value of the first validation metric.
    """
    if not epochs:
        return None
    validation = _series((epoch.epoch, epoch.validation) for epoch in epochs)
    if best is None and validation:
        best = int(max(next(iter(validation.values())), key=lambda point: point[1])[0])
    curves = []
    for title, series in (
        ("Loss in training", _series((epoch.epoch, epoch.losses) for epoch in epochs)),
        ("Quality on the validation part", validation),
    ):
        if series:
            curves.append(_curve(title, series, best))
    seconds = sum(epoch.seconds for epoch in epochs)
    spent = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"
    return Training(len(epochs), spent if seconds else "", best, curves)


def distributions(weights: ModalityWeights) -> list[Distribution]:
    """Return for each modality how its weight is spread over the items that have it."""
    found = []
    for place, name in enumerate(weights.names):
        values = weights.weights[:, place]
        values = values[np.isfinite(values)].astype(np.float64)
        if len(values) == 0:
            found.append(Distribution(name, 0, "", None))
            continue
        counts, _ = np.histogram(np.clip(values, 0, 1), bins=_BINS, range=(0, 1))
        mean = float(values.mean())
        quarter, half, three = np.quantile(values, (0.25, 0.5, 0.75))
        label = (
            f"Histogram of the weight of {name} over {len(values):,} items: mean {percent(mean)}, "
            f"quartiles {percent(quarter)}, {percent(half)}, {percent(three)}."
        )
        found.append(Distribution(name, len(values), percent(mean), histogram(counts, mean, label, place)))
    return found


def category_rows(weights: ModalityWeights) -> tuple[list[CategoryRow], int]:
    """Return mean weights of the largest categories, and how many categories are left out.

    An item without a modality counts with a weight of 0, so that the shares of a row fill it.
    """
    if weights.categories is None:
        return [], 0
    members: dict[str, list[int]] = {}
    for item, names in enumerate(weights.categories):
        for name in dict.fromkeys(names):
            members.setdefault(name, []).append(item)
    largest = sorted(members.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    filled = np.nan_to_num(weights.weights.astype(np.float64), nan=0.0)
    colors = {name: place for place, name in enumerate(weights.names)}
    rows = []
    for name, items in largest[:_MAX_CATEGORIES]:
        means = dict(zip(weights.names, filled[items].mean(axis=0).tolist(), strict=True))
        rows.append(CategoryRow(name, len(items), stacked(means, colors)))
    if rows:
        rows.sort(key=lambda row: -row.shares[0].percent)
    return rows, max(0, len(largest) - _MAX_CATEGORIES)


def stacked(weights: Mapping[str, float], colors: Mapping[str, int]) -> list[Share]:
    """Return the parts of a stacked bar that fills its track."""
    total = sum(weights.values()) or 1.0
    return [
        Share(name, colors[name] % 6, round(100 * value / total, 2), f"{100 * value / total:.0f} %")
        for name, value in weights.items()
    ]


def experts(load: ExpertLoad) -> list[Experts]:
    """Return each modality's experts with their load, and how many of them do the work.

    The effective number is the exponential of the entropy of the load: all of them if it is even.
    """
    n = load.load.shape[1]
    scale = max(float(load.load.max()) * 1.04, 1.2 / n)
    found = []
    for name, shares in zip(load.names, load.load.astype(np.float64), strict=True):
        held = shares[shares > 0] / shares.sum()
        effective = float(np.exp(-(held * np.log(held)).sum()))
        rows = [
            replace(
                interval_row(f"Expert {place}", "", Interval(mean=share), scale, tick=1 / n),
                value=percent(share),
            )
            for place, share in enumerate(shares.tolist(), start=1)
        ]
        found.append(Experts(name, f"{effective:.1f} of {n}", rows))
    return found


def _series(rows: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, Points]:
    """Lines by name, as many as can be told apart; values that are not finite are left out."""
    series: dict[str, list[tuple[float, float]]] = {}
    for epoch, values in rows:
        for name, value in values.items():
            if np.isfinite(value):
                series.setdefault(name, []).append((float(epoch), float(value)))
    return dict(islice(series.items(), _MAX_LINES))


def _curve(title: str, series: Mapping[str, Points], best: int | None) -> Curve:
    ends = {name: points[-1][1] for name, points in series.items()}
    described = "; ".join(
        f"{name} from {number(points[0][1])} to {number(points[-1][1])}" for name, points in series.items()
    )
    label = f"{title} by epoch: {described}." + (f" Best epoch: {best}." if best is not None else "")
    drawing = line_chart(series, label, best, f"best: epoch {best}")
    return Curve(title, drawing, [(name, number(value)) for name, value in ends.items()])
