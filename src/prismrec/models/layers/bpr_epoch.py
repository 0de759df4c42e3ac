"""An epoch of Bayesian personalised ranking with lazy Adam or plain SGD on two tables, compiled.

The steps are those of mini-batches: all gradients of a batch are taken at the values before it, those of one
row are added up, and each touched row takes one step. Two sweeps do a batch. The first goes over its users:
scores, slopes, and the users' steps, while their old rows are kept. The second goes over its items. A row
belongs to one thread and its gradients are added in order, so any number of threads gives the same result.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from prismrec.models.layers.lazy_adam import AdamStep, group_rows, prefetch_row, update_row

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

# A table and its moments: Adam's two, or none for SGD.
Table = tuple[Floats, Floats, Floats] | tuple[Floats, None, None]

# Pieces of a sweep; more than threads, so that a thread that was held up does not hold up the others.
_PIECES = 16
# Rows lie anywhere in tables larger than a cache; asked for so many rows ahead, they are there in time.
_AHEAD = 2


def bpr_epoch(
    users: Table,
    items: Table,
    triplets: tuple[Codes, Codes, Codes],
    *,
    batch_size: int,
    rates: npt.NDArray[np.float64],
    step: int,
    l2: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[float, float]:
    """Train both tables on an epoch of triplets, in place.

    Parameters
    ----------
    users
        Table, first and second moments of Adam, shape ``(n_users, d)`` each. Without moments (None for both)
        a step is one of plain SGD: a row moves by its batch's rate times its gradient.
    items
        The same, with moments if `users` has them, shape ``(n_items, d)`` or ``(n_items, d + 1)``: then the
        last column is a bias that is added to the score.
    triplets
        Users and positives, shape ``(n,)`` each, and negatives, shape ``(n, count)``.
    batch_size
        Triplets a step; the last batch may be shorter.
    rates
        Learning rate of each batch.
    step
        Steps that were taken before; of no account to SGD.
    l2
        Weight of the squared length of the rows: user, positive, and the mean of the negatives.
    betas, eps
        Of Adam.

    Returns
    -------
    tuple of float
        Mean over the batches of the ranking loss and of the L2 term.
    """
    sizes = rates
    if users[1] is not None:
        sizes = np.array([AdamStep(rate, betas, eps).size(step + n + 1) for n, rate in enumerate(rates)])
    adam = np.float32(betas[0]), np.float32(betas[1]), np.float32(eps)
    rank, penalty = _epoch(*users, *items, *triplets, batch_size, sizes.astype(np.float32), l2, adam)
    return float(rank), float(penalty)


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def _length(row: Any) -> Any:
    """Squared length of a row."""
    total = row[0] - row[0]
    for column in range(len(row)):
        total += row[column] * row[column]
    return total


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def _user_slope(
    row: Any, items: Any, positive: int, negatives: Any, share: Any, decay: Any, slopes: Any, slope: Any
) -> Any:
    """Add a triplet's gradient to its user's, keep its scores' slopes; return loss and squared lengths."""
    d, count = len(row), len(negatives)
    best = items[positive]
    loss, penalty = 0.0, 0.0
    total = share - share
    for place in range(count):
        other = items[negatives[place]]
        gap = share - share
        for column in range(d):
            gap += row[column] * (other[column] - best[column])
        if len(best) > d:
            gap += other[d] - best[d]
        # softplus and its slope, without overflow
        small = np.exp(-abs(gap))
        loss += max(gap, np.float32(0)) + np.log1p(small)
        weight = share * (np.float32(1) if gap > 0 else small) / (np.float32(1) + small)
        slopes[place + 1] = weight
        total += weight
        for column in range(d):
            slope[column] += weight * (other[column] - best[column])
    slopes[0] = -total
    if decay > 0:
        for column in range(d):
            slope[column] += decay * row[column]
        for place in range(count):
            penalty += _length(items[negatives[place]])
        penalty = penalty / count + _length(row) + _length(best)
    return loss, penalty


