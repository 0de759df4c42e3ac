import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.training.negatives import Negatives, popularity_weights


def draw_negatives(users, starts, touched, pool, *, count, seed, weights=None):
    return Negatives(starts, touched, pool, weights).draw(users, count=count, seed=seed)


def rows(touched_by_user):
    users = np.repeat(np.arange(len(touched_by_user)), [len(t) for t in touched_by_user]).astype(np.int32)
    items = np.array([i for t in touched_by_user for i in sorted(t)], dtype=np.int32)
    return Pairs(users, items).by_user(len(touched_by_user))


@given(
    st.lists(st.sets(st.integers(0, 9), max_size=8), min_size=1, max_size=6),
    st.sets(st.integers(0, 9), min_size=9),
    st.integers(1, 7),
    st.integers(-(2**70), 2**70),
)
def test_a_negative_is_in_the_pool_and_was_never_touched(touched, pool, count, seed):
    starts, items = rows(touched)
    users = np.arange(len(touched), dtype=np.int32).repeat(3)
    codes = np.array(sorted(pool), dtype=np.int32)
    found = draw_negatives(users, starts, items, codes, count=count, seed=seed)
    assert found.shape == (len(users), count)
    for user, drawn in zip(users, found, strict=True):
        assert set(drawn.tolist()) <= pool - touched[user]


def test_the_one_item_left_is_found():
    starts, items = rows([set(range(5000)) - {4321}])
    found = draw_negatives(
        np.zeros(50, np.int32), starts, items, np.arange(5000, dtype=np.int32), count=2, seed=5
    )
    assert (found == 4321).all()


def test_a_user_who_has_touched_all_is_named():
    starts, items = rows([{0}, {0, 1, 2}])
    users = np.array([0, 1, 0], dtype=np.int32)
    with pytest.raises(InputError, match="User number 1 has touched all 3 items"):
        draw_negatives(users, starts, items, np.arange(3, dtype=np.int32), count=1, seed=0)


@pytest.mark.parametrize("touched", [set(), {3, 4, 11}, set(range(17))])
def test_draws_are_uniform_over_what_is_left(touched):
    starts, items = rows([touched])
    pool = np.arange(20, dtype=np.int32)
    found = draw_negatives(np.zeros(20_000, np.int32), starts, items, pool, count=2, seed=7)
    counts = np.bincount(found.ravel(), minlength=20)[sorted(set(range(20)) - touched)]
    assert stats.chisquare(counts).pvalue > 1e-4
    # Neighbours (of one pair, and of one pair and the next) do not depend on each other.
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(found[:-1, 1], found[1:, 0])[0, 1]) < 0.03


def test_seeds_differ_and_repeat():
    starts, items = rows([{1}])
    users, pool = np.zeros(1000, np.int32), np.arange(500, dtype=np.int32)
    one, two, again = (draw_negatives(users, starts, items, pool, count=1, seed=seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert (one == two).mean() < 0.02


@given(
    st.lists(st.sets(st.integers(0, 150), max_size=90), min_size=1, max_size=6),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.sampled_from([None, "weights"]),
)
def test_negatives_are_true_for_long_histories_however_they_are_drawn(touched, count, batch, seed, weighted):
    # Some pairs share a bit with others: the search must then decide.
    starts, items = rows(touched)
    pool = np.arange(152, dtype=np.int32)
    weights = None if weighted is None else np.random.default_rng(seed).random(152) ** 4
    sampler = Negatives(starts, items, pool, weights)
    users = np.random.default_rng(seed).integers(0, len(touched), 60).astype(np.int32)
    positives = np.random.default_rng(seed + 1).integers(0, 151, 60).astype(np.int32)
    drawn = sampler.draw(users, count=count, seed=seed)
    near = sampler.draw_in_batch(users, positives, batch_size=batch, count=count, seed=seed)
    for place, user in enumerate(users):
        assert not set(drawn[place].tolist()) & touched[user]
        assert not set(near[place].tolist()) & touched[user]
        first = place // batch * batch
        left = set(positives[first : first + batch].tolist()) - touched[user]
        if left:
            assert set(near[place].tolist()) <= left


@pytest.mark.parametrize("power", [0.0, 0.75, 2.0])
def test_weighted_draws_follow_the_weights_over_what_is_left(power):
    counts = np.array([1, 2, 50, 7, 0, 0, 30, 4, 4, 9])
    log, pool = np.repeat(np.arange(10), counts), np.array([9, 8, 7, 6, 4, 3, 2, 1, 0], dtype=np.int32)
    weights = popularity_weights(log, pool, power)
    np.testing.assert_allclose(weights, np.maximum(counts[pool], 1.0) ** power)
    starts, items = rows([{2, 5, 8}])
    found = draw_negatives(np.zeros(40_000, np.int32), starts, items, pool, count=2, seed=1, weights=weights)
    left = ~np.isin(pool, [2, 5, 8])
    expected = weights[left] / weights[left].sum() * found.size
    observed = np.bincount(found.ravel(), minlength=10)[pool[left]]
    assert observed.sum() == found.size
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 1e-3))
def test_the_alias_table_gives_each_place_its_share(weights):
    from prismrec.training.negatives import _alias_table

    weights = np.array(weights)
    table = _alias_table(np.arange(len(weights), dtype=np.int32), weights)
    kept = table[:, 0] / 2.0**32
    shares = kept + np.bincount(table[:, 1], weights=1 - kept, minlength=len(weights))
    np.testing.assert_allclose(shares / len(weights), weights / weights.sum(), atol=1e-8)


