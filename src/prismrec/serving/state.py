"""All that a request reads, at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.files import digest
from prismrec.data.media import Media
from prismrec.recommender.filters import matching
from prismrec.recommender.recommender import Recommender
from prismrec.serving.engine import ABSENT, Snapshot
from prismrec.serving.errors import UnknownItem
from prismrec.serving.index import Found, ItemIndex
from prismrec.serving.intake import Known, Rows, run_rows
from prismrec.serving.people import People
from prismrec.serving.types import Choice, Item

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

_MOST_MASKS = 1000
_MOST_CHUNKS = 64
_FEW_HIDDEN = 1000


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A trained run, and what is derived from it once.

    Parameters
    ----------
    run
        It is not changed.
    version
        What it is called in answers.
    pictures
        Of its items; None: it has none.
    people
        Its users.
    """

    run: Recommender
    version: str
    pictures: Media | None
    people: People

    @staticmethod
    def of(run: Recommender, version: str, pictures: Media | None) -> "LoadedRun":
        """Take in a run."""
        return LoadedRun(run, version, pictures, People.of(run))

    @cached_property
    def mark(self) -> str:
        """What the store writes beside vectors: the version, and a digest in case that one is used twice."""
        return f"{self.version}/{digest(self.run.manifest.model_dump_json().encode())[:16]}"


@dataclass(frozen=True, eq=False)
class State:
    """A run with the items of one moment. It never changes; `put` and `without` give new ones.

    Parameters
    ----------
    loaded
        The run.
    items
        Vectors and what is known of the items.
    frame
        Their attributes, a row for each row of `items`.
    index
        Finds candidates among the first of them; None: search is exact.
    """

    loaded: LoadedRun
    items: Snapshot[Known]
    frame: pl.DataFrame
    index: ItemIndex | None = None
    _masks: dict[str, Mask] = field(default_factory=dict)

    @staticmethod
    def of(loaded: LoadedRun) -> "State":
        """Return the items of a run."""
        pictures = frozenset(loaded.pictures.ids) if loaded.pictures is not None else frozenset()
        rows = run_rows(loaded.run, pictures)
        shot = Snapshot.of(rows.ids, rows.vectors, *_masks(rows), rows.known)
        return State(loaded, shot, rows.frame)

    def row(self, item_id: str) -> int:
        """Return the row of an item.

        Raises
        ------
        UnknownItem
            If it is not here.
        """
        row = self.items.row(item_id)
        if row == ABSENT:
            raise UnknownItem(item_id)
        return row

    def item(self, row: int) -> Item:
        """Return the item of a row."""
        return self.items.note(row).item

    def rows_of(self, names: Sequence[str]) -> Rows:
        """Return what is known of those items that are here."""
        rows = self.items.rows(names)
        known = tuple(self.items.note(row) for row in rows.tolist())
        return Rows(self.frame[rows.tolist()], self.items.vectors(rows), known)

    def put(self, rows: Rows) -> "State":
        """Return a state with more or other items."""
        frame = self.frame.vstack(rows.frame)
        if frame.n_chunks() > _MOST_CHUNKS:
            frame = frame.rechunk()
        shot = self.items.put(rows.ids, rows.vectors, *_masks(rows), rows.known)
        # Not where the snapshot had to leave its old rows for new ones.
        index = self.index if self.index is not None and self.index.covers(shot) else None
        return State(self.loaded, shot, frame, index)._compacted()

    def without(self, names: Sequence[str]) -> "State":
        """Return a state that lacks some items."""
        return State(self.loaded, self.items.without(names), self.frame, self.index)._compacted()

    def indexed(self, index: ItemIndex | None) -> "State":
        """Return a state that is searched by an index, which covers its items; None: exactly."""
        return replace(self, index=index)

    def _compacted(self) -> "State":
        hidden = self.items.size - int(self.items.alive.sum())
        if hidden <= max(_FEW_HIDDEN, self.items.size // 2):
            return self
        shot, kept = self.items.compacted()
        return State(self.loaded, shot, self.frame[kept.tolist()])

    def top(self, vector: Floats, k: int, allowed: Mask, excluded: Sequence[int] | Places) -> Found:
        """Find the rows with the highest scalar products (`Snapshot.top`), by the index where it can."""
        index = self.index
        found = None if index is None else index.top(self.items, vector, k, allowed, excluded)
        return self.items.top(vector, k, allowed, excluded) if found is None else found

    def similar(self, row: int, k: int, allowed: Mask) -> Found:
        """Find the rows that point the same way as one (`Snapshot.similar`), by the index where it can."""
        found = None if self.index is None else self.index.similar(self.items, row, k, allowed)
        return self.items.similar(row, k, allowed) if found is None else found

    def allowed(self, choose: Choice, where: Sequence[str]) -> Mask:
        """Return which rows may be found.

        Raises
        ------
        InputError
            If a condition cannot be read, names no column, or its value is not of the column's type.
        """
        mask = self.items.ranked
        if choose == "new":
            mask = mask & self.items.new
        elif choose == "warm":
            mask = mask & ~self.items.new
        for condition in where:
            mask = mask & self._meeting(condition)
        return mask

    def _meeting(self, condition: str) -> Mask:
        found = self._masks.get(condition)
        if found is None:
            found = matching(self.frame, [condition]).to_numpy().astype(np.bool_)
            if len(self._masks) >= _MOST_MASKS:
                self._masks.clear()
            self._masks[condition] = found
        return found


def _masks(rows: Rows) -> tuple[Mask, Mask]:
    ranked = np.array([one.item.ranked for one in rows.known], dtype=np.bool_)
    return ranked, np.array([one.item.new for one in rows.known], dtype=np.bool_)
