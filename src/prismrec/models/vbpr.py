"""VBPR: matrix factorisation with a second half of each item's vector that comes from its content.

R. He, J. McAuley: VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback, AAAI 2016, arXiv
1510.01784. As in the codes that multimodal recommenders are compared in, content is all modalities side by
side, and there are no biases unless asked for.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, frobenius
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan

_BLOCK = 8192


class VBPRConfig(ModelConfig):
    """Hyper-parameters of VBPR."""

    name: ClassVar[str] = "vbpr"
    summary: ClassVar[str] = "Matrix factorisation with projected content beside the factors (AAAI 2016)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(
        64, ge=1, le=4096, description="Size d of an item's factors, and of its projected content."
    )
    reg: float = Field(
        0.01, ge=0, description="Weight of the lengths of the batch's blocks of users, positives, negatives."
    )
    normalise: bool = Field(
        False,
        description="Bring each modality's vectors to unit length first. Published is to take them as they "
        "are, so that a modality with large numbers outweighs the others.",
    )
    biases: bool = Field(
        False,
        description="Add a number of an item's own and a linear function of its content to all its scores, "
        "as the paper does; released codes do not.",
    )

    def build(self, inputs: ModelInputs) -> "VBPR":
        """Make an untrained model."""
        return VBPR(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``with_biases``."""
        plan = TrainingPlan(learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20")
        about = (
            "Sizes and stopping as in MMRec, penalty from the middle of its grid; lazy Adam on the tables."
        )
        return {
            "default": Preset(cls(), plan, about),
            "with_biases": Preset(
                cls(biases=True), plan, "A variant: the paper's biases of items and content."
            ),
        }


class VBPR(GradientModel):
    """The model: ``s(u, i) = p_u . [q_i ; x_i W + b]``, x being all modalities side by side.

    Where a modality is missing, the mean of the training items that have it stands in x. Items without
    training pairs have 0 for q and for their own bias; users without training pairs have the zero vector.

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

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items")
    row_tables: ClassVar[tuple[str, ...]] = ("users", "items")

    mean: Tensor
    warm: Tensor

    def __init__(self, config: VBPRConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("VBPR")
        self.config: VBPRConfig = config
        self.dims = [modality.dim for modality in inputs.modalities]
        self.register_buffer("mean", torch.zeros(sum(self.dims)))
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))
        self.users = nn.Parameter(torch.empty(inputs.n_users, 2 * config.dim))
        nn.init.xavier_uniform_(self.users)
        factors = nn.init.xavier_uniform_(torch.empty(inputs.n_items, config.dim))
        # A bias is a last column, so that one row is all there is of an item.
        bias = torch.zeros(inputs.n_items, 1 if config.biases else 0)
        self.items = nn.Parameter(torch.cat([factors, bias], dim=1))
        self.map = nn.Linear(sum(self.dims), config.dim)
        nn.init.xavier_normal_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.content_bias = nn.Parameter(torch.zeros(sum(self.dims))) if config.biases else None

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take the training items' mean content, and set rows of users and items without pairs to 0."""
        del score
        self.mean.copy_(self._mean_of(data))
        self.warm.zero_()
        self.warm[torch.from_numpy(data.warm.astype(np.int64)).to(self.warm.device)] = True
        self.items.mul_(self.warm.unsqueeze(1))
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``p_u``, with 1 for the biases; zeros for users without training pairs, but for that 1."""
        return self._with_one(rows_or_zero(self.users, users))

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``[q_i ; x_i W + b]`` and the biases; q and the item's own bias are 0 without training."""
        own = rows_or_zero(self.items, torch.where(self._marks(items), items.codes, -1))
        return self._joined(own, self.filled(items))

    @property
    def divides(self) -> bool:
        """The penalty is the length of whole blocks, no mean over their rows."""
        return self.config.reg == 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``rank`` and, where it has a weight, ``reg``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("VBPR is trained on triplets.", "Set sampling='triplets'.")
        users = self._with_one(self.rows(self.users, batch.users))
        # Negatives may be cold.
        own = self.rows(self.items, batch.items.codes) * self._marks(batch.items).unsqueeze(1)
        # Content is projected once for each item of the batch, not for each pair.
        items = self._joined(own, self.filled(batch.items))
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.reg > 0:
            penalty = frobenius(
                users[:, : 2 * self.config.dim],
                items[batch.positives],
                items[batch.negatives].flatten(0, 1),
            )
            terms["reg"] = self.config.reg * penalty
        return terms

    def filled(self, items: ItemBatch) -> Tensor:
        """Return all modalities side by side, the mean where one is missing, shape ``(n, sum of dims)``."""
        kept = []
        means = torch.split(self.mean, self.dims)
        for vectors, mean, there in zip(self._scaled(items), means, items.present.T, strict=True):
            kept.append(torch.where(there.unsqueeze(1), vectors, mean))
        return torch.cat(kept, dim=1)

    def _joined(self, own: Tensor, content: Tensor) -> Tensor:
        projected = self.map(content)
        if self.content_bias is None:
            return torch.cat([own, projected], dim=1)
        bias = own[:, -1:] + (content @ self.content_bias).unsqueeze(1)
        return torch.cat([own[:, :-1], projected, bias], dim=1)

    def _with_one(self, users: Tensor) -> Tensor:
        if not self.config.biases:
            return users
        return torch.cat([users, users.new_ones(len(users), 1)], dim=1)

    def _marks(self, items: ItemBatch) -> Tensor:
        return self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)

    def _scaled(self, items: ItemBatch) -> list[Tensor]:
        if not self.config.normalise:
            return list(items.vectors)
        return [functional.normalize(vectors, dim=1) for vectors in items.vectors]

    def _mean_of(self, data: TrainingData) -> Tensor:
        """Mean of each modality over the training items that have it, side by side."""
        sums = [torch.zeros(dim, dtype=torch.float64) for dim in self.dims]
        counts = torch.zeros(len(self.dims))
        for first in range(0, len(data.warm), _BLOCK):
            items = item_batch(data.features, data.warm[first : first + _BLOCK])
            counts += items.present.sum(dim=0)
            for total, vectors, there in zip(sums, self._scaled(items), items.present.T, strict=True):
                total.add_(torch.where(there.unsqueeze(1), vectors, 0.0).sum(dim=0, dtype=torch.float64))
        return torch.cat([total / count.clamp_min(1.0) for total, count in zip(sums, counts, strict=True)])
