import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.models.layers.bpr_epoch import bpr_epoch


def tables(rng, rows, width, optimizer="adam"):
    start = rng.normal(size=(rows, width)).astype(np.float32)
    if optimizer == "sgd":
        return start, None, None
    return start, np.zeros_like(start), np.zeros_like(start)


def slow_epoch(users, items, triplets, batch_size, rates, step, l2):
    """The same in float64, one triplet after the other, as the formulas read."""
    users, items = ([t if t is None else t.astype(np.float64) for t in of] for of in (users, items))
    d = users[0].shape[1]
    ranks, penalties = [], []
    for batch, rate in enumerate(rates):
        chosen = slice(batch * batch_size, (batch + 1) * batch_size)
        who, positives, negatives = (t[chosen] for t in triplets)
        b, count = negatives.shape
        slopes = [np.zeros_like(users[0]), np.zeros_like(items[0])]
        rank = penalty = 0.0
        for u, i, drawn in zip(who, positives, negatives, strict=True):
            row = np.concatenate([users[0][u], np.ones(items[0].shape[1] - d)])
            slopes[0][u] += 2 * l2 / b * users[0][u]
            slopes[1][i] += 2 * l2 / b * items[0][i]
            penalty += (users[0][u] ** 2).sum() + (items[0][i] ** 2).sum()
            for j in drawn:
                gap = row @ items[0][j] - row @ items[0][i]
                rank += np.logaddexp(0, gap) / (b * count)
                weight = 1 / (1 + np.exp(-gap)) / (b * count)
                slopes[0][u] += weight * (items[0][j] - items[0][i])[:d]
                slopes[1][i] -= weight * row
                slopes[1][j] += weight * row + 2 * l2 / (b * count) * items[0][j]
                penalty += (items[0][j] ** 2).sum() / count
        step += 1
        for (table, mean, square), slope, codes in (
            (users, slopes[0], who),
            (items, slopes[1], np.append(positives, negatives)),
        ):
            rows = np.unique(codes)
            if mean is None:
                table[rows] -= rate * slope[rows]
                continue
            mean[rows] = 0.9 * mean[rows] + 0.1 * slope[rows]
            square[rows] = 0.999 * square[rows] + 0.001 * slope[rows] ** 2
            size = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            table[rows] -= size * mean[rows] / (np.sqrt(square[rows]) + 1e-8)
        ranks.append(rank)
        penalties.append(l2 * penalty / b)
    return users, items, np.mean(ranks), np.mean(penalties)


