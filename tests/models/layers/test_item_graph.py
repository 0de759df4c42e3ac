import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.models.batches import ItemBatch
from prismrec.models.layers.content import Content, item_batch
from prismrec.models.layers.item_graph import ItemGraph
from prismrec.testing import Planted, planted


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(n_users=20, n_items=60)


def fitted(source: Planted, k: int) -> tuple[ItemGraph, Content]:
    content = Content(source.data.inputs.modalities)
    content.fit(source.data.features, source.data.warm)
    graph = ItemGraph(source.data.inputs.n_items, content.dim, k)
    graph.fit(content, source.data.features, source.data.warm)
    return graph, content


def contents(source: Planted, content: Content) -> np.ndarray:
    every = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    return content(every).double().numpy()


def by_hand(source: Planted, content: Content, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows, cold ones included, as a dense matrix, and the degrees of the training items."""
    vectors, warm = contents(source, content), source.data.warm.tolist()
    n = len(vectors)
    weights = np.zeros((n, n))
    for i in range(n):
        others = [j for j in warm if j != i]
        ranked = sorted(others, key=lambda j: -(vectors[i] @ vectors[j]))
        nearest = ranked[: k - 1 if i in warm else k]
        for j in nearest:
            weights[i, j] = max(0.0, vectors[i] @ vectors[j])
        if i in warm:
            weights[i, i] = 1.0
    degrees = weights.sum(axis=1)
    safe = np.where(degrees > 0, degrees, 1.0)
    return weights / np.sqrt(safe[:, None] * safe[None, :]), degrees


@pytest.mark.parametrize("k", [1, 2, 5, 47, 500])
def test_rows_are_those_of_a_search_among_all(source: Planted, k: int) -> None:
    graph, content = fitted(source, k)
    expected, degrees = by_hand(source, content, k)
    warm = source.data.warm.astype(np.int64)
    cold = np.setdiff1d(np.arange(60), warm)
    identity = torch.eye(60)
    received = graph(identity).numpy()
    np.testing.assert_allclose(received[warm], expected[warm], atol=2e-6)
    assert not received[cold].any()
    np.testing.assert_allclose(graph.degrees[warm].numpy(), degrees[warm], rtol=1e-5)
    asked = torch.from_numpy(contents(source, content)[cold]).float()
    np.testing.assert_allclose(graph.received_by(asked, identity).numpy(), expected[cold], atol=2e-6)
    assert expected[cold].any()


def test_an_item_without_content_is_tied_to_itself_alone(source: Planted) -> None:
    graph, _ = fitted(source, 6)
    bare = [code for code in source.data.warm if not source.data.features.present[code].any()]
    assert bare
    received = graph(torch.eye(60))
    assert_close(received[bare], torch.eye(60)[bare])
    assert not received[:, bare].sum(dim=0).gt(1.0).any()
    nothing = torch.zeros(2, graph.content.shape[1])
    assert not graph.received_by(nothing, torch.randn(60, 3)).any()
    assert graph.received_by(nothing[:0], torch.randn(60, 3)).shape == (0, 3)


def test_gradients_reach_what_is_sent_both_ways(source: Planted) -> None:
    graph, content = fitted(source, 4)
    expected, _ = by_hand(source, content, 4)
    cold = source.cold.astype(np.int64)
    sent = torch.randn(60, 3, requires_grad=True)
    asked = torch.from_numpy(contents(source, content)[cold]).float()
    (graph(sent).sum() + 2 * graph.received_by(asked, sent).sum()).backward()
    weight = expected[source.data.warm].sum(axis=0) + 2 * expected[cold].sum(axis=0)
    np.testing.assert_allclose(sent.grad.numpy(), np.repeat(weight[:, None], 3, axis=1), atol=1e-5)


def test_training_items_are_told_by_their_codes(source: Planted) -> None:
    graph, _ = fitted(source, 3)
    codes = torch.tensor([-1, int(source.data.warm[0]), int(source.cold[0]), -1, int(source.data.warm[-1])])
    batch = ItemBatch(codes, (), torch.ones(5, 0, dtype=torch.bool))
    assert graph.marks(batch).tolist() == [False, True, False, False, True]


def test_it_survives_saving_and_sees_that_its_content_changed(source: Planted) -> None:
    graph, content = fitted(source, 5)
    other = ItemGraph(60, content.dim, 5)
    asked = torch.from_numpy(contents(source, content)[source.cold.astype(np.int64)]).float()
    sent = torch.randn(60, 3)
    assert not other.received_by(asked, sent).any()
    other.load_state_dict(graph.state_dict())
    assert torch.equal(other(sent), graph(sent))
    assert torch.equal(other.received_by(asked, sent), graph.received_by(asked, sent))


def test_a_single_training_item() -> None:
    source = planted(n_users=20, n_items=60)
    content = Content(source.data.inputs.modalities)
    content.fit(source.data.features, source.data.warm)
    graph = ItemGraph(60, content.dim, 5)
    only = next(c for c in source.data.warm if source.data.features.present[c].all())
    graph.fit(content, source.data.features, np.array([only], dtype=np.int32))
    received = graph(torch.eye(60))
    assert received[only, only] == 1.0
    assert received.sum() == 1.0
    asked = torch.from_numpy(contents(source, content)).float()
    cosines = asked @ asked[only]
    found = graph.received_by(asked, torch.eye(60))[:, only]
    assert_close(found, cosines.clamp_min(0).sqrt(), rtol=1e-4, atol=1e-4)
