"""Tables from files: Parquet (one file, or a folder of parts), CSV, TSV and JSON lines, plain or gzipped.

A CSV file says nothing about types, so all of its columns are read as strings: an id ``007`` stays one.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.text_files import (
    csv_batches,
    csv_names,
    first_line,
    json_line_batches,
    json_lines_schema,
    read_csv,
)

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
KNOWN = "Known are .parquet, .csv, .tsv and .jsonl (the last three also with .gz), and a folder of .parquet."

_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class Table:
    """A table on the disk, of which columns can be read on their own, whole or piece by piece.

    Parameters
    ----------
    path
        The file or folder.
    parts
        The files that it consists of, in the order of the rows.
    """

    path: Path
    parts: tuple[Path, ...]
    textual: ClassVar[bool] = False
    """Whether the format knows strings only (CSV), so that numbers have to be recognised."""

    @property
    @abstractmethod
    def schema(self) -> pl.Schema:
        """Names and types of the columns.

        Raises
        ------
        InputError
            If a part cannot be read, or has other columns or types than the first.
        """

    @abstractmethod
    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield some columns in pieces of about so many rows, in the order of the rows.

        Raises
        ------
        InputError
            If a part cannot be read.
        """

    @abstractmethod
    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns, or all.

        Raises
        ------
        InputError
            If a part cannot be read.
        """

    @property
    @abstractmethod
    def sizes(self) -> list[int]:
        """Number of rows of each part."""

    @property
    def rows(self) -> int | None:
        """Number of rows, where a look at the file tells it; None where it would have to be read."""
        return None

    def origin(self, row: int) -> tuple[str, int]:
        """Return the file and the row in it, from 0, of one row of the whole table."""
        found = self.origins(pl.Series([row]))
        return found.row(0)

    def origins(self, rows: pl.Series) -> pl.DataFrame:
        """Return where rows of the whole table stand: columns ``source`` (file) and ``row`` in it, from 0."""
        if len(self.parts) == 1:
            return pl.DataFrame({"source": pl.repeat(str(self.parts[0]), len(rows), eager=True), "row": rows})
        ends = np.cumsum(self.sizes)
        part = np.searchsorted(ends, rows.to_numpy(), side="right")
        names = pl.Series("source", [str(path) for path in self.parts], dtype=pl.String)
        starts = np.concatenate(([0], ends[:-1]))
        return pl.DataFrame({"source": names.gather(part), "row": rows.to_numpy() - starts[part]})


@dataclass(frozen=True)
class ParquetTable(Table):
    """A Parquet file, or several that follow one another."""

    @cached_property
    def schema(self) -> pl.Schema:
        """Names and types of the columns: such as hold the types of all parts."""
        found = [_parquet_schema(part) for part in self.parts]
        for part, columns in zip(self.parts, found, strict=True):
            if set(columns) != set(found[0]):
                raise InputError(
                    f"{part}: has other columns than {self.parts[0].name}.",
                    f"{self.parts[0].name} has {list(found[0])}, this one {list(columns)}.",
                )
        try:
            return pl.concat(
                [f.to_frame().select(found[0].names()) for f in found], how="vertical_relaxed"
            ).schema
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self.path}: the parts' columns are of different types ({first_line(error)}).",
                "Write all parts with the same types.",
            ) from error

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield some columns in pieces of so many rows, or what a part has left."""
        types = [pl.col(name).cast(self.schema[name]) for name in columns]
        for part in self.parts:
            with _as_parquet(part):
                chosen = pl.scan_parquet(part).select(types)
                yield from chosen.collect_batches(chunk_size=rows, maintain_order=True)

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns, or all."""
        wanted = list(columns or self.schema)
        types = [pl.col(name).cast(self.schema[name]) for name in wanted]
        frames = []
        for part in self.parts:
            with _as_parquet(part):
                frames.append(pl.read_parquet(part, columns=wanted).select(types))
        return pl.concat(frames)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows of each part."""
        return [pl.scan_parquet(part).select(pl.len()).collect().item() for part in self.parts]


