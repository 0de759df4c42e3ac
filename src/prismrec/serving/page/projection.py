"""A map of the catalogue: items' vectors in two dimensions, as points with a group each."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError, PrismError
from prismrec.serving.types import Drawable, Item, Service

MOST_POINTS = 20_000
"""A larger catalogue is drawn as an even sample of so many items."""

MODALITY = "modality"
"""What colours by the modality that counts most, instead of by an attribute."""

EDGE = 10_000
"""Coordinates are whole numbers from 0 to this."""

_GROUPS = 9
_OTHER, _UNKNOWN = "other", "not known"
_KEEP_SECONDS = 30.0

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Points:
    """Where items stand.

    Parameters
    ----------
    items
        The items.
    places
        ``(items, 2)``, whole numbers from 0 to `EDGE`; the second grows downwards, as on a screen.
    nearest
        For each item the row of the item drawn nearest to it; its own row where it is alone.
    dominant
        For each item the modality that counts most; empty where that is not known of any.
    kept
        Share of the vectors' variance that the two axes show, 0 to 1.
    of
        How many items have vectors; more than are drawn if it was too many.
    """

    items: tuple[Item, ...]
    places: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64]
    dominant: tuple[str, ...]
    kept: float
    of: int


@dataclass(frozen=True)
class Groups:
    """Which colour each point has.

    Parameters
    ----------
    names
        The groups, the largest first; what is over and what is not known come last.
    counts
        How many points each has.
    of_point
        For each point the place of its group in `names`.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    of_point: tuple[int, ...]


class Map:
    """Draws a service's map, and keeps it as long as the catalogue is the same, half a minute at most.

    Parameters
    ----------
    service
        For the items' titles and attributes.
    source
        For vectors and modalities.
    clock
        Seconds that only grow.
    """

    def __init__(
        self,
        service: Service,
        source: Drawable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._made: tuple[Hashable, float, Points] | None = None

    def points(self) -> Points:
        """Return where items stand.

        Raises
        ------
        InputError
            If ids, vectors and weights do not fit together.
        """
        health = self._service.health()
        state = (health.version, health.items, health.ranked)
        # One draws, the others wait for it: twenty of them would do the same work twenty times.
        with self._lock:
            if self._made is not None:
                kept_state, made_at, points = self._made
                if kept_state == state and self._clock() - made_at < _KEEP_SECONDS:
                    return points
            points = self._draw()
            self._made = (state, self._clock(), points)
            return points

    def _draw(self) -> Points:
        source = self._source.drawn()
        ids, vectors = source.ids, source.vectors
        if vectors.ndim != 2 or len(ids) != len(vectors):
            raise InputError(
                f"The map got {len(ids)} ids for vectors of the shape {vectors.shape}.",
                "Give one row for each id.",
            )
        if source.weights.shape != (len(ids), len(source.modalities)):
            raise InputError(
                f"The map got weights of the shape {source.weights.shape} for {len(ids)} items.",
                "Give one row for each id, one column for each modality.",
            )
        modality = _dominant(source.modalities, source.weights) if len(source.modalities) else []
        rows = _even_sample(len(ids))
        drawn, items = [], []
        for row in rows.tolist():
            try:
                items.append(self._service.item(ids[row]))
            except PrismError:
                # Deleted since the vectors were read.
                continue
            drawn.append(row)
        places, kept = project(vectors[drawn])
        dominant = tuple(modality[row] for row in drawn) if modality else ()
        return Points(tuple(items), places, _nearest(places), dominant, kept, len(ids))


def _dominant(names: Sequence[str], weights: Floats) -> list[str]:
    known = np.where(np.isnan(weights), -np.inf, weights)
    best = known.argmax(axis=1)
    return [names[column] if known[row, column] > 0 else _UNKNOWN for row, column in enumerate(best.tolist())]


def project(vectors: Floats) -> tuple[npt.NDArray[np.int64], float]:
    """Return the two directions of largest variance (PCA), fitted into a square.

    Parameters
    ----------
    vectors
        ``(items, size)``.

    Returns
    -------
    places : array
        ``(items, 2)``, whole numbers from 0 to `EDGE`; both axes on the same scale, each in the middle.
    kept : float
        Share of the variance that they show.
    """
    n, size = vectors.shape
    flat = np.zeros((n, 2))
    kept = 1.0
    axes = min(2, n - 1, size)
    if axes > 0 and np.ptp(vectors, axis=0).any():
        from sklearn.decomposition import PCA

        # This solver gives the same at every call, down to the signs.
        fitted = PCA(axes, svd_solver="covariance_eigh" if n > size else "full")
        flat[:, :axes] = fitted.fit_transform(vectors.astype(np.float64))
        kept = float(fitted.explained_variance_ratio_.sum())
    low, high = (flat.min(axis=0), flat.max(axis=0)) if n else (np.zeros(2), np.zeros(2))
    widest = float((high - low).max()) or 1.0
    placed = EDGE / 2 + (flat - (low + high) / 2) / widest * EDGE
    return np.rint(placed).astype(np.int64), min(kept, 1.0)


def group(points: Points, by: str) -> Groups:
    """Put points into groups: by the modality that counts most, or by an attribute.

    Parameters
    ----------
    points
        The points.
    by
        `MODALITY`, or a column. A list counts by its first element.
    """
    values = list(points.dominant) if by == MODALITY else [_value(item, by) for item in points.items]
    counts = Counter(value for value in values if value != _UNKNOWN)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    # One more than fits is shown as it is: "other" would take its place.
    shown = order if len(order) <= _GROUPS else order[: _GROUPS - 1]
    own = {*shown, _UNKNOWN}
    named = [value if value in own else _OTHER for value in values]
    # Among the attribute's own values "other" and "not known" may stand too; they join.
    last = [name for name in (_OTHER, _UNKNOWN) if name in named and name not in shown]
    names = [*shown, *last]
    place = {name: n for n, name in enumerate(names)}
    of_point = [place[name] for name in named]
    sizes = Counter(of_point)
    return Groups(tuple(names), tuple(sizes[n] for n in range(len(names))), tuple(of_point))


def _value(item: Item, column: str) -> str:
    value = item.attributes.get(column)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return _UNKNOWN if value is None or value == "" else str(value)


def _even_sample(n: int) -> npt.NDArray[np.int64]:
    if n <= MOST_POINTS:
        return np.arange(n)
    # Items often lie in an order that means something: a regular step could hit the same kind each time.
    return np.sort(np.random.default_rng(0).choice(n, MOST_POINTS, replace=False))


def _nearest(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    n = len(places)
    if n < 2:
        return np.arange(n)
    from scipy.spatial import cKDTree

    _, found = cKDTree(places).query(places, k=2)
    own = np.arange(n)
    # Of items in the same place the tree may name either first.
    return np.asarray(np.where(found[:, 0] == own, found[:, 1], found[:, 0]), dtype=np.int64)
