import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prismrec.base.errors import InputError
from prismrec.evaluation.significance import cohen_d
from prismrec.experiments.compare import Measured, compare_table, over_seeds, paired


def one(users: list[int], values: list[float]) -> Measured:
    return Measured(np.array(users, dtype=np.int32), np.array(values))


A = {0: one([1, 4], [0.5, 0.3]), 1: one([1, 2], [0.2, 0.6])}
B = {0: one([1, 4], [0.1, 0.2]), 1: one([1, 2], [0.4, 0.0])}


def test_a_users_differences_are_averaged_over_seeds() -> None:
    users, seeds = paired(A, B)
    # User 1: (0.4 + -0.2) / 2; user 2: 0.6; user 4: 0.1.
    np.testing.assert_allclose(users, [0.1, 0.6, 0.1])
    np.testing.assert_allclose(seeds, [0.25, 0.2])


def test_only_common_seeds_are_compared() -> None:
    users, seeds = paired({**A, 2: one([9], [1.0])}, B)
    assert (len(users), len(seeds)) == (3, 2)
    with pytest.raises(InputError, match="no seed in common"):
        paired({5: A[0]}, B)


def test_other_users_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="seed 0"):
        paired({0: A[0]}, {0: one([1, 3], [0.1, 0.2])})


def test_the_mean_over_seeds_has_students_interval() -> None:
    found = over_seeds(A)
    # Means 0.4 and 0.4: no spread.
    assert (found.mean, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    spread = over_seeds({s: one([0], [v]) for s, v in enumerate([0.1, 0.2, 0.4])})
    half = 4.302652729911275 * np.std([0.1, 0.2, 0.4], ddof=1) / math.sqrt(3)
    assert spread.high - spread.mean == pytest.approx(half)


def many(means: list[float], seed: int = 0, users: int = 200) -> dict[int, Measured]:
    noise = np.random.default_rng(seed)
    return {
        s: Measured(np.arange(users, dtype=np.int32), mean + 0.05 * noise.normal(size=users))
        for s, mean in enumerate(means)
    }


def test_p_values_are_those_of_scipy_and_adjusted_over_the_whole_table() -> None:
    rows = {"a": many([0.5] * 5), "b": many([0.495] * 5, 1), "c": many([0.4] * 5, 2)}
    pairs = [("b", "a"), ("c", "a"), ("c", "b")]
    found = compare_table(rows, pairs)
    raw = []
    for x, y in pairs:
        gaps = np.mean([rows[x][s].values - rows[y][s].values for s in range(5)], axis=0)
        raw.append(stats.wilcoxon(gaps).pvalue)
        assert found[x, y].cohen_d == cohen_d(gaps)
        assert found[x, y].users == 200
    assert [found[pair].wilcoxon_p for pair in pairs] == pytest.approx(raw)
    order = np.argsort(raw)
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (3 - place) * raw[index]))
        assert found[pairs[index]].wilcoxon_holm == pytest.approx(running)


def test_better_worse_and_ties_with_their_reasons() -> None:
    rows = {
        "high": many([0.5, 0.51, 0.49, 0.5, 0.5]),
        "low": many([0.3, 0.31, 0.29, 0.3, 0.3], 1),
        "same": many([0.5, 0.51, 0.49, 0.5, 0.5], 2),
        # On average far above, for nearly every user; but one seed in five turns it around.
        "moody": many([0.7, 0.3, 0.9, 0.2, 0.6], 3),
    }
    found = compare_table(rows, [("high", "low"), ("low", "high"), ("same", "high"), ("moody", "high")])
    assert found["high", "low"].verdict == "better"
    assert found["low", "high"].verdict == "worse"
    assert found["low", "high"].difference.mean == pytest.approx(-0.2, abs=0.01)
    assert found["same", "high"].verdict == "tie"
    moody = found["moody", "high"]
    assert moody.p < 0.001
    assert (moody.verdict, moody.why) == ("tie", "inside the interval over seeds")


def test_a_row_against_itself_is_a_tie() -> None:
    rows = {"a": many([0.5] * 3), "b": many([0.5] * 3)}
    versus = compare_table(rows, [("a", "b")])["a", "b"]
    assert (versus.verdict, versus.p, versus.cohen_d) == ("tie", 1.0, None)


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_one_or_two_seeds_users_decide(seeds: int) -> None:
    # Student's t with two seeds is 12.7 standard errors wide: nothing could ever differ.
    rows = {"a": many([0.5, 0.8][:seeds]), "b": many([0.4, 0.45][:seeds], 1)}
    versus = compare_table(rows, [("a", "b")])["a", "b"]
    assert versus.verdict == "better"
    assert (versus.difference.low is None) == (seeds == 1)


def test_turned_around() -> None:
    rows = {"a": many([0.5] * 3), "b": many([0.4] * 3, 1)}
    forth, back = (compare_table(rows, [pair]) for pair in (("a", "b"), ("b", "a")))
    turned, seen = forth["a", "b"].turned("a"), back["b", "a"]
    assert (turned.other, turned.verdict) == (seen.other, seen.verdict) == ("a", "worse")
    assert turned.difference.low == pytest.approx(seen.difference.low)
    assert turned.cohen_d == pytest.approx(seen.cohen_d)
    assert turned.rank_biserial == pytest.approx(seen.rank_biserial)


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1), min_size=1, max_size=4))
def test_pairing_against_a_slow_way(seeds: list[list[tuple[int, float]]]) -> None:
    a, b = {}, {}
    for seed, found in enumerate(seeds):
        values = dict(found)
        users = sorted(values)
        a[seed] = one(users, [values[u] for u in users])
        b[seed] = one(users, [values[u] / 2 for u in users])
    slow: dict[int, list[float]] = {}
    for found in seeds:
        for user, value in dict(found).items():
            slow.setdefault(user, []).append(value / 2)
    users, _ = paired(a, b)
    np.testing.assert_allclose(users, [np.mean(slow[u]) for u in sorted(slow)], atol=1e-12)
    assert len(list(itertools.chain(*slow.values()))) == sum(len(dict(found)) for found in seeds)
