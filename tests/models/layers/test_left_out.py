"""Tests of the regression that leaves each item out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from prismrec.models.layers.kernels import kernel_matrix
from prismrec.models.layers.left_out import left_out_regression


def problem(seed: int, n: int, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = functional.normalize(torch.randn(n, 5, generator=generator), dim=1)
    targets = torch.randn(n, t, generator=generator)
    return vectors, targets, 0.1 + torch.rand(n, generator=generator)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 12), penalty=st.floats(0.05, 5.0))
def test_leaving_out_is_fitting_without(seed: int, n: int, penalty: float) -> None:
    vectors, targets, noise = problem(seed, n, 3)
    scale = torch.tensor(1.3)
    found = left_out_regression("rbf", scale, vectors, torch.arange(n), targets, noise, penalty)
    for i in range(n):
        others = torch.tensor([j for j in range(n) if j != i])
        kernel = kernel_matrix("rbf", vectors[others], vectors[others], scale).double()
        system = kernel + torch.diag(noise[others].double() * penalty)
        across = kernel_matrix("rbf", vectors[i : i + 1], vectors[others], scale).double()
        expected = across @ torch.linalg.solve(system, targets[others].double())
        assert torch.allclose(found.predictions[i].double(), expected[0], atol=1e-4)


def test_with_landmarks_leaving_out_is_fitting_without() -> None:
    vectors, targets, noise = problem(3, 14, 2)
    landmarks, scale, penalty = torch.tensor([1, 4, 6, 9, 13]), torch.tensor(0.8), 0.7
    found = left_out_regression("rbf", scale, vectors, landmarks, targets, noise, penalty)
    among = kernel_matrix("rbf", vectors[landmarks], vectors[landmarks], scale).double().numpy()
    whitener = np.linalg.cholesky(among + 1e-5 * np.eye(5))
    seen = kernel_matrix("rbf", vectors, vectors[landmarks], scale).double().numpy()
    features = np.linalg.solve(whitener, seen.T).T
    y, n = targets.double().numpy(), noise.double().numpy()
    for i in range(14):
        keep = np.arange(14) != i
        weighed = features[keep] / n[keep, None]
        beta = np.linalg.solve(features[keep].T @ weighed + penalty * np.eye(5), weighed.T @ y[keep])
        assert found.predictions[i].numpy() == pytest.approx(features[i] @ beta, abs=1e-4)
    weighed = features / n[:, None]
    beta = np.linalg.solve(features.T @ weighed + penalty * np.eye(5), weighed.T @ y)
    assert (torch.from_numpy(seen).float() @ found.dual).numpy() == pytest.approx(features @ beta, abs=1e-3)


def test_landmarks_everywhere_are_exact() -> None:
    vectors, targets, noise = problem(5, 10, 2)
    # In any order but the exact one, the landmarks' way is taken only with fewer of them: compare both ways.
    exact = left_out_regression("cosine", torch.tensor(3.0), vectors, torch.arange(10), targets, noise, 1.0)
    nearly = left_out_regression(
        "cosine", torch.tensor(3.0), torch.cat([vectors, vectors[:1]]), torch.arange(10),
        torch.cat([targets, targets[:1]]), torch.cat([noise, torch.tensor([1e9])]), 1.0,
    )  # fmt: skip
    # The eleventh item is as noisy as if it were not there.
    assert torch.allclose(nearly.predictions[:10], exact.predictions, atol=2e-3)


def test_an_item_without_content_is_predicted_as_nothing() -> None:
    vectors, targets, noise = problem(7, 8, 2)
    vectors[3] = 0.0
    found = left_out_regression("rbf", torch.tensor(1.0), vectors, torch.arange(8), targets, noise, 1.0)
    assert torch.allclose(found.predictions[3], torch.zeros(2), atol=1e-6)


def test_what_is_noisy_counts_less() -> None:
    vectors = functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.01]]), dim=1)
    targets = torch.tensor([[0.0], [1.0], [-1.0]])
    trusted = left_out_regression(
        "rbf", torch.tensor(1.0), vectors, torch.arange(3), targets, torch.tensor([1.0, 0.1, 10.0]), 1.0
    )
    assert float(trusted.predictions[0, 0]) > 0.3


@pytest.mark.parametrize("carrying", [12, 5])
def test_rough_predictions_are_those_of_the_fit(carrying: int) -> None:
    vectors, targets, noise = problem(11, 12, 2)
    landmarks, scale = torch.arange(carrying), torch.tensor(1.1)
    rough = left_out_regression("rbf", scale, vectors, landmarks, targets, noise, 0.6, rough=True)
    full = left_out_regression("rbf", scale, vectors, landmarks, targets, noise, 0.6)
    assert torch.allclose(rough.dual, full.dual, atol=1e-3)
    seen = kernel_matrix("rbf", vectors, vectors[landmarks], scale) @ full.dual
    assert torch.allclose(rough.predictions, seen, atol=2e-3)
    assert not torch.allclose(full.predictions, seen, atol=2e-2)
