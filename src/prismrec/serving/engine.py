"""Vectors in memory that are searched while more come in; every answer is of one moment.

A `Snapshot` never changes. Adding rows gives a new one that shares the memory of the old: rows are written
behind its end, where it does not look. What is replaced or removed stays where it is and is hidden by a mask,
until `Snapshot.compacted` makes room. So a reader holds one snapshot for a request and needs no lock.

Search is exact: rough scores by a product in float32, whose error has a bound, then canonical ones
(`prismrec.base.exact`) for the few rows that the bound leaves open. Lists are those of
`prismrec.evaluation.ranking.top_k`, ties by id, to the last place. Where there are very many rows,
`prismrec.serving.index` says among which to search.
"""

import heapq
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from prismrec.base import exact_kernels as kernels
from prismrec.base.errors import InputError
from prismrec.base.lanes import LANES
from prismrec.serving.products import DIVERGED, SHORTEST, lengths, may_be_among, padded, pairs, unit_vectors

T = TypeVar("T")

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

ABSENT = -1
"""Row of an id that is not here."""

_LEAST_ROOM = 64
_HUGE = 1e38


class _Shelf(Generic[T]):
    """What snapshots share: it only grows, and no snapshot looks behind its own end."""

    def __init__(self, dim: int, room: int = _LEAST_ROOM) -> None:
        self.lock = threading.Lock()
        self.dim = dim
        # Padded with zeros, as the canonical product wants it.
        self.vectors: Floats = np.zeros((room, -(-dim // LANES) * LANES), dtype=np.float32)
        self.lengths: Doubles = np.zeros(room)
        self.ids: list[str] = []
        self.notes: list[T] = []
        self.rows: dict[str, list[int]] = {}

    def extend(self, ids: Sequence[str], vectors: Floats, lengths: Doubles, notes: Sequence[T]) -> None:
        first, last = len(self.ids), len(self.ids) + len(ids)
        if last > len(self.vectors):
            # Doubled, so that a row costs the same on average however many there are. Snapshots that stand
            # keep the old arrays through their own views.
            room = max(last, 2 * len(self.vectors))
            self.vectors = _grown(self.vectors, first, room)
            self.lengths = _grown(self.lengths, first, room)
        self.vectors[first:last, : self.dim] = vectors
        self.lengths[first:last] = lengths
        self.notes.extend(notes)
        for row, name in enumerate(ids, first):
            self.rows.setdefault(name, []).append(row)
        self.ids.extend(ids)


def _grown(old: npt.NDArray[Any], used: int, room: int) -> npt.NDArray[Any]:
    grown = np.zeros((room, *old.shape[1:]), dtype=old.dtype)
    grown[:used] = old[:used]
    return grown


@dataclass(frozen=True, eq=False)
class Among:
    """Which rows are searched: some, and all from one on.

    Parameters
    ----------
    rows
        Those below `since`, each once, in any order.
    since
        From this one on all are.
    """

    rows: Places
    since: int


@dataclass(frozen=True, eq=False)
class Snapshot(Generic[T]):
    """Rows of vectors at one moment. Safe to read from any number of threads.

    Made by `Snapshot.of`.

    Parameters
    ----------
    size
        Number of rows, hidden ones included.
    alive
        Which rows are there, shape ``(size,)``.
    ranked
        Which of them may come into a list.
    new
        Which of them nobody had touched when the model was trained.
    """

    size: int
    alive: Mask
    ranked: Mask
    new: Mask
    _shelf: _Shelf[T]
    _vectors: Floats
    _lengths: Doubles

    @staticmethod
    def of(ids: Sequence[str], vectors: Floats, ranked: Mask, new: Mask, notes: Sequence[T]) -> "Snapshot[T]":
        """Make the first snapshot; parameters are those of `put`."""
        shelf: _Shelf[T] = _Shelf(vectors.shape[1], max(_LEAST_ROOM, len(ids)))
        none = np.zeros(0, dtype=np.bool_)
        empty = Snapshot(0, none, none, none, shelf, shelf.vectors[:0], shelf.lengths[:0])
        return empty.put(ids, vectors, ranked, new, notes)

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return self._shelf.dim

    @property
    def lineage(self) -> object:
        """What snapshots have in common in which a row that both have holds the same."""
        return self._shelf

    @cached_property
    def longest(self) -> float:
        """Largest length of a vector."""
        return float(self._lengths.max(initial=0.0))

    def row(self, name: str) -> int:
        """Return the row of an id, `ABSENT` if there is none."""
        for row in reversed(self._shelf.rows.get(name, ())):
            if row < self.size:
                return row if self.alive[row] else ABSENT
        return ABSENT

    def rows(self, names: Sequence[str]) -> Places:
        """Return the rows of those ids that are here, in their order."""
        found = (self.row(name) for name in names)
        return np.array([row for row in found if row != ABSENT], dtype=np.int64)

    def id(self, row: int) -> str:
        """Return the id of a row."""
        return self._shelf.ids[row]

    def note(self, row: int) -> T:
        """Return what was handed in with a row."""
        return self._shelf.notes[row]

    def vectors(self, rows: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return a copy of the vectors of rows, shape ``(len(rows), dim)``."""
        return np.ascontiguousarray(self._vectors[rows, : self.dim])

    def vector(self, row: int) -> Floats:
        """Return a copy of the vector of a row, shape ``(dim,)``."""
        return self._vectors[row, : self.dim].copy()

    def put(
        self, ids: Sequence[str], vectors: Floats, ranked: Mask, new: Mask, notes: Sequence[T]
    ) -> "Snapshot[T]":
        """Return a snapshot with more rows; this one stays as it is.

        Costs time in proportion to the new rows, but for the masks, which are copied: a byte a row.

        Parameters
        ----------
        ids
            Each once. A row of an id that is here is hidden by the new one.
        vectors
            Shape ``(len(ids), dim)``.
        ranked, new
            Shape ``(len(ids),)``.
        notes
            Anything that belongs to the rows.

        Raises
        ------
        InputError
            If a vector is not finite or of another size, or an id stands twice.
        """
        if vectors.shape != (len(ids), self.dim):
            raise InputError(
                f"Vectors of shape {vectors.shape} do not fit {len(ids)} ids of {self.dim} numbers."
            )
        if len(set(ids)) != len(ids):
            raise InputError("An id stands twice among the rows.", "Hand in each once.")
        norms = lengths(padded(vectors), ids)
        old = self.rows(ids)
        with self._shelf.lock:
            shelf = self._shelf
            if len(shelf.ids) != self.size:
                # Somebody added to this snapshot before: what came of that is none of ours.
                shelf = self._copy()
            shelf.extend(ids, vectors, norms, notes)
            size = len(shelf.ids)
            views = shelf.vectors[:size], shelf.lengths[:size]
        alive = np.concatenate([self.alive, np.ones(len(ids), dtype=np.bool_)])
        alive[old] = False
        masks = (np.concatenate(pair) for pair in ((self.ranked, ranked), (self.new, new)))
        ranked, new = (mask & alive for mask in masks)
        return Snapshot(size, alive, ranked, new, shelf, *views)

    def without(self, ids: Sequence[str]) -> "Snapshot[T]":
        """Return a snapshot that lacks some ids; those that are not here are left aside."""
        alive = self.alive.copy()
        alive[self.rows(ids)] = False
        masks = self.ranked & alive, self.new & alive
        return Snapshot(self.size, alive, *masks, self._shelf, self._vectors, self._lengths)

    def compacted(self) -> "tuple[Snapshot[T], Places]":
        """Return a snapshot of the rows that are there alone, and which rows of this one they are."""
        kept = np.flatnonzero(self.alive)
        names, notes = [self.id(row) for row in kept.tolist()], [self.note(row) for row in kept.tolist()]
        return Snapshot.of(names, self.vectors(kept), self.ranked[kept], self.new[kept], notes), kept

    def _copy(self) -> _Shelf[T]:
        shelf: _Shelf[T] = _Shelf(self.dim, max(_LEAST_ROOM, self.size))
        ids, notes = self._shelf.ids[: self.size], self._shelf.notes[: self.size]
        shelf.extend(ids, self._vectors[:, : self.dim], self._lengths, notes)
        return shelf

    def score(self, vector: Floats, row: int) -> float:
        """Return the canonical score of a row."""
        return float(self._canonical(padded(vector[None, :]), np.array([row]))[0])

    def top(
        self,
        vector: Floats,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
        among: Among | None = None,
    ) -> tuple[Places, Floats]:
        """Find the rows with the highest scalar products, exactly; ties by id.

        Parameters
        ----------
        vector
            Shape ``(dim,)``.
        k
            At most so many.
        allowed
            Rows that may be found, shape ``(size,)``; of these, ranked ones are. None: all ranked ones.
        excluded
            Rows that may not.
        among
            No others are looked at; None: all are.

        Returns
        -------
        rows, scores
            Best first.

        Raises
        ------
        InputError
            If the vector is not finite or of another size, or scores may overflow.
        """
        user, length = self._asked(vector)
        places = self._places(allowed, excluded, among)
        rough = self._rough(user, places, among)
        kept = places[may_be_among(rough, k, self._error(length))]
        return self._best(kept, self._canonical(user, kept), k)

    def similar(
        self,
        row: int,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
        among: Among | None = None,
    ) -> tuple[Places, Floats]:
        """Find the other rows that point the same way as one, by cosine; else as `top`.

        The cosine is the canonical product of the vectors divided by their lengths in float32.
        """
        user, length = self._asked(self.vector(row))
        places = self._places(allowed, [*excluded, row], among)
        longest = np.maximum(self._lengths[places], SHORTEST) * max(length, SHORTEST)
        rough = self._rough(user, places, among) / longest
        # The product's error, and that of two lengths and two divisions in float32: a few terms too many.
        error = 4 * (user.shape[1] + 8) * 2.0**-24
        kept = places[may_be_among(rough, k, error)]
        units = padded(unit_vectors(self.vectors(kept)))
        asked = padded(unit_vectors(self.vectors(np.array([row]))))
        return self._best(kept, pairs(asked, units, np.arange(len(kept))), k)

    def rank(self, vector: Floats, row: int, excluded: Sequence[int] | Places = ()) -> int:
        """Return the place of a row among the ranked ones, from 1, as `top` would list them."""
        user, length = self._asked(vector)
        own = float(self._canonical(user, np.array([row]))[0])
        places = self._places(None, [*excluded, row])
        rough, error = self._rough(user, places).astype(np.float64), self._error(length)
        open_ = places[np.abs(rough - own) <= error]
        exact = self._canonical(user, open_)
        name = self.id(row)
        tied = sum(self.id(other) < name for other in open_[exact == own].tolist())
        return 1 + int((rough > own + error).sum()) + int((exact > own).sum()) + tied

    def _asked(self, vector: Floats) -> tuple[Floats, float]:
        """Return the padded query, shape ``(1, d)``, and its length."""
        if vector.shape != (self.dim,):
            raise InputError(f"A vector of shape {vector.shape} does not fit rows of {self.dim} numbers.")
        user = padded(vector[None, :])
        length = float(kernels.norms(user)[0])
        if not np.isfinite(length):
            raise InputError("The vector that is asked with holds NaN or infinite numbers.", DIVERGED)
        if max(length, self.longest, length * self.longest) > _HUGE:
            raise InputError("Vectors are so large that their scores overflow.", DIVERGED)
        return user, length

    def _places(
        self, allowed: Mask | None, excluded: Sequence[int] | Places, among: Among | None = None
    ) -> Places:
        """Return the rows that may be found; of those to be looked at, those from `Among.since` on last."""
        mask = self.ranked.copy() if allowed is None else self.ranked & allowed
        mask[np.asarray(excluded, dtype=np.int64)] = False
        if among is None:
            return np.flatnonzero(mask)
        later = among.since + np.flatnonzero(mask[among.since :])
        return np.concatenate([among.rows[mask[among.rows]], later])

    def _rough(self, user: Floats, places: Places, among: Among | None = None) -> Floats:
        """Return the rough scores of what `_places` gave."""
        if among is None:
            return _rough_scores(user, self._vectors)[places]
        few = places[places < among.since]
        # Later rows lie side by side: scoring them all is cheaper than a copy of those that are wanted.
        later = _rough_scores(user, self._vectors[among.since :])[places[len(few) :] - among.since]
        return np.concatenate([_rough_scores(user, self._vectors[few]), later])

    def _error(self, length: float) -> float:
        """Bound on what a rough score is off by: `prismrec.base.exact_products.error_bounds` in float32."""
        terms = self._vectors.shape[1] + 8
        rounding = 1.05 * terms * 2.0**-24 * length * self.longest
        return float(rounding + terms * 2.0**-120 * (1.0 + length) * (1.0 + self.longest))

    def _canonical(self, user: Floats, rows: Places) -> Doubles:
        return pairs(user, self._vectors, rows)

    def _best(self, rows: Places, exact: Doubles, k: int) -> tuple[Places, Floats]:
        """Return the k best of some rows by score, ties by id."""
        names = rows.tolist()
        if len(rows) > k:
            kth = np.partition(exact, len(exact) - k)[len(exact) - k]
            above, tied = np.flatnonzero(exact > kth).tolist(), np.flatnonzero(exact == kth).tolist()
            # Popular scores are shared by thousands: only as many of them are put in order as are wanted.
            chosen = above + heapq.nsmallest(k - len(above), tied, key=lambda place: self.id(names[place]))
        else:
            chosen = list(range(len(rows)))
        chosen.sort(key=lambda place: (-exact[place], self.id(names[place])))
        return rows[chosen], exact[chosen].astype(np.float32)


def _rough_scores(user: Floats, vectors: Floats) -> Floats:
    scores = np.empty(len(vectors), dtype=np.float32)
    # One thread, without the interpreter's lock: requests run side by side instead.
    kernels.rough_scores(user[0], vectors, scores)
    return scores
