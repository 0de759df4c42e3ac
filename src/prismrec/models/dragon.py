"""DRAGON: graph vectors of each modality side by side, like users, and a frozen graph of like items.

H. Zhou, X. Zhou, L. Zhang, Z. Shen: Enhancing Dyadic Relations with Homogeneous Graphs for Multimodal
Recommendation, ECAI 2023, arXiv 2301.12097. Vectors and losses are those of the released code; what a cold
item is here is an addition.
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
from prismrec.models.layers.modality_graphs import ModalityGraphs, modality_shares
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


class DRAGONConfig(ModelConfig):
    """Hyper-parameters of DRAGON."""

    name: ClassVar[str] = "dragon"
    summary: ClassVar[str] = "Graph vectors of each modality, like users and like items (DRAGON, ECAI 2023)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(
        64, ge=1, le=4096, description="Size d of each modality's vectors; a user has d for each modality."
    )
    hidden: int = Field(
        256, ge=1, le=8192, description="Size of the hidden layer between content and a modality's vectors."
    )
    user_neighbours: int = Field(
        40, ge=1, le=200, description="Users k, with the most items in common, that a user learns from."
    )
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="Training items that an item is tied to in each modality, a training item itself among "
        "them.",
    )
    shares: tuple[float, ...] | None = Field(
        None,
        description="What each modality counts in the graph of items, in the order of the features; they are "
        "scaled to add up to 1. None: 0.1 image and 0.9 text where these are the modalities, else equal.",
    )
    reg: float = Field(
        1e-3, ge=0, description="Weight of the mean squares of users' embeddings and modality weights."
    )

    def build(self, inputs: ModelInputs) -> "DRAGON":
        """Make an untrained model."""
        return DRAGON(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-4, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        about = "As published; learning rate and reg are what the authors chose for Amazon Baby."
        return {"default": Preset(cls(), plan, about)}


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items.

    Parameters
    ----------
    users
        Shape ``(n_users, modalities * d)``.
    items
        Shape ``(n_items, modalities * d)``; 0 for items that are not training items.
    sent
        ``r``: what a training item sends to those that are like it, same shape.
    """

    users: Tensor
    items: Tensor
    sent: Tensor


class DRAGON(GradientModel):
    """The model: a user is ``q_u + sum a_un q_n``, an item ``r_i + (S r)_i``, modalities side by side.

    For cold and later items ``r`` is what their content is mapped to, without edges to users, and they hear
    from training items that are like them. Users without training pairs have the zero vector.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes.

    Raises
    ------
    InputError
        If there is no modality, or the shares do not fit the modalities.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("users", "weights")

    def __init__(self, config: DRAGONConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("DRAGON")
        self.config: DRAGONConfig = config
        self.users = drawn_users(inputs.n_users, len(inputs.modalities), config.dim)
        self.weights = drawn_weights(inputs.n_users, len(inputs.modalities))
        self.encoder = ModalityPropagation(inputs, config.dim, config.hidden)
        self.user_graph = UserGraph(inputs.n_users, config.user_neighbours)
        shares = modality_shares(inputs.modalities, config.shares)
        self.item_graph = ModalityGraphs(
            inputs.modalities, inputs.n_items, config.neighbours, "binary", shares
        )
        self._views: Kept[Views] = Kept()

    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over content, make all graphs, and set users without pairs to 0."""
        del score
        self.encoder.fit(data)
        self.user_graph.fit(data.pairs)
        self.item_graph.fit(data.features, data.warm)
        forget_strangers(self.users, data)
        return {
            "user edges": float(len(self.user_graph.edges.values)),
            "content edges": float(len(self.item_graph.edges.values)),
        }

    def start_epoch(self, number: int) -> None:
        """Fill up the lists of users with few neighbours anew."""
        del number
        self.user_graph.redraw()

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return vectors of users; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return vectors of items, of cold and later ones by their content and its neighbours."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over all graphs. Outside of training the result is kept until a parameter changes."""
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
            raise InputError("DRAGON is trained on triplets.", "Set sampling='triplets'.")
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
        liked = (self.weights.unsqueeze(2) * users).flatten(1)
        sent = items.flatten(1)
        return Views(liked + self.user_graph(liked), sent + self.item_graph(sent), sent)

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.encoder.tables.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        heard = self.item_graph.received_by(some, views.sent)
        return vectors.index_put((cold,), self.encoder.alone(some).flatten(1) + heard)
