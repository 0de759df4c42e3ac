"""DualGNN: each modality's own graph vectors, weighed by each user, and users who learn from their like.

Q. Wang, Y. Wei, J. Yin, J. Wu, X. Song, L. Nie: DualGNN: Dual Graph Neural Network for Multimedia
Recommendation, IEEE Transactions on Multimedia 25, 2023, doi 10.1109/TMM.2021.3138298. Vectors and losses are
those of the authors' code; what a cold item is here is an addition.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.models.layers.modality_propagation import (
    ModalityPropagation,
    drawn_users,
    drawn_weights,
    forget_strangers,
    mean_squares,
)
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.layers.user_graph import UserGraph
from prismrec.models.plan import TrainingPlan


class DualGNNConfig(ModelConfig):
    """Hyper-parameters of DualGNN."""

    name: ClassVar[str] = "dualgnn"
    summary: ClassVar[str] = "Graph vectors of each modality, smoothed over like users (DualGNN, TMM 2023)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    hidden: int = Field(
        256, ge=1, le=8192, description="Size of the hidden layer between content and a modality's vectors."
    )
    user_neighbours: int = Field(
        40, ge=1, le=200, description="Users k, with the most items in common, that a user learns from."
    )
    reg: float = Field(
        1e-3, ge=0, description="Weight of the mean squares of users' embeddings and modality weights."
    )

    def build(self, inputs: ModelInputs) -> "DualGNN":
        """Make an untrained model."""
        return DualGNN(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        about = "Sizes and stopping as published; learning rate and reg are the middle of the published grid."
        return {"default": Preset(cls(), plan, about)}


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items.

    Parameters
    ----------
    users
        Shape ``(n_users, d)``.
    items
        Shape ``(n_items, d)``; 0 for items that are not training items.
    """

    users: Tensor
    items: Tensor


class DualGNN(GradientModel):
    """The model: a user is ``q_u + sum a_un q_n``, an item the sum of its modalities' vectors.

    Cold and later items are what their content is mapped to, without edges. Users without training pairs
    have the zero vector.

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

    undecayed: ClassVar[tuple[str, ...]] = ("users", "weights")

    def __init__(self, config: DualGNNConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("DualGNN")
        self.config: DualGNNConfig = config
        self.users = drawn_users(inputs.n_users, len(inputs.modalities), config.dim)
        self.weights = drawn_weights(inputs.n_users, len(inputs.modalities))
        self.encoder = ModalityPropagation(inputs, config.dim, config.hidden)
        self.user_graph = UserGraph(inputs.n_users, config.user_neighbours)
        self._views: Kept[Views] = Kept()

    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over content, make both graphs, and set users without pairs to 0."""
        del score
        self.encoder.fit(data)
        self.user_graph.fit(data.pairs)
        forget_strangers(self.users, data)
        return {"user edges": float(len(self.user_graph.edges.values))}

    def start_epoch(self, number: int) -> None:
        """Fill up the lists of users with few neighbours anew."""
        del number
        self.user_graph.redraw()

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return vectors of users; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return vectors of items, of cold and later ones by their content alone."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over both graphs. Outside of training the result is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate()
        return self._views.of((*self.parameters(), *self.buffers()), self._propagate)

    @property
    def divides(self) -> bool:
        """All terms are means over the pairs."""
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``rank`` and, where it has a weight, ``reg``.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("DualGNN is trained on triplets.", "Set sampling='triplets'.")
        views = self.views()
        users, items = views.users[batch.users], self._item_vectors(batch.items, views)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        # The released logarithm has base 2, which shifts the balance with the penalty.
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean() / math.log(2.0)}
        if self.config.reg > 0:
            terms["reg"] = self.config.reg * mean_squares(self.users, self.weights, batch.users)
        return terms

    def _propagate(self) -> Views:
        users, items = self.encoder(self.users)
        liked = (self.weights.unsqueeze(2) * users).sum(dim=1)
        return Views(liked + self.user_graph(liked), items.sum(dim=1))

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.encoder.tables.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        return vectors.index_put((cold,), self.encoder.alone(some).sum(dim=1))
