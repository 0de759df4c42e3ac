"""Tables in text files: CSV, TSV and JSON lines, plain or gzipped, with errors that name the line or row."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from prismrec.base.errors import InputError

# A row must fit into one block; the usual cause of a longer one is a quote that is never closed.
_BLOCK = 16 << 20


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking it if its name ends in ``.gz``."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_csv(path: Path, separator: str) -> pl.DataFrame:
    """Read a file of separated fields; every column is String, empty fields are empty strings.

    Raises
    ------
    InputError
        If it is empty, not UTF-8, or its rows are of unequal length.
    """
    names = _csv_header(path, separator)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the columns {twice} stand twice in the header.", "Rename them.")
    try:
        table = _arrow_csv(path, separator, names)
    except pa.ArrowInvalid as error:
        blame_encoding(path)
        _blame_ragged_row(path, separator, names)
        raise InputError(f"{path}: cannot be read as a table ({first_line(error)}).") from error
    frame = pl.DataFrame(pl.from_arrow(table))
    _check_last_quote(path, frame)
    return frame


def _arrow_csv(
    path: Path, separator: str, names: list[str], parse: pacsv.ParseOptions | None = None
) -> pa.Table:
    compression = "gzip" if path.suffix.lower() == ".gz" else None
    with pa.input_stream(str(path), compression=compression) as stream:
        return pacsv.read_csv(
            stream,
            # Only a reader without threads can tell the number of a bad row.
            read_options=pacsv.ReadOptions(block_size=_BLOCK, use_threads=parse is None),
            parse_options=parse or pacsv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.large_string() for name in names}, strings_can_be_null=False
            ),
        )


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

    parse = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=remember)
    try:
        _arrow_csv(path, separator, names, parse)
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


def _check_last_quote(path: Path, frame: pl.DataFrame) -> None:
    """Refuse a file whose last quote is never closed: the rest of it would be one field, without a word."""
    if frame.is_empty() or not any("\n" in value for value in frame.row(-1)):
        return
    with open_bytes(path) as stream:
        quotes = sum(block.count(b'"') for block in iter(lambda: stream.read(1 << 20), b""))
    if quotes % 2:
        raise InputError(
            f"{path}: data row {frame.height - 1} opens a quote that is never closed.",
            "Close it, or double quotes that belong to the text.",
        )


def read_json_lines(path: Path) -> pl.DataFrame:
    """Read a file with a JSON object a line; fields that a line lacks are null.

    Raises
    ------
    InputError
        If it is empty, not UTF-8, or a line is not a JSON object.
    """
    with open_bytes(path) as stream:
        content = stream.read()
    if not content.strip():
        raise InputError(f"{path}: the file is empty.", "Write it again.")
    try:
        return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        blame_encoding(path)
        if content.lstrip()[:1] == b"[":
            raise InputError(f"{path}: this is a JSON array.", "Write one object a line.") from error
        for number, problem in _bad_json_lines(content):
            raise InputError(
                f"{path}: line {number} is not a JSON object ({problem}).", "Write one object a line."
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
