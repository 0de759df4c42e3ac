"""Content profile: a user is the mean of the content of what they touched."""

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.content import Content, ContentTable, share_grid
from prismrec.models.layers.history import History
from prismrec.models.layers.search import best_of


class ContentProfileConfig(ModelConfig):
    """Hyper-parameters of the content profile."""

    name: ClassVar[str] = "content-profile"
    summary: ClassVar[str] = "Items like the mean of what the user touched, by centred content."

    tune: bool = Field(
        True,
        description="Choose the weights of the modalities by validation (two or three modalities; equal "
        "weights otherwise).",
    )

    def build(self, inputs: ModelInputs) -> "ContentProfile":
        """Make an unfitted model."""
        return ContentProfile(self, inputs)


class ContentProfile(ClosedFormModel):
    """The model. Users without history have the zero vector.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes.

    Raises
    ------
    InputError
        If there is no modality.
    """

    table: Tensor

    def __init__(self, config: ContentProfileConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Content profile")
        self.config: ContentProfileConfig = config
        self.content = Content(inputs.modalities)
        self.history = History()
        self.register_buffer("table", torch.zeros(0, self.content.dim))

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Centre the content, and choose the weights of the modalities by validation if asked to."""
        self.content.fit(data.features, data.warm)
        self.history.fit(data.pairs, data.warm, data.inputs.n_users)
        training_items = ContentTable(self.content, data.features, data.warm)

        def use(shares: Tensor) -> None:
            self.content.shares = shares
            self.table = training_items.weighed()

        grid = share_grid(len(data.inputs.modalities))
        best_of(grid if self.config.tune else grid[:1], use, score)
        names = [modality.name for modality in data.inputs.modalities]
        return {f"share {n}": float(s) for n, s in zip(names, self.content.shares, strict=True)}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the mean content of each user's training items."""
        return self.history.mean(users, self.table)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the items' content."""
        content: Tensor = self.content(items)
        return content

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the mean content of the items, the same as for users of the training part."""
        del catalog, history
        return liked.sum(dim=0) / max(1, len(liked))
