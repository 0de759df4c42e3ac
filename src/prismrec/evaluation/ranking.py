"""Exact ranking of all candidates, and the best of them, for every user.

Ranks are counted, not sorted: a positive's rank is one more than the number of candidates above it. An item
is above another if its score is higher, or equal and its id comes first. Scores are defined without regard to
how they are computed (`prismrec.base.exact`), so that every machine gives one answer. A users x items matrix
is never made.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix, best, count_above
from prismrec.base.progress import SILENT, Progress

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Sparse rows: for each user, items as positions among the candidates.

    Parameters
    ----------
    starts
        Shape ``(users + 1,)``.
    items
        Positions among the candidates, ascending within a user.
    """

    starts: Starts
    items: Codes

    @staticmethod
    def of(users: npt.NDArray[np.integer[Any]], items: npt.NDArray[np.integer[Any]], n_users: int) -> "Rows":
        """Put pairs into rows; pairs with an item below 0 (not a candidate) are left out."""
        kept = items >= 0
        users, items = users[kept], items[kept]
        order = np.lexsort((items, users))
        starts = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=starts[1:])
        return Rows(starts, items[order].astype(np.int32))

    def take(self, users: npt.NDArray[np.integer[Any]]) -> "Rows":
        """Return the rows of some users, in their order."""
        sizes = self.sizes[users]
        starts = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        place = np.arange(starts[-1]) + np.repeat(self.starts[users] - starts[:-1], sizes)
        return Rows(starts, self.items[place])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of items of each user."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Ranks:
    """Ranks of each user's positives among the candidates.

    Parameters
    ----------
    starts
        Shape ``(users + 1,)``: the ranks of user ``u`` are ``ranks[starts[u]:starts[u + 1]]``.
    ranks
        1 is the top; ascending within each user.
    positives
        Number of each user's positives among the candidates, masked ones included; shape ``(users,)``.
    items
        The candidate's position of each rank, shape ``(len(ranks),)``.
    """

    starts: Starts
    ranks: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    items: Codes


def tie_order(ids: list[str]) -> Codes:
    """Return the place of each id in ascending order of ids: equal scores are ranked by it."""
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    places = np.empty(len(ids), dtype=np.int32)
    places[order] = np.arange(len(ids), dtype=np.int32)
    return places


def rank_positives(
    users: Floats,
    items: ItemMatrix,
    positives: Rows,
    masked: Rows | None = None,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Ranks:
    """Rank each user's positives among all candidates.

    Parameters
    ----------
    users
        User vectors, shape ``(u, d)``.
    items
        The candidates: their vectors, and as ties the `tie_order` of their ids.
    positives
        Each user's positives as positions among the candidates.
    masked
        Candidates that are out of the question for a user (the training items). A masked positive stays
        a positive that is never found.
    device
        Where torch is to compute ("cuda"); on "cpu" compiled loops do. The ranks are the same.
    progress
        Where to report to.

    Returns
    -------
    Ranks
        A masked positive has the rank ``c + 1``.

    Raises
    ------
    InputError
        If a vector is not finite, or so large that scores may overflow.
    """
    hidden = masked or nothing(len(users))
    with progress.task("rank", len(users)) as task:
        if device == "cpu":
            above = count_above(
                users, items, positives.starts, positives.items, hidden.starts, hidden.items, task
            )
        else:
            from prismrec.evaluation.ranking_torch import count_above as count_by_torch

            above = count_by_torch(users, items, positives, hidden, device, task)
    ranks = np.where(above < 0, len(items) + 1, above + 1)
    ranked = positives.items.copy()
    _sort_by_rank(positives.starts, ranks, ranked, items.ties)
    return Ranks(positives.starts, ranks, positives.sizes, ranked)


def top_k(
    users: Floats,
    items: ItemMatrix,
    k: int,
    masked: Rows | None = None,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[Codes, Floats]:
    """Return each user's best candidates.

    Parameters
    ----------
    users, items, masked, device, progress
        As in `rank_positives`.
    k
        Length of the lists, at most the number of candidates.

    Returns
    -------
    positions
        Candidates' positions, best first, shape ``(u, k)``; -1 where fewer than k are left after masking.
    scores
        Their scores, ``-inf`` at -1.

    Raises
    ------
    InputError
        If k is not between 1 and the number of candidates, or a vector is not finite or so large that scores
        may overflow.
    """
    require_k(k, len(items))
    hidden = masked or nothing(len(users))
    with progress.task("rank", len(users)) as task:
        if device == "cpu":
            return best(users, items, k, hidden.starts, hidden.items, task)
        from prismrec.evaluation.ranking_torch import best as best_by_torch

        return best_by_torch(users, items, k, hidden, device, task)


def nothing(n_users: int) -> Rows:
    """Return rows without an item."""
    return Rows(np.zeros(n_users + 1, dtype=np.int64), np.empty(0, dtype=np.int32))


def require_k(k: int, n_candidates: int) -> None:
    """Check a list length.

    Raises
    ------
    InputError
        If it is below 1 or above the number of candidates.
    """
    if not 1 <= k <= n_candidates:
        raise InputError(
            f"K = {k} is not between 1 and {n_candidates:,}, the number of candidate items.",
            "Choose a smaller K, other candidates, or larger held-out shares.",
        )


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _sort_by_rank(starts: Starts, ranks: npt.NDArray[np.int64], ranked: Codes, ties: Codes) -> None:
    """Put each user's ranks in ascending order; masked items, all last, in the order of ties."""
    for user in numba.prange(len(starts) - 1):
        begin, end = starts[user], starts[user + 1]
        if end - begin > 1:
            mine, items = ranks[begin:end].copy(), ranked[begin:end].copy()
            order = np.argsort(mine * (len(ties) + 1) + ties[items])
            ranks[begin:end] = mine[order]
            ranked[begin:end] = items[order]
