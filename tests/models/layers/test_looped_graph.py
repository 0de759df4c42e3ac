import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.data.interactions import Pairs
from prismrec.models.layers.looped_graph import LoopedGraph


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_is_that_of_the_dense_matrix(share: float) -> None:
    rng = np.random.default_rng(0)
    touched = rng.random((5, 7)) < share
    touched[2] = touched[:, 3] = False
    users, items = (codes.astype(np.int32) for codes in np.nonzero(touched))
    graph = LoopedGraph(5, 7)
    graph.fit(Pairs(users, items))
    whole = np.eye(12)
    whole[:5, 5:] = touched
    whole[5:, :5] = touched.T
    whole /= whole.sum(axis=1, keepdims=True)
    x = torch.from_numpy(rng.normal(size=(12, 3))).float().requires_grad_()
    received = torch.cat(graph(x[:5], x[5:]))
    np.testing.assert_allclose(received.detach().numpy(), whole @ x.detach().numpy(), atol=1e-6)
    weights = torch.from_numpy(rng.normal(size=(12, 3))).float()
    (gradient,) = torch.autograd.grad((received * weights).sum(), x)
    np.testing.assert_allclose(gradient.numpy(), whole.T @ weights.numpy(), atol=1e-6)


def test_state_survives() -> None:
    graph, again = LoopedGraph(2, 3), LoopedGraph(2, 3)
    graph.fit(Pairs(np.array([0, 0, 1], np.int32), np.array([0, 2, 2], np.int32)))
    again.load_state_dict(graph.state_dict())
    users, items = torch.randn(2, 4), torch.randn(3, 4)
    assert_close(again(users, items), graph(users, items))


def test_thinned_edges_are_missed_in_training_alone() -> None:
    rng = np.random.default_rng(0)
    touched = rng.random((5, 7)) < 0.6
    users, items = (codes.astype(np.int32) for codes in np.nonzero(touched))
    graph, fewer = LoopedGraph(5, 7), LoopedGraph(5, 7)
    graph.fit(Pairs(users, items))
    graph.thin(0.5, np.random.default_rng(3))
    kept = np.random.default_rng(3).random(len(users)) >= 0.5
    assert 0 < kept.sum() < len(users)
    fewer.fit(Pairs(users[kept], items[kept]))
    x, y = torch.randn(5, 3), torch.randn(7, 3)
    assert_close(graph(x, y), fewer(x, y))
    whole = LoopedGraph(5, 7)
    whole.fit(Pairs(users, items))
    assert_close(graph.eval()(x, y), whole(x, y))
    graph.train().restore()
    assert_close(graph(x, y), whole(x, y))
