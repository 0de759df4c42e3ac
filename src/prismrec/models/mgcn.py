"""MGCN: views of content that behaviour gates, fused by attention, beside LightGCN.

P. Yu, Z. Tan, G. Lu, B.-K. Bao: Multi-View Graph Convolutional Network for Multimedia Recommendation, ACM MM
2023, doi 10.1145/3581783.3613915, arXiv 2308.03588.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph, light_gcn
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, half_squares, info_nce
from prismrec.models.layers.modality_graphs import ModalityGraph
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class MGCNConfig(ModelConfig):
    """Hyper-parameters of MGCN."""

    name: ClassVar[str] = "mgcn"
    summary: ClassVar[str] = (
        "Gated views of content, fused by attention, beside LightGCN (MGCN, ACM MM 2023)."
    )
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(2, ge=0, le=16, description="Steps of LightGCN along the users' and items' graph.")
    item_layers: int = Field(1, ge=1, le=16, description="Steps along each modality's graph of items.")
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="Training items k that an item is tied to in each modality, itself among them.",
    )
    contrast: float = Field(
        0.01, ge=0, description="Weight of the contrastive term between side vectors and LightGCN's vectors."
    )
    temperature: float = Field(0.2, gt=0, description="Of the contrastive term.")
    reg: float = Field(
        1e-4, ge=0, description="Weight of half the squared length of user, positive and negative."
    )

    def build(self, inputs: ModelInputs) -> "MGCN":
        """Make an untrained model."""
        return MGCN(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-3,
            epochs=1000,
            patience=20,
            metric="recall@20",
            row_updates="dense",
            schedule="decay",
        )
        return {"default": Preset(cls(), plan, "As released by the authors.")}


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items, from one pass over all graphs.

    Parameters
    ----------
    users, items
        C, what LightGCN makes of the embeddings, shape ``(n_users, d)`` and ``(n_items, d)``.
    user_sides, item_sides
        What comes from the modalities, same shapes.
    sent
        For each modality what a training item sends in the last step along the items' graph, shape
        ``(n_items, d)``.
    users_told
        Which modalities users hear of, bool, shape ``(n_users, modalities)``.
    """

    users: Tensor
    items: Tensor
    user_sides: Tensor
    item_sides: Tensor
    sent: tuple[Tensor, ...]
    users_told: Tensor


