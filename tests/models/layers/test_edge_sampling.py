from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prismrec.data.interactions import Pairs
from prismrec.models.layers.edge_sampling import SampledGraph, kept_edges
from prismrec.models.layers.graph import UserItemGraph


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def whole_graph(touched: np.ndarray) -> UserItemGraph:
    graph = UserItemGraph(*touched.shape)
    users, items = np.nonzero(touched)
    graph.fit(Pairs(users.astype(np.int32), items.astype(np.int32)))
    return graph


def drawn(whole: UserItemGraph, pruned: float, seed: int) -> SampledGraph:
    graph = SampledGraph(whole.edges.n_rows, whole.edges.n_columns)
    torch.manual_seed(seed)
    graph.draw(whole, pruned)
    return graph


def block(graph: UserItemGraph) -> np.ndarray:
    return graph.to_users(torch.eye(graph.edges.n_columns)).double().numpy()


@pytest.fixture(scope="module")
def touched() -> np.ndarray:
    rng = np.random.default_rng(0)
    some = rng.random((12, 15)) < 0.4
    some[3] = some[:, 4] = False
    return some


def test_count_is_exact_for_the_share_as_written() -> None:
    assert [kept_edges(10, share) for share in (0.0, 0.8, 0.9, 0.95, 1.0)] == [10, 2, 1, 0, 0]
    # 100 * (1 - 0.9) is 9.999999999999998 in binary numbers.
    assert kept_edges(100, 0.9) == 10
    assert kept_edges(118_551, 0.8) == 23_710
    assert kept_edges(7, 0.5) == 3
    assert kept_edges(0, 0.8) == 0


@pytest.mark.parametrize("pruned", [0.3, 0.5, 0.8])
def test_kept_edges_are_some_of_all_and_weigh_by_their_own_degrees(
    touched: np.ndarray, pruned: float
) -> None:
    whole = whole_graph(touched)
    graph = drawn(whole, pruned, 1)
    kept = block(graph) > 0
    assert kept.sum() == kept_edges(int(touched.sum()), pruned)
    assert not (kept & ~touched).any()
    users, items = kept.sum(axis=1), kept.sum(axis=0)
    expected = kept / np.sqrt(np.maximum(users, 1)[:, None] * np.maximum(items, 1))
    np.testing.assert_allclose(block(graph), expected, atol=1e-6)
    np.testing.assert_allclose(graph.to_items(torch.eye(12)).numpy(), expected.T, atol=1e-6)


def test_nothing_pruned_is_the_whole_graph_and_all_pruned_is_none(touched: np.ndarray) -> None:
    whole = whole_graph(touched)
    assert torch.equal(drawn(whole, 0.0, 1).edges.values, whole.edges.values)
    np.testing.assert_array_equal(block(drawn(whole, 0.0, 1)), block(whole))
    assert not block(drawn(whole, 1.0, 1)).any()
    assert not block(drawn(whole_graph(np.zeros((3, 4))), 0.5, 1)).any()


def test_draws_follow_the_generator_and_leave_the_whole_graph(touched: np.ndarray) -> None:
    whole = whole_graph(touched)
    before = block(whole)
    first, again, other = (block(drawn(whole, 0.5, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(block(whole), before)
    # A second draw takes the place of the first.
    graph = drawn(whole, 0.5, 1)
    graph.draw(whole, 0.8)
    assert len(graph.edges.values) == kept_edges(int(touched.sum()), 0.8)
    graph.thin(0.9, np.random.default_rng(0))
    graph.draw(whole, 0.0)
    np.testing.assert_array_equal(block(graph), before)


def test_a_single_draw_has_the_stated_probabilities() -> None:
    # One edge of five is kept. Degrees of users 3, 1, 1 and of items 1, 1, 3.
    touched = np.array([[1, 1, 1], [0, 0, 1], [0, 0, 1]])
    whole = whole_graph(touched)
    counts = np.zeros((3, 3))
    graph = SampledGraph(3, 3)
    for _ in range(2000):
        graph.draw(whole, 0.8)
        counts += block(graph) > 0
    weights = touched / np.sqrt(touched.sum(axis=1)[:, None] * touched.sum(axis=0))
    expected = weights / weights.sum()
    deviation = np.sqrt(expected * (1 - expected) / 2000)
    assert (np.abs(counts / 2000 - expected) <= 4.5 * deviation + 1e-12).all()
    # The edge between the two nodes of many edges is kept least often.
    assert counts[0, 2] == counts[touched > 0].min()


def test_later_draws_do_not_replace_earlier_ones() -> None:
    # Edge (0, 0) joins nodes without other edges and weighs 1; the other four weigh 1/2. Two are drawn.
    touched = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    whole = whole_graph(touched)
    graph, kept = SampledGraph(3, 3), 0
    for _ in range(2000):
        graph.draw(whole, 0.6)
        kept += int(block(graph)[0, 0] > 0)
    # At first with 1 / 3, else out of weights 1, 1/2, 1/2, 1/2.
    expected = 1 / 3 + 2 / 3 / 2.5
    assert abs(kept / 2000 - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 2000)


def test_edges_are_not_saved(touched: np.ndarray) -> None:
    graph = drawn(whole_graph(touched), 0.5, 1)
    assert not graph.state_dict()
    fresh = SampledGraph(12, 15)
    fresh.load_state_dict({})
    assert not block(fresh).any()
    # Loading leaves what was drawn.
    before = block(graph)
    graph.load_state_dict({})
    np.testing.assert_array_equal(block(graph), before)
