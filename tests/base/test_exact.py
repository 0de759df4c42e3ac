"""The exact search against sorting canonical scores, for every way of multiplying, on data with no mercy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base import exact
from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix, best, count_above
from prismrec.base.exact_kernels import norms
from prismrec.base.exact_products import Product, error_bounds, operand
from prismrec.base.progress import SILENT

PRODUCTS = list(Product)


def canonical(users, items):
    """Canonical scores in plain NumPy, shape (u, n)."""
    padding = -users.shape[1] % 8
    users, items = (np.pad(x.astype(np.float64), ((0, 0), (0, padding))) for x in (users, items))
    total = np.zeros((len(users), len(items), 8))
    for lane in range(0, users.shape[1], 8):
        total = total + users[:, None, lane : lane + 8] * items[None, :, lane : lane + 8]
    while total.shape[2] > 1:
        half = total.shape[2] // 2
        total = total[:, :, :half] + total[:, :, half:]
    return total[:, :, 0]


def flat(lists):
    starts = np.concatenate(([0], np.cumsum([len(x) for x in lists]))).astype(np.int64)
    return starts, np.array([i for some in lists for i in some], dtype=np.int32)


def check(users, items, ties, wanted, masked, k, product):
    matrix = ItemMatrix.of(items, np.asarray(ties, dtype=np.int32))
    starts, flat_wanted = flat(wanted)
    masked_starts, flat_masked = flat(masked)
    with SILENT.task("test", None) as task:
        above = count_above(users, matrix, starts, flat_wanted, masked_starts, flat_masked, task, product)
        found, scores = best(users, matrix, k, masked_starts, flat_masked, task, product)
    truth = canonical(users, items)
    for u in range(len(users)):
        order = [i for i in np.lexsort((ties, -truth[u])).tolist() if i not in set(masked[u])]
        place = {item: n for n, item in enumerate(order)}
        assert above[starts[u] : starts[u + 1]].tolist() == [place.get(i, -1) for i in wanted[u]]
        expected = order[:k]
        assert found[u].tolist() == expected + [-1] * (k - len(expected))
        assert scores[u, : len(expected)].tolist() == truth[u, expected].astype(np.float32).tolist()
        assert np.isneginf(scores[u, len(expected) :]).all()


def drawn(seed, n_users, n_items):
    random = np.random.default_rng(seed)
    some = lambda most: np.flatnonzero(random.random(n_items) < most * random.random()).tolist()  # noqa: E731
    wanted = [some(0.2) for _ in range(n_users)]
    masked = [some(0.3) for _ in range(n_users)]
    return random, random.permutation(n_items), wanted, masked


@pytest.mark.parametrize("product", PRODUCTS)
@given(
    seed=st.integers(0, 10_000),
    n_users=st.integers(0, 7),
    n_items=st.sampled_from([1, 2, 31, 33, 64, 257, 700]),
    dim=st.integers(1, 20),
    levels=st.sampled_from([0, 1, 3]),
    data=st.data(),
)
@settings(max_examples=40)
def test_agrees_with_sorting(product, seed, n_users, n_items, dim, levels, data):
    random, ties, wanted, masked = drawn(seed, n_users, n_items)
    users, items = random.normal(size=(n_users, dim)), random.normal(size=(n_items, dim))
    if levels:  # few distinct numbers: many ties, vectors of zeros among them
        users, items = users.round() % (levels + 1), items.round() % (levels + 1) - 1
    k = data.draw(st.sampled_from([1, min(10, n_items), n_items]))
    check(users.astype(np.float32), items.astype(np.float32), ties, wanted, masked, k, product)


def near_ties(random, shape):
    return random.normal(size=(1, shape[1])) + 1e-7 * random.normal(size=shape)


DEGENERATE = {
    "all items equal": lambda r, u, n: (r.normal(size=(u, 16)), np.repeat(r.normal(size=(1, 16)), n, axis=0)),
    "three vectors": lambda r, u, n: (r.normal(size=(u, 16)), r.normal(size=(3, 16))[r.integers(0, 3, n)]),
    "nearly equal": lambda r, u, n: (r.normal(size=(u, 16)), near_ties(r, (n, 16))),
    "users of zeros": lambda r, u, n: (np.zeros((u, 16)), r.normal(size=(n, 16))),
    "items of zeros": lambda r, u, n: (r.normal(size=(u, 16)), np.zeros((n, 16))),
    "tiny": lambda r, u, n: (r.normal(size=(u, 16)) * 1e-21, r.normal(size=(n, 16)) * 1e-21),
    "below the normal numbers": lambda r, u, n: (
        r.normal(size=(u, 16)) * 1e-41,
        r.normal(size=(n, 16)),
    ),
    "large": lambda r, u, n: (r.normal(size=(u, 16)) * 1e18, r.normal(size=(n, 16)) * 1e17),
    "one number": lambda r, u, n: (np.ones((u, 1)), np.log1p(r.integers(0, 9, (n, 1)))),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("k", [5, 900])
def test_agrees_where_nearly_everything_is_a_tie(kind, product, k):
    n_users, n_items = 4, 1500
    random, ties, wanted, masked = drawn(1, n_users, n_items)
    users, items = DEGENERATE[kind](random, n_users, n_items)
    check(users.astype(np.float32), items.astype(np.float32), ties, wanted, masked, k, product)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("tile", [(1, 64), (3, 128), (5, 640)])
def test_tiles_make_no_difference(product, tile, monkeypatch):
    random, ties, wanted, masked = drawn(2, 11, 1000)
    monkeypatch.setattr(exact, "_TILE_USERS", tile[0])
    monkeypatch.setattr(exact, "_TILE_ITEMS", tile[1])
    monkeypatch.setattr(exact, "_TILE_SCORES", tile[0] * tile[1])
    users, items = random.normal(size=(11, 24)), random.normal(size=(1000, 24))
    check(users.astype(np.float32), items.astype(np.float32), ties, wanted, masked, 20, product)


def test_a_wanted_or_masked_item_that_stands_twice_counts_once():
    items = np.array([[3.0], [2.0], [1.0]], np.float32)
    with SILENT.task("test", None) as task:
        above = count_above(
            np.ones((1, 1), np.float32),
            ItemMatrix.of(items),
            *flat([[2, 2]]),
            *flat([[0, 0]]),
            task,
        )
    assert above.tolist() == [1, 1]


@pytest.mark.parametrize("product", [Product.SPLIT, Product.HALF])
def test_the_error_bound_holds_and_is_not_idle(product):
    random = np.random.default_rng(3)
    users, items = (random.normal(size=(n, 64)).astype(np.float32) for n in (50, 400))
    matrix = ItemMatrix.of(items)
    left, right = operand(users, norms(users), product, is_user=True), matrix.operand(product)
    bound = error_bounds(left, right)
    rough = left.matrix.double() @ right.matrix.double().T
    off = np.abs(rough.numpy() - canonical(users, items)).max(axis=1)
    assert (off < bound).all()
    assert (off > bound / 200).all()


def test_a_product_that_breaks_its_bound_is_noticed(monkeypatch):
    monkeypatch.setattr(exact, "error_bounds", lambda users, items: np.full(len(users.whole), 1e-12))
    random = np.random.default_rng(4)
    users, items = (random.normal(size=(n, 64)).astype(np.float32) for n in (20, 300))
    wanted, masked = flat([list(range(300))] * 20), flat([[]] * 20)
    with SILENT.task("test", None) as task, pytest.raises(ArithmeticError, match="less exact"):
        count_above(users, ItemMatrix.of(items), *wanted, *masked, task, Product.FLOAT32)


def test_torch_set_to_multiply_fewer_bits_gives_the_same(monkeypatch):
    import torch

    random, ties, wanted, masked = drawn(5, 6, 300)
    users, items = (random.normal(size=(n, 32)).astype(np.float32) for n in (6, 300))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        check(users, items, ties, wanted, masked, 20, Product.FLOAT32)
    finally:
        torch.set_float32_matmul_precision(before)


def test_take_keeps_the_order_of_ties():
    items = ItemMatrix.of(np.eye(4, 3, dtype=np.float32), np.array([3, 0, 2, 1], np.int32))
    some = items.take(np.array([3, 0]))
    assert some.ties.tolist() == [0, 1]
    assert some.by_tie.tolist() == [0, 1]
    assert np.array_equal(some.vectors[:, :3], np.eye(4, 3)[[3, 0]])
    assert items.take(np.arange(4)) is items


def test_sizes_that_do_not_fit_are_refused():
    items = ItemMatrix.of(np.ones((2, 3), np.float32))
    with SILENT.task("test", None) as task, pytest.raises(InputError, match="3 dimensions"):
        best(np.ones((1, 2), np.float32), items, 1, *flat([[]]), task)
    with pytest.raises(InputError, match="ties"):
        ItemMatrix.of(np.ones((2, 3), np.float32), np.zeros(1, np.int32))


@pytest.mark.parametrize("ties", [[0, 1], [0, 1, 1], [1, 2, 3]])
def test_ties_that_are_no_order_of_the_items_are_refused(ties):
    with pytest.raises(InputError, match=f"The order of {len(ties)} ties does not fit 3 vectors"):
        ItemMatrix.of(np.ones((3, 8), np.float32), np.array(ties, dtype=np.int32))
