"""Pairs as research code keeps them: users and items as row numbers, already divided into three parts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.media import Media
from prismrec.data.report import Refusals
from prismrec.data.sources.ready_vectors import read_vectors
from prismrec.data.sources.source import PARTS, ReadyVectors, SourceData

CODES = pl.Schema(
    {"source": pl.String, "row": pl.Int64, "user": pl.Int64, "item": pl.Int64, "part": pl.String}
)
"""Columns of a frame of pairs: the file, the row in it (from 0), the codes, and the part (null: none)."""

Row = tuple[str, int, int, int, str]


def code_frame(rows: Iterable[Row]) -> pl.DataFrame:
    """Return pairs as a frame with the columns `CODES`."""
    return pl.DataFrame(list(rows), schema=CODES, orient="row")


def require_codes(pairs: pl.DataFrame, column: str, count: int | None, counted: str) -> int:
    """Check that codes lie within the number of users or items, and return that number.

    Parameters
    ----------
    pairs
        Columns of `CODES`.
    column
        ``"user"`` or ``"item"``.
    count
        How many there are; None: as many as the largest code says.
    counted
        Where `count` comes from, for messages.

    Raises
    ------
    InputError
        If a code is negative or too large; the message names file and row.
    """
    codes = pairs[column]
    if pairs.is_empty():
        raise InputError(f"There is no pair of a user and an item; {counted}.", "Check the files.")
    limit = int(codes.max()) + 1 if count is None else count  # type: ignore[arg-type]
    stray = pairs.filter((pl.col(column) < 0) | (pl.col(column) >= limit))
    if stray.height:
        raise InputError(
            f"{stray['source'][0]}, row {stray['row'][0]}: {column} {stray[column][0]} is out of range; "
            f"{stray.height:,} rows are.",
            f"Expected 0 to {limit - 1:,} ({counted}).",
        )
    return limit


def settle(pairs: pl.DataFrame, refused: Refusals) -> pl.DataFrame:
    """Keep each pair once, in the earliest of its parts; list what is left out.

    A pair that is trained on and tested would be learnt by heart; one that stands twice would count twice.

    Parameters
    ----------
    pairs
        ``source``, ``row``, ``user_id``, ``item_id``, ``part`` (null: no part) and any others.
    refused
        Told of each row that is left out.

    Returns
    -------
    pl.DataFrame
        The rows that stay, in their order.
    """
    pair = ("user_id", "item_id")
    rank = pl.col("part").replace_strict(PARTS, range(len(PARTS)), default=-1, return_dtype=pl.Int8)
    ranked = pairs.with_row_index("place").sort(rank, "place", maintain_order=True)
    ranked = ranked.with_columns(
        kept=pl.col("part").first().over(pair), again=pl.int_range(pl.len()).over(pair) > 0
    )
    left_out = ranked.filter("again").sort("place")
    same = pl.col("part").eq_missing(pl.col("kept"))
    refused.add_frame(
        left_out.select(
            "source",
            "row",
            "user_id",
            "item_id",
            field=pl.lit("pair"),
            reason=pl.when(same)
            .then(pl.lit("the pair stands twice"))
            .otherwise(pl.format("the pair stands in the part {} too", pl.col("kept"))),
            value=pl.col("part"),
        )
    )
    return ranked.filter(~pl.col("again")).sort("place").drop("place", "kept", "again")


def named(pairs: pl.DataFrame, users: Sequence[str], items: Sequence[str]) -> pl.DataFrame:
    """Put ids beside codes: adds ``user_id`` and ``item_id``."""
    return pairs.with_columns(
        user_id=pl.Series(users, dtype=pl.String)[pairs["user"]],
        item_id=pl.Series(items, dtype=pl.String)[pairs["item"]],
    )


def source_data(
    pairs: pl.DataFrame,
    items: pl.DataFrame,
    vectors: Mapping[str, Path],
    refused: Refusals,
    notes: Mapping[str, Any],
    text_columns: tuple[str, ...] = (),
    media: Mapping[str, Media] | None = None,
) -> SourceData:
    """Put together what was read.

    Parameters
    ----------
    pairs
        From `settle`, with ``rating`` and ``timestamp`` where there are any.
    items
        The catalogue, row n for code n.
    vectors
        Files by modality.
    refused
        Goes on with the rows of the vectors.
    notes
        For the manifest.
    text_columns, media
        Of the catalogue, where the source has any.
    """
    ids = items["item_id"].to_list()
    features: tuple[ReadyVectors, ...] = tuple(
        read_vectors(path, modality, ids, refused) for modality, path in vectors.items()
    )
    extra = [column for column in ("rating", "timestamp") if column in pairs.columns]
    log = Interactions(pairs.select("user_id", "item_id", *extra))
    parts = None if pairs["part"].null_count() else pairs.select("user_id", "item_id", "part")
    return SourceData(
        Dataset(log, Catalog(items, text_columns, media or {}), notes=notes), features, parts, refused
    )


def read_lists(path: Path, part: str) -> list[Row]:
    """Read a JSON object of item codes by user code, as LATTICE and MMSSL keep a part.

    Returns
    -------
    list of Row
        The row is the user's place in the object.

    Raises
    ------
    InputError
        If the file is missing, no such object, or a code is no whole number.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON ({error}).", "Copy the file again.") from None
    if not isinstance(lists, dict):
        raise InputError(f"{path}: holds a {type(lists).__name__}.", _LISTS)
    rows: list[Row] = []
    for row, (user, items) in enumerate(lists.items()):
        if not (user.isascii() and user.isdecimal() and is_code(int(user))) or not isinstance(items, list):
            raise InputError(f"{path}, row {row}: user {user!r} with {items!r:.60}.", _LISTS)
        for item in items:
            if not is_code(item):
                raise InputError(f"{path}, row {row}: item {item!r} of user {user!r} is no code.", _LISTS)
            rows.append((str(path), row, int(user), item, part))
    return rows


def lines_of(text: str) -> list[str]:
    """Return the lines of a text; unlike ``splitlines``, rare separators within a title end no line."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def is_code(value: object) -> bool:
    """Whether something is a whole number that can name a row."""
    # bool is a kind of int in Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


_LISTS = 'Expected lists of item codes by user code: {"0": [3, 17], "1": [4]}.'
