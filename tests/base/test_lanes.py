"""Vector code against plain loops."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prismrec.base import lanes

floats = st.floats(-(2.0**120), 2.0**120, width=32)


@numba.njit
def count_at_least(row, least):
    count = 0
    for start in range(0, len(row), lanes.LINE // row.itemsize):
        count += lanes.ones(lanes.at_least(row, start, least))
    return count


@numba.njit
def first_score_at_least(row, least):
    for start in range(0, len(row), lanes.LINE // row.itemsize):
        mask = lanes.scores_at_least(row, start, least)
        if mask != np.uint64(0):
            return start + lanes.lowest(mask)
    return -1


@numba.njit
def make_keys(row):
    for start in range(0, len(row), lanes.LINE // row.itemsize):
        lanes.to_keys(row, start)


@numba.njit
def product(left, right):
    return lanes.dot(left, right)


def bfloat16_bits(values):
    import torch

    return torch.from_numpy(values.astype(np.float32)).bfloat16().view(torch.int16).numpy().copy()


def bits_of(values, bits):
    return bfloat16_bits(values) if bits == 16 else values.astype(np.float32).view(np.int32).copy()


@pytest.mark.parametrize("bits", [16, 32])
@given(hnp.arrays(np.float32, 64, elements=floats), floats)
@settings(max_examples=60)
def test_keys_have_the_order_of_the_scores_and_are_compared_as_such(bits, values, bound):
    values = values + np.float32(0.0)
    row = bits_of(values, bits)
    key = lanes.keys(values.astype(np.float64), bits)
    least = int(lanes.keys(np.array([bound], dtype=np.float64), bits)[0])
    assert first_score_at_least(row, least) == next((i for i, one in enumerate(key) if one >= least), -1)
    make_keys(row)
    assert row.tolist() == key.tolist()
    assert count_at_least(row, least) == (key >= least).sum()
    order = np.argsort(values, kind="stable")
    assert (np.diff(key[order]) >= 0).all()


def test_minus_zero_stands_just_below_zero():
    row = np.full(64, -32768, dtype=np.int16)
    make_keys(row)
    assert set(row.tolist()) == {-1}


@given(st.integers(1, 5), st.data())
@settings(max_examples=60)
def test_the_product_is_summed_in_the_documented_order(eights, data):
    vector = hnp.arrays(np.float32, 8 * eights, elements=floats)
    left, right = data.draw(vector), data.draw(vector)
    sums = [0.0] * 8
    for place, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        sums[place % 8] += a * b
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [sums[lane] + sums[lane + half] for lane in range(half)]
    assert product(left, right) == sums[0]
