"""Turns results into what the report's template shows: words, shares of a bar's width, rounded numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prismrec.evaluation.metrics import Metric, parse_metric
from prismrec.evaluation.result import EvaluationResult, Interval, PartResult

METRICS = {
    Metric.HIT_RATE: ("Hit rate", "people for whom at least one suggestion is right"),
    Metric.RECALL: ("Recall", "share of what a person really liked that is suggested"),
    Metric.NDCG: ("NDCG", "what is found, counting more the higher up it stands; 1 is a perfect list"),
    Metric.PRECISION: ("Precision", "share of the suggestions that are right"),
    Metric.MAP: ("MAP", "precision at each right suggestion, averaged over what could be found"),
    Metric.MRR: ("MRR", "one over the place of the first right suggestion"),
}
"""Metrics in the order of the report, with their names and what they mean."""

CANDIDATES = {
    "strict": "new items only: none of them was ever clicked in training",
    "as_released": "all new items, those of validation and test together",
    "all_items": "every item, new and old, without those that the person already had",
    "warm": "items known from training, without those that the person already had",
}
"""What is ranked, in words."""


@dataclass(frozen=True)
class Bar:
    """A value in its track, as percentages of the track's width.

    Parameters
    ----------
    value
        Where the bar ends.
    low, high
        Ends of the interval; None without one.
    tick
        A value to compare with; None without one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    tick: float | None = None


@dataclass(frozen=True)
class Row:
    """A labelled bar with its number."""

    label: str
    note: str
    bar: Bar
    value: str
    spread: str
    own: bool = False


@dataclass(frozen=True)
class Cell:
    """One metric at one K."""

    value: str
    spread: str
    floor: str
    bar: Bar


@dataclass(frozen=True)
class MetricRow:
    """One metric at every K; None where it was not computed."""

    label: str
    meaning: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Headline:
    """The key figure and what it means."""

    metric: str
    figure: str
    sentence: str
    chance: str


def number(value: float) -> str:
    """Write a metric: three digits that count, at most four places."""
    return f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def percent(value: float) -> str:
    """Write a share as a percentage with two or three digits that count."""
    share = 100 * value
    places = 0 if share == 0 else 2 if share < 1 else 1
    return f"{share:.{places}f} %"


def spread(interval: Interval) -> str:
    """Write an interval's bounds, nothing without them."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{number(interval.low)} – {number(interval.high)}"  # noqa: RUF001


def headline(part: PartResult, wanted: str | None = None) -> Headline:
    """Choose the key figure: the metric wanted, else what is easiest to grasp at the K nearest to 10."""
    name = wanted if wanted in part.metrics else _easiest(part.metrics)
    metric, k = parse_metric(name)
    value = part.metrics[name].mean
    first = f"the first {k} suggestions out of {part.n_candidates:,}"
    sentences = {
        Metric.HIT_RATE: f"of people find at least one item that they really liked among {first}.",
        Metric.RECALL: f"of what a person really liked stands among {first}.",
        Metric.PRECISION: f"of {first} are items that the person really liked.",
        Metric.NDCG: f"of what a perfect list would score is reached by {first}. Items that the person "
        "really liked count, and the more the higher they stand.",
        Metric.MAP: f"of {first} are right, on average at the place of each right one (MAP).",
        Metric.MRR: f"is one over the place of the first right suggestion, on average, within {first}.",
    }
    return Headline(name, percent(value), sentences[metric], _chance(value, part.random_floor.get(name)))


def metric_table(part: PartResult) -> tuple[list[int], list[MetricRow]]:
    """Return the lengths K and, for each metric, its cells."""
    found = {parse_metric(name): (name, interval) for name, interval in part.metrics.items()}
    ks = sorted({k for _, k in found})
    rows = []
    for metric, (label, meaning) in METRICS.items():
        here = {k: found[metric, k] for k in ks if (metric, k) in found}
        if here:
            scale = _scale(interval for _, interval in here.values())
            cells = [_cell(here[k], part, scale) if k in here else None for k in ks]
            rows.append(MetricRow(label, meaning, cells))
    return ks, rows


def slice_tables(part: PartResult, wanted: str) -> list[tuple[str, str, list[Row]]]:
    """Return for each kind of slice its name, the metric shown, and a row a slice."""
    tables = []
    for kind in dict.fromkeys(row.kind for row in part.slices):
        rows = [row for row in part.slices if row.kind == kind and row.metrics]
        if not rows:
            continue
        name = wanted if wanted in rows[0].metrics else next(iter(rows[0].metrics))
        rows = [row for row in rows if name in row.metrics]
        overall = part.metrics.get(name)
        scale = _scale([row.metrics[name] for row in rows] + ([overall] if overall else []))
        tick = overall.mean if overall else None
        shown = [
            interval_row(
                row.value,
                f"{_some(row.users, 'user')}, {_some(row.positives, 'positive')}",
                row.metrics[name],
                scale,
                tick,
            )
            for row in rows
        ]
        tables.append((kind, name, shown))
    return tables


def comparison(
    part: PartResult, result: EvaluationResult, others: Sequence[EvaluationResult], name: str
) -> list[Row]:
    """Return a row for each run that was evaluated in the same way, the best first, chance among them."""
    runs = [(f"{result.model}", result.run, part.metrics[name], True)]
    for other in others:
        for theirs in other.parts:
            if (theirs.part, theirs.candidates) == (part.part, part.candidates) and name in theirs.metrics:
                runs.append((other.model, other.run, theirs.metrics[name], False))
    if len(runs) == 1:
        return []
    if name in part.random_floor:
        runs.append(("Chance", "any random order", Interval(mean=part.random_floor[name]), False))
    runs.sort(key=lambda row: -row[2].mean)
    scale = _scale(interval for _, _, interval, _ in runs)
    return [interval_row(model, run, interval, scale, own=own) for model, run, interval, own in runs]


def interval_row(
    label: str, note: str, interval: Interval, scale: float, tick: float | None = None, own: bool = False
) -> Row:
    """Return a labelled bar on a scale from 0."""
    return Row(label, note, _bar(interval, scale, tick), number(interval.mean), spread(interval), own)


def _cell(named: tuple[str, Interval], part: PartResult, scale: float) -> Cell:
    name, interval = named
    floor = part.random_floor.get(name)
    shown = "" if floor is None else number(floor)
    return Cell(number(interval.mean), spread(interval), shown, _bar(interval, scale, floor))


def _bar(interval: Interval, scale: float, tick: float | None) -> Bar:
    def place(value: float | None) -> float | None:
        return None if value is None else round(min(max(100 * value / scale, 0.0), 100.0), 2)

    return Bar(place(interval.mean) or 0.0, place(interval.low), place(interval.high), place(tick))


def _scale(intervals: Iterable[Interval]) -> float:
    tops = [interval.mean if interval.high is None else interval.high for interval in intervals]
    return max(tops, default=0.0) * 1.04 or 1.0


def _easiest(metrics: Mapping[str, Interval]) -> str:
    order = list(METRICS)

    def ease(name: str) -> tuple[int, int]:
        metric, k = parse_metric(name)
        return order.index(metric), abs(k - 10)

    return min(metrics, key=ease)


def _chance(value: float, floor: float | None) -> str:
    if floor is None or floor <= 0:
        return ""
    times = value / floor
    if times < 1:
        return f"Chance alone would reach {percent(floor)}, which is more."
    shown = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    return f"Chance alone would reach {percent(floor)}: this is {shown} times as much."


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
