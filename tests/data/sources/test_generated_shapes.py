import numpy as np
import pytest

from prismrec.data.sources.generated_shapes import (
    arc,
    box,
    ellipse,
    mirrored,
    pie,
    polygon,
    smooth,
    stroke,
    turned,
)


def area(outline):
    x, y = outline.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_areas_of_round_shapes():
    assert area(ellipse(0.5, 0.4, 0.3, 0.2)) == pytest.approx(np.pi * 0.06, rel=0.01)
    assert area(pie(0.5, 0.5, 0.3, 0.2, 180, 360)) == pytest.approx(np.pi * 0.03, rel=0.01)
    assert area(arc(0.5, 0.5, 0.3, 0.3, 0, 90, 0.1)) == pytest.approx(
        np.pi / 4 * (0.35**2 - 0.25**2), rel=0.01
    )


def test_a_pie_from_180_to_360_degrees_is_the_upper_half():
    assert (pie(0.5, 0.5, 0.3, 0.2, 180, 360)[:, 1] <= 0.5 + 1e-12).all()


def test_areas_of_boxes():
    assert area(box(0.1, 0.2, 0.6, 0.5)) == pytest.approx(0.15)
    rounded = area(box(0.1, 0.2, 0.6, 0.5, 0.1))
    assert rounded == pytest.approx(0.15 - (4 - np.pi) * 0.01, rel=0.01)


def test_a_curve_passes_through_its_points():
    points = ((0.1, 0.2), (0.5, 0.1), (0.9, 0.6), (0.4, 0.9))
    for closed in (True, False):
        curve = smooth(*points, closed=closed)
        for point in points:
            assert np.linalg.norm(curve - point, axis=1).min() < 1e-12


def test_a_straight_curve_stays_straight():
    curve = smooth((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), closed=False)
    assert np.allclose(curve[:, 1], 2 * curve[:, 0])


def test_a_stroke_has_its_width():
    line = stroke(0.1, (0.2, 0.2), (0.5, 0.6))
    assert area(line) == pytest.approx(0.5 * 0.1)


@pytest.mark.parametrize(
    "outline", [turned((0.1, 0.2), (0.3, 0.5), (0.2, 0.9)), mirrored((0.6, 0.2), (0.8, 0.5), (0.7, 0.9))]
)
def test_both_halves_are_alike(outline):
    flipped = outline * [-1, 1] + [1, 0]
    assert np.allclose(flipped[::-1], outline)


def test_a_cylinder_is_a_rectangle():
    assert area(turned((0.2, 0.1), (0.2, 0.6), x=0.3)) == pytest.approx(0.2)
    assert np.allclose(turned((0.2, 0.1), (0.2, 0.6), x=0.3)[:, 0].max(), 0.5)


def test_a_polygon_keeps_its_corners():
    assert area(polygon((0, 0), (1, 0), (0, 1))) == 0.5
