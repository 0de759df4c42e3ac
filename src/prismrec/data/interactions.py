"""The interaction log: who did something with what, how much, and when."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError

REQUIRED = ("user_id", "item_id")
VALUE_COLUMNS = ("rating", "weight")
ORDER_COLUMNS = ("timestamp", "position")


@dataclass(frozen=True)
class Interactions:
    """A log of interactions.

    Parameters
    ----------
    frame
        One row per interaction. Columns: ``user_id`` and ``item_id`` (String, never null or empty), and where
        the source has them ``rating`` (Float64), ``weight`` (Float64), ``timestamp`` (Float64, seconds since
        1970 or the source's own clock) and ``position`` (Float64, order within a user).

    Raises
    ------
    InputError
        If a required column is missing, is of another type, or holds a null.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        for column in REQUIRED:
            if column not in self.frame.columns:
                raise InputError(
                    f"Interactions have no column {column!r}.", f"Columns are: {self.frame.columns}."
                )
            if self.frame.schema[column] != pl.String:
                raise InputError(
                    f"Column {column!r} of the interactions is {self.frame.schema[column]}, expected String."
                )
            if self.frame[column].null_count():
                raise InputError(f"Column {column!r} of the interactions holds nulls.")

    def __len__(self) -> int:
        return self.frame.height

    @property
    def order_column(self) -> str | None:
        """What puts a user's interactions in order: ``timestamp``, else ``position``, else None."""
        return next((c for c in ORDER_COLUMNS if c in self.frame.columns), None)

    def at_least(self, rating: float | None) -> "Interactions":
        """Return those with a rating of at least `rating`; None returns all.

        Raises
        ------
        InputError
            If a threshold is given and there is no rating.
        """
        if rating is None:
            return self
        if "rating" not in self.frame.columns:
            raise InputError(
                f"Interactions count as positive from rating {rating}, but they have no column 'rating'."
            )
        return Interactions(self.frame.filter(pl.col("rating") >= rating))


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
