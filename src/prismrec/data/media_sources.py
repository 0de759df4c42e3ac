"""Sources of pictures and sounds beyond those of `media`: a column of Parquet files, URLs, and combinations.

All of them answer as `Media` does and are made to be read in the order of their ids, holding only a few
contents at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prismrec.base.errors import InputError
from prismrec.base.progress import Task
from prismrec.data.media import Media
from prismrec.data.media_folder import FolderIndex, Refuse

Check = Callable[[bytes], str | None]

_ROWS_AT_A_TIME = 16


class ColumnMedia:
    """Bytes in a column of Parquet files, read a few rows at a time.

    Made to be read in the order of the rows; other orders are right and slow.

    Parameters
    ----------
    parts, sizes
        The files and how many rows each has.
    column
        Bytes, or a structure with a field ``bytes``.
    rows
        Row over all parts by item id.
    folder
        Where the field ``path`` of a structure leads if its ``bytes`` are empty.
    """

    def __init__(
        self,
        parts: Sequence[Path],
        sizes: Sequence[int],
        column: str,
        rows: Mapping[str, int],
        folder: FolderIndex | None = None,
    ) -> None:
        self._folder = folder
        self._parts = list(zip(parts, sizes, strict=True))
        self._column = column
        self._rows = rows
        self._close()

    def _close(self) -> None:
        self._batches: Iterator[tuple[int, pa.Array]] = iter(())
        self._start = 0
        self._batch: pa.Array = pa.array([], pa.binary())

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the files again in another process, where reading begins anew."""
        paths, sizes = [path.absolute() for path, _ in self._parts], [size for _, size in self._parts]
        return ColumnMedia, (paths, sizes, self._column, dict(self._rows), self._folder)

    @property
    def ids(self) -> Sequence[str]:
        """All items of the table; whether one has content shows when it is read."""
        return tuple(self._rows)

    def read(self, item_id: str) -> bytes | None:
        """Return the bytes in an item's cell, None if it is empty.

        Raises
        ------
        InputError
            If the Parquet file cannot be read any more, or the file that the cell names.
        """
        row = self._rows.get(item_id)
        if row is None:
            return None
        self._seek(row)
        value = self._batch[row - self._start].as_py()
        if not isinstance(value, dict):
            return value  # type: ignore[no-any-return]
        if value["bytes"] is None and value.get("path"):
            return self._at_path(str(value["path"]))
        return value["bytes"]  # type: ignore[no-any-return]

    def _at_path(self, relative: str) -> bytes:
        if self._folder is None:
            raise InputError("the cell holds a path and no bytes, and no folder was given to look in")
        path = self._folder.inside(relative)
        if isinstance(path, str):
            raise InputError(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"the file cannot be read ({error.strerror})") from error

    def _seek(self, row: int) -> None:
        if row < self._start:
            self._batches = self._from(row)
        elif row < self._start + len(self._batch):
            return
        for start, batch in self._batches:
            if row < start + len(batch):
                self._start, self._batch = start, batch
                return
        self._batches = self._from(row)
        for start, batch in self._batches:
            if row < start + len(batch):
                self._start, self._batch = start, batch
                return
        raise InputError(f"{self._parts[-1][0]}: has fewer rows than when it was opened.", "Run it again.")

    def _from(self, row: int) -> Iterator[tuple[int, pa.Array]]:
        """Yield batches with the number of their first row, from the row group of `row` on."""
        first = 0
        for part, size in self._parts:
            if first + size <= row:
                first += size
                continue
            try:
                with pq.ParquetFile(part, memory_map=True) as file:
                    for group in range(file.num_row_groups):
                        rows = file.metadata.row_group(group).num_rows
                        if first + rows > row:
                            yield from self._batches_of(file, group, first)
                        first += rows
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{part}: the column {self._column!r} cannot be read ({error}).") from error

    def _batches_of(self, file: pq.ParquetFile, group: int, start: int) -> Iterator[tuple[int, pa.Array]]:
        for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=[self._column]):
            yield start, batch.column(0)
            start += batch.num_rows


class UrlMedia:
    """Content behind URLs, fetched by a few threads ahead of being read.

    Parameters
    ----------
    urls
        URL by item id, in the order in which they will be read.
    fetch
        Fetches one; raises `InputError` where it cannot.
    workers
        How many at a time.
    """

    def __init__(self, urls: Mapping[str, str], fetch: Callable[[str], bytes], workers: int = 8) -> None:
        self._urls = dict(urls)
        self._order = list(self._urls)
        self._place = {item_id: place for place, item_id in enumerate(self._order)}
        self._fetch = fetch
        self._workers = workers
        self._next = 0
        self._under_way: dict[str, Future[bytes]] = {}
        self._pool: ThreadPoolExecutor | None = None

    @property
    def ids(self) -> Sequence[str]:
        """Items that have a URL."""
        return tuple(self._urls)

    def read(self, item_id: str) -> bytes | None:
        """Return what the item's URL answers, None if it has none.

        Raises
        ------
        FetchError
            If it cannot be fetched.
        """
        if item_id not in self._urls:
            return None
        self._order_ahead(self._place[item_id])
        future = self._under_way.pop(item_id, None)
        try:
            return future.result() if future is not None else self._fetch(self._urls[item_id])
        finally:
            self._order_ahead(self._place[item_id])

    def _order_ahead(self, place: int) -> None:
        """Let the threads fetch what comes after a place; what lies before it will not be asked for."""
        for passed in [name for name in self._under_way if self._place[name] < place]:
            self._under_way.pop(passed).cancel()
        self._next = max(self._next, place)
        # Twice the threads: enough to keep them busy, and a bound on what waits in memory.
        while self._next < len(self._order) and len(self._under_way) < 2 * self._workers:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fetch")
            name = self._order[self._next]
            self._under_way[name] = self._pool.submit(self._fetch, self._urls[name])
            self._next += 1
        if self._next == len(self._order) and self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


class FirstMedia:
    """The first of several sources that has content for an item.

    Parameters
    ----------
    sources
        In the order in which they are asked.
    """

    def __init__(self, sources: Sequence[Media]) -> None:
        self.sources = tuple(sources)

    @property
    def ids(self) -> Sequence[str]:
        """Items that may have content."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.ids))

    def read(self, item_id: str) -> bytes | None:
        """Return the content of an item, None if no source has any.

        Raises
        ------
        InputError
            If a source has content that it cannot read, and no other source has any.
        """
        problem: InputError | None = None
        for source in self.sources:
            try:
                content = source.read(item_id)
            except InputError as error:
                problem = problem or error
                continue
            if content is not None:
                return content
        if problem is not None:
            raise problem
        return None


class CheckedMedia:
    """Content that has passed a check; what has not is refused once and left out.

    Parameters
    ----------
    source
        Where it comes from.
    check
        Returns why bytes cannot be used, None if they can.
    refuse
        Told of an item and the reason.
    task
        Advanced by one for each item read.
    """

    def __init__(self, source: Media, check: Check, refuse: Refuse, task: Task | None = None) -> None:
        self._source = source
        self._check = check
        self._refuse = refuse
        self._task = task

    @property
    def ids(self) -> Sequence[str]:
        """Items that may have content."""
        return self._source.ids

    def read(self, item_id: str) -> bytes | None:
        """Return the content of an item if it can be used, else None."""
        content = None
        try:
            content = self._source.read(item_id)
            reason = None if content is None else self._check(content)
        except InputError as error:
            reason = error.problem
        if self._task is not None:
            self._task.advance()
        if reason is None:
            return content
        self._refuse(item_id, reason, None)
        return None
