import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.models.layers.fusion import fuse


def obvious(parts: list[torch.Tensor], weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    vectors = torch.zeros_like(parts[0])
    for place, part in enumerate(parts):
        vectors = vectors + weights[:, place : place + 1] * part
    return vectors, torch.stack([((vectors - part) ** 2).sum(dim=1) for part in parts], dim=1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 6), modalities=st.integers(1, 4), seed=st.integers(0, 99))
def test_values_and_gradients_are_autograds(n: int, modalities: int, seed: int) -> None:
    torch.manual_seed(seed)
    to_vectors, to_gaps = torch.randn(n, 5), torch.randn(n, modalities)
    given_parts, given_weights = [torch.randn(n, 5) for _ in range(modalities)], torch.rand(n, modalities)
    results = []
    for way in (fuse, obvious):
        parts = [part.clone().requires_grad_() for part in given_parts]
        weights = given_weights.clone().requires_grad_()
        vectors, gaps = way(parts, weights)
        ((vectors * to_vectors).sum() + (gaps * to_gaps).sum()).backward()
        results.append([vectors, gaps, weights.grad, *(part.grad for part in parts)])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_double_precision_goes_another_way_and_agrees() -> None:
    torch.manual_seed(0)
    parts, weights = [torch.randn(4, 3, dtype=torch.float64) for _ in range(2)], torch.rand(4, 2)
    exact = fuse(parts, weights.double())
    for ours, theirs in zip(fuse([p.float() for p in parts], weights), exact, strict=True):
        assert theirs.dtype == torch.float64
        assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_only_one_of_the_two_results_may_be_used() -> None:
    part, weights = torch.randn(3, 2, requires_grad=True), torch.rand(3, 1)
    fuse([part], weights)[0].sum().backward()
    assert part.grad is not None
    assert_close(part.grad, weights.expand(3, 2))
