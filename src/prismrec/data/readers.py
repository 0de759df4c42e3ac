"""Tables from files: Parquet (one file, or a folder of parts), CSV, TSV and JSON lines, plain or gzipped.

A CSV file says nothing about types, so all of its columns are read as strings: an id ``007`` stays one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.text_files import first_line, read_csv, read_json_lines

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
KNOWN = "Known are .parquet, .csv, .tsv and .jsonl (the last three also with .gz), and a folder of .parquet."

_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class Table:
    """A table on the disk, of which columns can be read on their own.

    Parameters
    ----------
    path
        The file or folder.
    parts
        The files that it consists of, in the order of the rows.
    loaded
        All of it, for formats that can only be read whole; None for Parquet.
    textual
        Whether the format knows strings only (CSV), so that numbers have to be recognised.
    """

    path: Path
    parts: tuple[Path, ...]
    loaded: pl.DataFrame | None = None
    textual: bool = False

    @cached_property
    def schema(self) -> pl.Schema:
        """Names and types of the columns.

        Raises
        ------
        InputError
            If a part cannot be read or has other columns than the first.
        """
        if self.loaded is not None:
            return self.loaded.schema
        first = _parquet_schema(self.parts[0])
        for part in self.parts[1:]:
            if set(_parquet_schema(part)) != set(first):
                raise InputError(
                    f"{part}: has other columns than {self.parts[0].name}.",
                    f"{self.parts[0].name} has {list(first)}, this one {list(_parquet_schema(part))}.",
                )
        return first

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns, or all.

        Raises
        ------
        InputError
            If a part cannot be read.
        """
        wanted = list(self.schema) if columns is None else list(columns)
        if self.loaded is not None:
            return self.loaded.select(wanted)
        frames = [_read_parquet(part, wanted) for part in self.parts]
        try:
            return pl.concat(frames, how="vertical_relaxed") if len(frames) > 1 else frames[0]
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self.path}: the parts' columns are of different types ({first_line(error)}).",
                "Write all parts with the same types.",
            ) from error

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows of each part."""
        if self.loaded is not None:
            return [self.loaded.height]
        return [pl.scan_parquet(part).select(pl.len()).collect().item() for part in self.parts]

    def origin(self, row: int) -> tuple[str, int]:
        """Return the file and the row in it, from 0, of one row of the whole table."""
        for part, size in zip(self.parts, self.sizes, strict=True):
            if row < size:
                return str(part), row
            row -= size
        raise IndexError(row)

    def origins(self, rows: pl.Series) -> pl.DataFrame:
        """Return where rows of the whole table stand: columns ``source`` (file) and ``row`` in it, from 0."""
        ends = np.cumsum(self.sizes)
        part = np.searchsorted(ends, rows.to_numpy(), side="right")
        names = pl.Series("source", [str(path) for path in self.parts], dtype=pl.String)
        starts = np.concatenate(([0], ends[:-1]))
        return pl.DataFrame({"source": names.gather(part), "row": rows.to_numpy() - starts[part]})


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
        If it is missing, empty, of an unknown extension, damaged, not UTF-8, or has rows of unequal length.
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.suffix.lower() in PARQUET and p.name[0] not in "._")
        if not parts:
            raise InputError(f"{path}: the folder holds no .parquet file.", KNOWN)
        return Table(path, tuple(parts))
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", "Check the path.")
    suffix = _suffix(path)
    if suffix not in {*PARQUET, *SEPARATORS, *JSON_LINES}:
        raise InputError(f"{path}: unknown kind of table {path.suffix or 'without extension'!r}.", KNOWN)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty.", "Write it again.")
        if suffix in PARQUET:
            return Table(path, (path,))
        if suffix in JSON_LINES:
            return Table(path, (path,), read_json_lines(path))
        return Table(path, (path,), read_csv(path, SEPARATORS[suffix]), textual=True)
    except (OSError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}).",
            "It may be cut off or not what its name says; copy it again.",
        ) from error


def _suffix(path: Path) -> str:
    """Extension in lower case, without a final ``.gz`` (which Parquet files never have)."""
    suffix = path.suffix.lower()
    if suffix != ".gz":
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner if inner not in PARQUET else ".gz"


def _parquet_schema(path: Path) -> pl.Schema:
    try:
        return pl.Schema(pl.read_parquet_schema(path))
    except _POLARS_ERRORS as error:
        raise _not_parquet(path, error) from error


def _read_parquet(path: Path, columns: list[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=columns)
    except _POLARS_ERRORS as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"{path}: cannot be read as Parquet ({first_line(error)}).",
        "It may be cut off or not what its name says; write or copy it again.",
    )
