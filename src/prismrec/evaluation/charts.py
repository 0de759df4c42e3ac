"""Drawings inside a page: SVG whose colours and letters come from the page's style sheet.

Drawn by hand instead of with Matplotlib so that they follow light and dark, stay legible on a phone and weigh
a few kilobytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 34

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Frame:
    """Where numbers stand in a drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def up(self, value: float) -> float:
        low, high = (math.log10(v) for v in self.y) if self.log else self.y
        place = math.log10(value) if self.log else value
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (place - low) / (high - low)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that cover a range, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * s for s in (1, 2, 5, 10) if power * s >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def line_chart(
    series: Mapping[str, Points], label: str, mark: float | None = None, mark_text: str = ""
) -> Markup:
    """Draw lines over epochs.

    Parameters
    ----------
    series
        For each line its points, x ascending; finite numbers.
    label
        What the drawing shows, for those who cannot see it.
    mark, mark_text
        An x to point out, and what to call it.
    """
    frame = _frame([point for points in series.values() for point in points])
    parts = [_grid(frame)]
    if mark is not None and frame.x[0] <= mark <= frame.x[1]:
        parts.append(_mark(frame.across(mark), mark_text))
    for place, points in enumerate(series.values()):
        path = " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in points)
        if len(points) == 1:
            x, y = path.split(",")
            parts.append(f'<circle class="dot s{place % 6}" cx="{x}" cy="{y}" r="3.5"/>')
        else:
            parts.append(f'<polyline class="line s{place % 6}" points="{path}"/>')
    return _svg(_WIDTH, _HEIGHT, label, "".join(parts))


def histogram(counts: npt.NDArray[np.int64], mean: float, label: str, color: int) -> Markup:
    """Draw how many items fall into equal bins from 0 to 1, with their mean marked."""
    width, height, top = 300.0, 96.0, 8.0
    step = width / len(counts)
    largest = max(int(counts.max()), 1)
    parts = []
    for place, count in enumerate(counts.tolist()):
        if count == 0:
            continue
        # A bin that holds a single item of thousands must still be seen.
        tall = max((height - top) * count / largest, 1.5)
        parts.append(
            f'<rect class="fill s{color % 6}" x="{place * step + 0.75:.2f}" y="{height - tall:.1f}" '
            f'width="{step - 1.5:.2f}" height="{tall:.1f}" rx="1.5"/>'
        )
    parts.append(f'<line class="axis" x1="0" x2="{width:.0f}" y1="{height}" y2="{height}"/>')
    parts.append(f'<line class="mark" x1="{mean * width:.1f}" x2="{mean * width:.1f}" y1="0" y2="{height}"/>')
    return _svg(300, 97, label, "".join(parts))


def _frame(points: Points) -> _Frame:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    # Terms of a loss differ by orders of magnitude: on a linear axis the small ones would lie on the floor.
    log = low > 0 and high / low > 50
    if log:
        y = (10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
    else:
        round_numbers = ticks(low, high)
        y = (round_numbers[0], round_numbers[-1])
    left, right = min(xs), max(xs)
    return _Frame((left, right) if right > left else (left - 1, right + 1), y, log)


def _grid(frame: _Frame) -> str:
    if frame.log:
        powers = range(round(math.log10(frame.y[0])), round(math.log10(frame.y[1])) + 1)
        levels = [10.0**power for power in powers]
    else:
        levels = ticks(*frame.y)
    parts = []
    for level in levels:
        y = frame.up(level)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.4g}</text>')
    base = _HEIGHT - _BOTTOM
    for step in ticks(*frame.x, about=6):
        if frame.x[0] <= step <= frame.x[1] and step == int(step):
            parts.append(
                f'<text x="{frame.across(step):.1f}" y="{base + 19}" text-anchor="middle">{step:.0f}</text>'
            )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    return "".join(parts)


def _mark(x: float, text: str) -> str:
    anchor, beside = ("end", x - 6) if x > _WIDTH * 0.6 else ("start", x + 6)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 12}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="marked" x="{beside:.1f}" y="{_TOP - 5}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, label: str, content: str) -> Markup:
    # Numbers are formatted above and texts escaped; nothing from outside enters unescaped.
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="xMidYMid meet">{content}</svg>'
    )
