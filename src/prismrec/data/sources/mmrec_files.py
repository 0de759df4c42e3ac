"""Folders as MMRec keeps them, and LATTICE's: a log already divided, and one array of vectors a modality.

MMRec (github.com/enoche/MMRec; BM3, FREEDOM, MGCN and others use the same files): ``<name>.inter`` is a table
separated by tabs with the columns ``userID``, ``itemID``, ``rating``, ``timestamp`` and ``x_label`` (0 train,
1 valid, 2 test); ``image_feat.npy`` (4,096 numbers an item for the Amazon data), ``text_feat.npy`` (384) and
any other ``<modality>_feat.npy`` have row n for item n; ``i_id_mapping.csv`` (``asin``, ``itemID``) and
``u_id_mapping.csv`` (``user_id``, ``userID``), also separated by tabs, give the ids of the original data.

LATTICE (github.com/CRIPAC-DIG/LATTICE; MICRO and MMSSL follow it): ``5-core/train.json``, ``val.json`` and
``test.json`` map a user's code to the codes of items; ``0-core/`` has the same data divided by items, 20 % of
them cold; ``item_list.txt`` and ``user_list.txt`` (id, tab, code) give the ids; the vectors lie above.

Both fill in the mean vector where Amazon has no picture, and nothing in the files tells which rows those are.
MMRec leaves out held-out pairs of users without training pairs when it evaluates; nothing is left out here.
"""

from functools import partial
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources.ready_pairs import (
    code_frame,
    named,
    read_lists,
    require_codes,
    settle,
    source_data,
)
from prismrec.data.sources.ready_vectors import count_items, vector_files
from prismrec.data.sources.source import PARTS, Source, SourceData

_ROLES = ("userID", "itemID")
_FORM = "Expected columns separated by tabs: userID, itemID, rating, timestamp, x_label."


def read_mmrec(folder: Path) -> SourceData:
    """Read a folder of MMRec's.

    Parameters
    ----------
    folder
        Holds one ``*.inter`` file, and the arrays beside it.

    Returns
    -------
    SourceData
        Ids are those of the mapping files where there are any, else the codes. Without ``x_label`` there are
        no parts.

    Raises
    ------
    InputError
        If there is no or more than one log, a cell is no number, a code has no row in the vectors or no id,
        or the files differ in the number of items.
    """
    folder = Path(folder)
    logs = sorted(folder.glob("*.inter"))
    if len(logs) != 1:
        raise InputError(
            f"{folder}: has {len(logs)} files *.inter.", "Expected one, e.g. baby.inter, and its vectors."
        )
    table, refused, vectors = _read_inter(logs[0]), Refusals(), vector_files(folder)
    users = _read_mapping(folder / "u_id_mapping.csv", "user_id", "userID")
    items = _read_mapping(folder / "i_id_mapping.csv", "asin", "itemID")
    n_users, n_items = _counts(table, vectors, users, items)
    user_ids = users or [str(code) for code in range(n_users)]
    item_ids = items or [str(code) for code in range(n_items)]
    pairs = settle(named(table, user_ids, item_ids), refused)
    notes = {"source": "mmrec-files", "log": logs[0].name}
    return source_data(pairs, pl.DataFrame({"item_id": item_ids}), vectors, refused, notes)


def read_lattice(folder: Path, core: str) -> SourceData:
    """Read a folder of LATTICE's.

    Parameters
    ----------
    folder
        Holds the vectors and the folder `core`.
    core
        ``"5-core"``: pairs held out of warm items; ``"0-core"``: items held out.

    Raises
    ------
    InputError
        As `read_mmrec`.
    """
    folder = Path(folder)
    lists, refused, vectors = folder / core, Refusals(), vector_files(folder)
    rows = [
        row
        for part, name in zip(PARTS, ("train", "val", "test"), strict=True)
        for row in read_lists(lists / f"{name}.json", part)
    ]
    table = code_frame(rows)
    # LATTICE writes the names into the folder of the first division only; the codes are the same in both.
    users = _read_list(_first(lists / "user_list.txt", folder / "5-core" / "user_list.txt"))
    items = _read_list(_first(lists / "item_list.txt", folder / "5-core" / "item_list.txt"))
    n_users, n_items = _counts(table, vectors, users, items)
    user_ids = users or [str(code) for code in range(n_users)]
    item_ids = items or [str(code) for code in range(n_items)]
    pairs = settle(named(table, user_ids, item_ids), refused)
    notes = {"source": "lattice-files", "division": core}
    return source_data(pairs, pl.DataFrame({"item_id": item_ids}), vectors, refused, notes)


def _counts(
    table: pl.DataFrame, vectors: dict[str, Path], users: list[str] | None, items: list[str] | None
) -> tuple[int, int]:
    """Return how many users and items there are, where the files agree on it."""
    rows = count_items(vectors)
    if rows is not None and items is not None and rows != len(items):
        first = next(iter(vectors.values()))
        raise InputError(
            f"{first}: has {rows:,} rows, and there are {len(items):,} item ids.",
            "Row n belongs to item n; one of the files is of other data.",
        )
    counted = "rows of the vectors" if rows is not None else "ids of the mapping"
    known = rows if rows is not None else None if items is None else len(items)
    n_users = require_codes(table, "user", None if users is None else len(users), "ids of the mapping")
    return n_users, require_codes(table, "item", known, counted)


