"""Drawings: numbers stand where they should."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.evaluation.charts import histogram, line_chart, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_cover(low, width):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * max(abs(low), width) + 1e-9
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_ticks_of_no_range():
    assert ticks(0.0, 0.0)[0] == 0.0
    assert len(ticks(3.0, 3.0)) >= 2


def points(drawing: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline class="line s\d" points="([^"]+)"', drawing)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_a_line_goes_from_left_to_right_and_higher_is_higher():
    (line,) = points(line_chart({"a": [(1, 0.0), (2, 1.0), (3, 0.5)]}, "label"))
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x1 < x2 < x3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 < y3 < y1
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.2)


def test_orders_of_magnitude_get_a_logarithmic_axis():
    drawing = line_chart({"a": [(1, 100.0), (2, 10.0)], "b": [(1, 1.0), (2, 0.1)]}, "label")
    (_, a1), (_, a2) = points(drawing)[0]
    (_, b1), (_, b2) = points(drawing)[1]
    assert a2 - a1 == pytest.approx(b2 - b1, abs=0.2)
    assert b1 - a2 == pytest.approx(a2 - a1, abs=0.2)


def test_one_point_and_a_flat_line_can_be_drawn():
    assert "circle" in line_chart({"a": [(1, 0.0)]}, "label")
    assert points(line_chart({"a": [(1, 2.0), (2, 2.0)]}, "label"))


def test_texts_are_escaped():
    drawing = line_chart({"a": [(1, 1.0), (2, 2.0)]}, '"><script>', mark=2, mark_text="<b>")
    assert "<script>" not in drawing
    assert "<b>" not in drawing
    assert "&lt;b&gt;" in drawing


def test_bars_are_as_high_as_their_counts():
    drawing = histogram(np.array([0, 10, 5]), 0.5, "label", 0)
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', drawing)]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(2 * heights[1])
    assert 'x1="150.0"' in drawing
