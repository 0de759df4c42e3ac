"""MTPR: multi-task pairwise ranking of items with and without their identity.

X. Du, X. Wang, X. He, Z. Li, J. Tang, T.-S. Chua: How to Learn Item Representation for Cold-Start Multimedia
Recommendation?, ACM MM 2020, doi 10.1145/3394171.3413628. An item that nobody has touched has no trained
identity, so each training item is also ranked as if it had none.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.content import Content
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class MTPRConfig(ModelConfig):
    """Hyper-parameters of MTPR."""

    name: ClassVar[str] = "mtpr"
    summary: ClassVar[str] = "Ranks each item with its identity and without it (MTPR, ACM MM 2020)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    init: float = Field(
        0.1,
        gt=0,
        description="Standard deviation of all embeddings and maps at the start. A small one and large L2 "
        "weights together lead to 0, where no gradient is left.",
    )
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )
    reduction: Literal["mean", "sum"] = Field(
        "mean",
        description="'mean': ranking and l2_ids are means over the batch, so that no weight depends on the "
        "batch size. 'sum': sums over the batch beside maps that count once a batch, as released.",
    )
    l2_ids: float = Field(
        0.03,
        ge=0,
        description="Weight w1 of the squared length of the embeddings of user, positive and negative.",
    )
    l2_content: float = Field(
        5e-4, ge=0, description="Weight w2 of the squares of the content map and of the users' map."
    )
    l2_item_map: float = Field(5e-4, ge=0, description="Weight w3 of the squares of the items' map.")

    def build(self, inputs: ModelInputs) -> "MTPR":
        """Make an untrained model."""
        return MTPR(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        default = Preset(
            cls(),
            TrainingPlan(learning_rate=1e-3, epochs=200, patience=10),
            "Ours: means instead of sums, centred content, a larger start, stopping by validation.",
        )
        published = Preset(
            cls(
                dim=32,
                init=0.01,
                centre=False,
                reduction="sum",
                l2_ids=0.0,
                l2_content=0.01,
                l2_item_map=0.01,
            ),
            TrainingPlan(batch_size=512, epochs=100, learning_rate=0.01, patience=0),
            "Sizes, weights and sums of the released code; one Adam instead of Adagrad and two Adams.",
        )
        return {"default": default, "as_published": published}


class MTPR(GradientModel):
    """The model: users ``P_u A_u``, warm items ``n_i = [Q_i; c_i W] A_i``, cold ``k_i = [0; c_i W] A_i``.

    Users without training pairs have the zero vector. Embeddings of items without training pairs are never
    read: such an item is ``k_i``, in training and afterwards.

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

    warm: Tensor

    def __init__(self, config: MTPRConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("MTPR")
        self.config: MTPRConfig = config
        self.content = Content(inputs.modalities)
        d = config.dim
        self.users = nn.Parameter(torch.randn(inputs.n_users, 2 * d) * config.init)
        self.items = nn.Parameter(torch.randn(inputs.n_items, d) * config.init)
        self.content_map = nn.Parameter(torch.randn(self.content.dim, d) * config.init)
        self.user_map = nn.Parameter(torch.randn(2 * d, d) * config.init)
        self.item_map = nn.Parameter(torch.randn(2 * d, d) * config.init)
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Mark the training items, take the content's means, and set users without pairs to 0."""
        del score
        self.warm.zero_()
        self.warm[torch.from_numpy(data.warm.astype(np.int64)).to(self.warm.device)] = True
        if self.config.centre:
            self.content.fit(data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``p_u``; zeros for users that came later."""
        return rows_or_zero(self.users, users) @ self.user_map

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``n_i`` for training items and ``k_i`` for all others."""
        return self._with_identity(items, rows_or_zero(self.items, items.codes), self._by_content(items))

    @property
    def divides(self) -> bool:
        """A sum over the pairs is no mean."""
        return self.config.reduction == "mean"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the four rankings and, where they have a weight, ``l2_ids`` and ``l2_maps``.

        ``warm`` ranks ``n_i`` above ``n_j``, ``cold`` ``k_i`` above ``k_j``, ``warm_over_cold`` ``n_i`` above
        ``k_j`` and ``cold_over_warm`` ``k_i`` above ``n_j``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("MTPR is trained on triplets.", "Set sampling='triplets'.")
        users, ids = self.rows(self.users, batch.users), self.rows(self.items, batch.items.codes)
        cold = self._by_content(batch.items)
        warm = self._with_identity(batch.items, ids, cold)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        vectors = users @ self.user_map
        n, k = pair_scores(vectors, warm, places), pair_scores(vectors, cold, places)
        terms = {
            "warm": self._reduced(bpr(n[:, :1], n[:, 1:])),
            "cold": self._reduced(bpr(k[:, :1], k[:, 1:])),
            "warm_over_cold": self._reduced(bpr(n[:, :1], k[:, 1:])),
            "cold_over_warm": self._reduced(bpr(k[:, :1], n[:, 1:])),
        }
        if self.config.l2_ids > 0:
            lengths = (ids * self._is_warm(batch.items)).square().sum(dim=1)
            per_pair = users.square().sum(dim=1) + lengths[batch.positives]
            terms["l2_ids"] = self.config.l2_ids * self._reduced(
                per_pair + lengths[batch.negatives].mean(dim=1)
            )
        if self.config.l2_content > 0 or self.config.l2_item_map > 0:
            content = self.content_map.square().sum() + self.user_map.square().sum()
            items = self.item_map.square().sum()
            terms["l2_maps"] = self.config.l2_content * content + self.config.l2_item_map * items
        return terms

    def _by_content(self, items: ItemBatch) -> Tensor:
        """Return ``k_i`` for all items: with 0 for ``Q_i``, the upper half of ``A_i`` adds nothing."""
        known: Tensor = self.content(items)
        return known @ self.content_map @ self.item_map[self.config.dim :]

    def _with_identity(self, items: ItemBatch, ids: Tensor, by_content: Tensor) -> Tensor:
        """Return ``n_i``, which is ``k_i`` plus what the identity adds, where there is a trained one."""
        return by_content + (ids * self._is_warm(items)) @ self.item_map[: self.config.dim]

    def _is_warm(self, items: ItemBatch) -> Tensor:
        """Return 1 for training items, 0 for all others, shape ``(n, 1)``."""
        known = self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)
        return known.to(self.items.dtype).unsqueeze(1)

    def _reduced(self, terms: Tensor) -> Tensor:
        return terms.sum() if self.config.reduction == "sum" else terms.mean()