@dataclass(frozen=True)
class CsvTable(Table):
    """A file of separated fields, which are strings."""

    separator: str
    textual: ClassVar[bool] = True

    @cached_property
    def schema(self) -> pl.Schema:
        """Names of the columns, all of strings."""
        with _as_text(self.path):
            return pl.Schema(dict.fromkeys(csv_names(self.path, self.separator), pl.String()))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield some columns in pieces of a file's blocks, of which many rows make one."""
        with _as_text(self.path):
            for block in csv_batches(self.path, self.separator, columns):
                yield from block.iter_slices(rows)

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns, or all."""
        with _as_text(self.path):
            whole = read_csv(self.path, self.separator)
        return whole if columns is None else whole.select(columns)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows."""
        return [sum(block.height for block in self.batches(self.schema.names()[:1], 1 << 30))]


@dataclass(frozen=True)
class JsonLinesTable(Table):
    """A file with a JSON object a line."""

    @cached_property
    def schema(self) -> pl.Schema:
        """Names and types of the columns, such as hold the values of all lines: the file is read for it."""
        with _as_text(self.path):
            return json_lines_schema(self.path)

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield some columns in pieces of a file's blocks, of which many rows make one."""
        with _as_text(self.path):
            types = pl.Schema({name: self.schema[name] for name in columns})
            for block in json_line_batches(self.path, types):
                yield from block.iter_slices(rows)

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns, or all."""
        wanted = self.schema.names() if columns is None else columns
        return pl.concat([self.schema.to_frame().select(wanted), *self.batches(wanted, 1 << 30)])

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows."""
        return [sum(block.height for block in self.batches(self.schema.names()[:1], 1 << 30))]


def read_table(path: Path) -> pl.DataFrame:
    """Read a whole table; see `open_table` for the formats and the errors."""
    return open_table(path).read()


def open_table(path: Path) -> Table:
    """Open a table by the extension of its name.

    Parameters
    ----------
    path
        A file ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` (the last three also with ``.gz``), or a folder
        whose ``.parquet`` files are the parts of one table, in the order of their names.

    Raises
    ------
    InputError
        If it is missing, empty or of an unknown extension. What is wrong inside is found where it is read.
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.suffix.lower() in PARQUET and p.name[0] not in "._")
        if not parts:
            raise InputError(f"{path}: the folder holds no .parquet file.", KNOWN)
        return ParquetTable(path, tuple(parts))
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", "Check the path.")
    suffix = _suffix(path)
    if suffix not in {*PARQUET, *SEPARATORS, *JSON_LINES}:
        raise InputError(f"{path}: unknown kind of table {path.suffix or 'without extension'!r}.", KNOWN)
    with _as_text(path):
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty.", "Write it again.")
    if suffix in PARQUET:
        return ParquetTable(path, (path,))
    if suffix in JSON_LINES:
        return JsonLinesTable(path, (path,))
    return CsvTable(path, (path,), SEPARATORS[suffix])


def _suffix(path: Path) -> str:
    """Extension in lower case, without a final ``.gz`` (which Parquet files never have)."""
    suffix = path.suffix.lower()
    if suffix != ".gz":
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner if inner not in PARQUET else ".gz"


def _parquet_schema(path: Path) -> pl.Schema:
    with _as_parquet(path):
        return pl.Schema(pl.read_parquet_schema(path))


@contextmanager
def _as_parquet(path: Path) -> Iterator[None]:
    """Name the file where it is not what its name says."""
    try:
        yield
    except _POLARS_ERRORS as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({first_line(error)}).",
            "It may be cut off or not what its name says; write or copy it again.",
        ) from error


@contextmanager
def _as_text(path: Path) -> Iterator[None]:
    """Name the file where it is cut off."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}).",
            "It may be cut off or not what its name says; copy it again.",
        ) from error
