import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.models.layers.moe import Experts, masked_softmax, sparse_softmax


@pytest.mark.parametrize("chosen", [1, 2])
def test_experts_are_affine_maps_weighted_and_summed(chosen: int) -> None:
    torch.manual_seed(0)
    layer = Experts(3, 4, experts=2, chosen=chosen)
    inputs, weights = torch.randn(5, 3), torch.rand(5, 2)
    matrices, biases = layer.maps.weight.view(2, 4, 3), layer.maps.bias.view(2, 4)
    for row in range(5):
        each = [matrices[k] @ inputs[row] + biases[k] for k in range(2)]
        assert_close(layer(inputs, weights)[row], weights[row, 0] * each[0] + weights[row, 1] * each[1])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    experts=st.integers(1, 5),
    chosen=st.integers(1, 5),
    frozen=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_ways_to_mix_give_autograds_values_and_gradients(
    n: int, experts: int, chosen: int, frozen: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(n, experts)
    weights = sparse_softmax(logits, min(chosen, experts))
    if n > 2:
        weights[1] = 0.0  # an input that no expert is chosen for
    content, gradient = torch.randn(n, 3), torch.randn(n, 4)
    results = []
    for way in ("plain", "dense", "routed"):
        torch.manual_seed(seed + 1)
        layer = Experts(3, 4, experts, chosen=experts if way == "dense" else 0)
        inputs, mix = content.clone().requires_grad_(not frozen), weights.clone().requires_grad_()
        if way == "plain":
            each = layer.maps(inputs).view(n, experts, 4)
            found = (each * mix.unsqueeze(2)).sum(dim=1)
        else:
            found = layer(inputs, mix)
        found.backward(gradient)
        # Routed, an expert that was not chosen gets no gradient for its weight, nor does a softmax need it.
        to_mix = torch.where(weights > 0, mix.grad, 0.0)
        results.append([found, layer.maps.weight.grad, layer.maps.bias.grad, to_mix])
        if not frozen:
            results[-1].append(inputs.grad)
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chosen", [2, 4])
def test_half_precision_is_near_full_precision_and_trains_in_full(chosen: int) -> None:
    torch.manual_seed(0)
    layer = Experts(64, 8, experts=4, chosen=chosen)
    inputs, weights = torch.randn(50, 64), sparse_softmax(torch.randn(50, 4), chosen).requires_grad_()
    exact = layer(inputs, weights)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(inputs, weights)
    half.square().sum().backward()
    assert half.dtype == torch.float32
    assert layer.maps.weight.grad is not None
    assert layer.maps.weight.grad.dtype == torch.float32
    assert_close(half, exact, atol=0.02, rtol=0.02)
    assert not torch.equal(half, exact)


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
