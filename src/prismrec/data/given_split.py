"""The file of a split that comes with the data: which pair is in which part."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Pairs

PARTS_FILE = "parts.parquet"
"""Where the parts lie in a data set's folder."""

PART_NAMES = ("train", "valid", "test")
"""Names of the parts; the place of a name is the part's code."""

_COLUMNS = ("user_id", "item_id", "part")


def write_parts(folder: Path, parts: pl.DataFrame) -> Path:
    """Check parts and write them beside a data set, as `GivenSplit` reads them.

    Parameters
    ----------
    folder
        Folder of the data set.
    parts
        Columns ``user_id``, ``item_id`` and ``part`` (all String); ``part`` is "train", "valid" or "test".

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If a column is missing or not String, a cell is empty or no part, or a pair stands in two parts.
    StorageError
        If the disk refuses.
    """
    path = folder / PARTS_FILE
    checked = check_parts(parts, "the parts")
    with atomic_path(path) as temporary:
        checked.write_parquet(temporary)
    return path


def check_parts(parts: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the three columns of a table of parts, each pair once.

    Parameters
    ----------
    parts
        As for `write_parts`. A pair that stands twice in one part counts once.
    where
        File, for messages.

    Raises
    ------
    InputError
        As for `write_parts`.
    """
    for column in _COLUMNS:
        if parts.schema.get(column) != pl.String:
            found = parts.schema.get(column, "missing")
            raise InputError(
                f"{where}: the column {column!r} is {found}.",
                "Expected columns 'user_id', 'item_id' and 'part' of strings.",
            )
    rows = parts.select(_COLUMNS).with_row_index("row")
    for column in _COLUMNS:
        empty = rows.filter(pl.col(column).is_null() | (pl.col(column) == ""))
        if empty.height:
            raise InputError(f"{where}, row {empty['row'][0]}: {column!r} is empty.")
    odd = rows.filter(~pl.col("part").is_in(PART_NAMES))
    if odd.height:
        raise InputError(
            f"{where}, row {odd['row'][0]}: there is no part {odd['part'][0]!r}.",
            f"Parts are: {', '.join(PART_NAMES)}.",
        )
    torn = rows.filter(pl.col("part").n_unique().over("user_id", "item_id") > 1)
    if torn.height:
        user, item = torn["user_id"][0], torn["item_id"][0]
        twice = torn.filter((pl.col("user_id") == user) & (pl.col("item_id") == item))
        places = ", ".join(f"{part} (row {row})" for row, part in twice.select("row", "part").iter_rows())
        raise InputError(
            f"{where}: user {user!r} and item {item!r} stand in two parts: {places}; "
            f"{torn.select('user_id', 'item_id').n_unique():,} pairs do.",
            "A pair belongs to one part: what is tested must not be trained on.",
        )
    return rows.unique(("user_id", "item_id"), keep="first", maintain_order=True).drop("row")


def read_parts(path: Path) -> pl.DataFrame:
    """Read a file of parts.

    Raises
    ------
    InputError
        If it is missing or no Parquet file, and as for `write_parts`.
    """
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: the data set has no such file.",
            "A split comes with the data of some sources only; choose another split, or write the file.",
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a Parquet file ({error}).", "Write it again.") from None
    return check_parts(frame, str(path))


def parts_of_pairs(
    path: Path, dataset: Dataset, pairs: Pairs, *, unlisted: int | None
) -> npt.NDArray[np.int8]:
    """Return the part of each positive pair, as a file says it.

    Parameters
    ----------
    path
        The file of the parts.
    dataset, pairs
        The data set and its positive pairs.
    unlisted
        Part of the pairs that the file does not list; None: such pairs are an error.

    Returns
    -------
    npt.NDArray[np.int8]
        Places in `PART_NAMES`, shape ``(len(pairs),)``.

    Raises
    ------
    InputError
        As for `read_parts`; if the file lists a pair that the log lacks, or does not list a positive one.
    """
    listed = read_parts(path)
    log = dataset.interactions.lazy.select("user_id", "item_id")
    pair = ["user_id", "item_id"]
    foreign = _collected(listed.lazy().with_row_index("row").join(log, on=pair, how="anti"))
    if foreign.height:
        raise InputError(
            f"{path}: {foreign.height:,} listed pairs are not among the interactions, the first is row "
            f"{foreign['row'][0]}: {_pair(foreign)}.",
            "The file belongs to other data, or the ids were changed.",
        )
    positives = pl.DataFrame(
        {
            "place": np.arange(len(pairs)),
            "user_id": _names(dataset.users.ids, pairs.users),
            "item_id": _names(dataset.items.ids, pairs.items),
        }
    )
    named = positives.join(listed, on=["user_id", "item_id"], how="left").sort("place")
    without = named.filter(pl.col("part").is_null())
    if without.height and unlisted is None:
        first = _collected(log.with_row_index("row").join(without.lazy(), on=pair, how="semi"))
        raise InputError(
            f"{path}: {without.height:,} positive pairs are not listed, the first is row {first['row'][0]} "
            f"of the interactions: {_pair(first)}.",
            "List them, or put them into training with unlisted = 'train'.",
        )
    code = dict(zip(PART_NAMES, range(len(PART_NAMES)), strict=True))
    parts = named["part"].replace_strict(code, default=unlisted, return_dtype=pl.Int8)
    return parts.to_numpy().astype(np.int8)


def _collected(rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.collect(engine="streaming").sort("row")


def _names(ids: Sequence[str], codes: npt.NDArray[np.int32]) -> pl.Series:
    return pl.Series(ids, dtype=pl.String)[codes]


def _pair(frame: pl.DataFrame) -> str:
    return f"user {frame['user_id'][0]!r}, item {frame['item_id'][0]!r}"