@settings(max_examples=60, deadline=None)
@given(
    n_users=st.integers(1, 6),
    n_items=st.integers(2, 8),
    d=st.integers(1, 21),
    bias=st.integers(0, 1),
    n=st.integers(1, 40),
    count=st.integers(1, 4),
    batch_size=st.integers(1, 17),
    l2=st.sampled_from([0.0, 0.3]),
    step=st.integers(0, 50),
    optimizer=st.sampled_from(["adam", "sgd"]),
    seed=st.integers(0, 1000),
)
def test_an_epoch_is_what_the_formulas_say(
    n_users, n_items, d, bias, n, count, batch_size, l2, step, optimizer, seed
):
    rng = np.random.default_rng(seed)
    users, items = tables(rng, n_users, d, optimizer), tables(rng, n_items, d + bias, optimizer)
    triplets = (
        rng.integers(0, n_users, n).astype(np.int32),
        rng.integers(0, n_items, n).astype(np.int32),
        rng.integers(0, n_items, (n, count)).astype(np.int32),
    )
    rates = rng.uniform(0.001, 0.1, -(-n // batch_size)) * (1 if optimizer == "adam" else 20)
    expected = slow_epoch(users, items, triplets, batch_size, rates, step, l2)
    rank, penalty = bpr_epoch(users, items, triplets, batch_size=batch_size, rates=rates, step=step, l2=l2)
    if optimizer == "sgd":
        np.testing.assert_allclose(users[0], expected[0][0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(items[0], expected[1][0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([rank, penalty], expected[2:], rtol=1e-4, atol=1e-5)
        return
    # Where a gradient is 0 up to rounding, Adam's step has its sign: of size `rate`, either way.
    settled = [np.abs(square) > 1e-9 for _, _, square in expected[:2]]
    for found, wanted, sure in zip((users, items), expected[:2], settled, strict=True):
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours[sure], theirs[sure], rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose([rank, penalty], expected[2:], rtol=1e-2, atol=1e-3)


def test_a_step_of_sgd_worked_out_by_hand():
    users = np.array([[1.0, 2.0]], np.float32), None, None
    items = np.array([[0.5, 0.0, 0.1], [0.0, 0.5, 0.3]], np.float32), None, None
    triplets = np.array([0], np.int32), np.array([0], np.int32), np.array([[1]], np.int32)
    rank, _ = bpr_epoch(users, items, triplets, batch_size=1, rates=np.array([2.0]), step=7, l2=0.0)
    # Scores 0.6 and 1.3: the gap is 0.7, its loss softplus(0.7), its slope sigmoid(0.7).
    slope = 1 / (1 + np.exp(-0.7))
    assert rank == pytest.approx(np.log1p(np.exp(0.7)))
    move = 2.0 * slope
    np.testing.assert_allclose(users[0], [[1 + 0.5 * move, 2 - 0.5 * move]], rtol=1e-6)
    np.testing.assert_allclose(items[0][0], [0.5 + move, 2 * move, 0.1 + move], rtol=1e-6)
    np.testing.assert_allclose(items[0][1], [-move, 0.5 - 2 * move, 0.3 - move], rtol=1e-6)


def test_scores_far_apart_do_not_overflow():
    users = (np.full((1, 2), 50, np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    start = np.array([[60, 60], [-60, -60]], np.float32)
    items = (start, np.zeros_like(start), np.zeros_like(start))
    for positive, loss in ((0, 0.0), (1, 12_000.0)):
        triplets = np.zeros(1, np.int32), np.array([positive], np.int32), np.array([[1 - positive]], np.int32)
        copies = [tuple(t.copy() for t in of) for of in (users, items)]
        rank, _ = bpr_epoch(*copies, triplets, batch_size=1, rates=np.array([0.1]), step=0, l2=0.0)
        assert rank == pytest.approx(loss)
        assert all(np.isfinite(t).all() for of in copies for t in of)


def test_a_table_that_has_diverged_gives_no_number():
    rng = np.random.default_rng(0)
    users, items = tables(rng, 3, 4), tables(rng, 5, 4)
    users[0][1] = np.nan
    triplets = np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32), np.full((3, 1), 4, np.int32)
    rank, _ = bpr_epoch(users, items, triplets, batch_size=2, rates=np.full(2, 0.1), step=0, l2=0.0)
    assert np.isnan(rank)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_rows_that_no_triplet_names_stay_as_they_are(optimizer):
    rng = np.random.default_rng(1)
    users, items = tables(rng, 4, 3, optimizer), tables(rng, 6, 4, optimizer)
    before = users[0].copy(), items[0].copy()
    triplets = np.array([2, 2], np.int32), np.array([5, 1], np.int32), np.array([[1], [5]], np.int32)
    bpr_epoch(users, items, triplets, batch_size=2, rates=np.array([0.1]), step=0, l2=0.1)
    for table, start, touched in ((users[0], before[0], [2]), (items[0], before[1], [1, 5])):
        changed = (table != start).any(axis=1)
        assert np.flatnonzero(changed).tolist() == touched


_ON_THREADS = """
import numba, numpy as np
from prismrec.models.layers.bpr_epoch import bpr_epoch
found = {}
for moments, threads in ((True, 1), (True, 2), (False, 1), (False, 2)):
    numba.set_num_threads(threads)
    rng = np.random.default_rng(0)
    def table(rows, width):
        start = rng.normal(size=(rows, width)).astype(np.float32)
        return (start, np.zeros_like(start), np.zeros_like(start)) if moments else (start, None, None)
    users, items = table(70, 19), table(50, 20)
    who, best = (rng.integers(0, top, 3000).astype(np.int32) for top in (70, 50))
    others = rng.integers(0, 50, (3000, 3)).astype(np.int32)
    triplets, rates = (who, best, others), np.full(12, 0.05 if moments else 5.0)
    loss = bpr_epoch(users, items, triplets, batch_size=256, rates=rates, step=0, l2=0.01)
    found[moments, threads] = [np.array(x) for x in (*users, *items, loss) if x is not None]
for moments in (True, False):
    for one, two in zip(found[moments, 1], found[moments, 2], strict=True):
        assert np.array_equal(one, two)
assert not np.array_equal(found[True, 1][0], found[False, 1][0])
"""


def test_any_number_of_threads_gives_the_same():
    # The number of threads is fixed when numba starts, so this runs in a process of its own.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", _ON_THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
