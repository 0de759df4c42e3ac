"""A map of the catalogue: items' vectors in two dimensions, as points with a group each."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError, PrismError
from prismrec.serving.page.layout import beside, project
from prismrec.serving.types import Drawable, Item, Service

MOST_POINTS = 20_000
"""A larger catalogue is drawn as an even sample of so many items."""

MODALITY = "modality"
"""What colours by the modality that counts most, instead of by an attribute."""

_GROUPS = 9
# More kinds than a column of categories has: it would be nearly all "other".
_MOST_KINDS, _MOST_LISTS = 30, 3
_OTHER, _UNKNOWN = "other", "not known"
_KEEP_SECONDS = 30.0
# So many newcomers are placed beside what is drawn before all is drawn anew, which may take a while.
_MOST_PLACED = 0.05

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Points:
    """Where items stand.

    Parameters
    ----------
    items
        The items.
    places
        ``(items, 2)``, whole numbers from 0 to `layout.EDGE`; the second grows downwards, as on a screen.
    nearest
        For each item the row of the item drawn nearest to it; its own row where it is alone.
    dominant
        For each item the modality that counts most; empty where that is not known of any.
    lists
        Columns of lists whose first entries are few enough to be groups.
    kept
        Share of the vectors' variance that the two axes show, 0 to 1; None where items were placed by their
        neighbours.
    placed
        How many items came after the map was drawn, and stand beside those that they are most like.
    of
        How many items have vectors; more than are drawn if it was too many.
    """

    items: tuple[Item, ...]
    places: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64]
    dominant: tuple[str, ...]
    lists: tuple[str, ...]
    kept: float | None
    placed: int
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


@dataclass(frozen=True)
class _Layout:
    """A drawing by neighbours: whose model's it is, and by item its vector's fingerprint and its place."""

    version: str
    prints: Mapping[str, int]
    places: Mapping[str, tuple[int, int]]


class Map:
    """Draws a service's map, and keeps it as long as the catalogue is the same, half a minute at most.

    What was drawn by neighbours is kept beyond that, as it takes long: items that came since, or were
    replaced, stand beside those that they are most like, until they are more than one in twenty.

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
        self._layout: _Layout | None = None

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
            points = self._draw(health.version)
            self._made = (state, self._clock(), points)
            return points

    def _draw(self, version: str) -> Points:
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
        rows = _even_sample(ids)
        drawn, items = [], []
        for row in rows.tolist():
            try:
                items.append(self._service.item(ids[row]))
            except PrismError:
                # Deleted since the vectors were read.
                continue
            drawn.append(row)
        places, kept, placed = self._places(version, [item.item_id for item in items], vectors[drawn])
        dominant = tuple(modality[row] for row in drawn) if modality else ()
        return Points(tuple(items), places, _nearest(places), dominant, _lists(items), kept, placed, len(ids))

    def _places(
        self, version: str, ids: Sequence[str], vectors: Floats
    ) -> tuple[npt.NDArray[np.int64], float | None, int]:
        """Return where items stand, what the axes show, and how many were placed into an older drawing."""
        if ids and self._layout is not None and self._layout.version == version:
            prints = _prints(ids, vectors)
            known = np.array([self._layout.prints.get(name) == found for name, found in prints.items()])
            new = int((~known).sum())
            if new <= _MOST_PLACED * len(ids):
                places = np.zeros((len(ids), 2), dtype=np.int64)
                places[known] = [self._layout.places[ids[row]] for row in np.flatnonzero(known).tolist()]
                if new:
                    places[~known] = beside(vectors[~known], vectors[known], places[known])
                return places, None, new
        places, kept = project(vectors)
        self._layout = None
        if kept is None:
            where = {name: (x, y) for name, (x, y) in zip(ids, places.tolist(), strict=True)}
            self._layout = _Layout(version, _prints(ids, vectors), where)
        return places, kept, 0


def _prints(ids: Sequence[str], vectors: Floats) -> dict[str, int]:
    """Return by item a number that its vector alone decides: vectors themselves may be a gigabyte."""
    return {name: hash(vector.tobytes()) for name, vector in zip(ids, vectors, strict=True)}


def _dominant(names: Sequence[str], weights: Floats) -> list[str]:
    known = np.where(np.isnan(weights), -np.inf, weights)
    best = known.argmax(axis=1)
    return [names[column] if known[row, column] > 0 else _UNKNOWN for row, column in enumerate(best.tolist())]


def group(points: Points, by: str) -> Groups:
    """Put points into groups: by the modality that counts most, or by an attribute.

    Parameters
    ----------
    points
        The points.
    by
        `MODALITY`, or a column. A list counts by its first entry: where somebody put the entries in order it
        is the main one, and it stays what it is when items come. By the most frequent of its entries nearly
        half of the films in MovieLens would be dramas.
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


def _lists(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the columns of lists by which items fall into at least two groups and not into too many."""
    firsts: dict[str, set[str]] = {}
    for item in items:
        for column, value in item.attributes.items():
            if isinstance(value, list | tuple) and value and isinstance(value[0], str):
                firsts.setdefault(column, set()).add(value[0])
    fitting = [column for column, found in firsts.items() if 2 <= len(found) <= _MOST_KINDS]
    return tuple(fitting[:_MOST_LISTS])


def _even_sample(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    if len(ids) <= MOST_POINTS:
        return np.arange(len(ids))
    # Items often lie in an order that means something: a regular step could hit the same kind each time. By
    # their ids the sample stays what it is when items come and go.
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in ids]
    order = sorted(range(len(ids)), key=digests.__getitem__)
    return np.sort(np.array(order[:MOST_POINTS], dtype=np.int64))


def _nearest(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    n = len(places)
    if n < 2:
        return np.arange(n)
    from scipy.spatial import cKDTree

    _, found = cKDTree(places).query(places, k=2)
    own = np.arange(n)
    # Of items in the same place the tree may name either first.
    return np.asarray(np.where(found[:, 0] == own, found[:, 1], found[:, 0]), dtype=np.int64)