def _read_inter(path: Path) -> pl.DataFrame:
    cells = _read_table(path)
    missing = [column for column in _ROLES if column not in cells.columns]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}, but {cells.columns}.", _FORM)
    columns = [
        pl.lit(str(path)).alias("source"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
        _numbers(cells, path, "userID", pl.Int64).alias("user"),
        _numbers(cells, path, "itemID", pl.Int64).alias("item"),
    ]
    if "x_label" in cells.columns:
        labels = _numbers(cells, path, "x_label", pl.Int64)
        odd = ~labels.is_between(0, len(PARTS) - 1)
        if odd.any():
            row = int(odd.arg_max() or 0)
            raise InputError(
                f"{path}, row {row}: x_label is {labels[row]}.", "Expected 0 (train), 1 (valid) or 2 (test)."
            )
        parts = labels.replace_strict(range(len(PARTS)), PARTS, return_dtype=pl.String)
        columns.append(pl.lit(parts).alias("part"))
    else:
        columns.append(pl.lit(None, pl.String).alias("part"))
    for name in ("rating", "timestamp"):
        if name in cells.columns:
            columns.append(pl.lit(_numbers(cells, path, name, pl.Float64)).alias(name))
    return cells.select(columns)


def _numbers(cells: pl.DataFrame, path: Path, column: str, dtype: type[pl.DataType]) -> pl.Series:
    values = cells[column].str.strip_chars().cast(dtype, strict=False)
    odd = values.is_null() | ~values.cast(pl.Float64).is_finite()
    if odd.any():
        row = int(odd.arg_max() or 0)
        kind = "whole number" if dtype == pl.Int64 else "finite number"
        raise InputError(f"{path}, row {row}: {column} is {cells[column][row]!r}, no {kind}.", _FORM)
    return values


def _read_table(path: Path) -> pl.DataFrame:
    """Read a table separated by tabs, with a header, all cells as strings."""
    try:
        return pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as a table separated by tabs ({error}).", "Copy the file again."
        ) from None


def _read_mapping(path: Path, name: str, code: str) -> list[str] | None:
    """Read the ids of codes 0, 1, 2 ...; None if there is no such file."""
    if not path.exists():
        return None
    cells = _read_table(path)
    if not {name, code} <= set(cells.columns):
        raise InputError(
            f"{path}: has the columns {cells.columns}.", f"Expected {name} and {code}, separated by a tab."
        )
    return _ids_by_code(path, cells[name].fill_null("").to_list(), _numbers(cells, path, code, pl.Int64))


def _read_list(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    names: list[str] = []
    codes: list[int | None] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, code = line.rpartition("\t")
        names.append(name)
        codes.append(int(code) if code.isascii() and code.isdecimal() else None)
    series = pl.Series(codes, dtype=pl.Int64)
    if series.null_count():
        row = int(series.is_null().arg_max() or 0)
        raise InputError(f"{path}, row {row}: names no code.", "Expected an id, a tab, and its code.")
    return _ids_by_code(path, names, series)


def _ids_by_code(path: Path, names: list[str], codes: pl.Series) -> list[str]:
    by_code: list[str | None] = [None] * len(names)
    seen: dict[str, int] = {}
    for row, (name, code) in enumerate(zip(names, codes.to_list(), strict=True)):
        if not 0 <= code < len(names) or by_code[code] is not None:
            raise InputError(
                f"{path}, row {row}: code {code} is out of range or stands twice.",
                f"Expected each of 0 to {len(names) - 1:,} once.",
            )
        if name == "" or name in seen:
            there = f"stands in row {seen[name]} too" if name else "is empty"
            raise InputError(f"{path}, row {row}: the id {name!r} {there}.", "Ids are unique.")
        by_code[code], seen[name] = name, row
    return [name for name in by_code if name is not None]


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[0])


_OFFERED = (
    "The owners offer the Amazon data in a shared folder (Google Drive) that the README of their repository "
    "names; put one data set's files into a folder"
)

sources: tuple[Source, ...] = (
    Source(
        name="mmrec-files",
        about="A folder as MMRec, FREEDOM and BM3 use it (Baby, Sports, Clothing, Electronics, MicroLens): "
        f"<name>.inter and <modality>_feat.npy. {_OFFERED}.",
        licence="Not stated with the files; Amazon reviews 2014 are for research use.",
        citation="X. Zhou, MMRec: Simplifying Multimodal Recommendation, MM Asia Workshops 2023; "
        "J. McAuley, C. Targett, Q. Shi, A. van den Hengel, Image-based Recommendations on Styles and "
        "Substitutes, SIGIR 2015",
        files=(),
        read=read_mmrec,
    ),
    *(
        Source(
            name=name,
            about=f"A folder as LATTICE and MICRO use it, {division}: {core}/train.json, val.json, test.json "
            f"and <modality>_feat.npy above. {_OFFERED}.",
            licence="Not stated with the files; Amazon reviews 2014 are for research use.",
            citation="J. Zhang, Y. Zhu, Q. Liu, S. Wu, S. Wang, L. Wang, Mining Latent Structures for "
            "Multimedia Recommendation, ACM Multimedia 2021",
            files=(),
            read=partial(read_lattice, core=core),
        )
        for name, core, division in (
            ("lattice-files", "5-core", "pairs held out"),
            ("lattice-files/cold", "0-core", "items held out"),
        )
    ),
)
