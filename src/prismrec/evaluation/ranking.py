"""Exact ranking: every candidate for every user, in tiles, without a users x items matrix.

A tile is some users against all candidates. Ranks are counted, not sorted: a positive's rank is one more
than the number of candidates above it. An item is above another if its score is higher, or equal and its id
comes first, so that every engine gives one answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int64]

# 16 million scores: 64 MiB, large enough for an efficient product, small enough for any machine.
_TILE_SCORES = 1 << 24
_MAX_TILE_USERS = 1024
_DIVERGED = "Training has diverged: lower the learning rate or clip gradients."


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
    items: Floats,
    ties: Codes,
    positives: Rows,
    masked: Rows | None = None,
    *,
    progress: Progress = SILENT,
) -> Ranks:
    """Rank each user's positives among all candidates.

    Parameters
    ----------
    users
        User vectors, shape ``(u, d)``.
    items
        Candidates' vectors, shape ``(c, d)``.
    ties
        `tie_order` of the candidates' ids, shape ``(c,)``.
    positives
        Each user's positives as positions among the candidates.
    masked
        Candidates that are out of the question for a user (the training items). A masked positive stays
        a positive that is never found.
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
    ranks = np.empty(len(positives.items), dtype=np.int64)
    ranked = np.empty(len(positives.items), dtype=np.int32)
    with progress.task("rank", len(users)) as task:
        for first, scores in _tiles(users, items, masked):
            starts = positives.starts[first : first + len(scores) + 1]
            _count_above(scores, ties, starts, positives.items, ranks, ranked)
            task.advance(len(scores))
    return Ranks(positives.starts, ranks, positives.sizes, ranked)


def top_k(
    users: Floats,
    items: Floats,
    ties: Codes,
    k: int,
    masked: Rows | None = None,
    *,
    progress: Progress = SILENT,
) -> tuple[Codes, Floats]:
    """Return each user's best candidates.

    Parameters
    ----------
    users, items, ties, masked, progress
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
    found = np.full((len(users), k), -1, dtype=np.int32)
    best = np.full((len(users), k), -np.inf, dtype=np.float32)
    with progress.task("rank", len(users)) as task:
        for first, scores in _tiles(users, items, masked):
            _select(scores, ties, found[first : first + len(scores)], best[first : first + len(scores)])
            task.advance(len(scores))
    return found, best


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


def _tiles(users: Floats, items: Floats, masked: Rows | None) -> Iterator[tuple[int, Floats]]:
    """Scores of some users against all candidates at a time; masked ones are -inf. The buffer is reused."""
    for name, vectors in (("user", users), ("item", items)):
        if not np.isfinite(vectors).all():
            raise InputError(
                f"A {name} vector holds NaN or infinite numbers.",
                _DIVERGED,
            )
    # An overflowing score would be infinite or NaN, and could not be told from a masked one.
    largest = float(np.abs(users).max(initial=0.0)) * float(np.abs(items).max(initial=0.0)) * items.shape[1]
    if largest > float(np.finfo(np.float32).max):
        raise InputError("User and item vectors are so large that their scores overflow.", _DIVERGED)
    height = max(1, min(_MAX_TILE_USERS, _TILE_SCORES // max(1, len(items)), len(users)))
    transposed = np.ascontiguousarray(items.T)
    buffer = np.empty((height, len(items)), dtype=np.float32)
    twins, originals = _twins(items)
    for first in range(0, len(users), height):
        block = users[first : first + height]
        scores = np.matmul(block, transposed, out=buffer[: len(block)])
        if len(twins):
            _copy_columns(scores, originals, twins)
        if masked is not None:
            _mask(scores, masked.starts[first : first + len(block) + 1], masked.items)
        yield first, scores


def _twins(items: Floats) -> tuple[Codes, Codes]:
    """Items whose vector stands earlier as well, and where it stood first.

    Their scores are copied: a matrix product sums in another order at the edges of its blocks, so that equal
    vectors would get scores that differ in the last digit, and the order of ids would not decide.
    """
    words = (np.ascontiguousarray(items, dtype=np.float32) + np.float32(0.0)).view(np.uint32)  # -0.0 is 0.0
    _, first, group = np.unique(_hash_rows(words), return_index=True, return_inverse=True)
    original = first[group]
    twins = np.flatnonzero(original != np.arange(len(items)))
    twins = twins[(items[twins] == items[original[twins]]).all(axis=1)]
    return twins.astype(np.int32), original[twins].astype(np.int32)


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _hash_rows(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    keys = np.empty(len(words), dtype=np.uint64)
    for row in numba.prange(len(words)):
        key = np.uint64(14695981039346656037)
        for word in words[row]:
            key = (key ^ np.uint64(word)) * np.uint64(1099511628211)
        keys[row] = key
    return keys


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy_columns(scores: Floats, sources: Codes, targets: Codes) -> None:
    for row in numba.prange(len(scores)):
        for place in range(len(targets)):
            scores[row, targets[place]] = scores[row, sources[place]]


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _mask(scores: Floats, starts: Starts, items: Codes) -> None:
    for row in numba.prange(len(scores)):
        for place in range(starts[row], starts[row + 1]):
            scores[row, items[place]] = -np.inf


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_above(
    scores: Floats, ties: Codes, starts: Starts, items: Codes, ranks: npt.NDArray[np.int64], ranked: Codes
) -> None:
    n_candidates = scores.shape[1]
    for row in numba.prange(len(scores)):
        begin, end = starts[row], starts[row + 1]
        n = end - begin
        if n == 0:
            continue
        row_scores = scores[row]
        # The user's positives from the best to the worst, ties in their order, masked ones last.
        wanted = items[begin:end].copy()
        for i in range(1, n):
            item = wanted[i]
            j = i - 1
            while j >= 0 and (
                row_scores[wanted[j]] < row_scores[item]
                or (row_scores[wanted[j]] == row_scores[item] and ties[wanted[j]] > ties[item])
            ):
                wanted[j + 1] = wanted[j]
                j -= 1
            wanted[j + 1] = item
        # Each candidate is above all positives from some place on: find it by bisection, count, sum up.
        above = np.zeros(n + 1, dtype=np.int64)
        for candidate in range(n_candidates):
            score = row_scores[candidate]
            if score == -np.inf:
                continue
            low, high = 0, n
            while low < high:
                middle = (low + high) // 2
                other = wanted[middle]
                if row_scores[other] < score or (
                    row_scores[other] == score and ties[other] > ties[candidate]
                ):
                    high = middle
                else:
                    low = middle + 1
            above[low] += 1
        total = 0
        for i in range(n):
            total += above[i]
            masked = row_scores[wanted[i]] == -np.inf
            ranks[begin + i] = n_candidates + 1 if masked else total + 1
            ranked[begin + i] = wanted[i]


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _select(scores: Floats, ties: Codes, found: Codes, best: Floats) -> None:
    k = found.shape[1]
    for row in numba.prange(len(scores)):
        row_scores = scores[row]
        kept = 0
        for candidate in range(len(row_scores)):
            score = row_scores[candidate]
            if score == -np.inf:
                continue
            if kept == k:
                worst = found[row, k - 1]
                if score < best[row, k - 1] or (score == best[row, k - 1] and ties[candidate] > ties[worst]):
                    continue
                place = k - 1
            else:
                place = kept
                kept += 1
            while place > 0 and (
                best[row, place - 1] < score
                or (best[row, place - 1] == score and ties[found[row, place - 1]] > ties[candidate])
            ):
                best[row, place] = best[row, place - 1]
                found[row, place] = found[row, place - 1]
                place -= 1
            best[row, place] = score
            found[row, place] = candidate
