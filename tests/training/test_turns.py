import itertools

import numpy as np
import pytest
import torch
from torch import nn

from prismrec.data.interactions import Pairs
from prismrec.models.base import GradientModel, ModelConfig, Turn
from prismrec.models.batches import ModelInputs
from prismrec.models.plan import TrainingPlan
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

PLAN = TrainingPlan(epochs=2, batch_size=64, learning_rate=0.1, patience=0)


class _DuelConfig(ModelConfig):
    name = "duel"
    summary = "Two numbers that pull at each other."

    def build(self, inputs: ModelInputs) -> "Duel":
        return Duel(self, inputs)


class Duel(GradientModel):
    """The attacker wants the product large, the defender small; each notes what it saw of the other."""

    turns = (Turn("attack", ("attacker",)), Turn("defend", ("defender",)))

    def __init__(self, config: _DuelConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config = config
        self.attacker = nn.Parameter(torch.tensor([1.0]))
        self.defender = nn.Parameter(torch.tensor([1.0]))
        self.seen: list[tuple[str, float, float]] = []

    def user_vectors(self, users):
        return self.attacker.expand(len(users), 1)

    def item_vectors(self, items):
        return self.defender.expand(len(items), 1)

    def losses(self, batch):
        raise AssertionError("a model with turns is trained by its turns")

    def turn_losses(self, turn, batch):
        self.seen.append((turn.name, self.attacker.item(), self.defender.item()))
        product = (self.attacker * self.defender).sum()
        return {"product": -product if turn.name == "attack" else product}


def test_each_turn_moves_its_own_parameters_and_sees_what_the_one_before_did(data):
    model = Duel(_DuelConfig(), data.inputs)
    history = fit(model, data, PLAN, seed=0)
    assert [name for name, _, _ in model.seen] == ["attack", "defend"] * (len(model.seen) // 2)
    for one, two in itertools.pairwise(model.seen):
        moved = ("attacker", 1) if one[0] == "attack" else ("defender", 2)
        assert one[moved[1]] != two[moved[1]]
        assert one[3 - moved[1]] == two[3 - moved[1]]
    # Adam's first step is as long as the learning rate.
    assert model.seen[1][1:] == pytest.approx((1.1, 1.0), abs=1e-5)
    assert set(history.epochs[0].losses) == {"attack product", "defend product"}


def test_targets_take_the_place_of_the_training_pairs(data):
    targets = Pairs(data.pairs.users[:5].copy(), np.repeat(data.warm[:1], 5))
    batches = Batches(data, PLAN, 0, False, targets)
    assert len(batches) == 1
    users, items, negatives = batches.triplets(1)
    assert sorted(users) == sorted(targets.users)
    assert set(items) == {data.warm[0]}
    touched = set(zip(data.pairs.users.tolist(), data.pairs.items.tolist(), strict=True))
    assert not touched & set(zip(users.tolist(), negatives[:, 0].tolist(), strict=True))
