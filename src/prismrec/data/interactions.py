"""The interaction log: who did something with what, how much, and when."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
from scipy.sparse import coo_array

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path
from prismrec.data.vocabulary import Vocabulary

REQUIRED = ("user_id", "item_id")
VALUE_COLUMNS = ("rating", "weight")
ORDER_COLUMNS = ("timestamp", "position")

BATCH = 500_000
"""Rows of a log that are in memory at a time where it is read piece by piece."""


class Interactions:
    """A log of interactions, in memory or on the disk.

    A log on the disk may be larger than memory: what is asked of it is answered by Polars' streaming engine,
    and only `frame` reads all of it.

    Parameters
    ----------
    frame
        One row per interaction; a lazy frame stands for a log on the disk. Columns: ``user_id`` and
        ``item_id`` (String, never null or empty), and where the source has them ``rating`` (Float64),
        ``weight`` (Float64), ``timestamp`` (Float64, seconds since 1970 or the source's own clock) and
        ``position`` (Float64, order within a user).

    Raises
    ------
    InputError
        If a required column is missing, is of another type, or holds a null.
    """

    def __init__(self, frame: pl.DataFrame | pl.LazyFrame) -> None:
        self.lazy = frame.lazy()
        self._held = frame if isinstance(frame, pl.DataFrame) else None
        self.schema = frame.collect_schema()
        for column in REQUIRED:
            if column not in self.schema:
                raise InputError(f"Interactions have no column {column!r}.", f"Columns are: {self.columns}.")
            if self.schema[column] != pl.String:
                raise InputError(
                    f"Column {column!r} of the interactions is {self.schema[column]}, expected String."
                )
        for column, nulls in zip(REQUIRED, self.one(pl.col(REQUIRED).null_count()), strict=True):
            if nulls:
                raise InputError(f"Column {column!r} of the interactions holds nulls.")

    @staticmethod
    def read(path: Path) -> "Interactions":
        """Open a Parquet file of a log, which stays on the disk."""
        return Interactions(pl.scan_parquet(path))

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.schema.names()

    @property
    def frame(self) -> pl.DataFrame:
        """All rows; for a log on the disk, this reads it into memory each time."""
        return self.lazy.collect() if self._held is None else self._held

    @cached_property
    def _length(self) -> int:
        return int(self.one(pl.len())[0])

    def __repr__(self) -> str:
        where = "on the disk" if self._held is None else "in memory"
        return f"Interactions({len(self):,} rows {where}: {', '.join(self.columns)})"

    def __len__(self) -> int:
        return self._length

    @property
    def order_column(self) -> str | None:
        """What puts a user's interactions in order: ``timestamp``, else ``position``, else None."""
        return next((c for c in ORDER_COLUMNS if c in self.columns), None)

    def at_least(self, rating: float | None) -> "Interactions":
        """Return those with a rating of at least `rating`; None returns all.

        Raises
        ------
        InputError
            If a threshold is given and there is no rating.
        """
        if rating is None:
            return self
        if "rating" not in self.columns:
            raise InputError(
                f"Interactions count as positive from rating {rating}, but they have no column 'rating'."
            )
        return self.where(pl.col("rating") >= rating)

    def where(self, condition: pl.Expr) -> "Interactions":
        """Return those for which a condition holds; of a log on the disk, the condition is kept with it."""
        return Interactions((self.lazy if self._held is None else self._held).filter(condition))

    @cached_property
    def users(self) -> pl.Series:
        """Ids of the users that occur, ascending."""
        return self._unique("user_id")

    @cached_property
    def items(self) -> pl.Series:
        """Ids of the items that occur, ascending."""
        return self._unique("item_id")

    def _unique(self, column: str) -> pl.Series:
        return self.lazy.select(pl.col(column).unique()).collect(engine="streaming").to_series().sort()

    def counts(self, value: pl.Expr) -> pl.DataFrame:
        """Return how many rows have each value (column ``len``), ascending by the value."""
        found = self.lazy.group_by(value).len().collect(engine="streaming")
        return found.sort(found.columns[0])

    def highest(self, column: str) -> float:
        """Return the highest value of a column of numbers."""
        return float(self.one(pl.col(column).max())[0])

    def batches(self, rows: int | None = None) -> Iterator[pl.DataFrame]:
        """Yield all rows in their order, so many at a time (None: `BATCH`)."""
        rows = rows or BATCH
        if self._held is not None:
            yield from self._held.iter_slices(rows)
        else:
            yield from self.lazy.collect_batches(chunk_size=rows, maintain_order=True)

    def coded(self, users: Vocabulary, items: Vocabulary) -> pl.DataFrame:
        """Return them as codes: 8 bytes a row, 16 with an order.

        Parameters
        ----------
        users, items
            The ids, all that occur among them.

        Returns
        -------
        pl.DataFrame
            ``user``, ``item`` (Int32) and, where there is an order, ``order`` (Float64), in no certain order
            of rows.

        Raises
        ------
        InputError
            If an id is not in its vocabulary.
        """
        order = [] if self.order_column is None else [pl.col(self.order_column).alias("order")]
        rows = (
            self.lazy.select("user_id", "item_id", *order)
            .join(_codes("user", users), on="user_id", how="left")
            .join(_codes("item", items), on="item_id", how="left")
            .select("user", "item", *(["order"] if order else []))
            .collect(engine="streaming")
        )
        for kind in ("user", "item"):
            if rows[kind].null_count():
                raise InputError(f"{rows[kind].null_count():,} interactions name a {kind} that is not known.")
        return rows

    def write(self, path: Path) -> None:
        """Write them to a Parquet file, piece by piece and atomically; the same rows give the same bytes."""
        arrow = self.schema.to_frame().to_arrow().schema
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, arrow, compression="zstd") as writer:
            for batch in self.batches():
                # In one chunk: where one ends shows in the file.
                writer.write_table(batch.rechunk().to_arrow().cast(arrow))

    def one(self, *asked: pl.Expr) -> tuple[Any, ...]:
        """Return the only row of what is asked of all rows, such as a mean."""
        return self.lazy.select(*asked).collect(engine="streaming").row(0)


