"""Tables in text files: CSV, TSV and JSON lines, plain or gzipped, with errors that name the line or row."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from prismrec.base.errors import InputError

# A row must fit into one block; the usual cause of a longer one is a quote that is never closed.
_BLOCK = 16 << 20


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking it if its name ends in ``.gz``."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def csv_names(path: Path, separator: str) -> list[str]:
    """Return the names in the header of a file of separated fields.

    Raises
    ------
    InputError
        If it is empty, not UTF-8, or a name stands twice.
    """
    names = _csv_header(path, separator)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the columns {twice} stand twice in the header.", "Rename them.")
    return names


def read_csv(path: Path, separator: str) -> pl.DataFrame:
    """Read a file of separated fields; every column is String, empty fields are empty strings.

    Raises
    ------
    InputError
        If it is empty, not UTF-8, or its rows are of unequal length.
    """
    names = csv_names(path, separator)
    with _blamed(path, separator, names), _unpacked(path) as stream:
        # Threads pay where all of it is wanted.
        options = _Csv(separator, names)
        table = pacsv.read_csv(stream, options.reading(threads=True), options.parsing(), options.converting())
        frame = pl.DataFrame(pl.from_arrow(table))
    if frame.height:
        _check_last_quote(path, frame.row(-1), frame.height)
    return frame


def csv_batches(path: Path, separator: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield some columns of a file of separated fields, block by block; as `read_csv` reads them.

    Raises
    ------
    InputError
        See `read_csv`.
    """
    names = csv_names(path, separator)
    rows = 0
    last: tuple[Any, ...] = ()
    with _blamed(path, separator, names):
        for batch in _streamed(path, _Csv(separator, names)):
            frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
            if frame.height:
                rows += frame.height
                last = frame.row(-1)
            yield frame.select(columns)
    if rows:
        _check_last_quote(path, last, rows)


@dataclass(frozen=True)
class _Csv:
    """How a file of separated fields is read: what is quoted may hold lines, and all fields are strings."""

    separator: str
    names: list[str]

    def reading(self, *, threads: bool) -> pacsv.ReadOptions:
        return pacsv.ReadOptions(block_size=_BLOCK, use_threads=threads)

    def parsing(self, bad_row: Callable[[pacsv.InvalidRow], str] | None = None) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=bad_row
        )

    def converting(self) -> pacsv.ConvertOptions:
        return pacsv.ConvertOptions(
            column_types={name: pa.large_string() for name in self.names}, strings_can_be_null=False
        )


def _unpacked(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else None)


def _streamed(
    path: Path, options: _Csv, bad_row: Callable[[pacsv.InvalidRow], str] | None = None
) -> Iterator[pa.RecordBatch]:
    with (
        _unpacked(path) as stream,
        # Only a reader without threads can tell the number of a bad row.
        pacsv.open_csv(
            stream, options.reading(threads=False), options.parsing(bad_row), options.converting()
        ) as reader,
    ):
        yield from reader


@contextmanager
def _blamed(path: Path, separator: str, names: list[str]) -> Iterator[None]:
    """Say of a file that cannot be read which line is wrong."""
    try:
        yield
    except pa.ArrowInvalid as error:
        blame_encoding(path)
        _blame_ragged_row(path, separator, names)
        raise InputError(f"{path}: cannot be read as a table ({first_line(error)}).") from error


def _csv_header(path: Path, separator: str) -> list[str]:
    with open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            names = next((row for row in csv.reader(text, delimiter=separator) if row), None)
        except UnicodeDecodeError:
            blame_encoding(path)
            raise
        except csv.Error as error:
            raise InputError(f"{path}: the header cannot be read ({error}).") from error
    if names is None:
        raise InputError(f"{path}: the file is empty.", "The first line must name the columns.")
    return names


def blame_encoding(path: Path) -> None:
    """Raise an error that names the first line that is not UTF-8, if there is one."""
    offset = 0
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: line {number} is not UTF-8: byte 0x{line[error.start]:02x} "
                    f"at offset {offset + error.start:,} of the file.",
                    "Save the file as UTF-8, e.g. with: iconv -f latin1 -t utf-8",
                ) from None
            offset += len(line)


