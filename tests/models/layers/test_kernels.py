import numpy as np
import pytest
import torch
from torch.nn import functional

from prismrec.models.layers import kernels
from prismrec.models.layers.kernels import SelfKernel, kernel_matrix, lower_panels, mean_squared_distance


def units(rows, seed=0, dtype=torch.float32):
    vectors = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors[rows // 2] = 0.0
    return functional.normalize(vectors, dim=1).to(dtype)


def slow(kind, left, right, scale):
    out = np.zeros((len(left), len(right)))
    for i, x in enumerate(left.double().numpy()):
        for j, y in enumerate(right.double().numpy()):
            if x.any() and y.any():
                out[i, j] = (
                    np.exp(-scale * ((x - y) ** 2).sum()) if kind == "rbf" else ((1 + x @ y) / 2) ** scale
                )
    return out


@pytest.mark.parametrize("kind", ["rbf", "cosine"])
@pytest.mark.parametrize("cached", [1, 25, 1 << 18])
def test_kernel_is_what_its_formula_says_in_blocks_of_any_height(kind, cached, monkeypatch):
    monkeypatch.setattr(kernels, "_CACHED", cached)
    left, right = units(13), units(9, seed=1)
    found = kernel_matrix(kind, left, right, torch.tensor(3.0))
    np.testing.assert_allclose(found.numpy(), slow(kind, left, right, 3.0), atol=1e-6)


@pytest.mark.parametrize("kind", ["rbf", "cosine"])
@pytest.mark.parametrize("panel", [1, 4, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_of_items_with_each_other_for_several_scales(kind, panel, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "_PANEL", panel)
    items = units(13)
    among = SelfKernel(items)
    for scale in (1.0, 4.0, 2.0):
        out = torch.full((13, 13), torch.nan, dtype=dtype)
        among.fill(out, kind, torch.tensor(scale))
        lower = np.tril_indices(13)
        np.testing.assert_allclose(out.numpy()[lower], slow(kind, items, items, scale)[lower], atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1025])
def test_panels_cover_the_lower_triangle_once(size):
    covered = np.zeros((size, size), dtype=int)
    for rows, columns in lower_panels(size):
        covered[rows, columns] += 1
    assert (covered[np.tril_indices(size)] == 1).all()
    assert covered.max(initial=1) == 1


def test_distances_survive_half_precision_products():
    left = functional.normalize(torch.tensor([[1.0, 0.01, 0.0]]), dim=1)
    right = functional.normalize(torch.tensor([[1.0, 0.0, 0.0]]), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel_matrix("rbf", left, right, torch.tensor(1.0)).dtype == torch.float32


def test_mean_squared_distance_is_that_of_all_pairs():
    items = units(11)
    gaps = (items[:, None] - items).double().square().sum(dim=2)
    assert mean_squared_distance(items) == pytest.approx(float(gaps.mean()), rel=1e-6)
