"""Plane geometry for the generated pictures: closed outlines in the unit square, y downwards."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]
"""Corners of a closed polygon, shape ``(n, 2)``."""


class Paint(IntEnum):
    """What an outline is filled with."""

    NOTHING = 0
    BODY = 1
    BODY_DARK = 2
    BODY_LIGHT = 3
    PLAIN = 4
    TRIM = 5
    TRIM_DARK = 6
    INK = 7
    CREAM = 8
    EDGE = 9


@dataclass(frozen=True)
class Part:
    """One filled outline of a silhouette. Later parts cover earlier ones.

    Parameters
    ----------
    paint
        Filling.
    outline
        Where.
    """

    paint: Paint
    outline: Outline


Parts = tuple[Part, ...]


def ellipse(x: float, y: float, rx: float, ry: float) -> Outline:
    """Return an ellipse around a centre."""
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def pie(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Outline:
    """Return an ellipse cut by a chord between two angles (degrees, 0 is right, 90 is down)."""
    angle = np.radians(np.linspace(start, end, 32))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, width: float) -> Outline:
    """Return a band of some width along an elliptic arc."""
    outer = pie(x, y, rx + width / 2, ry + width / 2, start, end)
    inner = pie(x, y, rx - width / 2, ry - width / 2, end, start)
    return np.concatenate([outer, inner])


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Outline:
    """Return a rectangle with rounded corners."""
    if radius == 0.0:
        return polygon((left, top), (right, top), (right, bottom), (left, bottom))
    corners = (
        (right - radius, top + radius, 270.0),
        (right - radius, bottom - radius, 0.0),
        (left + radius, bottom - radius, 90.0),
        (left + radius, top + radius, 180.0),
    )
    angles = np.radians(np.linspace(0.0, 90.0, 8))
    pieces = []
    for x, y, start in corners:
        turned = angles + np.radians(start)
        pieces.append(np.stack([x + radius * np.cos(turned), y + radius * np.sin(turned)], axis=1))
    return np.concatenate(pieces)


def polygon(*points: tuple[float, float]) -> Outline:
    """Return straight lines between points."""
    return np.array(points, dtype=np.float64)


def smooth(*points: tuple[float, float], closed: bool = True) -> Outline:
    """Return a curve through points (Catmull-Rom); an open one is closed by a straight line."""
    knots = np.array(points, dtype=np.float64)
    if closed:
        knots = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        knots = np.concatenate([knots[:1], knots, knots[-1:]])
    t = np.linspace(0.0, 1.0, 10, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    if not closed:
        pieces.append(knots[-1:])
    return np.concatenate(pieces)


def turned(*profile: tuple[float, float], x: float = 0.5) -> Outline:
    """Return a body of revolution seen from the side.

    Parameters
    ----------
    profile
        Half width and height, from top to bottom.
    x
        Its axis.
    """
    right = smooth(*profile, closed=False)
    left = right[::-1] * np.array([-1.0, 1.0])
    return np.asarray(np.concatenate([right, left]) + np.array([x, 0.0]))


def mirrored(*half: tuple[float, float], curved: bool = False) -> Outline:
    """Return a shape that is symmetric about x = 0.5, from the corners of its right half, top to bottom."""
    right = smooth(*half, closed=False) if curved else np.array(half, dtype=np.float64)
    left = right[::-1] * np.array([-1.0, 1.0]) + np.array([1.0, 0.0])
    return np.concatenate([right, left])


def stroke(width: float, *points: tuple[float, float], curved: bool = False) -> Outline:
    """Return a line of some width along points."""
    path = smooth(*points, closed=False) if curved else np.array(points, dtype=np.float64)
    along = np.gradient(path, axis=0)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(length, 1e-9) * width / 2
    return np.concatenate([path + normal, (path - normal)[::-1]])
