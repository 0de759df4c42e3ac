"""Verified negatives: drawn per second, against LensKit's sampler and a loop over pairs.

Every side draws one negative for each training pair, in a random order of the pairs, and none of the
negatives is an item that the user has touched; that is checked before anything is timed. The loop is what
many frameworks do: NumPy draws a number for one pair, and Python looks it up in a set.
"""

import numpy as np
import numpy.typing as npt
from harness import BABY, ELECTRONICS, Row, Size, generated_pairs, in_turn, options, report

from prismrec.data.interactions import Pairs
from prismrec.training.negatives import Negatives, popularity_weights

_LOOP_PAIRS = 20_000
_BOUND = (
    "bound by reads at random places: one word of a bit table a draw, and where its bit is set (about one "
    "draw of ten) the search in the user's history"
)


def main() -> None:
    args = options(__doc__)
    rows = []
    for size in (Size("small", 2_000, 900, 12_000),) if args.quick else (BABY, ELECTRONICS):
        rows += measured(size, args.repeats)
    report("bench_negatives.py", rows, args)


def measured(size: Size, repeats: int) -> list[Row]:
    pairs = generated_pairs(size)
    starts, touched = pairs.by_user(size.users)
    pool = np.unique(pairs.items).astype(np.int32)
    users = pairs.users[np.random.default_rng(0).permutation(len(pairs))]
    uniform = Negatives(starts, touched, pool)
    weighted = Negatives(starts, touched, pool, popularity_weights(pairs.items, pool, 1.0))
    seeds = iter(range(1_000_000))

    def ours(sampler: Negatives = uniform) -> npt.NDArray[np.int32]:
        return sampler.draw(users, count=1, seed=next(seeds))

    few = users[:_LOOP_PAIRS]
    histories = [set(touched[starts[u] : starts[u + 1]].tolist()) for u in range(size.users)]

    def loop() -> npt.NDArray[np.int32]:
        return _loop(few, histories, pool)

    pairs_of = set((pairs.users.astype(np.int64) * size.items + pairs.items).tolist())
    _check(users, ours(), pairs_of, size)
    _check(users, ours(weighted), pairs_of, size)
    _check(few, loop(), pairs_of, size)
    fast, slow = in_turn(repeats, ours, loop)
    rate = len(users) / fast / 1e6
    rows = [
        Row(
            f"Verified negatives, {size.name}: NumPy and a set, pair by pair",
            "at least 100 times as fast",
            rate,
            len(few) / slow / 1e6,
            100.0,
            f"loop over {len(few):,} pairs; {_BOUND}",
            "million a second",
        )
    ]
    return rows + _against_lenskit(size, pairs, users, ours, weighted, pairs_of, repeats)


def _against_lenskit(size, pairs: Pairs, users, ours, weighted, pairs_of, repeats) -> list[Row]:  # type: ignore[no-untyped-def]
    names = {"uniform": 1.0, "popularity": None}
    try:
        import pandas as pd
        from lenskit.data import from_interactions_df
    except ImportError:
        missing = "not measured: lenskit is not installed"
        return [
            Row(
                f"Verified negatives, {size.name}, {n}",
                "LensKit",
                None,
                None,
                goal,
                missing,
                "million a second",
            )
            for n, goal in names.items()
        ]
    frame = pd.DataFrame({"user_id": pairs.users, "item_id": pairs.items})
    data = from_interactions_df(frame)
    matrix = data.interactions().matrix()
    # LensKit numbers users and items by their own vocabulary.
    theirs_users = data.users.numbers(users).astype(np.int32)
    to_item = data.items.ids()
    rng = np.random.default_rng(1)
    rows = []
    for name, goal in names.items():
        sampler = (lambda: ours(weighted)) if name == "popularity" else ours

        def theirs(name: str = name) -> npt.NDArray[np.int32]:
            return matrix.sample_negatives(theirs_users, weighting=name, rng=rng)

        drawn = np.asarray(to_item)[theirs()].reshape(-1, 1)
        # It gives up after ten attempts, so that a few are false; ours are not.
        _check(users, drawn, pairs_of, size, at_most=0 if name == "uniform" else len(users) // 100)
        fast, slow = in_turn(repeats, sampler, theirs)
        rows.append(
            Row(
                f"Verified negatives, {size.name}, {name}",
                "LensKit's sampler (Rust), verified",
                len(users) / fast / 1e6,
                len(users) / slow / 1e6,
                goal,
                _BOUND,
                "million a second",
            )
        )
    return rows


def _loop(users: npt.NDArray[np.int32], histories: list[set[int]], pool: npt.NDArray[np.int32]):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    found = np.empty((len(users), 1), dtype=np.int32)
    for place, user in enumerate(users):
        item = pool[rng.integers(len(pool))]
        while int(item) in histories[user]:
            item = pool[rng.integers(len(pool))]
        found[place, 0] = item
    return found


def _check(users, drawn, pairs_of: set[int], size: Size, at_most: int = 0) -> None:  # type: ignore[no-untyped-def]
    keys = (users.astype(np.int64) * size.items + drawn[:, 0]).tolist()
    false = sum(key in pairs_of for key in keys)
    if false > at_most:
        raise SystemExit(f"{false} of {len(keys)} negatives are false")


if __name__ == "__main__":
    main()
