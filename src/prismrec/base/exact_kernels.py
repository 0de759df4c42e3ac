"""Compiled loops of `prismrec.base.exact`: counting, collecting, and scoring again what is in doubt.

Each runs in one thread and releases the interpreter's lock; the threads are those of `prismrec.base.blocks`.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from prismrec.base.lanes import LINE, at_least, dot, lowest, ones, scores_at_least, to_keys

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def norms(vectors: Floats) -> Doubles:
    """Length of each row; not finite where a number of the row is not."""
    found = np.empty(len(vectors), dtype=np.float64)
    for row in range(len(vectors)):
        found[row] = np.sqrt(dot(vectors[row], vectors[row]))
    return found


# The order of the sum is left to the compiler: the error bound holds for any.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def rough_scores(user: Any, items: Floats, scores: Any) -> None:
    """Scores of one user with all items, in float32."""
    for item in range(len(items)):
        total = np.float32(0.0)
        for place in range(len(user)):
            total += user[place] * items[item, place]
        scores[item] = total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def pair_scores(users: Doubles, items: Floats, starts: Starts, wanted: Codes) -> Doubles:
    """Canonical score of each wanted pair; those of user u are ``starts[u]:starts[u + 1]``."""
    scores = np.empty(len(wanted), dtype=np.float64)
    for user in range(len(users)):
        for place in range(starts[user], starts[user + 1]):
            scores[place] = dot(users[user], items[wanted[place]])
    return scores


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _is_above(score: float, tie: int, other: float, other_tie: int) -> bool:
    # Without a branch, which could only be guessed.
    return (score > other) | ((score == other) & (tie < other_tie))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _settle(
    doubts: Any,
    count: int,
    user: Any,
    items: Floats,
    ties: Codes,
    wanted: Codes,
    exact: Doubles,
    above: Starts,
    met: npt.NDArray[np.bool_],
) -> None:
    """Score again what was left open; one after the other, so that the reads of the vectors overlap."""
    for doubt in range(count):
        place, item = doubts[doubt, 0], doubts[doubt, 1]
        own = wanted[place]
        met[place] |= item == own
        # An item is not above itself.
        above[place] += _is_above(dot(user, items[item]), ties[item], exact[place], ties[own])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_tile(
    scores: npt.NDArray[Any],
    first: int,
    users: Doubles,
    items: Floats,
    ties: Codes,
    starts: Starts,
    wanted: Codes,
    exact: Doubles,
    low: Starts,
    high: Starts,
    doubts: Any,
    above: Starts,
    met: npt.NDArray[np.bool_],
) -> None:
    """Count a tile's items above each wanted item.

    Keys above `high` are above for certain, those below `low` are not, those between are scored canonically.
    `met` is set where the wanted item itself was between, as it must be. `doubts` is room for what is left
    open, shape ``(n, 2)``.
    """
    step = LINE // scores.itemsize
    width = scores.shape[1]
    whole = width - width % step
    room = len(doubts) - step
    for user in range(len(scores)):
        if starts[user] == starts[user + 1]:
            continue
        row = scores[user]
        for start in range(0, whole, step):
            to_keys(row, start)
        _tail_to_keys(row, whole)
        count = 0
        for place in range(starts[user], starts[user + 1]):
            least, beyond = low[place], high[place] + 1
            more = 0
            for start in range(0, whole, step):
                certain = at_least(row, start, beyond)
                more += ones(certain)
                doubt = at_least(row, start, least) ^ certain
                while doubt != np.uint64(0):
                    doubts[count, 0], doubts[count, 1] = place, first + start + lowest(doubt)
                    doubt &= doubt - np.uint64(1)
                    count += 1
                if count >= room:
                    _settle(doubts, count, users[user], items, ties, wanted, exact, above, met)
                    count = 0
            for column in range(whole, width):
                if row[column] >= beyond:
                    more += 1
                elif row[column] >= least:
                    doubts[count, 0], doubts[count, 1] = place, first + column
                    count += 1
            above[place] += more
            if count >= room:
                _settle(doubts, count, users[user], items, ties, wanted, exact, above, met)
                count = 0
        _settle(doubts, count, users[user], items, ties, wanted, exact, above, met)


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _tail_to_keys(row: Any, start: int) -> None:
    """Turn the last floats of a row, too few for a whole vector, into keys."""
    bits = row.itemsize * 8
    for column in range(start, len(row)):
        row[column] ^= (row[column] >> (bits - 1)) & ((1 << (bits - 1)) - 1)


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _tail_at_least(row: Any, start: int, least: int) -> Any:
    """Return which of the last keys are at least `least`, one bit each."""
    mask = np.uint64(0)
    for column in range(start, len(row)):
        if row[column] >= least:
            mask |= np.uint64(1) << np.uint64(column - start)
    return mask


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def leave_out_masked(
    users: Doubles,
    items: Floats,
    ties: Codes,
    starts: Starts,
    wanted: Codes,
    exact: Doubles,
    masked_starts: Starts,
    masked: Codes,
    above: Starts,
) -> None:
    """Take masked items out of the counts; a wanted item that is itself masked gets the count -1."""
    for user in range(len(users)):
        begin, end = starts[user], starts[user + 1]
        if begin == end:
            continue
        for hidden in range(masked_starts[user], masked_starts[user + 1]):
            item = masked[hidden]
            if hidden > masked_starts[user] and masked[hidden - 1] == item:
                continue
            score = dot(users[user], items[item])
            for place in range(begin, end):
                if above[place] >= 0 and _is_above(score, ties[item], exact[place], ties[wanted[place]]):
                    above[place] -= 1
        for hidden in range(masked_starts[user], masked_starts[user + 1]):
            for place in range(begin, end):
                if wanted[place] == masked[hidden]:
                    above[place] = -1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _value(key: int, bits: int) -> float:
    """Return the score that has a key."""
    word = key ^ ((key >> (bits - 1)) & ((1 << (bits - 1)) - 1))
    holder = np.empty(1, dtype=np.int32)
    holder[0] = word << (32 - bits)
    return float(holder.view(np.float32)[0])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _key(score: float, bits: int) -> int:
    """Key of a score that is rounded to the nearest number of so many bits, as `lanes.keys` does it."""
    holder = np.empty(1, dtype=np.float32)
    holder[0] = score + 0.0
    word = np.int64(holder.view(np.int32)[0])
    if bits == 16:
        word = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
    return int(word ^ ((word >> (bits - 1)) & ((1 << (bits - 1)) - 1)))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _floor(key: int, error: float, bits: int) -> int:
    """Least key of an item that may be above one that has the key `key`."""
    # A score that was rounded to `key` is above the next lower number. Its canonical one may be `error` less,
    # and that of the other item `error` more than it looks.
    least = _key(_value(key - 1, bits) - 2 * error, bits)
    return -1 if least == 0 else least  # -0.0 has the key -1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _best_first(user: Any, items: Floats, ties: Codes, some: Codes, k: int) -> tuple[Codes, Doubles]:
    """Return the k best of some items and their canonical scores, best first, ties in their order."""
    exact = np.empty(len(some), dtype=np.float64)
    for place in range(len(some)):
        exact[place] = dot(user, items[some[place]])
    order = np.argsort(ties[some])
    order = order[np.argsort(-exact[order], kind="mergesort")][:k]
    return some[order], exact[order]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _shrink(
    kept: Codes,
    kept_keys: Any,
    count: int,
    k: int,
    user: Any,
    items: Floats,
    ties: Codes,
    error: float,
    bits: int,
) -> tuple[int, int]:
    """Drop collected items that cannot be among the k best; return how many are left and the new floor."""
    kth = np.partition(kept_keys[:count], count - k)[count - k]
    floor = _floor(kth, error, bits)
    left = 0
    for place in range(count):
        if kept_keys[place] >= floor:
            kept[left] = kept[place]
            kept_keys[left] = kept_keys[place]
            left += 1
    if left > len(kept) - (len(kept) - k) // 4:
        # Too many are near the k-th for the product to tell: decide among those at hand.
        best, exact = _best_first(user, items, ties, kept[:left], k)
        for place in range(k):
            kept[place] = best[place]
            kept_keys[place] = _key(exact[place], bits)
        left = k
        floor = _floor(kept_keys[k - 1], error, bits)
    return left, floor


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def collect_tile(
    scores: npt.NDArray[Any],
    first: int,
    users: Doubles,
    items: Floats,
    ties: Codes,
    k: int,
    errors: Doubles,
    masked_starts: Starts,
    masked: Codes,
    floors: Starts,
    counts: Starts,
    kept: Codes,
    kept_keys: Codes,
) -> None:
    """Collect a tile's items that may be among the k best of a user."""
    bits = scores.itemsize * 8
    step = LINE // scores.itemsize
    width = scores.shape[1]
    whole = width - width % step
    # As bits -1, which is no number; its key is below that of every number.
    out = -(1 << (bits - 1))
    for user in range(len(scores)):
        row = scores[user]
        hidden = masked[masked_starts[user] : masked_starts[user + 1]]
        for place in range(np.searchsorted(hidden, first), len(hidden)):
            if hidden[place] >= first + width:
                break
            row[hidden[place] - first] = -1
        _tail_to_keys(row, whole)
        floor, count = floors[user], counts[user]
        for start in range(0, width, step):
            may = scores_at_least(row, start, floor) if start < whole else _tail_at_least(row, start, floor)
            if may == np.uint64(0):
                continue
            if start < whole:
                to_keys(row, start)
            while may != np.uint64(0):
                column = start + lowest(may)
                may &= may - np.uint64(1)
                key = row[column]
                if key < floor or key == out:
                    continue
                if count == kept.shape[1]:
                    count, floor = _shrink(
                        kept[user], kept_keys[user], count, k, users[user], items, ties, errors[user], bits
                    )
                    if key < floor:
                        continue
                kept[user, count] = first + column
                kept_keys[user, count] = key
                count += 1
        floors[user], counts[user] = floor, count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def finish_lists(
    users: Doubles,
    items: Floats,
    ties: Codes,
    k: int,
    errors: Doubles,
    counts: Starts,
    kept: Codes,
    kept_keys: Codes,
    bits: int,
    found: Codes,
    best: Floats,
) -> None:
    """Put what was collected in order and keep the k best."""
    for user in range(len(users)):
        count = counts[user]
        if count > k:
            count, _ = _shrink(
                kept[user], kept_keys[user], count, k, users[user], items, ties, errors[user], bits
            )
        chosen, exact = _best_first(users[user], items, ties, kept[user, :count], k)
        for place in range(len(chosen)):
            found[user, place] = chosen[place]
            best[user, place] = exact[place]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fill_by_tie(
    zero: Starts, by_tie: Codes, masked_starts: Starts, masked: Codes, found: Codes, best: Floats
) -> None:
    """Fill the lists of users whose scores are all zero: the order of ties, masked items left out."""
    for row in range(len(zero)):
        user = zero[row]
        hidden = masked[masked_starts[user] : masked_starts[user + 1]]
        place = 0
        for item in by_tie:
            if place == found.shape[1]:
                break
            at = np.searchsorted(hidden, item)
            if at < len(hidden) and hidden[at] == item:
                continue
            found[user, place] = item
            best[user, place] = 0.0
            place += 1
