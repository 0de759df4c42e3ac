"""What the service needs of a store: items that were handed in, deletions, events. And one in memory."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prismrec.serving.types import Event, NewItem


@dataclass(frozen=True)
class StoredItem:
    """An item that was handed in, and what a model made of it.

    Parameters
    ----------
    item
        As it was handed in, picture included.
    model
        Version of the bundle that made `vector` and `notes`.
    vector
        The model's vector, float32, shape ``(d,)``; d may differ from version to version.
    notes
        What else the model said, for the service alone.
    """

    item: NewItem
    model: str
    vector: npt.NDArray[np.float32]
    notes: bytes


class Store(Protocol):
    """Keeps what was handed in. Safe to call from several threads.

    A method that writes returns when everything is on disk, and changes nothing if it raises `StorageError`.
    """

    def put(self, rows: Sequence[StoredItem]) -> None:
        """Keep items; those of ids that are there are replaced, and are deleted no more."""

    def delete(self, item_ids: Sequence[str]) -> None:
        """Drop items and remember that they are deleted, also ids that were never here (the run's items)."""

    def read_all(self) -> Iterator[StoredItem]:
        """Yield all items, oldest put first."""

    def read_deleted(self) -> Sequence[str]:
        """Return the ids that were deleted and not put again."""

    def picture(self, item_id: str) -> bytes | None:
        """Return the encoded picture of an item that is here, None if it has none or is not here."""

    def record(self, events: Sequence[Event]) -> None:
        """Keep events; each has a timestamp."""

    def read_events(self) -> Sequence[Event]:
        """Return all events in the order in which they were recorded."""


class MemoryStore:
    """A store in memory: gone when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, StoredItem] = {}
        self._deleted: dict[str, None] = {}
        self._events: list[Event] = []

    def put(self, rows: Sequence[StoredItem]) -> None:
        """Keep items; those of ids that are there are replaced, and are deleted no more."""
        with self._lock:
            for row in rows:
                self._rows.pop(row.item.item_id, None)
                self._rows[row.item.item_id] = row
                self._deleted.pop(row.item.item_id, None)

    def delete(self, item_ids: Sequence[str]) -> None:
        """Drop items and remember that they are deleted."""
        with self._lock:
            for name in item_ids:
                self._rows.pop(name, None)
                self._deleted[name] = None

    def read_all(self) -> Iterator[StoredItem]:
        """Yield all items, oldest put first."""
        with self._lock:
            rows = list(self._rows.values())
        yield from rows

    def read_deleted(self) -> Sequence[str]:
        """Return the ids that were deleted and not put again."""
        with self._lock:
            return tuple(self._deleted)

    def picture(self, item_id: str) -> bytes | None:
        """Return the encoded picture of an item that is here."""
        with self._lock:
            row = self._rows.get(item_id)
        return row.item.picture if row is not None else None

    def record(self, events: Sequence[Event]) -> None:
        """Keep events."""
        with self._lock:
            self._events.extend(events)

    def read_events(self) -> Sequence[Event]:
        """Return all events in the order in which they were recorded."""
        with self._lock:
            return tuple(self._events)
