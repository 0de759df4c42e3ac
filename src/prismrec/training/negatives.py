"""Negatives in bulk, each verified: none of them is an item that the user has touched in training.

Every draw is a function of the seed, the position of the pair and the number of the attempt, and of nothing
else, so that any number of threads gives the same negatives.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError

_ATTEMPTS = 64

Codes = npt.NDArray[np.int32]


class Negatives:
    """Draws items that a user has not touched.

    Parameters
    ----------
    starts, touched
        Touched items of each user, ascending, as `Pairs.by_user` gives them.
    pool
        Item codes to draw from, unique.
    weights
        How often each item of the pool is to be drawn, relative to the others, shape ``(len(pool),)``; None:
        all alike.

    Raises
    ------
    InputError
        If there is no weight for each item of the pool, or one is negative, or their sum is not positive.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        touched: Codes,
        pool: Codes,
        weights: npt.NDArray[np.floating[Any]] | None = None,
    ) -> None:
        self._starts = starts
        self._touched = touched
        self._pool = pool
        self._marks, self._shift = _marks(starts, touched)
        # Without weights every place keeps what it draws: an empty table says so.
        self._table = np.empty((0, 2), dtype=np.uint32)
        if weights is not None:
            self._table = _alias_table(pool, np.asarray(weights, dtype=np.float64))

    def draw(
        self, users: Codes, *, count: int, seed: int, places: npt.NDArray[np.int64] | None = None
    ) -> Codes:
        """Draw from the pool, for each user without the items that the user has touched.

        Items of weight 0 are drawn only for a user of whom the others leave nothing.

        Parameters
        ----------
        users
            User of each pair, shape ``(n,)``.
        count
            Negatives of each pair.
        seed
            Any integer; another one for each epoch.
        places
            Positions of the pairs in their epoch, shape ``(n,)``: some pairs get what they would among all.
            None: 0, 1 and so on.

        Returns
        -------
        ndarray
            Item codes, int32, shape ``(n, count)``.

        Raises
        ------
        InputError
            If a user has touched the whole pool.
        """
        found = np.empty((len(users), count), dtype=np.int32)
        stuck = 0
        if len(self._pool) or not found.size:
            stuck = _draw(
                users,
                self._starts,
                self._touched,
                self._marks,
                self._shift,
                self._pool,
                self._table,
                _bits(seed),
                np.empty(0, dtype=np.int64) if places is None else places,
                found,
            )
        if stuck >= 0:
            raise InputError(
                f"User number {users[stuck]} has touched all {len(self._pool):,} items that negatives come "
                "from.",
                "Leave that user out, or use a loss without negatives (sampling='users').",
            )
        return found

    def draw_in_batch(
        self, users: Codes, positives: Codes, *, batch_size: int, count: int, seed: int
    ) -> Codes:
        """Draw from the other positives of the same batch, so that a batch touches few items.

        An item is drawn as often as it occurs in the batch. Where a user has touched all that the batch
        holds, the negative comes from the pool, as `draw` has it.

        Parameters
        ----------
        users, positives
            The pairs of an epoch in their order, shape ``(n,)`` each.
        batch_size
            Pairs of a batch; the last one may be shorter.
        count
            Negatives of each pair.
        seed
            Any integer; another one for each epoch.

        Returns
        -------
        ndarray
            Item codes, int32, shape ``(n, count)``.

        Raises
        ------
        InputError
            If a user has touched the whole pool.
        """
        found = np.empty((len(users), count), dtype=np.int32)
        _draw_in_batch(
            users,
            positives,
            self._starts,
            self._touched,
            self._marks,
            self._shift,
            batch_size,
            _bits(seed),
            found,
        )
        rows, columns = np.nonzero(found < 0)
        if len(rows):
            found[rows, columns] = self.draw(users[rows], count=1, seed=seed)[:, 0]
        return found


def popularity_weights(items: Codes, pool: Codes, power: float) -> npt.NDArray[np.float64]:
    """Return how often each item of a pool occurs, to a power; an item that never occurs counts as once.

    Parameters
    ----------
    items
        Items of the training pairs.
    pool
        Item codes.
    power
        0: all alike; 1: as often as in training; 0.75 as in word2vec (Mikolov et al., NeurIPS 2013).
    """
    counts = np.bincount(items, minlength=int(pool.max(initial=-1)) + 1)[pool]
    return np.asarray(np.maximum(counts, 1).astype(np.float64) ** power)


def _bits(seed: int) -> np.uint64:
    return np.uint64(seed % (1 << 64))


def _marks(starts: npt.NDArray[np.int64], touched: Codes) -> tuple[npt.NDArray[np.uint64], np.uint64]:
    """Set a bit for each touched pair, at a hashed place among 8 to 16 times as many; return the shift too.

    A candidate whose bit is not set was not touched: that settles nine draws of ten with one look, where the
    search in the user's history would wait for memory twice or more.
    """
    power = max(6, (8 * len(touched)).bit_length())
    marks = np.zeros(1 << (power - 6), dtype=np.uint64)
    shift = np.uint64(64 - power)
    _mark(starts, touched, marks, shift)
    return marks, shift


