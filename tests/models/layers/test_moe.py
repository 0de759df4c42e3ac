import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.models.layers.moe import Experts, masked_softmax, sparse_softmax


def test_experts_are_affine_maps_weighted_and_summed() -> None:
    torch.manual_seed(0)
    layer = Experts(3, 4, experts=2)
    inputs, weights = torch.randn(5, 3), torch.rand(5, 2)
    matrices, biases = layer.maps.weight.view(2, 4, 3), layer.maps.bias.view(2, 4)
    for row in range(5):
        each = [matrices[k] @ inputs[row] + biases[k] for k in range(2)]
        assert_close(layer(inputs, weights)[row], weights[row, 0] * each[0] + weights[row, 1] * each[1])


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_sparse_softmax_is_the_softmax_of_the_largest(k: int) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    for row, found in zip(logits.numpy(), sparse_softmax(logits, k).numpy(), strict=True):
        expected = np.zeros(5)
        top = np.argsort(-row)[:k]
        expected[top] = np.exp(row[top]) / np.exp(row[top]).sum()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_masked_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, 900.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    weights = masked_softmax(logits, mask)
    first = 1 / (1 + np.e)
    assert_close(weights[0], torch.tensor([first, 1 - first, 0.0], dtype=torch.float32))
    assert_close(weights[1], torch.zeros(3))
    assert_close(weights[2], logits[2].softmax(dim=0))
    weights.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0
