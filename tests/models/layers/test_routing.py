import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from prismrec.models.layers.moe import sparse_softmax
from prismrec.models.layers.routing import route


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 6), experts=st.integers(1, 6), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_values_and_gradients_are_autograds(n: int, experts: int, k: int, seed: int) -> None:
    torch.manual_seed(seed)
    k = min(k, experts)
    inputs, to_dense, to_sparse = torch.randn(n, 7), torch.randn(n, experts), torch.randn(n, experts)
    results = []
    for ours in (True, False):
        torch.manual_seed(seed + 1)
        router = nn.Linear(7, experts)
        if ours:
            dense, sparse = route(router, inputs, k)
        else:
            logits = router(inputs)
            dense, sparse = logits.softmax(dim=1), sparse_softmax(logits, k)
        ((dense * to_dense).sum() + (sparse * to_sparse).sum()).backward()
        results.append((dense, sparse, router.weight.grad, router.bias.grad))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert ((results[0][1] > 0).sum(dim=1) == k).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_content_that_is_trained_gets_its_gradient(scale: float) -> None:
    torch.manual_seed(0)
    router, inputs = nn.Linear(5, 4), torch.randn(6, 5) * scale
    trained = inputs.clone().requires_grad_()
    for found, expected in zip(route(router, inputs, 2), route(router, trained, 2), strict=True):
        assert_close(found, expected, atol=1e-4, rtol=1e-3)
    route(router, trained, 2)[1][:, 0].sum().backward()
    assert trained.grad is not None
