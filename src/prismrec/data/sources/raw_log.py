"""From the cells of a publisher's log to interactions: what cannot be used is listed with its row."""

from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data import values
from prismrec.data.report import Refusals

RAW = pl.Schema(
    {
        "row": pl.Int64,
        "user_id": pl.String,
        "item_id": pl.String,
        "rating": pl.String,
        "timestamp": pl.String,
    }
)
"""Columns of a raw log: the row in the file (from 0, a header not counted), and cells as they stand there."""

_PARSERS = {
    "user_id": values.ids,
    "item_id": values.ids,
    "rating": values.numbers,
    "timestamp": values.numbers,
}


def parse_cells(raw: pl.DataFrame, path: Path, refused: Refusals) -> pl.DataFrame:
    """Turn cells into ids and numbers.

    Parameters
    ----------
    raw
        With the columns `RAW`.
    path
        The file, for the list of refusals.
    refused
        Told of each row that lacks a value or has one that cannot be read, with the first reason.

    Returns
    -------
    pl.DataFrame
        The other rows: ``row``, ids as String, ``rating`` and ``timestamp`` as Float64.
    """
    found = [(name, *parse(raw[name], f"{path}: the column {name!r}")) for name, parse in _PARSERS.items()]
    verdicts = pl.DataFrame([why.alias(name) for name, _, why in found])
    wrong = {name: pl.col(name).is_not_null() for name in _PARSERS}
    reasons = verdicts.select(
        bad=pl.any_horizontal(wrong.values()),
        field=pl.coalesce(*(pl.when(bad).then(pl.lit(name)) for name, bad in wrong.items())),
        reason=pl.coalesce(*_PARSERS),
    )
    frame = pl.DataFrame([raw["row"], *(cells.alias(name) for name, cells, _ in found)])
    if reasons["bad"].any():
        cells = pl.concat([raw, reasons], how="horizontal").filter("bad")
        value = pl.coalesce(*(pl.when(pl.col("field") == name).then(pl.col(name)) for name in _PARSERS))
        refused.add_frame(cells.with_columns(source=pl.lit(str(path)), value=value))
    return frame.filter(~reasons["bad"])


def settle_log(frames: list[pl.DataFrame], path: Path, rows_read: int, refused: Refusals) -> pl.DataFrame:
    """Put parsed rows together, each user, item and time once: the first row of them.

    Parameters
    ----------
    frames
        From `parse_cells`.
    path
        The file.
    rows_read
        Its rows.
    refused
        Told of the repeated ones.

    Returns
    -------
    pl.DataFrame
        Rows in the order of the file, without their numbers: what `Interactions` takes.

    Raises
    ------
    InputError
        If nothing is left.
    """
    kept = [frame for frame in frames if frame.height]
    if not kept:
        why = "; ".join(f"{count:,} x {reason}" for reason, count in refused.counts().items())
        raise InputError(
            f"{path}: none of its {rows_read:,} rows can be used{f' ({why})' if why else ''}.",
            "Check that it is the file of this source and edition.",
        )
    frame = pl.concat(kept)
    first = frame.select(pl.struct("user_id", "item_id", "timestamp").is_first_distinct()).to_series()
    if not first.all():
        key = ["user_id", "item_id", "timestamp"]
        of_first = frame.filter(first).select(*key, first_rating="rating")
        again = frame.filter(~first).join(of_first, on=key, how="left", maintain_order="left")
        reason = pl.when(pl.col("rating") == pl.col("first_rating")).then(pl.lit("duplicate"))
        refused.add_frame(
            again.select(
                "row",
                "user_id",
                "item_id",
                source=pl.lit(str(path)),
                field=pl.lit("item_id"),
                reason=reason.otherwise(pl.lit("duplicate, with other values")),
            )
        )
        frame = frame.filter(first)
    return frame.drop("row")
