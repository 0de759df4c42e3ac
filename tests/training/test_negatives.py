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
from prismrec.training.negatives import draw_negatives


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


_ON_THREADS = """
import numba, numpy as np
from prismrec.data.interactions import Pairs
from prismrec.training.negatives import draw_negatives
random = np.random.default_rng(0)
pairs = Pairs(np.repeat(np.arange(50, dtype=np.int32), 40), random.integers(0, 300, 2000).astype(np.int32))
starts, items = pairs.by_user(50)
users = random.integers(0, 50, 5000).astype(np.int32)
found = []
for threads in (1, 2):
    numba.set_num_threads(threads)
    found.append(draw_negatives(users, starts, items, np.arange(300, dtype=np.int32), count=3, seed=9))
assert (found[0] == found[1]).all()
"""


def test_any_number_of_threads_gives_the_same():
    # The number of threads is fixed when numba starts, so this runs in a process of its own.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", _ON_THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
