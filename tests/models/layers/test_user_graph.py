from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.interactions import Pairs
from prismrec.models.layers.user_graph import UserGraph, most_shared


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def touches(seed: int, n_users: int, n_items: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((n_users, n_items)) < share


def pairs_of(touched: np.ndarray) -> Pairs:
    users, items = np.nonzero(touched)
    mixed = np.random.default_rng(0).permutation(len(users))
    return Pairs(users[mixed].astype(np.int32), items[mixed].astype(np.int32))


def neighbours(touched: np.ndarray, k: int) -> list[list[tuple[int, int]]]:
    counts = touched.astype(int) @ touched.T.astype(int)
    lists = []
    for user, row in enumerate(counts.tolist()):
        shared = [(n, code) for code, n in enumerate(row) if n > 0 and code != user]
        lists.append([(code, n) for n, code in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:k]])
    return lists


def by_hand(touched: np.ndarray, k: int) -> np.ndarray:
    weights = np.zeros((len(touched), len(touched)))
    for user, near in enumerate(neighbours(touched, k)):
        powers = np.exp([float(n) for _, n in near])
        for (code, _), power in zip(near, powers, strict=True):
            weights[user, code] = power / powers.sum()
    return weights


def fitted(touched: np.ndarray, k: int) -> UserGraph:
    graph = UserGraph(len(touched), k)
    graph.fit(pairs_of(touched))
    return graph


def matrix(graph: UserGraph) -> np.ndarray:
    found: np.ndarray = graph(torch.eye(graph.edges.n_rows)).numpy()
    return found


@given(st.integers(0, 1000), st.integers(1, 15), st.integers(1, 6), st.sampled_from([1, 7, 40, 10**6]))
def test_neighbours_are_those_of_the_whole_product(seed: int, n_users: int, k: int, entries: int) -> None:
    touched = touches(seed, n_users, 12, 0.2)
    users, partners, counts = most_shared(pairs_of(touched), n_users, k, entries=entries)
    expected = neighbours(touched, k)
    for user in range(n_users):
        own = users == user
        found = list(zip(partners[own].tolist(), counts[own].tolist(), strict=True))
        assert found == expected[user]
    assert len(users) == sum(map(len, expected))
    assert (np.diff(users) >= 0).all()


