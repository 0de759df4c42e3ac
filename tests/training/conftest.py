"""Small training data whose preferences follow from the content."""

from collections.abc import Callable

import numpy as np
import pytest

from prismrec.data.interactions import Pairs
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.batches import Modality, ModelInputs, TrainingData

N_USERS, N_ITEMS, WARM = 30, 40, 32


@pytest.fixture(scope="session")
def make_data() -> Callable[..., TrainingData]:
    """Return a function that makes training data: 32 warm items of 40, 6 pairs a user, user 0 has none."""

    def make(dtype: type = np.float32, seed: int = 0) -> TrainingData:
        random = np.random.default_rng(seed)
        taste, truth = random.normal(size=(N_USERS, 4)), random.normal(size=(N_ITEMS, 4))
        ids = tuple(f"i{n}" for n in range(N_ITEMS))
        image = (truth @ random.normal(size=(4, 6))).astype(dtype)
        text = (truth @ random.normal(size=(4, 5)))[5:].astype(dtype)
        stores = [
            FeatureStore("image", image, ids, ("",) * N_ITEMS, {}),
            FeatureStore("text", text, ids[5:], ("",) * (N_ITEMS - 5), {}),
        ]
        best = np.argsort(-(taste @ truth[:WARM].T), axis=1)[1:, :6]
        users = np.repeat(np.arange(1, N_USERS), 6).astype(np.int32)
        pairs = Pairs(users, np.sort(best, axis=1).ravel().astype(np.int32))
        inputs = ModelInputs(N_USERS, N_ITEMS, (Modality("image", 6), Modality("text", 5)))
        warm = np.unique(pairs.items)
        return TrainingData(pairs, inputs, ItemFeatures(stores, ids), warm, seed)

    return make


@pytest.fixture(scope="session")
def data(make_data: Callable[..., TrainingData]) -> TrainingData:
    """Return the data that most tests use."""
    return make_data()