# Where there are no moments `mean is None` is settled when the loop is compiled.
@numba.njit(cache=True, inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def _ask_for(table: Any, mean: Any, square: Any, row: Any) -> None:
    """Prefetch all that a step on a row reads and writes."""
    prefetch_row(table, row)
    if mean is not None:
        prefetch_row(mean, row)
        prefetch_row(square, row)


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _move(table: Any, mean: Any, square: Any, row: Any, slope: Any, size: Any, adam: Any) -> None:
    """Take a step of Adam on a row, or of SGD where there are no moments."""
    if mean is not None:
        update_row(table, mean, square, row, slope, size, adam[0], adam[1], adam[2])
    else:
        for column in range(table.shape[1]):
            table[row, column] -= size * slope[column]


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _user_sweep(
    table: Any,
    mean: Any,
    square: Any,
    items: Any,
    positives: Any,
    negatives: Any,
    chains: Any,
    found: int,
    before: Any,
    slot_of: Any,
    slopes: Any,
    losses: Any,
    penalties: Any,
    decay: Any,
    size: Any,
    adam: Any,
) -> None:
    """Score a batch's triplets by user; keep the users' rows in `before` and move the users."""
    rows, first, _, following = chains
    b, count = negatives.shape
    d = table.shape[1]
    share = np.float32(1.0 / (b * count))
    for piece in numba.prange(_PIECES):
        slope = np.empty(d, np.float32)
        end = found * (piece + 1) // _PIECES
        for slot in range(found * piece // _PIECES, end):
            if slot + _AHEAD < end:
                _ask_for(table, mean, square, rows[slot + _AHEAD])
                later = first[slot + _AHEAD]
                prefetch_row(items, positives[later])
                for place in range(count):
                    prefetch_row(items, negatives[later, place])
            user = rows[slot]
            for column in range(d):
                before[slot, column] = table[user, column]
                slope[column] = 0
            place = first[slot]
            while place >= 0:
                slot_of[place] = slot
                losses[place], penalties[place] = _user_slope(
                    before[slot],
                    items,
                    positives[place],
                    negatives[place],
                    share,
                    decay,
                    slopes[place],
                    slope,
                )
                place = following[place]
            _move(table, mean, square, user, slope, size, adam)


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _item_sweep(
    table: Any,
    mean: Any,
    square: Any,
    chains: Any,
    found: int,
    before: Any,
    slot_of: Any,
    slopes: Any,
    decay: Any,
    size: Any,
    adam: Any,
) -> None:
    """Add up each item's gradient from slopes and the users' rows as they were, and move the items."""
    rows, first, _, following = chains
    d, wide, each = before.shape[1], table.shape[1], slopes.shape[1]
    for piece in numba.prange(_PIECES):
        slope = np.empty(wide, np.float32)
        end = found * (piece + 1) // _PIECES
        for slot in range(found * piece // _PIECES, end):
            if slot + _AHEAD < end:
                _ask_for(table, mean, square, rows[slot + _AHEAD])
            item = rows[slot]
            slope[:] = 0
            shrink = np.float32(0)
            place = first[slot]
            while place >= 0:
                pair, column = place // each, place % each
                weight = slopes[pair, column]
                row = before[slot_of[pair]]
                for c in range(d):
                    slope[c] += weight * row[c]
                if wide > d:
                    slope[d] += weight
                shrink += decay if column == 0 else decay / np.float32(each - 1)
                place = following[place]
            if decay > 0:
                for c in range(wide):
                    slope[c] += shrink * table[item, c]
            _move(table, mean, square, item, slope, size, adam)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _chains(n: int) -> Any:
    return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _epoch(
    users: Any,
    user_mean: Any,
    user_square: Any,
    items: Any,
    item_mean: Any,
    item_square: Any,
    who: Any,
    positives: Any,
    negatives: Any,
    batch_size: int,
    sizes: Any,
    l2: float,
    adam: Any,
) -> Any:
    n, count = negatives.shape
    each = count + 1
    user_slots, item_slots = np.full(len(users), -1, np.int32), np.full(len(items), -1, np.int32)
    by_user, by_item = _chains(batch_size), _chains(batch_size * each)
    touched = np.empty((batch_size, each), np.int32)
    before = np.empty((batch_size, users.shape[1]), np.float32)
    slot_of = np.empty(batch_size, np.int32)
    slopes = np.empty((batch_size, each), np.float32)
    losses, penalties = np.empty(batch_size, np.float64), np.empty(batch_size, np.float64)
    rank, penalty = 0.0, 0.0
    for step in range(len(sizes)):
        low = step * batch_size
        high = min(n, low + batch_size)
        b = high - low
        touched[:b, 0] = positives[low:high]
        touched[:b, 1:] = negatives[low:high]
        n_users = group_rows(who[low:high], user_slots, *by_user)
        n_items = group_rows(touched[:b].ravel(), item_slots, *by_item)
        decay = np.float32(2.0 * l2 / b)
        _user_sweep(
            users,
            user_mean,
            user_square,
            items,
            positives[low:high],
            negatives[low:high],
            by_user,
            n_users,
            before,
            slot_of,
            slopes,
            losses,
            penalties,
            decay,
            sizes[step],
            adam,
        )
        _item_sweep(
            items, item_mean, item_square, by_item, n_items, before, slot_of, slopes, decay, sizes[step], adam
        )
        # Added in order: a parallel sum would depend on the number of threads.
        rank += losses[:b].sum() / (b * count)
        penalty += l2 * penalties[:b].sum() / b
    return rank / len(sizes), penalty / len(sizes)
