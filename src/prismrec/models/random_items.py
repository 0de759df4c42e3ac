"""Random: what any ranking must be better than."""

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.lookup import rows_or_zero


class RandomConfig(ModelConfig):
    """Hyper-parameters of Random."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "Random scores, the same in every run of a seed: the floor."
    recommends_cold_items: ClassVar[bool] = True
    uses_content: ClassVar[bool] = False

    dim: int = Field(32, ge=1, le=4096, description="Size of the random vectors.")

    def build(self, inputs: ModelInputs) -> "Random":
        """Make an unfitted model."""
        return Random(self, inputs)


class Random(ClosedFormModel):
    """Normal random vectors for users and items of the vocabulary; zero for those that came later.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes.
    """

    users: Tensor
    items: Tensor

    def __init__(self, config: RandomConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config: RandomConfig = config
        self.register_buffer("users", torch.zeros(inputs.n_users, config.dim))
        self.register_buffer("items", torch.zeros(inputs.n_items, config.dim))

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Draw the vectors by the seed of the data."""
        del score
        generator = torch.Generator().manual_seed(data.seed)
        self.users = torch.randn(data.inputs.n_users, self.config.dim, generator=generator)
        self.items = torch.randn(data.inputs.n_items, self.config.dim, generator=generator)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' random vectors."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the items' random vectors."""
        return rows_or_zero(self.items, items.codes)
