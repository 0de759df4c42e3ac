"""The suite must catch what it is there for: models that are wrong in one way each."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TripletBatch
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.testing import ModelConformance


class SoundConfig(ModelConfig):
    name: ClassVar[str] = "sound"
    summary: ClassVar[str] = "One affine map of all content."

    dim: int = 8

    def build(self, inputs: ModelInputs) -> "Sound":
        return Sound(self, inputs)


class Sound(GradientModel):
    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Sound")
        self.config = config
        self.users = nn.Parameter(torch.randn(inputs.n_users, 8) * 0.1)
        self.map = nn.Linear(sum(m.dim for m in inputs.modalities), 8, bias=False)

    def content(self, items: ItemBatch) -> Tensor:
        kept = [torch.where(items.present[:, m : m + 1], v, 0.0) for m, v in enumerate(items.vectors)]
        return torch.cat(kept, dim=1)

    def user_vectors(self, users: Tensor) -> Tensor:
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        return self.map(self.content(items))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, TripletBatch)
        users, items = self.users[batch.users], self.item_vectors(batch.items)
        positive = (users * items[batch.positives]).sum(dim=1, keepdim=True)
        negative = torch.einsum("bd,bnd->bn", users, items[batch.negatives])
        return {"rank": bpr(positive, negative).mean()}


class TestSound(ModelConformance):
    config: ModelConfig = SoundConfig()


def broken(model: type[Sound]) -> ModelConformance:
    class BrokenConfig(SoundConfig):
        def build(self, inputs: ModelInputs) -> Sound:
            return model(self, inputs)

    class Suite(ModelConformance):
        config = BrokenConfig()

    return Suite()


class LooksUnderMissing(Sound):
    def content(self, items: ItemBatch) -> Tensor:
        return torch.cat(items.vectors, dim=1)


class NormalisesOverTheBatch(Sound):
    def item_vectors(self, items: ItemBatch) -> Tensor:
        vectors = super().item_vectors(items)
        return vectors - vectors.mean(dim=0)


class ForgetsAParameter(Sound):
    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.unused = nn.Parameter(torch.zeros(3))


class TakesTheLastUserForAStranger(Sound):
    def user_vectors(self, users: Tensor) -> Tensor:
        return self.users[users.clamp_min(0)]


class KnowsItemsByCode(Sound):
    def item_vectors(self, items: ItemBatch) -> Tensor:
        return super().item_vectors(items) + 0.01 * items.codes.unsqueeze(1)


class LosesStateOnTheWay(Sound):
    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.scale = 1.0 + torch.rand(1).item()

    def item_vectors(self, items: ItemBatch) -> Tensor:
        return super().item_vectors(items) * self.scale


class LearnsTheOpposite(Sound):
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, TripletBatch)
        users, items = self.users[batch.users], self.item_vectors(batch.items)
        return {"rank": (users * items[batch.positives]).sum(dim=1).square().mean()}


class DividesByWhatIsThere(Sound):
    def item_vectors(self, items: ItemBatch) -> Tensor:
        vectors = super().item_vectors(items)
        return vectors if self.training else vectors / items.present.sum(dim=1, keepdim=True)


class DrawsAnew(Sound):
    def item_vectors(self, items: ItemBatch) -> Tensor:
        return super().item_vectors(items) + torch.rand(1, generator=GENERATOR)


GENERATOR = torch.Generator()


Check = Callable[[ModelConformance], None]


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (LooksUnderMissing, ModelConformance.test_nothing_shines_through_a_missing_modality),
        (NormalisesOverTheBatch, ModelConformance.test_rest_of_the_batch_does_not_matter),
        (ForgetsAParameter, ModelConformance.test_gradient_reaches_every_parameter),
        (TakesTheLastUserForAStranger, ModelConformance.test_unknown_user_is_nobody_else),
        (KnowsItemsByCode, ModelConformance.test_codes_of_cold_items_do_not_matter),
        (KnowsItemsByCode, ModelConformance.test_later_item_is_what_its_content_says),
        (LearnsTheOpposite, ModelConformance.test_learns_what_was_planted),
        (DividesByWhatIsThere, ModelConformance.test_item_without_content_has_a_finite_vector),
        (DrawsAnew, ModelConformance.test_same_seed_same_result),
    ],
)
def test_a_broken_model_is_caught(model: type[Sound], check: Check) -> None:
    with pytest.raises(AssertionError):
        check(broken(model))


def test_lost_state_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        broken(LosesStateOnTheWay).test_state_survives_a_file(tmp_path)
