import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.interactions import Pairs
from prismrec.models.layers.cooccurrence import (
    SmoothedHistory,
    Smoothing,
    cooccurrence,
    score_width,
    smoothings,
    standardised,
)


def pairs_of(touched: np.ndarray) -> Pairs:
    users, items = np.nonzero(touched)
    return Pairs(users.astype(np.int32), items.astype(np.int32))


def dense(touched: np.ndarray) -> np.ndarray:
    counts = touched.T.astype(float) @ touched
    np.fill_diagonal(counts, 0.0)
    sums = counts.sum(axis=1)
    scale = np.divide(1.0, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0)
    return counts * scale[:, None] * scale


def test_three_items_by_hand() -> None:
    # User 0 touched items 4 and 6, user 1 items 4, 6 and 9, user 2 item 9 alone.
    pairs = Pairs(np.array([0, 0, 1, 1, 1, 2], np.int32), np.array([4, 6, 4, 6, 9, 9], np.int32))
    found = cooccurrence(pairs, np.array([4, 6, 9], np.int32), 4).toarray()
    # A: 4-6 twice, 4-9 and 6-9 once; row sums 3, 3, 2.
    expected = [[0, 2 / 3, 6**-0.5], [2 / 3, 0, 6**-0.5], [6**-0.5, 6**-0.5, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 20))
def test_is_the_dense_formula(seed: int, n_items: int, n_users: int) -> None:
    touched = np.random.default_rng(seed).random((n_users, n_items)) < 0.2
    warm = np.arange(n_items, dtype=np.int32)
    found = cooccurrence(pairs_of(touched), warm, n_users).toarray()
    np.testing.assert_allclose(found, dense(touched), atol=1e-6)
    assert np.abs(np.linalg.eigvalsh(found)).max() < 1 + 1e-5


def test_many_items_keep_the_largest_entries_of_each_row() -> None:
    touched = np.random.default_rng(0).random((60, 1500)) < 0.03
    warm = np.arange(1500, dtype=np.int32)
    found = cooccurrence(pairs_of(touched), warm, 60, whole=1000, entries=5)
    assert isinstance(found, scipy.sparse.csr_matrix)
    everything = dense(touched)
    assert np.diff(found.indptr).max() == 5
    for row in (0, 3, 1023, 1024, 1499):  # Both blocks.
        kept = np.sort(found[row].toarray()[0])[-5:]
        np.testing.assert_allclose(kept, np.sort(everything[row])[-5:], rtol=1e-5)
    values = found.tocoo()
    np.testing.assert_allclose(values.data, everything[values.row, values.col], rtol=1e-5)


def test_what_there_is_to_choose() -> None:
    assert smoothings(2.0, only=False) == [Smoothing(1.0, 2.0)]
    assert smoothings(2.0, only=True) == smoothings(None, only=True) == [Smoothing(0.0, 1.0)]
    every = {(s.own, s.passed) for s in smoothings(None, only=False)}
    assert every == {(1, 0), (1, 1), (1, 3), (0, 1)}


@pytest.mark.parametrize("smoothing", smoothings(None, only=False))
def test_users_are_smoothed_histories(smoothing: Smoothing) -> None:
    touched = np.random.default_rng(1).random((9, 12)) < 0.3
    touched[4] = False
    users = SmoothedHistory()
    users.fit(pairs_of(touched), np.arange(12, dtype=np.int32), 9)
    smoothed = smoothing.own * touched + smoothing.passed * touched @ dense(touched)
    rows = np.random.default_rng(2).normal(size=(12, 3)).astype(np.float32)
    users.lay_rows(torch.from_numpy(rows))
    users.smooth(smoothing)
    np.testing.assert_allclose(users(torch.arange(9)), smoothed @ rows, atol=1e-5)
    # Items 0 and 7 in one column, item 3 in none, the others as they come.
    columns = torch.tensor([0, 1, 2, -1, 3, 4, 5, 0, 6, 7, 8, 9])
    users.lay_columns(columns, 10)
    users.smooth(smoothing)
    expected = np.zeros((9, 10))
    for item, column in enumerate(columns.tolist()):
        if column >= 0:
            expected[:, column] += smoothed[:, item]
    users.finish()
    np.testing.assert_allclose(users(torch.arange(9)), expected, atol=1e-5)
    assert (users(torch.tensor([-1, 4])) == 0).all()
    history = torch.from_numpy(np.flatnonzero(touched[2]))
    found = users.of_items(torch.cat((history, torch.tensor([-1]))))
    np.testing.assert_allclose(found, expected[2], atol=1e-5)


def test_smoothing_leaves_what_was_laid_alone() -> None:
    users = SmoothedHistory()
    users.fit(pairs_of(np.ones((2, 3))), np.arange(3, dtype=np.int32), 2)
    rows = torch.ones(3, 2)
    users.lay_rows(rows)
    for smoothing in smoothings(None, only=False):
        users.smooth(smoothing)
    assert (rows == 1).all()


def test_standardised_scores_have_deviation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(5, 4, generator=generator), torch.randn(30, 4, generator=generator)
    users[3] = 0.0
    widths = score_width(users, items)
    np.testing.assert_allclose(widths, (users @ items.T).numpy().std(axis=1), rtol=1e-5)
    after = (standardised(users, widths) @ items.T).numpy().std(axis=1)
    np.testing.assert_allclose(after, [1, 1, 1, 0, 1], rtol=1e-5)
    assert score_width(users[:0], items).shape == (0,)
