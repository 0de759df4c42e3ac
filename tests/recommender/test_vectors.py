import numpy as np
import pytest
import torch

from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.base import Explanation
from prismrec.recommender import vectors
from prismrec.recommender.vectors import (
    ItemVectors,
    average_for_unknown,
    compute,
    compute_catalog,
    vector_digest,
)


def some(n, seed=0, weights=True):
    random = np.random.default_rng(seed)
    return ItemVectors(
        random.normal(size=(n, 3)).astype(np.float32),
        random.random((n, 2)) < 0.5,
        random.random((n, 2)).astype(np.float32) if weights else None,
        random.random((n, 2, 4)).astype(np.float32) if weights else None,
    )


def test_rows_are_replaced_and_appended():
    old, new = some(5), some(3, seed=1)
    grown = old.replaced(np.array([6, 1, 5]), new)
    assert len(grown) == 7
    for place in ("vectors", "present", "weights", "experts"):
        before, added, after = (getattr(v, place) for v in (old, new, grown))
        np.testing.assert_array_equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])
        np.testing.assert_array_equal(after[[6, 1, 5]], added)
    assert len(old) == 5


def test_models_without_weights_stay_without():
    grown = some(2, weights=False).replaced(np.array([2]), some(1, weights=False))
    assert len(grown) == 3
    assert grown.weights is None
    assert grown.experts is None


class Sum(torch.nn.Module):
    """Item vectors are sums of the content and the code, so that every row shows where it came from."""

    def item_vectors(self, items):
        return items.vectors[0] + items.codes[:, None]

    def explain(self, items):
        weights = items.present.float()
        return Explanation(weights, weights[:, :, None])


def test_blocks_do_not_show(monkeypatch):
    content = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    present = np.ones((11, 1), dtype=np.bool_)
    codes = np.array([*range(10), -1], dtype=np.int32)
    monkeypatch.setattr(vectors, "_BLOCK", 4)
    found = compute(Sum(), codes, [content], present)
    np.testing.assert_allclose(found.vectors, content + codes[:, None], rtol=1e-5)
    assert found.weights.shape == (11, 1)
    assert found.experts.shape == (11, 1, 1)


@pytest.mark.parametrize("explained", [True, False])
def test_catalogue_read_block_by_block_is_the_catalogue_read_at_once(explained, monkeypatch):
    content = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float16)
    ids = tuple(f"i{code}" for code in range(11))
    store = FeatureStore("text", content, ids[1:10], ("",) * 9, {})
    features = ItemFeatures([store], ids)
    codes = np.array([10, 3, 4, 9, 0, 1, 2, 5, 8, 7, 6])
    monkeypatch.setattr(vectors, "_BLOCK", 4)
    found = compute_catalog(Sum(), features, codes, explained=explained)
    expected = compute(Sum(), codes, *features.gather(codes))
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.present, expected.present)
    if explained:
        np.testing.assert_array_equal(found.weights, expected.weights)
        np.testing.assert_array_equal(found.experts, expected.experts)
    else:
        assert found.weights is None
        assert found.experts is None


def test_no_item_gives_no_vector():
    found = compute(Sum(), np.zeros(0, np.int32), [np.zeros((0, 3), np.float32)], np.zeros((0, 1), bool))
    assert found.vectors.shape == (0, 3)


def test_unknown_users_have_the_mean_of_the_others():
    users = np.array([[1, 2], [50, 50], [3, 6]], dtype=np.float32)
    filled = average_for_unknown(users, np.array([True, False, True]))
    np.testing.assert_array_equal(filled, [[1, 2], [2, 4], [3, 6]])
    assert users[1, 0] == 50
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(average_for_unknown(users, np.zeros(3, bool)), users)


def test_a_vector_has_one_digest_in_any_precision():
    vector = np.array([0.5, 2.0], dtype=np.float16)
    assert vector_digest(vector) == vector_digest(vector.astype(np.float32))
    assert vector_digest(vector) != vector_digest(vector + 1)
