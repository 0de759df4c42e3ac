"""Drawings of a bench: bars with intervals, slices, accuracy against training time, experts, modalities.

SVG by hand, as in a run's report (`prismrec.evaluation.charts`), so that no plotting package is needed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from prismrec.evaluation.charts import ticks
from prismrec.evaluation.result import Interval
from prismrec.experiments.notes import part_of
from prismrec.experiments.state import Bench, RowState
from prismrec.experiments.tables import Table

_WIDTH = 520
_LABELS = 190
_LETTERS = 30
_ROW = 24
_TOP, _FOOT = 8, 26
# More lines than these in a drawing of slices cannot be told apart.
_MOST = 6


@dataclass(frozen=True)
class Drawing:
    """A drawing.

    Parameters
    ----------
    name
        Of its file.
    title
        Above it.
    svg
        The drawing.
    legend
        Names of the colours, in order.
    about
        What to mind, below it.
    """

    name: str
    title: str
    svg: Markup
    legend: tuple[str, ...] = ()
    about: str = ""


def drawings(bench: Bench, table: Table) -> list[Drawing]:
    """Return what can be drawn of a table."""
    states = [s for s in bench.states if s.row.data.name == table.data and s.notes]
    lines = [line for line in table.lines if line.seeds]
    metric = table.metric
    found = [
        Drawing(
            "bars",
            f"{metric} with 95 % intervals over seeds",
            bars([(line.label, [line.figures[metric]]) for line in lines], f"{metric} of each row"),
        )
    ]
    points = [
        (line.label, line.seconds, line.figures[metric].mean) for line in lines if line.seconds is not None
    ]
    found.append(
        Drawing(
            "time",
            f"{metric} against training time",
            scatter(points, f"{metric} against seconds of training"),
            about="Seconds on a logarithmic axis, as measured beside whatever else ran on the machine.",
        )
    )
    found += _slices(states, table)
    return found + _insides(states)


def bars(rows: Sequence[tuple[str, Sequence[Interval]]], label: str) -> Markup:
    """Draw a horizontal bar for each value, with its interval.

    Parameters
    ----------
    rows
        A name, and values that stand below each other in the colours of a legend.
    label
        What the drawing shows, for those who cannot see it.
    """
    tall = [max(len(values), 1) * (_ROW - 8) + 8 for _, values in rows]
    height = _TOP + sum(tall) + _FOOT
    tops = [i.mean if i.high is None else i.high for _, values in rows for i in values]
    levels = ticks(0.0, max([*tops, 1e-9]), about=4)

    def across(value: float) -> float:
        share = min(max(value / levels[-1], 0.0), 1.0)
        return _LABELS + (_WIDTH - _LABELS - 16) * share

    parts = [_vertical(across(level), f"{level:.4g}", height) for level in levels]
    y = float(_TOP)
    for (name, values), high in zip(rows, tall, strict=True):
        parts.append(
            f'<text x="{_LABELS - 8}" y="{y + high / 2 + 4:.1f}" text-anchor="end">{_short(name)}</text>'
        )
        for place, interval in enumerate(values):
            at = y + 4 + place * (_ROW - 8)
            parts.append(
                f'<rect class="s{place % 6}" x="{_LABELS}" y="{at:.1f}" '
                f'width="{max(across(interval.mean) - _LABELS, 0):.1f}" height="{_ROW - 12}" rx="1.5">'
                f"<title>{escape(name)}: {escape(str(interval))}</title></rect>"
            )
            if interval.low is not None and interval.high is not None:
                middle = at + (_ROW - 12) / 2
                parts.append(
                    f'<line class="spread" x1="{across(interval.low):.1f}" x2="{across(interval.high):.1f}" '
                    f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
                )
        y += high
    parts.append(f'<line class="axis" x1="{_LABELS}" x2="{_LABELS}" y1="{_TOP}" y2="{height - _FOOT}"/>')
    return _svg(height, label, parts)


def scatter(points: Sequence[tuple[str, float, float]], label: str) -> Markup:
    """Draw named points, the first coordinate on a logarithmic axis."""
    height, left = 300, 56
    xs = [max(x, 1e-3) for _, x, _ in points]
    low, high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
    high = max(high, low + 1)
    levels = ticks(0.0, max([*(y for _, _, y in points), 1e-9]), about=4)

    def across(value: float) -> float:
        return left + (_WIDTH - left - 24) * (math.log10(max(value, 1e-3)) - low) / (high - low)

    def up(value: float) -> float:
        return height - _FOOT - (height - _FOOT - _TOP - 10) * value / levels[-1]

    parts = [_vertical(across(10.0**power), f"{10.0**power:g} s", height) for power in range(low, high + 1)]
    for level in levels:
        y = up(level)
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 24}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.4g}</text>')
    for place, (name, x, y) in enumerate(points):
        at, over = across(x), up(y)
        anchor, beside = ("end", at - 8) if at > _WIDTH * 0.62 else ("start", at + 8)
        parts.append(
            f'<circle class="dot s{place % 6}" cx="{at:.1f}" cy="{over:.1f}" r="4.5">'
            f"<title>{escape(name)}: {y:.4f}, {x:,.1f} s</title></circle>"
            f'<text x="{beside:.1f}" y="{over + 4:.1f}" text-anchor="{anchor}">{_short(name)}</text>'
        )
    return _svg(height, label, parts)


def _slices(states: Sequence[RowState], table: Table) -> list[Drawing]:
    """Draw each kind of slice for the best rows; means over seeds of a slice's means."""
    ranked = sorted(
        (line for line in table.lines if line.seeds and not line.oracle),
        key=lambda line: -line.figures[table.metric].mean,
    )[:_MOST]
    chosen = [state for line in ranked for state in states if state.row.label == line.label]
    found = []
    kinds: dict[str, dict[str, None]] = {}
    for state in chosen:
        for seed in state.notes:
            for row in part_of(state, seed, "test", table.candidates).slices:
                kinds.setdefault(row.kind, {})[row.value] = None
    for number, (kind, values) in enumerate(kinds.items()):
        # An evaluation cuts its slices at the shortest lists only.
        shown = _slice_metric(chosen[0], table, kind)
        means = [_slice_means(state, table.candidates, kind, shown) for state in chosen]
        rows = [
            (value, [Interval(mean=own.get(value, 0.0)) for own in means])
            for value in values
            if any(value in own for own in means)
        ]
        if rows:
            found.append(
                Drawing(
                    f"slice-{number}",
                    f"{shown} by {kind}",
                    bars(rows, f"{shown} by {kind}"),
                    tuple(state.row.label for state in chosen),
                    "Means over seeds, without intervals: to look for patterns, not to prove them.",
                )
            )
    return found


