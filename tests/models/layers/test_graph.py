import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.data.interactions import Pairs
from prismrec.models.layers.graph import UserItemGraph, light_gcn


def drawn(n_users, n_items, share, seed):
    """Pairs as a dense 0/1 matrix and as a graph."""
    rng = np.random.default_rng(seed)
    touched = rng.random((n_users, n_items)) < share
    users, items = np.nonzero(touched)
    order = rng.permutation(len(users))
    pairs = Pairs(users[order].astype(np.int32), items[order].astype(np.int32))
    graph = UserItemGraph(n_users, n_items).double()
    graph.fit(pairs)
    return torch.from_numpy(touched.astype(np.float64)), graph


def adjacency(touched):
    """``D^-1/2 A D^-1/2`` of users and items as nodes of one graph."""
    n_users, n_items = touched.shape
    whole = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    whole[:n_users, n_users:] = touched
    whole[n_users:, :n_users] = touched.T
    degrees = whole.sum(dim=1)
    scale = torch.where(degrees > 0, degrees, 1.0) ** -0.5
    return scale[:, None] * whole * scale


def vectors(n_users, n_items, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(n, d, generator=generator, dtype=torch.float64) for n in (n_users, n_items))
    return users.requires_grad_(), items.requires_grad_()


sizes = {
    "n_users": st.integers(1, 7),
    "n_items": st.integers(1, 7),
    "share": st.sampled_from([0.0, 0.3, 1.0]),
    "seed": st.integers(0, 99),
}


@given(**sizes)
def test_weights_are_the_block_of_the_normalised_adjacency(n_users, n_items, share, seed):
    touched, graph = drawn(n_users, n_items, share, seed)
    block = adjacency(touched)[:n_users, n_users:]
    assert_close(graph.to_users(torch.eye(n_items, dtype=torch.float64)), block)
    assert_close(graph.to_items(torch.eye(n_users, dtype=torch.float64)), block.T)


@pytest.mark.parametrize("layers", [0, 1, 2, 4])
@given(**sizes)
def test_light_gcn_is_the_mean_of_powers_of_the_adjacency(layers, n_users, n_items, share, seed):
    touched, graph = drawn(n_users, n_items, share, seed)
    users, items = vectors(n_users, n_items, seed=seed)
    whole, step, power = adjacency(touched), torch.cat([users, items]), torch.eye(n_users + n_items).double()
    mean = torch.zeros_like(whole)
    for _ in range(layers + 1):
        mean, power = mean + power / (layers + 1), power @ whole
    expected = mean @ step
    found = torch.cat(light_gcn(graph, users, items, layers))
    assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed)).double()
    ours = torch.autograd.grad((found * weights).sum(), (users, items))
    theirs = torch.autograd.grad((expected * weights).sum(), (users, items))
    assert_close(ours, theirs)


def test_worked_by_hand():
    # User 0 has items 0 and 1, user 1 item 1; item 2 and user 2 have nobody.
    graph = UserItemGraph(3, 3)
    graph.fit(Pairs(np.array([1, 0, 0], np.int32), np.array([1, 1, 0], np.int32)))
    users, items = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[4.0], [8.0], [7.0]])
    half = 0.5**0.5
    received = graph.to_users(items)
    assert_close(received, torch.tensor([[4 * half + 8 / 2], [8 * half], [0.0]]))
    assert_close(graph.to_items(users), torch.tensor([[1 * half], [1 / 2 + 2 * half], [0.0]]))
    assert_close(light_gcn(graph, users, items, 1)[0], (users + received) / 2)


def test_another_fit_replaces_the_edges():
    graph = UserItemGraph(2, 2)
    one = np.array([0], np.int32)
    graph.fit(Pairs(np.array([0, 1], np.int32), np.array([1, 1], np.int32)))
    graph.fit(Pairs(one, one))
    assert_close(graph.to_users(torch.eye(2)), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_edges_survive_saving():
    touched, graph = drawn(6, 5, 0.4, 3)
    again = UserItemGraph(6, 5).double()
    again.load_state_dict(graph.state_dict())
    users, items = vectors(6, 5)
    assert_close(light_gcn(again, users, items, 3), light_gcn(graph, users, items, 3), rtol=0, atol=0)
    assert touched.any()


class Draws:
    """Stands for a generator whose numbers are known."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def random(self, size):
        assert size == len(self.numbers)
        return self.numbers


def test_a_thinned_graph_worked_by_hand():
    # Edges in the graph's order: (0, 0), (0, 1), (0, 2), (1, 1), (2, 2); those with draws below 0.5 go.
    graph = UserItemGraph(3, 3).double()
    graph.fit(Pairs(np.array([0, 0, 0, 1, 2], np.int32), np.array([0, 1, 2, 1, 2], np.int32)))
    whole = graph.to_users(torch.eye(3).double())
    graph.thin(0.5, Draws([0.7, 0.5, 0.1, 0.9, 0.4]))
    half = 0.5**0.5
    kept = torch.tensor([[half, 0.5, 0.0], [0.0, half, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert_close(graph.to_users(torch.eye(3).double()), kept)
    assert_close(graph.to_items(torch.eye(3).double()), kept.T)
    assert graph.used is graph.thinned
    graph.eval()
    assert graph.used is graph.edges
    assert torch.equal(graph.to_users(torch.eye(3).double()), whole)
    graph.train().restore()
    assert torch.equal(graph.to_users(torch.eye(3).double()), whole)
    assert len(graph.thinned.values) == 0


@given(rate=st.sampled_from([0.2, 0.7]), **sizes)
def test_kept_edges_are_weighted_as_a_graph_of_their_own(rate, n_users, n_items, share, seed):
    touched, graph = drawn(n_users, n_items, share, seed)
    graph.thin(rate, np.random.default_rng(seed))
    users = torch.repeat_interleave(torch.arange(n_users), graph.edges.starts.diff())
    gone = np.random.default_rng(seed).random(len(users)) < rate
    kept = touched.clone()
    kept[users[gone], graph.edges.columns[gone]] = 0.0
    assert kept.sum() == (~gone).sum()
    block = adjacency(kept)[:n_users, n_users:]
    assert_close(graph.to_users(torch.eye(n_items, dtype=torch.float64)), block)
    assert_close(graph.to_items(torch.eye(n_users, dtype=torch.float64)), block.T)


def test_a_thinned_graph_is_not_saved():
    _, graph = drawn(6, 5, 0.6, 3)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    graph.thin(0.5, np.random.default_rng(0))
    after = graph.state_dict()
    assert set(after) == set(before) == {"edges.starts", "edges.columns", "edges.values"}
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = UserItemGraph(6, 5).double()
    again.load_state_dict(after)
    assert torch.equal(again.used.values, graph.edges.values)
    assert 0 < len(graph.used.values) < len(graph.edges.values)


def test_a_graph_may_lose_all_edges_and_another_fit_gives_them_back():
    touched, graph = drawn(4, 5, 0.5, 1)
    graph.thin(0.9, Draws([0.0] * int(touched.sum())))
    assert not graph.to_users(torch.ones(5, 2).double()).any()
    graph.fit(Pairs(np.array([0], np.int32), np.array([3], np.int32)))
    assert_close(graph.to_users(torch.ones(5, 1).double())[:, 0], torch.tensor([1.0, 0, 0, 0]).double())
