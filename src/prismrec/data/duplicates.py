"""Rows of a log that repeat an earlier one, found without having the log in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

ROWS = 4_000_000
"""Rows that may be in memory at a time where rows that look alike are compared."""


def repeated(log: pl.LazyFrame, key: Sequence[str], *, rows: int = ROWS) -> Iterator[pl.DataFrame]:
    """Yield the rows that repeat an earlier row's key, in pieces.

    In memory are a hash of 8 bytes for each row of the log, and the rows of which another has the same hash,
    so many at a time: equal keys are always compared in one piece.

    Parameters
    ----------
    log
        The log; ``row`` numbers its rows.
    key
        Columns that tell one row from another.
    rows
        Rows that are compared in a piece; more, if so many have one key.

    Yields
    ------
    pl.DataFrame
        The rows without the first of each key, ordered by ``row``, and in ``differs`` whether any of the
        other columns differs from that first row's.
    """
    hashes = log.select(pl.struct(key).hash()).collect(engine="streaming").to_series().to_numpy()
    for alike in _pieces(hashes, rows):
        some = log.filter(pl.struct(key).hash().is_in(alike.implode())).collect(engine="streaming")
        yield from _compared(some.sort("row"), key)


def _pieces(hashes: npt.NDArray[np.uint64], rows: int) -> Iterator[pl.Series]:
    """Yield hashes that stand more than once, so many that about `rows` rows have them."""
    ordered = np.sort(hashes)
    alike = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    counts = np.searchsorted(ordered, alike, side="right") - np.searchsorted(ordered, alike, side="left")
    before = np.cumsum(counts) - counts
    piece = before // rows
    for number in np.unique(piece):
        yield pl.Series(alike[piece == number], dtype=pl.UInt64)


def _compared(some: pl.DataFrame, key: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows that are not the first of their key: hashes alike do not make equal keys."""
    first = some.unique(key, keep="first", maintain_order=True)
    if first.height == some.height:
        return
    spare = some.join(first.select("row"), on="row", how="anti", maintain_order="left")
    rest = [column for column in some.columns if column not in (*key, "row")]
    kept = spare.select(key).join(first, on=key, how="left", maintain_order="left")
    differs = pl.any_horizontal(pl.lit(False), *(spare[column] != kept[column] for column in rest))
    yield spare.with_columns(differs=differs)
