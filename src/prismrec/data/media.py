"""Encoded pictures and sounds by item id, wherever their bytes lie.

Three places are known: a column in memory, files in folders, and the packed Parquet file of a data set
folder. All of them answer the same two questions: which items have content, and what are its bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path

# Small enough that reading one picture does not read thousands, large enough to compress and stream.
ROWS_PER_GROUP = 64

_SCHEMA = pa.schema([("item_id", pa.string()), ("content", pa.binary())])


class Media(Protocol):
    """Encoded files of one kind (pictures, say) by item id."""

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none.

        Raises
        ------
        InputError
            If the content is listed and cannot be read any more.
        """


class MemoryMedia:
    """Content held in memory.

    Parameters
    ----------
    contents
        Encoded bytes by item id.
    """

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = dict(contents)

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""
        return tuple(self._contents)

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none."""
        return self._contents.get(item_id)


class FileMedia:
    """Content in files of their own.

    Parameters
    ----------
    paths
        Path of the file by item id.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def __reduce__(self) -> "tuple[type[FileMedia], tuple[dict[str, Path]]]":
        """Find the files from another process too, whose working directory may be another."""
        return FileMedia, ({item: path.absolute() for item, path in self._paths.items()},)

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""
        return tuple(self._paths)

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        path = self._paths.get(item_id)
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: cannot read the content of item {item_id!r} ({error.strerror})."
            ) from error


class PackedMedia:
    """Content packed into one Parquet file with the columns ``item_id`` and ``content``.

    Parameters
    ----------
    path
        The file, as `pack` wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group: tuple[int, pa.Table] | None = None

    def __reduce__(self) -> "tuple[type[PackedMedia], tuple[Path]]":
        """Open the file again in another process: an open file cannot go there."""
        return PackedMedia, (self.path.absolute(),)

    @cached_property
    def _file(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedError(
                f"{self.path}: cannot be read as a Parquet file ({error}).", "Run ingest again."
            ) from error

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Row group and row in it, by item id."""
        places = {}
        for group in range(self._file.num_row_groups):
            names = self._file.read_row_group(group, columns=["item_id"]).column(0).to_pylist()
            for row, name in enumerate(names):
                places[name] = (group, row)
        return places

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content, in the order of the file."""
        return tuple(self._places)

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none."""
        place = self._places.get(item_id)
        if place is None:
            return None
        group, row = place
        # Neighbours are mostly read one after the other: the last group stays in memory.
        if self._group is None or self._group[0] != group:
            self._group = (group, self._file.read_row_group(group, columns=["content"]))
        content: bytes = self._group[1].column(0)[row].as_py()
        return content


def pack(path: Path, contents: Iterable[tuple[str, bytes]]) -> int:
    """Write contents into one Parquet file, atomically and without holding them all in memory.

    Parameters
    ----------
    path
        Destination.
    contents
        Pairs of item id and encoded bytes.

    Returns
    -------
    int
        How many were written.
    """
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="none") as writer:
        # Pictures and sounds are compressed already; compressing them again costs time and saves nothing.
        for chunk in _chunks(contents, ROWS_PER_GROUP):
            names, blobs = zip(*chunk, strict=True)
            writer.write_table(pa.table({"item_id": list(names), "content": list(blobs)}, schema=_SCHEMA))
            written += len(names)
    return written


def _chunks(contents: Iterable[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    chunk: list[tuple[str, bytes]] = []
    for pair in contents:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
