"""A table of LanceDB: made or opened, every write on the disk when it returns, tidied now and then.

LanceDB writes new files beside the old ones and then the list of those that count, so that a kill leaves the
old table or the new one. It does not flush them to the disk; that is done here, for folders.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from prismrec.base.errors import DamagedError, InputError, PrismError, StorageError
from prismrec.base.files import sync_folder
from prismrec.serving.store_home import Home, short, writing

if TYPE_CHECKING:
    from lancedb.expr import Expr
    from lancedb.table import Table

FORMAT = b"prismrec_store"
FORMAT_VERSION = 1
KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Of the field that tells rows apart: without it two writers could insert the same row at once."""

GRACE = timedelta(minutes=10)
"""How long an old version of a table stays: those who read it at the moment need its files."""

# A table is tidied after so many writes, and later the larger it is, as tidying may write all of it anew.
_WRITES = 64
_BYTES_A_WRITE = 16 << 20

# What LanceDB says where another process was first and nothing was written; and how often that is borne.
_CONFLICT = "Retryable commit conflict"
_ATTEMPTS = 10

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_FILE_NOT_FOUND = "2"


class StoreTable:
    """A table of a store. Writes come one after the other; reading is free.

    Parameters
    ----------
    home
        Where the store lies.
    name
        Of the table.
    schema
        What a new table gets; one that is there may have further columns.

    Raises
    ------
    InputError
        If a newer version wrote it, or the schema cannot be stored.
    DamagedError
        If it cannot be read.
    StorageError
        If the disk refuses.
    """

    def __init__(self, home: Home, name: str, schema: pa.Schema) -> None:
        self._home = home
        self.name = name
        self._where = f"{home.address}, table {name!r}"
        self._folder = None if home.folder is None else home.folder / f"{name}.lance"
        self._lock = threading.RLock()
        self._flushed: set[str] = set()
        self.handle = self._open(schema)
        self._flush()
        self._writes, self._allowed = self._untidiness()

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self.handle.schema

    def write(self, change: Callable[["Table"], object]) -> None:
        """Change the table; the change is on the disk when this returns.

        Raises
        ------
        StorageError
            If the disk refuses; then nothing has changed.
        """
        with self._lock:
            # Before, not after: a refusal to tidy must not look like a refusal of what is written by then.
            if self._writes >= self._allowed:
                self.tidy()
            with writing(self._where):
                self._change(change)
                self._flush()
            self._writes += 1

    def read(
        self, columns: Sequence[str], where: "Expr | None" = None, *, rows: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the table as it is now, whatever is written meanwhile.

        Parameters
        ----------
        columns
            Which.
        where
            Which rows; made of `lancedb.expr`, never of text.
        rows
            At most so many at a time.

        Raises
        ------
        DamagedError
            If a file is missing or damaged.
        StorageError
            If the disk or the object store refuses.
        """
        with self._reading():
            snapshot = self._home.database.open_table(self.name)
            snapshot.checkout(snapshot.version)
            query = snapshot.search()
            if where is not None:
                query = query.where(where)
            batches = iter(query.select(list(columns)).to_batches(rows))
        while True:
            with self._reading():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def table(self, columns: Sequence[str], where: "Expr | None" = None) -> pa.Table:
        """Return the rows of the table (see `read`)."""
        batches = list(self.read(columns, where, rows=1 << 16))
        if not batches:
            return pa.schema([self.schema.field(name) for name in columns]).empty_table()
        return pa.Table.from_batches(batches)

    def found(self, search: Callable[["Table"], Any]) -> pa.Table:
        """Return what a search of LanceDB's own finds."""
        with self._reading():
            return search(self.handle)

    def index_ids(self, column: str) -> None:
        """Let rows be found by a column of ids, if that is not so already."""
        from lancedb.index import BTree

        if not any(index.columns == [column] for index in self.handle.list_indices()):
            self.write(lambda handle: handle.create_index(column, config=BTree()))

    def add_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add those of some columns that are not there; they are null in the rows that are."""

        def missing(handle: "Table") -> list[pa.Field]:
            return [field for field in fields if field.name not in handle.schema.names]

        def add(handle: "Table") -> None:
            try:
                handle.add_columns(missing(handle))
            except ValueError:
                # Another process was first, or it is something else.
                _catch_up(handle)
                if missing(handle):
                    raise

        if missing(self.handle):
            self.write(add)

    def tidy(self, keep: timedelta = GRACE) -> None:
        """Put small files together, take new rows into indices, and drop states older than `keep`.

        Raises
        ------
        StorageError
            If the disk refuses; the table is whole in any case.
        """
        with self._lock, writing(self._where):
            # First what is new, flushed; only then does the old go.
            self.handle.optimize(cleanup_older_than=timedelta(days=365))
            self._flush()
            self.handle.optimize(cleanup_older_than=max(keep, timedelta(milliseconds=1)))
            self._flush()
            self._writes, self._allowed = self._untidiness()

    def _change(self, change: Callable[["Table"], object]) -> None:
        """Change the table; where another process changed it meanwhile, change what that one left."""
        for again in range(_ATTEMPTS, -1, -1):
            try:
                change(self.handle)
                return
            except RuntimeError as error:
                if not again or _CONFLICT not in str(error):
                    raise
            _catch_up(self.handle)

    def _open(self, schema: pa.Schema) -> "Table":
        with self._reading():
            try:
                table = self._home.database.open_table(self.name)
            except ValueError:
                self._require_nothing()
                table = None
        if table is None:
            table = self._make(schema)
        found = (table.schema.metadata or {}).get(FORMAT)
        if found is None:
            raise InputError(f"{self._where}: was not written by prismrec.", "Choose a new folder.")
        if int(found) > FORMAT_VERSION:
            raise InputError(f"{self._where}: written by a newer prismrec.", "Install the newer version.")
        return table

    def _make(self, schema: pa.Schema) -> "Table":
        marked = schema.with_metadata({FORMAT: str(FORMAT_VERSION).encode()})
        with writing(self._where):
            return self._home.database.create_table(self.name, schema=marked, exist_ok=True)

    def _require_nothing(self) -> None:
        """Raise if a table that is not found has data: an empty one must not take its place."""
        data = None if self._folder is None else self._folder / "data"
        if data is not None and data.is_dir() and any(data.iterdir()):
            raise DamagedError(f"{self._folder}: the list of its files is missing.", _RESTORE)

    def _untidiness(self) -> tuple[int, int]:
        """Return how many small files there are, and how many are allowed."""
        with self._reading():
            # LanceDB says that this is an object and gives a dictionary.
            stats: Any = self.handle.stats()
        files, size = (stats["fragment_stats"]["num_fragments"], stats["total_bytes"])
        return files, _WRITES + size // _BYTES_A_WRITE

    def _flush(self) -> None:
        """Flush what was written since the last time; LanceDB never changes a file that is there."""
        if self._folder is None:
            return
        there: set[str] = set()
        for home, _, names in os.walk(self._folder):
            paths = {f"{home}/{name}" for name in names}
            new = paths - self._flushed
            for path in new:
                _sync_file(path)
            if new:
                sync_folder(Path(home))
            there |= paths
        self._flushed = there

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:
            if isinstance(error, PrismError):
                raise
            system = _SYSTEM_ERROR.search(str(error))
            if self._folder is None or (system is not None and system[1] != _FILE_NOT_FOUND):
                raise StorageError(f"{self._where}: cannot be read ({short(error)}).") from error
            raise DamagedError(f"{self._folder}: is damaged ({short(error)}).", _RESTORE) from error


_RESTORE = "Put a copy of the folder in its place, or hand the items in again to a new one."


def next_number(table: StoreTable) -> int:
    """Return the number that follows those in a table's column ``number``."""
    return int(table.table(["number"])["number"].to_numpy().max(initial=-1)) + 1


def _catch_up(handle: Any) -> None:
    """Take in what other processes wrote."""
    handle.checkout_latest()


def _sync_file(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