def _slice_metric(state: RowState, table: Table, kind: str) -> str:
    seed = next(iter(state.notes))
    rows = part_of(state, seed, "test", table.candidates).slices
    names = [name for row in rows if row.kind == kind for name in row.metrics]
    return table.metric if table.metric in names or not names else names[0]


def _slice_means(state: RowState, mode: str, kind: str, metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for seed in state.notes:
        for row in part_of(state, seed, "test", mode).slices:
            if row.kind == kind and metric in row.metrics:
                values.setdefault(row.value, []).append(row.metrics[metric].mean)
    return {value: float(np.mean(found)) for value, found in values.items()}


def _insides(states: Sequence[RowState]) -> list[Drawing]:
    """Draw what models attend to: experts' loads and modality weights over the catalogue, mean over seeds."""
    loads, weights, names = [], [], {}
    for state in states:
        notes = list(state.notes.values())
        for modality in notes[0].experts:
            load = np.mean([note.experts[modality] for note in notes if modality in note.experts], axis=0)
            loads.append((f"{state.row.label}: {modality}", [Interval(mean=float(v)) for v in load]))
        medians = _medians([note.weights for note in notes])
        if medians:
            names.update(dict.fromkeys(medians))
            weights.append((state.row.label, medians))
    found = []
    if loads:
        most = max(len(values) for _, values in loads)
        found.append(
            Drawing(
                "experts",
                "Experts' share of the work",
                bars(loads, "Mean routing weight of each expert"),
                tuple(f"expert {n + 1}" for n in range(min(most, 6))),
                "Mean routing weight over catalogue and seeds; experts of different seeds are not the same.",
            )
        )
    if weights:
        rows = [(label, [own.get(name, Interval(mean=0.0)) for name in names]) for label, own in weights]
        found.append(
            Drawing(
                "modalities",
                "Weight of each modality",
                bars(rows, "Median weight of each modality over items"),
                tuple(names),
                "Median over the items that have it; the line spans the middle 80 % of items, not an error.",
            )
        )
    return found


def _medians(found: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Interval]:
    means = {}
    for name in dict.fromkeys(name for one in found for name in one):
        quantiles = np.mean([one[name] for one in found if name in one], axis=0)
        low, middle, high = (float(quantiles[place]) for place in (1, 5, 9))
        means[name] = Interval(mean=middle, low=low, high=high)
    return means


def _vertical(x: float, text: str, height: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _FOOT:.1f}"/>'
        f'<text x="{x:.1f}" y="{height - 8:.1f}" text-anchor="middle">{escape(text)}</text>'
    )


def _short(name: str) -> Markup:
    return escape(name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…")


def _svg(height: float, label: str, parts: Sequence[str]) -> Markup:
    # Numbers are formatted above and texts escaped; nothing from outside enters unescaped.
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(parts)}</svg>'
    )