def _alias_table(pool: Codes, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Walker's alias table, in the form of Vose (1991): two numbers for each place of the pool.

    The first is the share of draws that keep the place, times 2^32; the second the place of the others.
    """
    if weights.shape != pool.shape or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise InputError(
            f"Weights of negatives need {len(pool):,} finite numbers of at least 0, one of them above 0.",
        )
    share, alias = _vose(weights / weights.sum() * len(pool))
    return np.stack([np.minimum(share * 2.0**32, 2.0**32 - 1).astype(np.uint32), alias], axis=1)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _vose(share: Any) -> Any:
    n = len(share)
    alias = np.arange(n).astype(np.uint32)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    n_small, n_large = 0, 0
    for place in range(n):
        if share[place] < 1.0:
            small[n_small] = place
            n_small += 1
        else:
            large[n_large] = place
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        poor, rich = small[n_small], large[n_large - 1]
        alias[poor] = rich
        share[rich] -= 1.0 - share[poor]
        if share[rich] < 1.0:
            n_large -= 1
            small[n_small] = rich
            n_small += 1
    # What is left is 1 up to rounding.
    for left in range(n_small):
        share[small[left]] = 1.0
    for left in range(n_large):
        share[large[left]] = 1.0
    return share, alias


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _marked(marks: Any, shift: Any, user: Any, item: Any) -> Any:
    """Place of a pair's bit in `marks`: its word, and the bit alone in a word."""
    # Fibonacci hashing (Knuth, volume 3, 6.4): the high bits of a product.
    pair = (np.uint64(user) << np.uint64(32)) | np.uint64(item)
    place = (pair * np.uint64(0x9E3779B97F4A7C15)) >> shift
    return place >> np.uint64(6), np.uint64(1) << (place & np.uint64(63))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mark(starts: Any, touched: Any, marks: Any, shift: Any) -> None:
    for user in range(len(starts) - 1):
        for place in range(starts[user], starts[user + 1]):
            word, bit = _marked(marks, shift, user, touched[place])
            marks[word] |= bit


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _mix(value: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): 64 bits in, 64 well-mixed bits out."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _searched(starts: Any, touched: Any, user: int, item: int) -> Any:
    low, high = starts[user], starts[user + 1]
    while low < high:
        middle = (low + high) // 2
        if touched[middle] < item:
            low = middle + 1
        elif touched[middle] > item:
            high = middle
        else:
            return True
    return False


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _is_touched(starts: Any, touched: Any, marks: Any, shift: Any, user: int, item: int) -> Any:
    word, bit = _marked(marks, shift, user, item)
    if marks[word] & bit == np.uint64(0):
        return False
    return _searched(starts, touched, user, item)


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _place(bits: Any, size: Any, table: Any) -> Any:
    # The high 32 bits scaled to the pool: bias below 2^-32 * size, without a division.
    place = ((bits >> np.uint64(32)) * size) >> np.uint64(32)
    if len(table) > 0 and (bits & np.uint64(0xFFFFFFFF)) >= np.uint64(table[place, 0]):
        place = np.uint64(table[place, 1])
    return place


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _tried(
    starts: Any, touched: Any, marks: Any, shift: Any, user: int, pool: Any, table: Any, state: Any
) -> Any:
    """Try again and again; at last walk through the pool from a random place. -1: nothing is left."""
    size = np.uint64(len(pool))
    golden = np.uint64(0x9E3779B97F4A7C15)
    for _ in range(_ATTEMPTS):
        state = state + golden
        candidate = pool[_place(_mix(state), size, table)]
        if not _is_touched(starts, touched, marks, shift, user, candidate):
            return candidate
    first = (_mix(state + golden) >> np.uint64(32)) * size >> np.uint64(32)
    for step in range(len(pool)):
        candidate = pool[(first + np.uint64(step)) % size]
        if not _is_touched(starts, touched, marks, shift, user, candidate):
            return candidate
    return -1


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw(
    users: Any,
    starts: Any,
    touched: Any,
    marks: Any,
    shift: Any,
    pool: Any,
    table: Any,
    seed: Any,
    places: Any,
    found: Any,
) -> int:
    n, count = found.shape
    size = np.uint64(len(pool))
    golden = np.uint64(0x9E3779B97F4A7C15)
    # Reductions over prange: the largest position at which nothing could be found.
    stuck = -1
    for row in numba.prange(n):
        user = users[row]
        place = places[row] if len(places) else row
        here = -1
        for column in range(count):
            state = _mix(seed + golden * np.uint64(place * count + column + 1))
            item = pool[_place(_mix(state + golden), size, table)]
            if _is_touched(starts, touched, marks, shift, user, item):
                item = _tried(starts, touched, marks, shift, user, pool, table, state + golden)
                if item < 0:
                    here = row
            found[row, column] = item
        stuck = max(stuck, here)
    return stuck


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw_in_batch(
    users: Any,
    positives: Any,
    starts: Any,
    touched: Any,
    marks: Any,
    shift: Any,
    batch_size: int,
    seed: Any,
    found: Any,
) -> None:
    n, count = found.shape
    golden = np.uint64(0x9E3779B97F4A7C15)
    nothing = np.empty((0, 2), np.uint32)
    for row in numba.prange(n):
        user = users[row]
        first = row // batch_size * batch_size
        others = positives[first : min(n, first + batch_size)]
        for column in range(count):
            state = _mix(seed + golden * np.uint64(row * count + column + 1))
            found[row, column] = _tried(starts, touched, marks, shift, user, others, nothing, state)