def test_four_users_by_hand() -> None:
    # User 0 shares two items with user 1 and one each with 2 and 3; user 4 is alone, user 5 touched nothing.
    touched = np.zeros((6, 8), dtype=bool)
    touched[0, [0, 1, 2]] = touched[1, [0, 1]] = touched[2, [2, 3]] = touched[3, [2, 4]] = True
    touched[4, 7] = True
    rows = matrix(fitted(touched, 2).eval())
    e = np.exp(1.0)
    np.testing.assert_allclose(rows[0], [0, e / (1 + e), 1 / (1 + e), 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(rows[1], [1, 0, 0, 0, 0, 0])
    # Of two who share one item each, the lower code comes first.
    np.testing.assert_allclose(rows[2], [0.5, 0, 0, 0.5, 0, 0])
    assert not rows[4:].any()
    np.testing.assert_allclose(matrix(fitted(touched, 1).eval())[2], [1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("k", [1, 3, 40])
def test_outside_of_training_each_neighbour_counts_once(k: int) -> None:
    touched = touches(1, 30, 25, 0.2)
    touched[[4, 17]] = False
    graph = fitted(touched, k)
    np.testing.assert_allclose(matrix(graph.train()), by_hand(touched, k), atol=1e-6)
    graph.redraw()
    np.testing.assert_allclose(matrix(graph.eval()), by_hand(touched, k), atol=1e-6)


def test_large_counts_do_not_overflow() -> None:
    touched = np.zeros((3, 2000), dtype=bool)
    touched[:2] = True
    touched[2, :1999] = True
    graph = fitted(touched, 2).eval()
    np.testing.assert_allclose(matrix(graph), by_hand(touched[:, 1950:], 2), rtol=1e-5)
    graph.redraw()
    assert np.isfinite(matrix(graph.train())).all()


def test_drawn_lists_are_filled_up_with_whole_repetitions() -> None:
    touched, k = touches(2, 40, 30, 0.06), 8
    lists, once = neighbours(touched, k), by_hand(touched, k)
    assert {0, 1, 2, 5} <= {len(near) for near in lists}
    assert max(len(near) for near in lists) == k
    graph = fitted(touched, k).train()
    graph.redraw()
    drawn, repeated = matrix(graph), 0
    np.testing.assert_allclose(drawn.sum(axis=1), [float(len(near) > 0) for near in lists], atol=1e-6)
    for user, near in enumerate(lists):
        codes = [code for code, _ in near]
        assert set(np.flatnonzero(drawn[user])) == set(codes)
        times = drawn[user, codes] / once[user, codes]
        times *= k / times.sum() if len(near) else 1.0
        np.testing.assert_allclose(times, np.round(times), atol=1e-4)
        assert (np.round(times) >= 1).all()
        repeated += int((np.round(times) > 1).sum())
        if len(near) == k:
            np.testing.assert_allclose(times, 1.0, atol=1e-4)
    assert repeated > 20


def test_draws_are_those_of_a_growing_list() -> None:
    # 800 users with the same two neighbours: of a list that grows from 2 to 5 each of the splits 1+4, 2+3,
    # 3+2 and 4+1 comes as often as the others. Draws among the first two alone would prefer the middle ones.
    touched = np.zeros((802, 802), dtype=bool)
    touched[0, :800] = touched[1, :800] = True
    touched[np.arange(800) + 2, np.arange(800)] = True
    graph = fitted(touched, 5).train()
    graph.redraw()
    shares = matrix(graph)[2:, :2]
    assert (shares > 0).all()
    found = Counter(np.round(5 * shares[:, 0]).astype(int).tolist())
    assert set(found) == {1, 2, 3, 4}
    assert all(150 < n < 250 for n in found.values()), found


def test_lists_hold_for_an_epoch_and_follow_the_global_generator() -> None:
    graph = fitted(touches(2, 40, 30, 0.06), 12).train()
    drawn = []
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        graph.redraw()
        first = matrix(graph)
        torch.rand(3)
        assert (matrix(graph) == first).all()
        drawn.append(first)
    assert (drawn[0] == drawn[2]).all()
    assert np.abs(drawn[0] - drawn[1]).max() > 0.05
    graph.fit(pairs_of(touches(3, 40, 30, 0.06)))
    np.testing.assert_allclose(matrix(graph), by_hand(touches(3, 40, 30, 0.06), 12), atol=1e-6)


def test_gradient_is_that_of_a_dense_matrix() -> None:
    graph = fitted(touches(2, 40, 30, 0.06), 12).train()
    graph.redraw()
    vectors = torch.randn(40, 3, requires_grad=True)
    upstream = torch.randn(40, 3)
    (gradient,) = torch.autograd.grad((graph(vectors) * upstream).sum(), vectors)
    np.testing.assert_allclose(gradient.numpy(), matrix(graph).T @ upstream.numpy(), atol=1e-5)


def test_drawn_lists_are_not_saved() -> None:
    graph = fitted(touches(2, 40, 30, 0.06), 12)
    graph.redraw()
    state = graph.state_dict()
    assert set(state) == {"edges.starts", "edges.columns", "edges.values"}
    again = UserGraph(40, 12)
    again.load_state_dict(state)
    assert (matrix(again.eval()) == matrix(graph.eval())).all()
    torch.manual_seed(1)
    graph.redraw()
    torch.manual_seed(1)
    again.redraw()
    assert (matrix(again.train()) == matrix(graph.train())).all()


def test_nobody_shares_anything() -> None:
    graph = fitted(np.eye(4, dtype=bool), 3)
    graph.redraw()
    assert not matrix(graph.train()).any()
    empty = UserGraph(4, 3)
    empty.fit(Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32)))
    empty.redraw()
    assert not matrix(empty.train()).any()
