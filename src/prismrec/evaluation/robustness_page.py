"""The result of damage for people: a page with curves, and a table in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from prismrec.base.files import write_text
from prismrec.evaluation.charts import ticks
from prismrec.evaluation.result import openings_sentence
from prismrec.evaluation.robustness_result import Chart, Curve, Flatness, Point, Protocol, RobustnessResult

_WIDTH, _HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 36
# Levels of these are groups, not amounts: points that no line should join.
_GROUPED = (Protocol.DEGREE, Protocol.SPLITS)

Corners = Sequence[tuple[float, float, float, float]]
"""Where points stand in a drawing: x, and y of mean, lower and upper bound."""


@dataclass(frozen=True)
class _Panel:
    """A chart as it is drawn."""

    chart: Chart
    drawing: Markup
    names: list[str]
    rows: list[tuple[str, list[str]]]


def write_page(path: Path, result: RobustnessResult) -> None:
    """Write the page: one file that runs no script and asks for nothing from outside.

    Parameters
    ----------
    path
        Written atomically.
    result
        What to show.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prismrec.evaluation", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    before = result.test_openings_before
    page = environment.get_template("robustness.html").render(
        result=result,
        panels=[_panel(chart, result.metric) for chart in result.charts if chart.curves],
        skipped=[chart for chart in result.charts if not chart.curves],
        flat=result.flatness,
        landscape=None if result.flatness is None else heat_map(result.flatness),
        openings=None if before is None else openings_sentence(before),
    )
    write_text(path, page)


def markdown(result: RobustnessResult) -> str:
    """Return all curves as GitHub-flavoured Markdown, a table a chart."""
    lines = [
        f"## Robustness of {_plain(result.model)} on {_plain(result.dataset)} (run {_plain(result.run)})",
        "",
        f"{result.metric} on the {result.part} part, candidates {result.candidates} "
        f"({result.n_candidates:,} items), {result.users:,} users; without damage {result.clean}. "
        f"Damage was drawn {result.repeats} times, seed {result.seed}. Intervals are 95 %, over users. "
        "A star marks what differs from no damage, a plus what differs from the first control (both tests, "
        "Holm).",
    ]
    for chart in result.charts:
        lines += ["", f"### {_plain(chart.title)}", ""]
        if chart.skipped is not None or not chart.curves:
            lines.append(_plain(chart.skipped or "nothing was measured"))
            continue
        labels, rows = _cells(chart)
        lines += [
            _plain(chart.about),
            "",
            "| " + " | ".join([_plain(chart.axis), *map(_plain, labels)]) + " |",
        ]
        lines.append("|---" + "|---:" * len(labels) + "|")
        lines += ["| " + " | ".join([_plain(name), *cells]) + " |" for name, cells in rows]
    if result.flatness is not None:
        lines += ["", *_flatness_lines(result.flatness)]
    remarks = list(result.notes)
    if result.test_openings_before is not None:
        remarks.append(openings_sentence(result.test_openings_before))
    for remark in remarks:
        lines += ["", _plain(remark)]
    return "\n".join(lines) + "\n"


