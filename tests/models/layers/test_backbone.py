"""Tests of the collaborative backbone."""

import numpy as np
import pytest
import torch

from prismrec.models.layers.backbone import backbone_of
from prismrec.testing.planted import planted


@pytest.mark.parametrize("kind", ["als", "svd"])
def test_knows_who_touched_what(kind: str) -> None:
    data = planted().data
    found = backbone_of(data, kind, 16)  # type: ignore[arg-type]
    scores = (found.users @ found.items.T).numpy()
    touched = np.zeros(scores.shape, dtype=bool)
    touched[data.pairs.users, data.pairs.items] = True
    warm = np.isin(np.arange(data.inputs.n_items), data.warm)
    known = np.unique(data.pairs.users)
    inside = scores[known][:, warm]
    mask = touched[known][:, warm]
    assert inside[mask].mean() > inside[~mask].mean() + 0.3


@pytest.mark.parametrize("kind", ["als", "svd"])
def test_strangers_and_cold_items_are_zero(kind: str) -> None:
    source = planted()
    found = backbone_of(source.data, kind, 8)  # type: ignore[arg-type]
    cold = torch.from_numpy(source.cold.astype(np.int64))
    assert (found.items[cold] == 0).all()
    assert found.users.shape == (source.data.inputs.n_users, 8)
    # The last user of the planted data has no interaction.
    assert torch.allclose(found.users[-1], torch.zeros(8), atol=1e-6)


def test_svd_is_the_best_approximation() -> None:
    data = planted(n_users=12, n_items=40).data
    found = backbone_of(data, "svd", 3)
    matrix = np.zeros((12, 40))
    matrix[data.pairs.users, data.pairs.items] = 1.0
    u, s, vt = np.linalg.svd(matrix)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    assert np.allclose((found.users @ found.items.T).numpy(), best, atol=1e-4)
    # The singular values are shared: both sides have the same lengths by column.
    assert torch.allclose(found.users.norm(dim=0), found.items.norm(dim=0), rtol=1e-3)


def test_more_dimensions_than_the_data_has_are_zeros() -> None:
    data = planted(n_users=10, n_items=40).data
    found = backbone_of(data, "svd", 32)
    assert found.users.shape == (10, 32)
    assert found.items.isfinite().all()
    assert (found.items[:, 12:] == 0).all()


def test_same_seed_same_backbone() -> None:
    data = planted().data
    first, second = (backbone_of(data, "als", 8) for _ in range(2))
    assert torch.equal(first.users, second.users)
    assert torch.equal(first.items, second.items)
