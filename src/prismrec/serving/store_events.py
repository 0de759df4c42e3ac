"""The store's events: who took what and when, only ever added to."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

import polars as pl
import pyarrow as pa

from prismrec.base.errors import InputError
from prismrec.serving.store_home import Home
from prismrec.serving.store_table import StoreTable, next_number
from prismrec.serving.types import Event

_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("user_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("timestamp", pa.float64()),
    ]
)


class EventTable:
    """The table of events in a store.

    Parameters
    ----------
    home
        Where the store lies.
    """

    def __init__(self, home: Home) -> None:
        self._lock = Lock()
        self._table = StoreTable(home, "events", _SCHEMA)
        self._table.index_ids("user_id")
        self._next = next_number(self._table)

    def add(self, events: Sequence[Event]) -> None:
        """Keep events; one without a timestamp happens now.

        Raises
        ------
        InputError
            If an id is empty or a timestamp is not finite.
        StorageError
            If the disk refuses; then none is kept.
        """
        if not events:
            return
        now = time.time()
        times = [now if event.timestamp is None else float(event.timestamp) for event in events]
        for event, moment in zip(events, times, strict=True):
            if not event.user_id or not event.item_id or not math.isfinite(moment):
                raise InputError(f"{event}: an event needs a user, an item, and a finite timestamp.")
        with self._lock:
            columns = [
                range(self._next, self._next + len(events)),
                [event.user_id for event in events],
                [event.item_id for event in events],
                times,
            ]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
            rows = pa.Table.from_arrays(arrays, schema=_SCHEMA)
            self._table.write(lambda handle: handle.add(rows))
            self._next += len(events)

    def read(self, user_id: str | None = None) -> tuple[Event, ...]:
        """Return all events, or a user's, in the order in which they were recorded."""
        from lancedb.expr import col, lit

        chosen = None if user_id is None else col("user_id") == lit(user_id)
        table = self._table.table(_SCHEMA.names, chosen)
        frame = pl.DataFrame(pl.from_arrow(table)).sort("number")
        return tuple(Event(*row) for row in frame.select("user_id", "item_id", "timestamp").iter_rows())

    def tidy(self, keep: timedelta) -> None:
        """See `StoreTable.tidy`."""
        self._table.tidy(keep)
