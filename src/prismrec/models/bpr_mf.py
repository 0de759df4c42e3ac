"""BPR-MF: matrix factorisation trained by Bayesian personalised ranking.

S. Rendle, C. Freudenthaler, Z. Gantner, L. Schmidt-Thieme: BPR: Bayesian Personalized Ranking from Implicit
Feedback, UAI 2009, arXiv 1205.2618. It knows users and items by their interactions alone, so it says nothing
of an item that nobody has touched.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TableEpoch, TrainingData, TripletBatch
from prismrec.models.layers.bpr_epoch import Table, bpr_epoch
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.models.plan import TrainingPlan


class BPRMFConfig(ModelConfig):
    """Hyper-parameters of BPR-MF."""

    name: ClassVar[str] = "bpr-mf"
    summary: ClassVar[str] = (
        "Matrix factorisation by Bayesian personalised ranking (UAI 2009); warm items only."
    )
    recommends_cold_items: ClassVar[bool] = False
    uses_content: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Factors of a user and of an item.")
    item_bias: bool = Field(
        True, description="Whether an item has a number of its own that is added to all its scores."
    )
    l2: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared length of user, positive and negative, mean over the batch.",
    )
    init: float = Field(0.1, gt=0, description="Standard deviation of the factors at the start.")

    def build(self, inputs: ModelInputs) -> "BPRMF":
        """Make an untrained model."""
        return BPRMF(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``sgd``."""
        plan = TrainingPlan(learning_rate=1e-3, epochs=200, patience=10)
        # As losses are means over the batch, this is 0.02 for a pair, with a decay of 2 * l2 = 0.01.
        plain = TrainingPlan(optimizer="sgd", learning_rate=10.0, batch_size=512, epochs=200, patience=10)
        return {
            "default": Preset(cls(), plan, "Adam on rows that a batch touches, uniform negatives."),
            "sgd": Preset(cls(l2=0.005), plain, "Plain gradient steps, nearer to the paper; faster epochs."),
        }


class BPRMF(GradientModel):
    """The model: ``s(u, i) = p_u . q_i + b_i``.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes; modalities are not used.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items")
    row_tables: ClassVar[tuple[str, ...]] = ("users", "items")
    trains_epochs: ClassVar[bool] = True

    def __init__(self, config: BPRMFConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config: BPRMFConfig = config
        self.users = nn.Parameter(torch.randn(inputs.n_users, config.dim) * config.init)
        factors = torch.randn(inputs.n_items, config.dim) * config.init
        # The bias is the last column, so that one row is all there is of an item.
        bias = torch.zeros(inputs.n_items, 1 if config.item_bias else 0)
        self.items = nn.Parameter(torch.cat([factors, bias], dim=1))

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Set rows of users and items without interactions to 0: as drawn they would be ranked by chance."""
        del score
        for table, codes in ((self.users, data.pairs.users), (self.items, data.warm)):
            known = torch.zeros(len(table), 1, device=table.device)
            known[torch.from_numpy(codes.astype(np.int64)).to(table.device)] = 1.0
            table.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return factors, and 1 for the bias; factors are 0 for users who came later."""
        factors = rows_or_zero(self.users, users)
        if not self.config.item_bias:
            return factors
        return torch.cat([factors, factors.new_ones(len(users), 1)], dim=1)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return factors and bias; 0 for items that came later."""
        return rows_or_zero(self.items, items.codes)

    @property
    def divides(self) -> bool:
        """All terms are means over the pairs."""
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``rank`` and, where it has a weight, ``l2``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("BPR-MF is trained on triplets.", "Set sampling='triplets'.")
        users = self.rows(self.users, batch.users)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        items = self.rows(self.items, batch.items.codes[places])
        scores = (items[..., : self.config.dim] * users.unsqueeze(1)).sum(dim=2)
        if self.config.item_bias:
            scores = scores + items[..., -1]
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.l2 > 0:
            lengths = items.square().sum(dim=2)
            per_pair = users.square().sum(dim=1) + lengths[:, 0] + lengths[:, 1:].mean(dim=1)
            terms["l2"] = self.config.l2 * per_pair.mean()
        return terms

    @torch.no_grad()
    def train_epoch(self, epoch: TableEpoch) -> dict[str, float]:
        """Take the steps of an epoch in one compiled loop."""
        rank, penalty = bpr_epoch(
            _with_moments(self.users, epoch.moments.get("users")),
            _with_moments(self.items, epoch.moments.get("items")),
            (epoch.users, epoch.positives, epoch.negatives),
            batch_size=epoch.batch_size,
            rates=epoch.rates,
            step=epoch.step,
            l2=self.config.l2,
        )
        return {"rank": rank, "l2": penalty} if self.config.l2 > 0 else {"rank": rank}


def _with_moments(table: Tensor, moments: tuple[Tensor, Tensor] | None) -> Table:
    if moments is None:
        return table.detach().numpy(), None, None
    return table.detach().numpy(), moments[0].numpy(), moments[1].numpy()
