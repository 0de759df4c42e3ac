"""Files with a record a line: JSON, or Python literals as an early edition has them. Never executed."""

import ast
import gzip
import json
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError
from prismrec.data.report import Refusal, Refusals
from prismrec.data.text_files import first_line, open_bytes

Record = dict[str, Any]

_SHOWN = 200


def json_record(line: str) -> object:
    """Read a line of JSON."""
    return json.loads(line, parse_constant=_no_constant)


def literal_record(line: str) -> object:
    """Read a line that Python printed, ``{'asin': '0000031852', ...}``; JSON is understood as well."""
    try:
        return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError):
        return json_record(line)


class RecordLines:
    """The records of a file, plain or gzipped, each with its row, counted from 0.

    Parameters
    ----------
    path
        The file.
    parse
        Reads a line.
    refused
        Told of each line that is not UTF-8 or no record.
    skip
        Lines of which nothing is wanted; they are not parsed.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[str], object],
        refused: Refusals,
        skip: Callable[[str], bool] | None = None,
    ) -> None:
        self._path = path
        self._parse = parse
        self._refused = refused
        self._skip = skip
        self.rows_read = 0
        """Lines so far, skipped and refused ones among them."""

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Read the file.

        Raises
        ------
        InputError
            If it is missing or damaged.
        """
        try:
            with open_bytes(self._path) as stream, warnings.catch_warnings():
                # Odd backslashes in somebody's product description are no concern of the user's.
                warnings.simplefilter("ignore", SyntaxWarning)
                for row, line in enumerate(stream):
                    self.rows_read = row + 1
                    record = self._read(row, line)
                    if record is not None:
                        yield row, record
        except FileNotFoundError:
            raise InputError(
                f"{self._path}: there is no such file.", "Check the folder of the raw files."
            ) from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{self._path}: cannot be unpacked ({first_line(error)}).",
                "It is cut off or not what its name says; remove it and get it again.",
            ) from error

    def _read(self, row: int, line: bytes) -> Record | None:
        if not line.strip():
            return None
        reason = "cannot be read as a record"
        try:
            text = line.decode("utf-8")
            if self._skip is not None and self._skip(text):
                return None
            record = self._parse(text)
            if isinstance(record, dict):
                return record
            reason = f"a {type(record).__name__}, expected an object"
        except UnicodeDecodeError:
            reason = "not UTF-8"
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
        self._refuse(row, line, reason)
        return None

    def _refuse(self, row: int, line: bytes, reason: str) -> None:
        shown = line[:_SHOWN].decode("utf-8", "replace").rstrip()
        self._refused.add(Refusal(str(self._path), row, "line", reason, value=shown))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