def test_items_without_weight_come_last():
    starts, items = rows([{0}, {1}])
    users, pool = np.array([0] * 50 + [1] * 50, np.int32), np.arange(3, dtype=np.int32)
    found = draw_negatives(users, starts, items, pool, count=1, seed=2, weights=np.array([1.0, 0.0, 0.0]))
    assert set(found[:50].ravel().tolist()) <= {1, 2}
    assert (found[50:] == 0).all()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, np.nan, 1.0]])
def test_weights_that_cannot_be(weights):
    starts, items = rows([{0}])
    with pytest.raises(InputError, match="Weights of negatives need 3 finite numbers"):
        Negatives(starts, items, np.arange(3, dtype=np.int32), np.array(weights))


def test_an_empty_pool_leaves_nothing_to_draw():
    starts, items = rows([{0}])
    with pytest.raises(InputError, match="all 0 items"):
        draw_negatives(np.zeros(1, np.int32), starts, items, np.empty(0, np.int32), count=1, seed=0)
    none = draw_negatives(np.empty(0, np.int32), starts, items, np.arange(2, dtype=np.int32), count=3, seed=0)
    assert none.shape == (0, 3)


def test_in_batch_draws_are_uniform_over_the_pairs_of_the_batch():
    starts, items = rows([{0}, {1, 3}])
    users = np.tile(np.array([0, 0, 1, 1], np.int32), 5_000)
    positives = np.tile(np.array([0, 2, 1, 2], np.int32), 5_000)
    found = Negatives(starts, items, np.arange(4, dtype=np.int32)).draw_in_batch(
        users, positives, batch_size=4, count=3, seed=11
    )
    # User 0 may get 2 (twice there) or 1; user 1 may get 2 (twice) or 0.
    for user, rare in ((0, 1), (1, 0)):
        drawn = found[users == user]
        assert set(np.unique(drawn).tolist()) == {2, rare}
        assert abs((drawn == 2).mean() - 2 / 3) < 0.01


_ON_THREADS = """
import numba, numpy as np
from prismrec.data.interactions import Pairs
from prismrec.training.negatives import Negatives, popularity_weights
random = np.random.default_rng(0)
pairs = Pairs(np.repeat(np.arange(50, dtype=np.int32), 40), random.integers(0, 300, 2000).astype(np.int32))
starts, items = pairs.by_user(50)
users = random.integers(0, 50, 5000).astype(np.int32)
positives = random.integers(0, 300, 5000).astype(np.int32)
pool = np.arange(300, dtype=np.int32)
found = []
for threads in (1, 2):
    numba.set_num_threads(threads)
    for weights in (None, popularity_weights(pairs.items, pool, 0.75)):
        sampler = Negatives(starts, items, pool, weights)
        found.append(sampler.draw(users, count=3, seed=9))
        found.append(sampler.draw_in_batch(users, positives, batch_size=7, count=3, seed=9))
for one, two in zip(found[:4], found[4:], strict=True):
    assert (one == two).all()
"""


def test_any_number_of_threads_gives_the_same():
    # The number of threads is fixed when numba starts, so this runs in a process of its own.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", _ON_THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
