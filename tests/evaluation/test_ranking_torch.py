"""Torch's ranks and lists are those of the compiled loops, to the last place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.exact import ItemMatrix
from prismrec.base.progress import SILENT
from prismrec.evaluation import ranking_torch
from prismrec.evaluation.ranking import Rows, nothing, rank_positives, top_k


def by_torch(users, items, positives, masked, k):
    with SILENT.task("test", None) as task:
        above = ranking_torch.count_above(users, items, positives, masked, "cpu", task)
        return above, ranking_torch.best(users, items, k, masked, "cpu", task)


def check(users, items, positives, masked, k):
    ranks = rank_positives(users, items, positives, masked)
    lists = top_k(users, items, k, masked)
    above, theirs = by_torch(users, items, positives, masked, k)
    expected = [{} for _ in range(len(users))]
    for u in range(len(users)):
        mine = slice(ranks.starts[u], ranks.starts[u + 1])
        expected[u] = dict(zip(ranks.items[mine].tolist(), ranks.ranks[mine].tolist(), strict=True))
        for item, count in zip(positives.items[mine].tolist(), above[mine].tolist(), strict=True):
            assert (len(items) + 1 if count < 0 else count + 1) == expected[u][item]
    assert np.array_equal(lists[0], theirs[0])
    assert np.array_equal(lists[1], theirs[1])


def some_rows(random, n_users, n_items, share):
    users, items = np.nonzero(random.random((n_users, n_items)) < share * random.random((n_users, 1)))
    return Rows.of(users, items, n_users)


@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.sampled_from([1, 40, 200, 400]),
    st.integers(1, 20),
    st.sampled_from([0, 2]),
)
@settings(max_examples=60)
def test_the_same_as_the_compiled_loops(seed, n_users, n_items, dim, levels):
    random = np.random.default_rng(seed)
    users, items = random.normal(size=(n_users, dim)), random.normal(size=(n_items, dim))
    if levels:
        users, items = users.round() % levels, items.round() % levels
    candidates = ItemMatrix.of(items.astype(np.float32), random.permutation(n_items).astype(np.int32))
    positives, masked = (some_rows(random, n_users, n_items, share) for share in (0.1, 0.2))
    k = int(random.integers(1, n_items + 1))
    check(users.astype(np.float32), candidates, positives, masked, k)


@pytest.mark.parametrize("kind", ["equal", "nearly equal", "users of zeros", "items of zeros"])
def test_the_same_where_nearly_everything_is_a_tie(kind):
    random = np.random.default_rng(0)
    users, items = random.normal(size=(5, 16)), np.repeat(random.normal(size=(1, 16)), 300, axis=0)
    if kind == "nearly equal":
        items += 1e-7 * random.normal(size=items.shape)
    elif kind != "equal":
        (users if kind == "users of zeros" else items)[:] = 0.0
    candidates = ItemMatrix.of(items.astype(np.float32), random.permutation(300).astype(np.int32))
    positives, masked = (some_rows(random, 5, 300, share) for share in (0.1, 0.2))
    check(users.astype(np.float32), candidates, positives, masked, 20)


def test_tiles_and_blocks_make_no_difference(monkeypatch):
    random = np.random.default_rng(1)
    users, items = (random.normal(size=(n, 24)).astype(np.float32) for n in (9, 500))
    positives, masked = (some_rows(random, 9, 500, share) for share in (0.1, 0.2))
    for name, size in (("_TILE_USERS", 4), ("_TILE_ITEMS", 70), ("_GATHERED", 3000)):
        monkeypatch.setattr(ranking_torch, name, size)
    check(users, ItemMatrix.of(items), positives, masked, 30)
    check(users, ItemMatrix.of(items), positives, nothing(9), 30)


def test_a_device_is_an_argument(monkeypatch):
    """No other device is here: "meta" tensors hold nothing, so that the call arrives and fails there."""
    items = ItemMatrix.of(np.ones((3, 2), np.float32))
    with pytest.raises((NotImplementedError, RuntimeError)):
        top_k(np.ones((1, 2), np.float32), items, 1, device="meta")


def test_products_are_taken_in_full_whatever_is_allowed():
    random = np.random.default_rng(3)
    users, items = (random.normal(size=(n, 64)).astype(np.float32) for n in (40, 300))
    candidates = ItemMatrix.of(items, random.permutation(300).astype(np.int32))
    positives, masked = (some_rows(random, 40, 300, share) for share in (0.1, 0.2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        check(users, candidates, positives, masked, 20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
