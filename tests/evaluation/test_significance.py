"""Intervals and tests against scipy, hand-computed cases and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prismrec.base.errors import InputError
from prismrec.evaluation import significance as sig
from prismrec.evaluation.result import Interval

differences = st.lists(st.integers(-5, 5), min_size=2, max_size=12).map(lambda v: np.array(v, float))


def test_the_bootstrap_interval_is_that_of_scipy():
    values = np.random.default_rng(1).exponential(size=150)
    ours = sig.mean_interval(values, resamples=4000, seed=2)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=3
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_the_expansion_gives_the_same_quantiles_as_drawing(monkeypatch):
    """Rare hits: skewed enough that a symmetric normal interval would be visibly off."""
    values = np.zeros(2_500)
    values[:20] = 1.0
    expanded = sig.mean_interval(values)
    monkeypatch.setattr(sig, "_RESAMPLED_USERS", 10_000)
    drawn = sig.mean_interval(values, resamples=4000)
    half_normal = 1.96 * values.std() / 50
    assert expanded.low == pytest.approx(drawn.low, rel=0.06)
    assert expanded.high == pytest.approx(drawn.high, rel=0.04)
    assert expanded.high - expanded.mean > half_normal * 1.05
    assert expanded.mean - expanded.low < half_normal * 0.95


def test_rows_share_their_draws_and_the_seed_decides():
    values = np.random.default_rng(0).random((3, 40))
    together = sig.mean_intervals(values, seed=5)
    for row, interval in zip(values, together, strict=True):
        assert sig.mean_interval(row, seed=5).low == pytest.approx(interval.low, rel=1e-12)
    assert together == sig.mean_intervals(values, seed=5)
    assert together != sig.mean_intervals(values, seed=6)


@pytest.mark.parametrize("users", [400, 3_000])
def test_nineteen_of_twenty_intervals_hold_the_truth(users):
    """Hits with a chance of 0.1; 300 experiments. The bounds are six standard errors away from 95 %."""
    random = np.random.default_rng(11)
    experiments = (random.random((300, users)) < 0.1).astype(float)
    held = [i.low <= 0.1 <= i.high for i in sig.mean_intervals(experiments, resamples=300)]
    assert 0.875 <= np.mean(held) <= 0.999


def test_degenerate_intervals():
    assert sig.mean_interval(np.array([0.3])) == Interval(mean=0.3)
    steady = sig.mean_interval(np.full(5000, 0.25))
    assert (steady.low, steady.mean, steady.high) == (0.25, 0.25, 0.25)
    for bad in ([], [0.1, np.nan]):
        with pytest.raises(InputError):
            sig.mean_interval(np.array(bad))
        with pytest.raises(InputError):
            sig.seed_interval(bad)


def test_the_interval_over_seeds_is_students():
    values = [0.31, 0.29, 0.30, 0.34, 0.28]
    ours = sig.seed_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))
    assert sig.seed_interval([0.4]) == Interval(mean=0.4)


@given(differences)
def test_the_randomisation_test_counts_all_sign_patterns(d):
    """Exact p-value by enumeration; 10,000 draws come within five standard errors."""
    observed = abs(d.sum())
    sums = [abs(float(np.dot(signs, d))) for signs in itertools.product((-1, 1), repeat=len(d))]
    exact = np.mean([total >= observed - 1e-9 for total in sums])
    error = 5 * math.sqrt(exact * (1 - exact) / 10_000) + 2e-4
    assert abs(sig.sign_flip(d) - exact) <= error


def test_many_users_have_the_same_p_value_by_the_normal_limit(monkeypatch):
    d = np.random.default_rng(4).normal(0.03, 1, 2_500)
    limit = sig.sign_flip(d)
    monkeypatch.setattr(sig, "_RESAMPLED_USERS", 10_000)
    assert sig.sign_flip(d, resamples=4_000) == pytest.approx(limit, abs=0.03)
    assert 0.05 < limit < 0.5


def test_wilcoxon_is_scipys_without_zeros():
    d = np.array([1.5, -0.5, 2.0, 3.0, 0.0, 2.5, 0.75])
    assert sig.wilcoxon(d) == pytest.approx(2 * 2 / 2**6)  # ranks 1..6; the negative sum is 1
    assert sig.wilcoxon(np.zeros(4)) == 1.0


def test_holm_by_hand():
    assert sig.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert sig.holm([0.6, 0.7]) == [1.0, 1.0]
    assert sig.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(p_values):
    adjusted = sig.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_effect_sizes_by_hand():
    d = np.array([1.0, 2.0, 3.0, -1.0, 0.0])
    assert sig.cohen_d(d) == pytest.approx(1.0 / math.sqrt((0 + 1 + 4 + 4 + 1) / 4))
    # Absolute ranks of 1, 2, 3, -1: 1.5, 3, 4, 1.5.
    assert sig.rank_biserial(d) == pytest.approx((1.5 + 3 + 4 - 1.5) / 10)
    assert sig.cohen_d(np.full(4, 0.2)) is None
    assert sig.rank_biserial(np.zeros(3)) == 0.0


@given(differences)
@settings(max_examples=15)
def test_swapping_the_runs_swaps_the_signs(d):
    there, back = sig.compare(d, np.zeros(len(d))), sig.compare(np.zeros(len(d)), d)
    assert there.rank_biserial == pytest.approx(-back.rank_biserial)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert there.wilcoxon_p == pytest.approx(back.wilcoxon_p)


def test_a_clear_difference_is_none_of_a_tie():
    random = np.random.default_rng(0)
    a = random.random(300)
    found = sig.compare_all(
        a, {"same": a, "noise": a + random.normal(0, 0.1, 300), "worse": a - 0.1 * random.random(300)}
    )
    assert {name: c.tie for name, c in found.items()} == {"same": True, "noise": True, "worse": False}
    assert found["worse"].randomisation_holm == pytest.approx(3 * found["worse"].randomisation_p)
    assert found["worse"].difference.low > 0
    assert found["same"].cohen_d is None


def test_holm_may_turn_a_difference_into_a_tie():
    d = np.array([1.0] * 15 + [-1.0] * 5)  # p is about 0.04 by either test
    alone = sig.compare(d, np.zeros(20))
    among = sig.compare_all(d, {str(n): np.zeros(20) for n in range(3)})["0"]
    assert alone.difference.low > 0
    assert not alone.tie
    assert among.tie


def test_users_that_are_not_counted_are_left_out():
    got = sig.compare([0.5, np.nan, 0.7], [0.1, np.nan, 0.2])
    assert got.users == 2
    assert got.a == pytest.approx(0.6)
    with pytest.raises(InputError, match="other users are counted"):
        sig.compare([0.5, np.nan], [0.5, 0.1])
    with pytest.raises(InputError, match="values"):
        sig.compare([0.5], [0.5, 0.1])
    with pytest.raises(InputError, match="no user"):
        sig.compare([np.nan], [np.nan])
