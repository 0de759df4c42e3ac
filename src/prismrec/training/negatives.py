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


def draw_negatives(
    users: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    touched: npt.NDArray[np.int32],
    pool: npt.NDArray[np.int32],
    *,
    count: int,
    seed: int,
) -> npt.NDArray[np.int32]:
    """Draw items uniformly from a pool, for each user without those that the user has touched.

    Parameters
    ----------
    users
        User of each pair, shape ``(n,)``.
    starts, touched
        Touched items of each user, ascending, as `Pairs.by_user` gives them.
    pool
        Item codes to draw from, unique.
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
    stuck = _draw(users, starts, touched, pool, np.uint64(seed % (1 << 64)), found)
    if stuck >= 0:
        raise InputError(
            f"User number {users[stuck]} has touched all {len(pool):,} items that negatives come from.",
            "Leave that user out, or use a loss without negatives (sampling='users').",
        )
    return found


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _mix(value: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): 64 bits in, 64 well-mixed bits out."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _contains(touched: Any, low: int, high: int, item: int) -> bool:
    while low < high:
        middle = (low + high) // 2
        if touched[middle] < item:
            low = middle + 1
        elif touched[middle] > item:
            high = middle
        else:
            return True
    return False


@numba.njit(cache=True, parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw(users: Any, starts: Any, touched: Any, pool: Any, seed: Any, found: Any) -> int:
    n, count = found.shape
    size = np.uint64(len(pool))
    golden = np.uint64(0x9E3779B97F4A7C15)
    # Reductions over prange: the largest position at which nothing could be found.
    stuck = -1
    for row in numba.prange(n):
        low, high = starts[users[row]], starts[users[row] + 1]
        here = -1
        for column in range(count):
            state = _mix(seed + golden * np.uint64(row * count + column + 1))
            item = -1
            for _ in range(_ATTEMPTS):
                state = state + golden
                # The high 32 bits scaled to the pool: bias below 2^-32 * size, without a division.
                place = ((_mix(state) >> np.uint64(32)) * size) >> np.uint64(32)
                candidate = pool[place]
                if not _contains(touched, low, high, candidate):
                    item = candidate
                    break
            if item < 0:
                # A user who has touched nearly everything: walk on from a random place.
                first = (_mix(state + golden) >> np.uint64(32)) * size >> np.uint64(32)
                for step in range(len(pool)):
                    candidate = pool[(first + np.uint64(step)) % size]
                    if not _contains(touched, low, high, candidate):
                        item = candidate
                        break
            if item < 0:
                here = row
            found[row, column] = item
        stuck = max(stuck, here)
    return stuck
