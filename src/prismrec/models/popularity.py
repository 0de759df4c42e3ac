"""Popularity: the same ranking for everybody, by the number of training interactions."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.lookup import rows_or_zero


class PopularityConfig(ModelConfig):
    """Popularity has no hyper-parameters."""

    name: ClassVar[str] = "popularity"
    summary: ClassVar[str] = "The number of training interactions; the same for every user."
    recommends_cold_items: ClassVar[bool] = False
    uses_content: ClassVar[bool] = False

    def build(self, inputs: ModelInputs) -> "Popularity":
        """Make an unfitted model."""
        return Popularity(self, inputs)


class Popularity(ClosedFormModel):
    """Score ``ln(1 + n)`` of an item with n training interactions; 0 for items that came later.

    Parameters
    ----------
    config
        Has no fields.
    inputs
        Sizes.
    """

    popularity: Tensor

    def __init__(self, config: PopularityConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config: PopularityConfig = config
        self.register_buffer("popularity", torch.zeros(inputs.n_items, 1))

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Count."""
        del score
        counts = np.bincount(data.pairs.items, minlength=data.inputs.n_items)
        self.popularity = torch.from_numpy(np.log1p(counts).astype(np.float32)).unsqueeze(1)
        return {"most": float(counts.max(initial=0))}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return 1 for each user, known or not, shape ``(n, 1)``."""
        return torch.ones(len(users), 1, device=users.device)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the popularity, shape ``(n, 1)``."""
        return rows_or_zero(self.popularity, items.codes)

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the vector of every user."""
        del catalog, history
        return torch.ones(1, device=liked.device)