def _codes(kind: str, ids: Vocabulary) -> pl.LazyFrame:
    named = pl.Series(f"{kind}_id", ids.ids, dtype=pl.String)
    return pl.LazyFrame({f"{kind}_id": named, kind: np.arange(len(ids), dtype=np.int32)})


@dataclass(frozen=True)
class Pairs:
    """User-item pairs as codes, each pair once.

    Parameters
    ----------
    users, items
        Codes, int32, shape ``(n,)``.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, mask: npt.NDArray[np.bool_]) -> "Pairs":
        """Return the pairs where `mask` is true."""
        return Pairs(self.users[mask], self.items[mask])

    def by_user(self, n_users: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return the pairs as sparse rows.

        Parameters
        ----------
        n_users
            Number of rows.

        Returns
        -------
        starts
            Shape ``(n_users + 1,)``: the items of user ``u`` are ``items[starts[u]:starts[u + 1]]``.
        items
            Item codes, ascending within each user.
        """
        order = np.lexsort((self.items, self.users))
        starts = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.users, minlength=n_users), out=starts[1:])
        return starts, self.items[order]


def first_of_pairs(
    rows: pl.DataFrame, n_users: int, n_items: int
) -> tuple[Pairs, npt.NDArray[np.float64] | None]:
    """Return each pair once, and when it happened first.

    Besides the rows this takes 12 bytes for each of them: sorting would take three times that.

    Parameters
    ----------
    rows
        As `Interactions.coded` gives them.
    n_users, n_items
        How many codes there are.

    Returns
    -------
    pairs
        Sorted by user, then item.
    order
        The least order of each pair's rows, shape ``(len(pairs),)``; None where the rows have none.
    """
    timed = "order" in rows.columns
    values = rows["order"].to_numpy() if timed else np.zeros(len(rows), dtype=np.int8)
    grid = coo_array((values, (rows["user"].to_numpy(), rows["item"].to_numpy())), shape=(n_users, n_items))
    # Values of a cell that occurs twice are not to be added up.
    grid.has_canonical_format = True
    by_user = grid.tocsr()
    by_user.sort_indices()
    items = by_user.indices.astype(np.int32, copy=False)
    users = np.repeat(np.arange(n_users, dtype=np.int32), np.diff(by_user.indptr))
    first = np.ones(len(items), dtype=np.bool_)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    order = by_user.data if timed else None
    if first.all():
        return Pairs(users, items), order
    if order is not None:
        # What has no time counts only where nothing of the pair has one.
        order = np.fmin.reduceat(order, np.flatnonzero(first))
    return Pairs(users[first], items[first]), order
