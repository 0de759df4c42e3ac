"""MILK: multimodality invariant learning for new item recommendation.

H. Bai, L. Wu, M. Hou, M. Cai, Z. He, Y. Zhou, R. Hong, M. Wang, SIGIR 2024, doi 10.1145/3626772.3658596,
arXiv 2405.15783. Items are made of content alone; users' preferences shall hold however the modalities are
mixed.
"""

from collections.abc import Callable
from itertools import combinations
from typing import ClassVar

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

# A Dirichlet draw with a small concentration may give a modality nothing at all. An item that has this
# modality only must keep its vector when the mixture is scaled to what it has.
_LEAST_SHARE = 1e-6


class MILKConfig(ModelConfig):
    """Hyper-parameters of MILK."""

    name: ClassVar[str] = "milk"
    summary: ClassVar[str] = "Preferences that hold however modalities are mixed (MILK, SIGIR 2024)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    concentration: float = Field(
        0.1,
        ge=1e-4,
        le=1e6,
        description="Concentration a of the Dirichlet draw that mixes the modalities: small, one modality "
        "takes nearly all; large, all count alike.",
    )
    penalty: float = Field(
        1.0, ge=0, description="Weight of the variance of the ranking loss between environments."
    )
    align: float = Field(
        0.05, ge=0, description="Weight of the mean squared difference of an item's modalities."
    )
    l2: float = Field(
        1e-2,
        ge=0,
        description="Weight of the squared length of user, positive and negative, mean over the batch, where "
        "modalities count alike.",
    )
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )

    def build(self, inputs: ModelInputs) -> "MILK":
        """Make an untrained model."""
        return MILK(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        default = Preset(
            cls(),
            TrainingPlan(learning_rate=3e-3, epochs=200, patience=10),
            "Ours: training items alone as negatives, centred content, weaker penalty, stronger l2.",
        )
        published = Preset(
            cls(penalty=50.0, align=0.05, l2=1e-4, centre=False),
            TrainingPlan(
                epochs=1000, negative_items="all", evaluate_every=10, patience=3, row_updates="dense"
            ),
            "The released code's settings for Amazon Clothing; cold items are negatives.",
        )
        return {"default": default, "as_published": published}


class MILK(GradientModel):
    """The model: ``e_i`` is the mean over the modalities that an item has of ``z_i^m = W_m x_i^m + b_m``.

    Users without training pairs have the zero vector, and so have items without content.

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

    row_tables: ClassVar[tuple[str, ...]] = ("users",)

    def __init__(self, config: MILKConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("MILK")
        self.config: MILKConfig = config
        self.content = Content(inputs.modalities)
        self.users = nn.Parameter(torch.randn(inputs.n_users, config.dim) * 0.1)
        self.maps = nn.ModuleList(nn.Linear(modality.dim, config.dim) for modality in inputs.modalities)

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take the content's means, and set users without training pairs to 0."""
        del score
        if self.config.centre:
            self.content.fit(data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the rows of the users' embedding; zeros for users that came later."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``e_i``, for training items and new ones alike."""
        parts = self.encode(items)
        return mixed(parts, items.present, parts.new_full((len(self.maps),), 1.0 / len(self.maps)))

    def encode(self, items: ItemBatch) -> Tensor:
        """Return ``z_i^m``, shape ``(n, modalities, d)``; a missing modality's is its map of zeros."""
        contents = torch.split(self.content.parts(items), self.content.dims, dim=1)
        parts = [affine(content) for affine, content in zip(self.maps, contents, strict=True)]
        return torch.stack(parts, dim=1).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``rank`` and, where they have a weight, ``invariance``, ``align`` and ``l2``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("MILK is trained on triplets.", "Set sampling='triplets'.")
        users, parts = self.rows(self.users, batch.users), self.encode(batch.items)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        even, losses = None, []
        for weights in self._environments(parts):
            vectors = mixed(parts, batch.items.present, weights)
            even = vectors if even is None else even
            scores = pair_scores(users, vectors, places)
            losses.append(bpr(scores[:, :1], scores[:, 1:]).mean())
        risks = torch.stack(losses)
        terms = {"rank": risks.sum()}
        several = len(self.maps) > 1
        if self.config.penalty > 0 and several:
            terms["invariance"] = self.config.penalty * risks.var(correction=1)
        if self.config.align > 0 and several:
            terms["align"] = self.config.align * _alignment(parts, batch)
        if self.config.l2 > 0:
            assert even is not None
            lengths = even.square().sum(dim=1)
            items = lengths[batch.positives] + lengths[batch.negatives].mean(dim=1)
            terms["l2"] = self.config.l2 * (users.square().sum(dim=1) + items).mean()
        return terms

    def _environments(self, parts: Tensor) -> list[Tensor]:
        """Return the modalities' weights in each environment: alike, then all cyclic shifts of a draw."""
        m = len(self.maps)
        draw = torch.distributions.Dirichlet(parts.new_full((m,), self.config.concentration)).sample()
        return [parts.new_full((m,), 1.0 / m), *(draw.roll(shift) for shift in range(m))]


def mixed(parts: Tensor, present: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of each item's modalities, over those that the item has.

    Parameters
    ----------
    parts
        Shape ``(n, modalities, d)``.
    present
        Bool, shape ``(n, modalities)``.
    weights
        Of the modalities, at least 0, shape ``(modalities,)``.

    Returns
    -------
    Tensor
        Shape ``(n, d)``; 0 for an item without content.
    """
    shares = weights.clamp_min(_LEAST_SHARE) * present
    shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(0.5 * _LEAST_SHARE)
    return (parts * shares.unsqueeze(2)).sum(dim=1)


def _alignment(parts: Tensor, batch: TripletBatch) -> Tensor:
    """Mean squared difference of two modalities: over dimensions, the batch's positives, pairs that exist."""
    chosen = torch.zeros(len(parts), dtype=torch.bool, device=parts.device)
    chosen[batch.positives] = True
    total, count = parts.new_zeros(()), parts.new_zeros(())
    for one, other in combinations(range(parts.shape[1]), 2):
        both = chosen & batch.items.present[:, one] & batch.items.present[:, other]
        gaps = (parts[:, one] - parts[:, other]).square().mean(dim=1)
        total = total + (gaps * both).sum()
        count = count + both.sum()
    return total / count.clamp_min(1.0)
