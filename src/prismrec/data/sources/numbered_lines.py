"""Lines that begin with an item's number and a comma: how several publishers keep titles, mostly unquoted."""

from collections.abc import Iterator
from pathlib import Path

from prismrec.base.errors import InputError
from prismrec.data.sources.ready_pairs import lines_of


def numbered_lines(path: Path, what: str, expected: str) -> Iterator[tuple[int, str, str]]:
    """Read a number and a text a line; the text may hold commas.

    A first line without a number is a header. Empty lines are passed over.

    Parameters
    ----------
    path
        The file, UTF-8.
    what
        What a number stands for, for messages: ``"video"``.
    expected
        The form of a line, for messages.

    Yields
    ------
    tuple of int, str, str
        The row in the file from 0, the number as it is written, and what follows the first comma.

    Raises
    ------
    InputError
        If the file is missing or no UTF-8 text, a line has no number, or a number stands twice.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text ({error}).", expected) from None
    rows: dict[str, int] = {}
    for row, line in enumerate(lines):
        number, comma, text = line.partition(",")
        number = number.strip().strip('"')
        is_number = number.isascii() and number.isdecimal()
        if not line.strip() or (row == 0 and comma and not is_number):
            continue
        if not is_number or not comma:
            raise InputError(f"{path}, row {row}: {line[:60]!r} names no {what}.", expected)
        if number in rows:
            raise InputError(
                f"{path}, row {row}: {what} {number} stands in row {rows[number]} too.", expected
            )
        rows[number] = row
        yield row, number, text


def unquoted(text: str) -> str:
    """Take a field out of its quotation marks, if it stands in any; marks within a title stay."""
    text = text.strip()
    inner = text[1:-1]
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or '"' in inner.replace('""', ""):
        return text
    return inner.replace('""', '"').strip()
