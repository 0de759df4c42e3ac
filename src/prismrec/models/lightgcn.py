"""LightGCN: embeddings that are averaged over steps along the graph of users and items.

X. He, K. Deng, X. Wang, Y. Li, Y. Zhang, M. Wang: LightGCN: Simplifying and Powering Graph Convolution
Network for Recommendation, SIGIR 2020, arXiv 2002.02126. It knows users and items by their interactions
alone, so it says nothing of an item that nobody has touched.
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
from prismrec.models.layers.graph import UserItemGraph, light_gcn
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, frobenius, half_squares
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class LightGCNConfig(ModelConfig):
    """Hyper-parameters of LightGCN."""

    name: ClassVar[str] = "lightgcn"
    summary: ClassVar[str] = "Embeddings averaged along the user-item graph (SIGIR 2020); warm items only."
    recommends_cold_items: ClassVar[bool] = False
    uses_content: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(3, ge=0, le=16, description="Steps L along the graph; 0 is matrix factorisation.")
    reg: float = Field(
        1e-4, ge=0, description="Weight of the penalty on the embeddings of user, positive and negative."
    )
    penalty: Literal["lengths", "squares"] = Field(
        "lengths",
        description="'lengths': lengths of the batch's blocks of embeddings over the number of pairs, as in "
        "MMRec. 'squares': half their squares, as in the paper. Weights do not carry over.",
    )

    def build(self, inputs: ModelInputs) -> "LightGCN":
        """Make an untrained model."""
        return LightGCN(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_in_paper``."""
        default = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        paper = default.model_copy(update={"batch_size": 1024, "patience": 50})
        return {
            "default": Preset(
                cls(),
                default,
                "The paper's layers; penalty of MMRec, from the middle of its grid.",
            ),
            "as_in_paper": Preset(
                cls(penalty="squares"), paper, "Penalty, batches and patience of the paper."
            ),
        }


class LightGCN(GradientModel):
    """The model: ``s(u, i) = z_u . z_i``, z being the mean of the stages of embeddings along the graph.

    Users and items without training pairs have the zero vector. Embeddings of items without training pairs
    are never read.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes; modalities are not used.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items")

    warm: Tensor

    def __init__(self, config: LightGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config: LightGCNConfig = config
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))
        self.users = nn.Parameter(torch.empty(inputs.n_users, config.dim))
        self.items = nn.Parameter(torch.empty(inputs.n_items, config.dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)
        self._vectors: Kept[tuple[Tensor, Tensor]] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make the graph, and set users without pairs to 0: as drawn they would get a list by chance."""
        del score
        self.graph.fit(data.pairs)
        self.warm.zero_()
        self.warm[torch.from_numpy(data.warm.astype(np.int64)).to(self.warm.device)] = True
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``z_u``; zeros for users without training pairs."""
        return rows_or_zero(self.vectors()[0], users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``z_i``; zeros for items without training pairs."""
        return rows_or_zero(self.vectors()[1], items.codes)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return z of all users and items, shape ``(n_users, d)`` and ``(n_items, d)``.

        Outside of training the result is kept until a parameter changes.
        """
        if self.training or torch.is_grad_enabled():
            self._vectors.forget()
            return self._propagate()
        return self._vectors.of((*self.parameters(), *self.buffers()), self._propagate)

    @property
    def divides(self) -> bool:
        """Lengths of whole blocks are not means over their rows."""
        return self.config.reg == 0 or self.config.penalty != "lengths"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``rank`` and, where it has a weight, ``reg``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("LightGCN is trained on triplets.", "Set sampling='triplets'.")
        users, items = self.vectors()
        codes = batch.items.codes
        places = codes[torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)]
        scores = pair_scores(users[batch.users], items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.reg > 0:
            # The penalty is on what is learnt, not on what the graph makes of it.
            table = self._item_table()
            blocks = (
                self.users[batch.users],
                table[codes[batch.positives]],
                table[codes[batch.negatives]].flatten(0, 1),
            )
            measure = frobenius if self.config.penalty == "lengths" else half_squares
            terms["reg"] = self.config.reg * measure(*blocks)
        return terms

    def _propagate(self) -> tuple[Tensor, Tensor]:
        return light_gcn(self.graph, self.users, self._item_table(), self.config.layers)

    def _item_table(self) -> Tensor:
        # Rows of cold items are noise.
        return self.items * self.warm.unsqueeze(1)
