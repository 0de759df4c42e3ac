"""A blend of the regression that sees the whole catalogue and the sum over the most similar items."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.cooccurrence import Cooccurrence, CooccurrenceConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.cooccurrence import score_width, standardised
from prismrec.models.layers.search import best_of
from prismrec.models.local_kernel import LocalKernel, LocalKernelConfig

_WEIGHTS = (0.5, 0.0, 0.2, 0.35, 0.65, 0.8, 1.0)
# Training items over which a user's scores are measured at most: their deviation is known to 2 % from these.
_MEASURED = 2048
_USERS = 4096


class KernelBlendConfig(ModelConfig):
    """Hyper-parameters of the blend. What is None is chosen by validation."""

    name: ClassVar[str] = "blend"
    summary: ClassVar[str] = (
        "Weighted sum of co-occurrence and local-kernel, each user's scores standardised."
    )

    weight: float | None = Field(None, ge=0, le=1, description="Share of `broad`; `local` has the rest.")
    broad: CooccurrenceConfig = Field(CooccurrenceConfig(), description="Settings of co-occurrence.")
    local: LocalKernelConfig = Field(LocalKernelConfig(), description="Settings of local-kernel.")

    def build(self, inputs: ModelInputs) -> "KernelBlend":
        """Make an unfitted model."""
        return KernelBlend(self, inputs)


class KernelBlend(ClosedFormModel):
    """Score ``w s_broad / sigma_broad(u) + (1 - w) s_local / sigma_local(u)``.

    sigma(u) is the standard deviation of the user's scores over the training items, or over 2,048 of them
    drawn by the seed. It belongs to the user, so the score stays a dot product: vectors are those of the two
    models side by side. Users without history have the zero vector.

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

    weight: Tensor
    measured: Tensor
    widths: Tensor

    def __init__(self, config: KernelBlendConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("A blend")
        self.config: KernelBlendConfig = config
        self.broad = config.broad.build(inputs)
        self.local = config.local.build(inputs)
        self.register_buffer("weight", torch.tensor(0.5))
        self.register_buffer("measured", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("widths", torch.ones(2, inputs.n_users))
        self._alone: int | None = None

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Fit the two models one after the other, each by its own validation, then choose the weight."""
        chosen = {}
        for place, name in enumerate(("broad", "local")):
            # While a part is fitted, what is validated is that part.
            self._alone = place
            found = self._parts[place].fit(data, score)
            chosen.update({f"{name} {key}": value for key, value in found.items()})
        self._alone = None
        self._measure(data)
        weights = _WEIGHTS if self.config.weight is None else (self.config.weight,)
        best = best_of(weights, self._use_weight, score)
        return {"weight": best, **chosen}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' vectors of both models, standardised and weighted."""
        if self._alone is not None:
            return self._parts[self._alone].user_vectors(users)
        known = users.clamp_min(0)
        broad = standardised(self.broad.user_vectors(users), self.widths[0][known])
        local = standardised(self.local.user_vectors(users), self.widths[1][known])
        return torch.cat((self.weight * broad, (1.0 - self.weight) * local), dim=1)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the items' vectors of both models."""
        if self._alone is not None:
            return self._parts[self._alone].item_vectors(items)
        return torch.cat((self.broad.item_vectors(items), self.local.item_vectors(items)), dim=1)

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the vector that a user with these items has: a training user's own comes out again."""
        sizes = [len(self.broad.landmarks), len(self.local.landmarks)]
        mine, items = torch.split(liked, sizes, dim=1), torch.split(catalog[self.measured], sizes, dim=1)
        broad = _folded(self.broad, mine[0], items[0], history)
        local = _folded(self.local, mine[1], items[1], history)
        return torch.cat((self.weight * broad, (1.0 - self.weight) * local))

    @property
    def _parts(self) -> tuple[Cooccurrence, LocalKernel]:
        return self.broad, self.local

    def _use_weight(self, weight: float) -> None:
        self.weight = torch.tensor(weight, dtype=torch.float32)

    @torch.no_grad()
    def _measure(self, data: TrainingData) -> None:
        """Take the deviation of each user's scores, in either model."""
        drawn = np.random.default_rng(data.seed).permutation(len(data.warm))[:_MEASURED]
        places = np.sort(drawn)
        self.measured = torch.from_numpy(places)
        items = item_batch(data.features, data.warm[places])
        users = torch.arange(data.inputs.n_users)
        self.widths = torch.stack(
            [
                torch.cat(
                    [score_width(m.user_vectors(block), vectors) for block in torch.split(users, _USERS)]
                )
                for m, vectors in ((m, m.item_vectors(items)) for m in self._parts)
            ]
        )


def _folded(model: Cooccurrence | LocalKernel, liked: Tensor, measured: Tensor, history: Tensor) -> Tensor:
    """Return a model's own vector of a user who is known by some items, standardised."""
    user = model.fold_in(liked, measured, history).unsqueeze(0)
    return standardised(user, score_width(user, measured)).squeeze(0)
