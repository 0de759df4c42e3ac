"""The store: items that were handed in, deletions and events, in LanceDB, in a folder or an object store.

One table of items, one row an id, of deleted ones too: so putting and deleting are one write each, which a
kill leaves undone or done. One table of events. What a caller wants to filter by are the conditions of
`prismrec.recommender.filters`; no text of a caller ever becomes part of a query.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from prismrec.base.errors import InputError
from prismrec.serving.storage import StoredItem
from prismrec.serving.store_events import EventTable
from prismrec.serving.store_home import open_home
from prismrec.serving.store_rows import (
    attributes_of,
    require_storable,
    schema_of,
    to_frame,
    to_items,
    to_table,
    to_tombstones,
    vector_field,
    vectors_of,
)
from prismrec.serving.store_table import GRACE, StoreTable, next_number
from prismrec.serving.types import Event

if TYPE_CHECKING:
    from lancedb.expr import Expr
    from lancedb.table import Table


class ItemStore:
    """A store (`prismrec.serving.storage.Store`) that outlives the process. Safe to use from several threads.

    It is made for one process that writes. Should another write too, rows are neither torn nor doubled, and
    each sees what the other wrote when it opens the store anew.

    Parameters
    ----------
    address
        A folder, made if need be, or the address of an object store, ``s3://bucket/shop`` say.
    columns
        Types of the catalogue's attributes; one ``item_id`` among them is passed over. A store that has other
        columns gets those that it lacks; attributes that do not fit are kept all the same.
    options
        Credentials and settings of the object store.

    Raises
    ------
    MissingExtraError
        If LanceDB is not installed.
    InputError
        If the address holds something else or was written by a newer version, or a type cannot be stored.
    DamagedError
        If a file is missing or damaged.
    StorageError
        If the disk or the object store refuses.
    """

    def __init__(
        self,
        address: str | Path,
        columns: Mapping[str, pl.DataType],
        *,
        options: Mapping[str, str] | None = None,
    ) -> None:
        wanted = schema_of({name: dtype for name, dtype in columns.items() if name != "item_id"})
        home = open_home(address, options)
        self._lock = Lock()
        self._items = StoreTable(home, "items", wanted)
        self._events = EventTable(home)
        self._items.add_columns(list(wanted))
        self._items.index_ids("item_id")
        self._next_item = next_number(self._items)

    def count(self) -> int:
        """Return the number of items that are not deleted."""
        return len(self._items.table(["item_id"], _alive()))

    def put(self, rows: Sequence[StoredItem]) -> None:
        """Keep items; those of ids that are there are replaced, and are deleted no more.

        All of them or, where it raises, none. Of several with one id the last one counts.

        Raises
        ------
        InputError
            If an id is empty, a vector not finite, or an attribute of a kind that cannot be stored.
        StorageError
            If the disk refuses.
        """
        last: dict[str, StoredItem] = {}
        for row in rows:
            last.pop(row.item.item_id, None)
            last[row.item.item_id] = row
        chosen = list(last.values())
        require_storable(chosen)
        with self._lock:
            self._items.add_columns([vector_field(dim) for dim in {row.vector.size for row in chosen}])
            self._upsert(to_table(chosen, self._next_item, self._items.schema))

    def delete(self, item_ids: Sequence[str]) -> None:
        """Drop items and remember that they are deleted, also ids that were never here.

        Raises
        ------
        InputError
            If an id is empty.
        StorageError
            If the disk refuses; then none is deleted.
        """
        names = list(dict.fromkeys(item_ids))
        if "" in names:
            raise InputError("An item_id is empty.", "Give the id of each item.")
        with self._lock:
            self._upsert(to_tombstones(names, self._next_item, self._items.schema))

    def read_all(self) -> Iterator[StoredItem]:
        """Yield all items as they are when it begins, oldest put first.

        Raises
        ------
        DamagedError
            If a file is missing or damaged.
        """
        schema = self._items.schema
        columns = ["item_id", "number", "model", "notes", "picture", "other"]
        columns += [*attributes_of(schema).values(), *vectors_of(schema)]
        # Rows come nearly in order. What comes early waits; so nothing but that is held in memory.
        waiting: list[tuple[int, int, StoredItem]] = []
        order = iter(_numbers(self._items))
        expected = next(order, None)
        arrived = 0
        for batch in self._items.read(columns, _alive(), rows=256):
            for number, item in zip(batch.column("number").to_pylist(), to_items(batch), strict=True):
                heapq.heappush(waiting, (number, arrived, item))
                arrived += 1
            while waiting and waiting[0][0] == expected:
                yield heapq.heappop(waiting)[2]
                expected = next(order, None)
        yield from (heapq.heappop(waiting)[2] for _ in range(len(waiting)))

    def read_deleted(self) -> Sequence[str]:
        """Return the ids that were deleted and not put again, in the order of their deletion."""
        return _in_order(self._items.table(["number", "item_id"], _alive(False)))["item_id"].to_list()

    def picture(self, item_id: str) -> bytes | None:
        """Return the encoded picture of an item that is here, None if it has none or is not here."""
        from lancedb.expr import col, lit

        found = self._items.found(
            lambda table: table.search().where(col("item_id") == lit(item_id)).select(["picture"]).to_arrow()
        )
        picture: bytes | None = found["picture"][0].as_py() if len(found) else None
        return picture

    def record(self, events: Sequence[Event]) -> None:
        """Keep events.

        Raises
        ------
        InputError
            If an id is empty or a timestamp is not finite.
        StorageError
            If the disk refuses; then none is kept.
        """
        self._events.add(events)

    def read_events(self) -> Sequence[Event]:
        """Return all events in the order in which they were recorded."""
        return self._events.read()

    def events_of(self, user_id: str) -> Sequence[Event]:
        """Return a user's events in the order in which they were recorded."""
        return self._events.read(user_id)

    def frame(self) -> pl.DataFrame:
        """Return ids and attributes of all items, oldest put first; what does not fit its column is null."""
        columns = ["item_id", "number", *attributes_of(self._items.schema).values()]
        table = self._items.table(columns, _alive())
        return to_frame(table.sort_by("number"))

    def matching(self, where: Sequence[str]) -> tuple[str, ...]:
        """Return the ids of the items that meet conditions (`prismrec.recommender.filters`).

        Raises
        ------
        InputError
            If a condition cannot be read, the column does not exist, or the value is not of its type.
        """
        from prismrec.recommender.filters import matching

        frame = self.frame()
        return tuple(frame.filter(matching(frame, where))["item_id"].to_list())

    def optimize(self, keep: timedelta = GRACE) -> None:
        """Put small files together and drop what no longer counts.

        Happens by itself after a number of writes.

        Parameters
        ----------
        keep
            States that are younger stay: whoever reads one at the moment needs its files.

        Raises
        ------
        StorageError
            If the disk refuses; the store is whole in any case.
        """
        self._items.tidy(keep)
        self._events.tidy(keep)

    def _upsert(self, table: pa.Table) -> None:
        if len(table) == 0:
            return
        self._items.write(_merged(table))
        self._next_item += len(table)


def _merged(table: pa.Table) -> "Callable[[Table], object]":
    def merge(handle: "Table") -> object:
        plan = handle.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
        # Rows of other models and deleted ones have no vector of a size, which LanceDB takes for a mistake.
        return plan.execute(table, on_bad_vectors="null")

    return merge


def _alive(alive: bool = True) -> "Expr":
    from lancedb.expr import col, lit

    return col("deleted") == lit(not alive)


def _numbers(table: StoreTable) -> list[int]:
    return sorted(table.table(["number"], _alive())["number"].to_pylist())


def _in_order(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table)).sort("number", maintain_order=True)
