"""Recommendations as a file."""

import json
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path

FORMATS = (".parquet", ".csv", ".jsonl")


def require_format(path: Path) -> None:
    """Check that a file of this name can be written.

    Raises
    ------
    InputError
        If its extension is unknown.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"{path}: unknown kind of file.", f"Known: {', '.join(FORMATS)}.")


def write_lists(frame: pl.DataFrame, path: Path) -> None:
    """Write a table by the extension of its name, atomically.

    Parameters
    ----------
    frame
        As `Recommender.recommend` gives it. In CSV, lists and structures are written as JSON.
    path
        ``.parquet``, ``.csv`` or ``.jsonl``.

    Raises
    ------
    InputError
        If the extension is unknown.
    StorageError
        If the disk refuses.
    """
    require_format(path)
    with atomic_path(Path(path)) as temporary:
        match Path(path).suffix.lower():
            case ".parquet":
                # How the rows came together must not show in the file.
                frame.rechunk().write_parquet(temporary)
            case ".jsonl":
                frame.write_ndjson(temporary)
            case _:
                _flat(frame).write_csv(temporary)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    nested = [column for column in frame.iter_columns() if column.dtype.is_nested()]
    as_json = [
        pl.Series(c.name, [None if v is None else json.dumps(v, ensure_ascii=False) for v in c.to_list()])
        for c in nested
    ]
    return frame.with_columns(as_json)
