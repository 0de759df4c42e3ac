import numpy as np
import pytest
import torch

from prismrec.models.batches import ItemBatch
from prismrec.models.random_items import RandomConfig
from prismrec.testing import ModelConformance, cold_auc, fitted, planted


def test_held_out_items_never_occur_in_training() -> None:
    source = planted()
    assert not set(source.cold.tolist()) & set(source.data.warm.tolist())
    assert set(source.data.pairs.items.tolist()) == set(source.data.warm.tolist())
    assert not set(source.valid.items.tolist()) & set(source.test.items.tolist())
    assert (np.bincount(source.data.pairs.users, minlength=60)[-1], source.data.inputs.n_users) == (0, 60)
    bare = ~source.data.features.present.any(axis=1)
    assert bare[source.data.warm].sum() >= 1
    assert bare[source.cold].sum() >= 1


def test_same_seed_same_data() -> None:
    first, second, other = planted(seed=1), planted(seed=1), planted(seed=2)
    assert first.data.features.content_hash == second.data.features.content_hash
    assert first.data.features.content_hash != other.data.features.content_hash
    assert (first.test.items == second.test.items).all()


def test_chance_is_one_half_and_truth_is_one() -> None:
    source = planted()
    chance = np.mean([auc_of_random(seed) for seed in range(5)])
    assert chance == pytest.approx(0.5, abs=0.06)
    truth = np.zeros((source.data.inputs.n_users, source.data.inputs.n_items), dtype=np.float32)
    truth[source.test.users, source.test.items] = 1
    assert cold_auc(Fixed(torch.from_numpy(truth)), source.data, source.test) == 1.0
    assert cold_auc(Fixed(torch.from_numpy(-truth)), source.data, source.test) == 0.0
    assert cold_auc(Fixed(torch.zeros(60, 160)), source.data, source.test) == 0.5


def auc_of_random(seed: int) -> float:
    source = planted(seed=seed)
    return cold_auc(fitted(RandomConfig(), ModelConformance.plan, source), source.data, source.test)


class Fixed:
    """Scores as given."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        return self.scores[users]

    def item_vectors(self, items: ItemBatch) -> torch.Tensor:
        return torch.eye(self.scores.shape[1])[items.codes]