def _blame_ragged_row(path: Path, separator: str, names: list[str]) -> None:
    """Raise an error that names the first row with too many or too few fields, if there is one."""
    bad: list[pacsv.InvalidRow] = []

    def remember(row: pacsv.InvalidRow) -> str:
        bad.append(row)
        return "error"

    try:
        for _ in _streamed(path, _Csv(separator, names), remember):
            pass
    except pa.ArrowInvalid as error:
        if not bad:
            return
        row = bad[0]
        # The reader counts the header as row 1.
        where = f"data row {row.number - 2}" if row.number is not None else "a row"
        raise InputError(
            f"{path}: {where} (the first is 0) has {row.actual_columns} fields, the header has "
            f"{row.expected_columns}: {row.text[:200]!r}.",
            "Quote fields that contain the separator, and give every row all fields.",
        ) from error


def _check_last_quote(path: Path, last: tuple[Any, ...], rows: int) -> None:
    """Refuse a file whose last quote is never closed: the rest of it would be one field, without a word."""
    if not any("\n" in value for value in last):
        return
    with open_bytes(path) as stream:
        quotes = sum(block.count(b'"') for block in iter(lambda: stream.read(1 << 20), b""))
    if quotes % 2:
        raise InputError(
            f"{path}: data row {rows - 1} opens a quote that is never closed.",
            "Close it, or double quotes that belong to the text.",
        )


def json_lines_schema(path: Path) -> pl.Schema:
    """Return the columns of a file with a JSON object a line, of types that hold the values of all lines.

    Raises
    ------
    InputError
        If it is empty, not UTF-8, or a line is not a JSON object.
    """
    found = pl.DataFrame()
    for block in _json_blocks(path):
        found = pl.concat([found, _json_frame(path, block, None).clear()], how="diagonal_relaxed")
    if not found.width:
        raise InputError(f"{path}: the file is empty.", "Write it again.")
    return found.schema


def json_line_batches(path: Path, schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """Yield some columns of a file with a JSON object a line, block by block; what a line lacks is null.

    Parameters
    ----------
    path
        The file.
    schema
        The columns, with types as `json_lines_schema` gives them.

    Raises
    ------
    InputError
        See `json_lines_schema`.
    """
    for block in _json_blocks(path):
        yield _json_frame(path, block, schema)


@dataclass(frozen=True)
class _Lines:
    """Some whole lines of a file, the first of which has a number, from 1."""

    content: bytes
    first: int


def _json_blocks(path: Path) -> Iterator[_Lines]:
    """Yield lines, together of about a block's size, of which at least one is not blank."""
    number, rest = 1, b""
    with open_bytes(path) as stream:
        for read in iter(lambda: stream.read(_BLOCK), b""):
            lines, newline, rest = (rest + read).rpartition(b"\n")
            if lines.strip():
                yield _Lines(lines + newline, number)
            number += lines.count(b"\n") + len(newline)
    if rest.strip():
        yield _Lines(rest, number)


def _json_frame(path: Path, block: _Lines, schema: pl.Schema | None) -> pl.DataFrame:
    try:
        return pl.read_ndjson(io.BytesIO(block.content), schema=schema, infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        blame_encoding(path)
        if block.first == 1 and block.content.lstrip()[:1] == b"[":
            raise InputError(f"{path}: this is a JSON array.", "Write one object a line.") from error
        for number, problem in _bad_json_lines(block.content):
            raise InputError(
                f"{path}: line {block.first - 1 + number} is not a JSON object ({problem}).",
                "Write one object a line.",
            ) from error
        raise InputError(f"{path}: cannot be read as JSON lines ({first_line(error)}).") from error


def _bad_json_lines(content: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            # NaN and Infinity are no JSON, though Python would take them.
            value = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            yield number, first_line(error)
        else:
            if not isinstance(value, dict):
                yield number, f"a {type(value).__name__}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed, write null")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