class MGCN(GradientModel):
    """The model: users and training items are ``c + side``, cold and later items ``side`` with a c of 0.

    Users without training pairs have the zero vector. Embeddings of items without training pairs are never
    read.

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

    def __init__(self, config: MGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("MGCN")
        self.config: MGCNConfig = config
        dim, modalities = config.dim, inputs.modalities
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.item_graphs = nn.ModuleList(
            ModalityGraph(inputs.n_items, modality.dim, config.neighbours, "cosine")
            for modality in modalities
        )
        self.content = FeatureTables(modalities, inputs.n_items, trained=True, normalise=False)
        self.users = nn.Parameter(torch.empty(inputs.n_users, dim))
        self.items = nn.Parameter(torch.empty(inputs.n_items, dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)
        self.maps = nn.ModuleList(nn.Linear(modality.dim, dim) for modality in modalities)
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in modalities)
        self.preferences = nn.ModuleList(nn.Linear(dim, dim) for _ in modalities)
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
        self._views: Kept[Views] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make all graphs, take over the content, and set users without pairs to 0."""
        del score
        self.graph.fit(data.pairs)
        self.content.fit(data.features, data.warm)
        for place, graph in enumerate(self._each_graph):
            graph.fit(place, data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {"content edges": float(sum(len(graph.edges.values) for graph in self._each_graph))}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``c_u + side_u``; zeros for users without training pairs."""
        views = self.views()
        return rows_or_zero(views.users + views.user_sides, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``c_i + side_i`` for training items, ``side_i`` for cold and later ones."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over all graphs. Outside of training the result is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate()
        return self._views.of((*self.parameters(), *self.buffers()), self._propagate)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms rank, and where they have a weight reg and contrast.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("MGCN is trained on triplets.", "Set sampling='triplets'.")
        config = self.config
        views = self.views()
        users = views.users[batch.users] + views.user_sides[batch.users]
        items = self._item_vectors(batch.items, views)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if config.reg > 0:
            liked = half_squares(users, items[batch.positives])
            terms["reg"] = config.reg * (liked + half_squares(items[batch.negatives.flatten()]))
        if config.contrast > 0:
            # Twice in a batch, a user would be its own negative.
            who, what = torch.unique(batch.users), batch.items.codes[torch.unique(batch.positives)]
            # Where no modality is known there is no side to tell apart.
            who, what = who[views.users_told[who].any(dim=1)], what[self._items_told[what].any(dim=1)]
            of_items = self._contrast(views.item_sides[what], views.items[what])
            of_users = self._contrast(views.user_sides[who], views.users[who])
            terms["contrast"] = config.contrast * (of_items + of_users)
        return terms

    def _contrast(self, sides: Tensor, others: Tensor) -> Tensor:
        # The mean of nothing is no number.
        return info_nce(sides, others, self.config.temperature) if len(sides) > 0 else sides.sum()

    def _propagate(self) -> Views:
        # Cold rows of the table are noise.
        ids = self.items * self.content.warm.unsqueeze(1)
        users, items = light_gcn(self.graph, self.users, ids, self.config.layers)
        of_users, of_items, all_sent = [], [], []
        for graph, gated in zip(self._each_graph, self._gated(ids), strict=True):
            sent = received = gated
            for _ in range(self.config.item_layers):
                sent, received = received, graph(received)
            of_items.append(received)
            of_users.append(self.graph.to_users(received))
            all_sent.append(sent)
        told = self._items_told
        # A user hears of a modality from the items that have it.
        users_told = self.graph.to_users(told.float()) > 0
        user_sides = self._sides(users, of_users, users_told)
        item_sides = self._sides(items, of_items, told)
        return Views(users, items, user_sides, item_sides, tuple(all_sent), users_told)

    def _gated(self, ids: Tensor) -> list[Tensor]:
        """Let through what of the embeddings each modality's content says, ``(n_items, d)`` each."""
        gated = []
        for table, to_dim, gate in zip(self.content.tables, self.maps, self.gates, strict=True):
            gated.append(ids * torch.sigmoid(gate(to_dim(table))))
        return gated

    def _sides(self, behaviour: Tensor, views: list[Tensor], told: Tensor) -> Tensor:
        """Fuse the modalities' views of users or items.

        Parameters
        ----------
        behaviour
            Their C, shape ``(n, d)``.
        views
            One a modality, shape ``(n, d)`` each.
        told
            Which of them there are, bool, shape ``(n, modalities)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``; 0 for those without any.
        """
        logits = torch.cat([self.attention(view) for view in views], dim=1)
        # Finite, so that a row without any modality has no undefined gradient.
        shares = torch.softmax(logits.masked_fill(~told, -1e9), dim=1) * told
        common = torch.stack([shares[:, m : m + 1] * view for m, view in enumerate(views)]).sum(dim=0)
        side = common
        for m, (view, preference) in enumerate(zip(views, self.preferences, strict=True)):
            own = torch.sigmoid(preference(behaviour)) * (view - common)
            side = side + torch.where(told[:, m : m + 1], own, 0.0)
        return side / (len(views) + 1)

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.content.marks(items)
        vectors = rows_or_zero(views.items + views.item_sides, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        received = []
        for place, graph in enumerate(self._each_graph):
            own, there = items.vectors[place][cold], items.present[cold, place]
            received.append(graph.received_by(own, there, views.sent[place]))
        nobody = torch.zeros_like(received[0])
        return vectors.index_put((cold,), self._sides(nobody, received, items.present[cold]))

    @property
    def _each_graph(self) -> list[ModalityGraph]:
        return [graph for graph in self.item_graphs if isinstance(graph, ModalityGraph)]

    @property
    def _items_told(self) -> Tensor:
        """Which modalities the training items have, bool, shape ``(n_items, modalities)``."""
        return torch.stack([graph.nodes for graph in self._each_graph], dim=1)
