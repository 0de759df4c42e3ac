from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from prismrec.models.layers.learned_graph import LearnedGraph


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


N, DIMS = 30, (4, 6)


def some(n: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Vectors, what is there, and shares."""
    there = torch.rand(n, 2) < 0.8
    there[0] = False
    shares = torch.tensor([0.3, 0.7]) * there
    return (
        [torch.randn(n, dim) for dim in DIMS],
        there,
        shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-9),
    )


def dense(
    vectors: list[Tensor],
    nodes: Tensor,
    shares: Tensor,
    k: int,
    cold: tuple[list[Tensor], Tensor, Tensor] | None = None,
) -> Tensor:
    """The whole matrix in double precision, of nodes or of cold items; torch gives its gradient."""
    edges = torch.zeros(N, N, dtype=torch.float64)
    below = torch.zeros(0, N, dtype=torch.float64)
    if cold is not None:
        below = torch.zeros(len(cold[1]), N, dtype=torch.float64)
    for m, vector in enumerate(vectors):
        unit = vector.double() / vector.double().norm(dim=1, keepdim=True)
        cosines = (unit @ unit.T).where(nodes[:, m] & nodes[:, m : m + 1], torch.tensor(-2.0).double())
        edges = edges + shares[:, m : m + 1].double() * top(cosines, k)
        if cold is not None:
            asked = cold[0][m].double() / cold[0][m].double().norm(dim=1, keepdim=True)
            cosines = (asked @ unit.T).where(nodes[:, m] & cold[1][:, m : m + 1], torch.tensor(-2.0).double())
            below = below + cold[2][:, m : m + 1].double() * top(cosines, k)
    degrees = edges.sum(dim=1)
    degrees = torch.where(degrees > 0, degrees, 1.0)
    if cold is None:
        return edges / (degrees.unsqueeze(1) * degrees).sqrt()
    own = below.sum(dim=1, keepdim=True)
    return below / (torch.where(own > 0, own, 1.0) * degrees).sqrt()


def top(cosines: Tensor, k: int) -> Tensor:
    kept = torch.zeros_like(cosines)
    kept.scatter_(1, cosines.topk(min(k, cosines.shape[1]), dim=1).indices, 1.0)
    return torch.where((kept > 0) & (cosines > 0), cosines, 0.0)


@pytest.mark.parametrize("k", [1, 3, 500])
def test_products_and_gradients_are_those_of_the_dense_matrix(k: int) -> None:
    vectors, nodes, shares = some(N)
    sent = torch.randn(N, 3)
    leaves = [v.requires_grad_() for v in (*vectors, shares, sent)]
    received = LearnedGraph.of(vectors, nodes, shares, k)(sent)
    expected = dense(vectors, nodes, shares, k) @ sent.double()
    assert_close(received, expected.float(), atol=2e-6, rtol=1e-5)
    assert not received[0].any()
    weights = torch.randn(N, 3)
    found = torch.autograd.grad((received * weights).sum(), leaves, materialize_grads=True)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves, materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)
    # With a single neighbour, which is oneself, there is nothing to learn.
    assert bool(found[0].abs().max() > 1e-3) == (k > 1)


@pytest.mark.parametrize("k", [1, 3, 500])
def test_cold_items_listen_to_nodes(k: int) -> None:
    vectors, nodes, shares = some(N)
    cold, present, of_cold = some(9)
    sent = torch.randn(N, 3)
    leaves = [v.requires_grad_() for v in (*vectors, *cold, shares, of_cold, sent)]
    received = LearnedGraph.of(vectors, nodes, shares, k).received_by(cold, present, of_cold, sent)
    expected = dense(vectors, nodes, shares, k, (cold, present, of_cold)) @ sent.double()
    assert_close(received, expected.float(), atol=2e-6, rtol=1e-5)
    assert not received[0].any()
    weights = torch.randn(9, 3)
    found = torch.autograd.grad((received * weights).sum(), leaves, materialize_grads=True)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves, materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_each_graph_searches_among_its_own_vectors() -> None:
    # Tensors of one graph after the other may lie at the same place in memory.
    sent = torch.randn(N, 3)
    for _ in range(5):
        vectors, nodes, shares = some(N)
        cold, present, of_cold = some(4)
        graph = LearnedGraph.of(vectors, nodes, shares, 3)
        expected = dense(vectors, nodes, shares, 3, (cold, present, of_cold)) @ sent.double()
        assert_close(graph.received_by(cold, present, of_cold, sent), expected.float(), atol=2e-6, rtol=1e-5)
        del graph


def test_without_nodes_nothing_is_received() -> None:
    vectors, nodes, shares = some(N)
    cold, present, of_cold = some(4)
    nodes, shares = torch.zeros_like(nodes), torch.zeros_like(shares)
    graph = LearnedGraph.of(vectors, nodes, shares, 3)
    sent = torch.randn(N, 3)
    assert not graph(sent).any()
    assert not graph.received_by(cold, present, of_cold, sent).any()
    # A modality that no training item has adds nothing.
    nodes = torch.stack([torch.ones(N), torch.zeros(N)], dim=1) > 0
    graph = LearnedGraph.of(vectors, nodes, nodes.float(), 3)
    expected = dense(vectors, nodes, nodes.float(), 3) @ sent.double()
    np.testing.assert_allclose(graph(sent).numpy(), expected.numpy(), atol=2e-6)
    assert graph.received_by(cold, present, of_cold, sent).isfinite().all()