def curve_chart(chart: Chart, label: str) -> Markup:
    """Draw curves with their intervals over users as bands; groups as points with bars.

    Parameters
    ----------
    chart
        With at least one curve.
    label
        What the drawing shows, for those who cannot see it.
    """
    points = [point for curve in chart.curves for point in curve.points]
    # An interval over two repeats may be wider than all that a metric can be: it must not set the scale.
    ceiling = 2.0 * max(p.value.mean for p in points)
    levels = ticks(0.0, max(min(_bounds(p)[1], ceiling) for p in points) or 1.0)
    width, grouped = max(p.level for p in points) or 1.0, chart.protocol in _GROUPED
    margin = 0.12 if grouped else 0.0

    def across(level: float) -> float:
        share = (level / width) * (1 - 2 * margin) + margin
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value / levels[-1], 1.0)

    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for level in levels:
        y = up(level)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.4g}</text>')
    labels = {p.level: p.label for p in points}
    for level, text in labels.items() if grouped else _apart(labels, width):
        shown = escape(text.split(" (")[0] if grouped else text.removesuffix(" %"))
        parts.append(f'<text x="{across(level):.1f}" y="{base + 19}" text-anchor="middle">{shown}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    for place, curve in enumerate(chart.curves):
        shift = 7.0 * (place - (len(chart.curves) - 1) / 2) if grouped else 0.0
        corners = []
        for p in curve.points:
            low, high = _bounds(p)
            corners.append((across(p.level) + shift, up(p.value.mean), up(low), up(high)))
        draw = _bars if grouped else _band
        parts.append(draw(corners, f"s{place % 6}", curve.control))
    return _svg(_WIDTH, _HEIGHT, label, "".join(parts))


def _band(corners: Corners, color: str, control: bool) -> str:
    """Draw a line and the band around it."""
    over = [f"{x:.1f},{high:.1f}" for x, _, _, high in corners]
    under = [f"{x:.1f},{low:.1f}" for x, _, low, _ in reversed(corners)]
    middle = " ".join(f"{x:.1f},{mean:.1f}" for x, mean, _, _ in corners)
    dashed = " control" if control else ""
    return (
        f'<polygon class="band {color}" points="{" ".join(over + under)}"/>'
        f'<polyline class="line {color}{dashed}" points="{middle}"/>'
    )


def _bars(corners: Corners, color: str, control: bool) -> str:
    """Draw points with bars."""
    del control
    return "".join(
        f'<line class="line {color}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<circle class="dot {color}" cx="{x:.1f}" cy="{mean:.1f}" r="3.5"/>'
        for x, mean, low, high in corners
    )


def heat_map(flat: Flatness) -> Markup:
    """Draw the loss over two directions: the darker, the higher; the weights stand in the middle."""
    side, size = len(flat.along), 300.0
    step = size / side
    values = [value for row in flat.surface for value in row]
    low, high = min(values), max(values)
    parts = []
    for i, row in enumerate(flat.surface):
        for j, value in enumerate(row):
            share = (value - low) / (high - low) if high > low else 0.0
            parts.append(
                f'<rect class="s0" x="{j * step:.1f}" y="{i * step:.1f}" width="{step + 0.2:.1f}" '
                f'height="{step + 0.2:.1f}" fill-opacity="{share:.3f}"/>'
            )
    middle = size / 2
    parts.append(f'<circle class="dot s1" cx="{middle}" cy="{middle}" r="4"/>')
    label = f"Training loss around the weights, from {low:.4g} to {high:.4g}"
    return _svg(int(size), int(size), label, "".join(parts))


def _panel(chart: Chart, metric: str) -> _Panel:
    labels, curves = _cells(chart)
    drawing = curve_chart(chart, f"{chart.title}: {metric} by {chart.axis}")
    rows = [(label, [cells[place] for _, cells in curves]) for place, label in enumerate(labels)]
    return _Panel(chart, drawing, [name for name, _ in curves], rows)


def _cells(chart: Chart) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the labels of the levels and, for each curve, a cell a level."""
    labels = list(dict.fromkeys(point.label for curve in chart.curves for point in curve.points))
    rows = []
    for curve in chart.curves:
        here = {point.label: _cell(point) for point in curve.points}
        rows.append((_named(curve), [here.get(label, "") for label in labels]))
    return labels, rows


def _named(curve: Curve) -> str:
    return f"{curve.name} (control)" if curve.control else curve.name


def _cell(point: Point) -> str:
    signs = "*" if point.against_clean is not None and not point.against_clean.tie else ""
    signs += "+" if point.against_control is not None and not point.against_control.tie else ""
    interval = point.value if point.value.low is not None or point.repeats is None else point.repeats
    return f"{interval}{signs.replace('*', chr(0x2217))}"


def _bounds(point: Point) -> tuple[float, float]:
    found = point.value if point.value.low is not None or point.repeats is None else point.repeats
    low = found.mean if found.low is None else found.low
    high = found.mean if found.high is None else found.high
    return max(low, 0.0), max(high, 0.0)


def _apart(labels: dict[float, str], width: float) -> Sequence[tuple[float, str]]:
    """Leave out labels that would stand on one another."""
    kept: list[tuple[float, str]] = []
    for level in sorted(labels):
        if not kept or (level - kept[-1][0]) / width > 0.08:
            kept.append((level, labels[level]))
    return kept


def _flatness_lines(flat: Flatness) -> list[str]:
    lines = ["### Flatness of the training loss", ""]
    lines.append(
        f"On {flat.batches} fixed batches; loss {flat.loss:.4g}. Relative: in lengths of parameters' rows. "
        + ("Hessian products by differences of gradients." if flat.by_differences else "")
    )
    lines += ["", "| step | radius | rise uphill | rise at random |", "|---|---:|---:|---:|"]
    for gap in flat.gaps:
        kind = "relative" if gap.relative else "plain"
        lines.append(f"| {kind} | {gap.radius:g} | {gap.gap:.4g} | {gap.random:.4g} |")
    lines += ["", "| Hessian | largest eigenvalue | trace | its standard error |", "|---|---:|---:|---:|"]
    for row in flat.curvatures:
        kind = "relative" if row.relative else "plain"
        lines.append(f"| {kind} | {row.largest:.4g} | {row.trace:.4g} | {row.trace_error:.2g} |")
    return lines


def _svg(width: int, height: int, label: str, content: str) -> Markup:
    # Numbers are formatted above and texts escaped; nothing from outside enters unescaped.
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="xMidYMid meet">{content}</svg>'
    )


def _plain(text: str) -> str:
    """Keep a name from breaking the document: one line, no markup."""
    flat = " ".join(text.split())
    for sign in "\\`*_<>|#[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
