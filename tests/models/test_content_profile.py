import numpy as np
import pytest
import torch

from prismrec.data.interactions import Pairs
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.batches import Modality, ModelInputs, TrainingData
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.layers.content import item_batch
from prismrec.testing import ModelConformance, fitted, planted


class TestConformance(ModelConformance):
    config = ContentProfileConfig()


class TestWithoutTuning(ModelConformance):
    config = ContentProfileConfig(tune=False)


@pytest.fixture
def by_hand() -> TrainingData:
    # Items a, b train, c is cold. Units: (1, 0), (0, 1), (0.6, 0.8). The mean of a and b is (0.5, 0.5).
    vectors = np.array([[2.0, 0.0], [0.0, 5.0], [3.0, 4.0]], dtype=np.float32)
    store = FeatureStore("image", vectors, ("a", "b", "c"), ("", "", ""), {})
    pairs = Pairs(np.array([0, 1, 1], dtype=np.int32), np.array([0, 0, 1], dtype=np.int32))
    inputs = ModelInputs(3, 3, (Modality("image", 2),))
    return TrainingData(pairs, inputs, ItemFeatures([store], ["a", "b", "c"]), np.array([0, 1], np.int32), 0)


def test_by_hand(by_hand: TrainingData) -> None:
    model = ContentProfileConfig().build(by_hand.inputs)
    model.fit(by_hand, lambda: 0.0)
    items = model.item_vectors(item_batch(by_hand.features, np.arange(3)))
    half = np.sqrt(0.5)
    # c - mean = (0.1, 0.3), of length sqrt(0.1).
    expected = [[half, -half], [-half, half], [0.1 / np.sqrt(0.1), 0.3 / np.sqrt(0.1)]]
    np.testing.assert_allclose(items, expected, atol=1e-6)
    users = model.user_vectors(torch.tensor([0, 1, 2, -1]))
    np.testing.assert_allclose(users, [[half, -half], [0, 0], [0, 0], [0, 0]], atol=1e-6)


def test_folding_in_a_history_gives_the_trained_user() -> None:
    source = planted()
    model = fitted(ContentProfileConfig(), ModelConformance.plan, source)
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    liked = model.item_vectors(item_batch(source.data.features, touched[starts[7] : starts[8]]))
    folded = model.fold_in(liked, liked, torch.arange(len(liked)))
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0])


def test_validation_chooses_the_modality_that_tells() -> None:
    source = planted()
    signal, other = source.data.features.stores
    noise = np.random.default_rng(0).normal(size=other.vectors.shape).astype(np.float32)
    junk = FeatureStore(other.name, noise, other.ids, other.digests, {})
    features = ItemFeatures([signal, junk], [f"item-{code}" for code in range(source.data.inputs.n_items)])
    data = TrainingData(source.data.pairs, source.data.inputs, features, source.data.warm, 0)
    changed = type(source)(data, source.valid, source.test)
    model = fitted(ContentProfileConfig(), ModelConformance.plan, changed)
    assert model.content.shares[0] > 0.5
