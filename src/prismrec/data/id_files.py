"""Lists of ids from files: one a line, or a column of a table."""

from pathlib import Path

from prismrec.base.errors import InputError
from prismrec.data import values
from prismrec.data.readers import open_table


def read_ids(path: Path, column: str) -> list[str]:
    """Read ids.

    Parameters
    ----------
    path
        A text file (``.txt``) with one id a line, or a table (see `open_table`).
    column
        The column of a table.

    Returns
    -------
    list
        In the order of the file; empty lines of a text file are left out.

    Raises
    ------
    InputError
        If the file cannot be read, holds no id, or a row has none.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        found = _lines(path)
    else:
        table = open_table(path)
        if column not in table.schema:
            raise InputError(f"{path}: there is no column {column!r}.", f"Columns are: {list(table.schema)}.")
        names, reasons = values.ids(table.read([column])[column], f"{path}: the column {column!r}")
        bad = reasons.is_not_null().arg_max()
        if bad is not None and reasons[bad] is not None:
            raise InputError(f"{path}, row {bad}: the id cannot be used ({reasons[bad]}).")
        found = names.to_list()
    if not found:
        raise InputError(f"{path}: there is no id in the file.")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file in UTF-8 ({error.reason}).") from None
    return [line for line in text.splitlines() if line.strip()]
