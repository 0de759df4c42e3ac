import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.modality_graphs import (
    ModalityGraph,
    ModalityGraphs,
    Weighting,
    modality_shares,
)
from prismrec.testing import Planted, planted


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(n_users=20, n_items=60)


def fitted(source: Planted, place: int, k: int, weighting: Weighting) -> ModalityGraph:
    graph = ModalityGraph(60, source.data.inputs.modalities[place].dim, k, weighting)
    graph.fit(place, source.data.features, source.data.warm)
    return graph


def by_hand(source: Planted, place: int, k: int, weighting: Weighting) -> np.ndarray:
    """All rows as a dense matrix: those of cold items are what they receive."""
    vectors, present = source.data.features.gather(np.arange(60))
    own = vectors[place].astype(np.float64)
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    nodes = [code for code in source.data.warm.tolist() if present[code, place]]
    weights = np.zeros((60, 60))
    for i in range(60):
        if not present[i, place]:
            continue
        ranked = sorted((j for j in nodes if j != i), key=lambda j: -(own[i] @ own[j]))
        for j in ranked[: k - 1 if i in nodes else k]:
            cosine = max(0.0, own[i] @ own[j])
            weights[i, j] = cosine if weighting == "cosine" else float(cosine > 0)
        if i in nodes:
            weights[i, i] = 1.0
    degrees = weights.sum(axis=1)
    safe = np.where(degrees > 0, degrees, 1.0)
    return weights / np.sqrt(safe[:, None] * safe[None, :])


@pytest.mark.parametrize("weighting", ["cosine", "binary"])
@pytest.mark.parametrize("k", [1, 2, 5, 500])
@pytest.mark.parametrize("place", [0, 1])
def test_rows_are_those_of_a_search_among_all(
    source: Planted, place: int, k: int, weighting: Weighting
) -> None:
    graph, expected = fitted(source, place, k, weighting), by_hand(source, place, k, weighting)
    warm, cold = source.data.warm.astype(np.int64), source.cold.astype(np.int64)
    identity = torch.eye(60)
    np.testing.assert_allclose(graph(identity).numpy()[warm], expected[warm], atol=2e-6)
    assert not graph(identity).numpy()[cold].any()
    items = item_batch(source.data.features, cold)
    received = graph.received_by(items.vectors[place], items.present[:, place], identity)
    np.testing.assert_allclose(received.numpy(), expected[cold], atol=2e-6)
    assert expected[cold].any()


def test_binary_edges_weigh_one_over_k(source: Planted) -> None:
    graph = fitted(source, 0, 4, "binary")
    rows = graph(torch.eye(60))[graph.nodes]
    full = rows[(rows > 0).sum(dim=1) == 4]
    assert len(full) > 20
    # A neighbour with fewer neighbours than k weighs more.
    assert torch.isclose(full, torch.tensor(0.25)).any()


def test_sum_gives_an_item_without_a_modality_the_others_alone(source: Planted) -> None:
    modalities = source.data.inputs.modalities
    graphs = ModalityGraphs(modalities, 60, 5, "binary", [0.1, 0.9])
    graphs.fit(source.data.features, source.data.warm)
    each = [by_hand(source, place, 5, "binary") for place in range(2)]
    present = source.data.features.present
    shares = np.array([0.1, 0.9]) * present
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    expected = shares[:, :1] * each[0] + shares[:, 1:] * each[1]
    warm, cold = source.data.warm.astype(np.int64), source.cold.astype(np.int64)
    assert (present[warm].sum(axis=1) == 1).any()
    np.testing.assert_allclose(graphs(torch.eye(60)).numpy()[warm], expected[warm], atol=2e-6)
    items = item_batch(source.data.features, cold)
    np.testing.assert_allclose(graphs.received_by(items, torch.eye(60)).numpy(), expected[cold], atol=2e-6)
    nothing = ItemBatch(items.codes, items.vectors, torch.zeros_like(items.present))
    assert not graphs.received_by(nothing, torch.eye(60)).any()


def test_state_survives(source: Planted) -> None:
    modalities = source.data.inputs.modalities
    graphs = ModalityGraphs(modalities, 60, 5, "cosine", [0.5, 0.5])
    graphs.fit(source.data.features, source.data.warm)
    again = ModalityGraphs(modalities, 60, 5, "cosine", [0.5, 0.5])
    again.load_state_dict(graphs.state_dict())
    items = item_batch(source.data.features, source.cold)
    assert torch.equal(again(torch.eye(60)), graphs(torch.eye(60)))
    assert torch.equal(again.received_by(items, torch.eye(60)), graphs.received_by(items, torch.eye(60)))


def test_shares_of_the_modalities() -> None:
    image, text, audio = (Modality(name, 3) for name in ("image", "text", "audio"))
    assert modality_shares((image, text), None) == [0.1, 0.9]
    assert modality_shares((text, image), None) == [0.9, 0.1]
    assert modality_shares((image, audio), None) == [0.5, 0.5]
    assert modality_shares((image,), None) == [1.0]
    assert modality_shares((image, text), (3.0, 1.0)) == [0.75, 0.25]
    for wrong in ((1.0,), (1.0, -0.5), (0.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(InputError, match="do not fit the modalities image, text"):
            modality_shares((image, text), wrong)
