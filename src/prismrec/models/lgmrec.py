"""LGMRec: a user-item graph for IDs and content, and hyperedges of like items that content defines.

Z. Guo, J. Li, G. Li, C. Wang, S. Shi, B. Ruan: LGMRec: Local and Global Graph Learning for Multimodal
Recommendation, AAAI 2024, arXiv 2312.16400. It was made for items of the training part; of a cold item the
hyperedges are all that it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.dropout import Dropout
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph, light_gcn
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, frobenius
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class LGMRecConfig(ModelConfig):
    """Hyper-parameters of LGMRec."""

    name: ClassVar[str] = "lgmrec"
    summary: ClassVar[str] = "User-item graph with hyperedges learnt from content (LGMRec, AAAI 2024)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(2, ge=0, le=16, description="Steps of LightGCN on the embeddings.")
    content_layers: int = Field(2, ge=0, le=16, description="Steps of content along the user-item graph.")
    hyperedges: int = Field(4, ge=1, le=4096, description="Hyperedges K of each modality.")
    hyper_layers: int = Field(1, ge=1, le=16, description="Times h that vectors pass through the hyperedges.")
    temperature: float = Field(
        0.2, gt=0, description="Of the softmax over hyperedges, and of the contrastive term."
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of the entries of the hyperedges dropped in training."
    )
    alpha: float = Field(0.3, ge=0, description="Length of what comes from hyperedges.")
    contrast: float = Field(
        1e-4, ge=0, description="Weight of the contrastive term, a sum over the pairs of the batch."
    )
    reg: float = Field(
        1e-6, ge=0, description="Weight of the lengths of the batch's blocks of users, positives, negatives."
    )

    def build(self, inputs: ModelInputs) -> "LGMRec":
        """Make an untrained model."""
        return LGMRec(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``, ``sports`` and ``clothing``."""
        plan = TrainingPlan(
            learning_rate=1e-3,
            epochs=1000,
            patience=20,
            metric="recall@20",
            row_updates="dense",
            schedule="decay",
        )
        sports = cls(dropout=0.6, alpha=0.6)
        clothing = cls(hyper_layers=2, hyperedges=64, dropout=0.8, alpha=0.2)
        return {
            "default": Preset(cls(), plan, "As published for Amazon Baby."),
            "sports": Preset(sports, plan, "As published for Amazon Sports."),
            "clothing": Preset(clothing, plan, "As published for Amazon Clothing: many hyperedges."),
        }


@dataclass(frozen=True)
class HyperView:
    """What comes through the hyperedges of one modality.

    Parameters
    ----------
    users, items
        ``G``, shape ``(n_users, d)`` and ``(n_items, d)``; 0 without training pairs.
    edges
        What the hyperedges hold at last, shape ``(K, d)``.
    """

    users: Tensor
    items: Tensor
    edges: Tensor


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items from one pass.

    Parameters
    ----------
    users, items
        Shape ``(n_users, d)`` and ``(n_items, d)``; 0 without training pairs.
    hyper
        One for each modality.
    """

    users: Tensor
    items: Tensor
    hyper: tuple[HyperView, ...]


class LGMRec(GradientModel):
    """The model: ``z = c + sum of norm(m) + alpha norm(sum of g)``, and the last part alone for cold items.

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

    known: Tensor

    def __init__(self, config: LGMRecConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("LGMRec")
        self.config: LGMRecConfig = config
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.features = FeatureTables(inputs.modalities, inputs.n_items, trained=False, normalise=False)
        self.register_buffer("known", torch.zeros(inputs.n_users, dtype=torch.bool))
        self.users = _drawn(inputs.n_users, config.dim)
        self.items = _drawn(inputs.n_items, config.dim)
        self.maps = nn.ParameterList(_drawn(m.dim, config.dim) for m in inputs.modalities)
        self.to_edges = nn.ParameterList(_drawn(m.dim, config.hyperedges) for m in inputs.modalities)
        self.dropout = Dropout(config.dropout)
        # By name, so that the order of the modalities does not decide which view is the anchor.
        places = sorted(range(len(inputs.modalities)), key=lambda place: inputs.modalities[place].name)
        self._pairs = [(a, b) for rank, a in enumerate(places) for b in places[rank + 1 :]]
        self._views: Kept[Views] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make the graph, take over the training items' content, and set users without pairs to 0."""
        del score
        self.graph.fit(data.pairs)
        self.features.fit(data.features, data.warm)
        self.known.zero_()
        self.known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(self.known.device)] = True
        self.users.mul_(self.known.unsqueeze(1))
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``z_u``; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``z_i`` for training items, and for the others what comes from hyperedges."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over the graph and the hyperedges, with noise in training.

        Outside of training the result is kept until a parameter changes.
        """
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate()
        return self._views.of((*self.parameters(), *self.buffers()), self._propagate)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``rank`` and, where they have a weight, ``contrast`` and ``reg``.

        There is no contrast between the views of a single modality.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("LGMRec is trained on triplets.", "Set sampling='triplets'.")
        views = self.views()
        users, items = views.users[batch.users], self._item_vectors(batch.items, views)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.contrast > 0 and self._pairs:
            what = batch.items.codes[batch.positives]
            terms["contrast"] = self.config.contrast * self._contrast(views.hyper, batch.users, what)
        if self.config.reg > 0:
            blocks = (users, items[batch.positives], items[batch.negatives].flatten(0, 1))
            terms["reg"] = self.config.reg * frobenius(*blocks)
        return terms

    def _contrast(self, hyper: Sequence[HyperView], users: Tensor, items: Tensor) -> Tensor:
        """Return the mean over pairs of modalities of what users and items of the batch add up to."""
        warm, known, temperature = self.features.warm, self.known, self.config.temperature
        terms = []
        for a, b in self._pairs:
            terms.append(contrast(hyper[a].users, hyper[b].users, users, known, temperature))
            terms.append(contrast(hyper[a].items, hyper[b].items, items, warm, temperature))
        return torch.stack(terms).sum() / len(self._pairs)

    def _propagate(self) -> Views:
        # Cold rows of the table are noise.
        ids = self.items * self.features.warm.unsqueeze(1)
        users, items = light_gcn(self.graph, self.users, ids, self.config.layers)
        hyper = []
        for place, table in enumerate(self.features.tables):
            hyper.append(self._through_edges(table @ self.to_edges[place], items))
        for table, weight in zip(self.features.tables, self.maps, strict=True):
            of_users, of_items = self._content_along(table @ weight)
            users, items = users + functional.normalize(of_users), items + functional.normalize(of_items)
        global_users = torch.stack([view.users for view in hyper]).sum(dim=0)
        global_items = torch.stack([view.items for view in hyper]).sum(dim=0)
        users = users + self.config.alpha * functional.normalize(global_users)
        items = items + self.config.alpha * functional.normalize(global_items)
        return Views(users, items, tuple(hyper))

    def _content_along(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Pass projected content along the graph; users start at the mean of their items."""
        users = self._sum_of_items(items) / self._degrees(self.graph.used.starts)
        for _ in range(self.config.content_layers):
            users, items = self.graph.to_users(items), self.graph.to_items(users)
        return users, items

    def _through_edges(self, logits: Tensor, vectors: Tensor) -> HyperView:
        """Gather items' vectors in hyperedges and hand them back, `hyper_layers` times.

        Parameters
        ----------
        logits
            Of items by hyperedges, shape ``(n_items, K)``.
        vectors
            Of items, shape ``(n_items, d)``; 0 for cold ones.
        """
        of_users = self._shares(self._sum_of_items(logits)) * self.known.unsqueeze(1)
        of_items = self._shares(logits) * self.features.warm.unsqueeze(1)
        of_users, of_items = self.dropout(of_users), self.dropout(of_items)
        edges = of_items.T @ vectors
        for _ in range(self.config.hyper_layers - 1):
            edges = of_items.T @ (of_items @ edges)
        return HyperView(of_users @ edges, of_items @ edges, edges)

    def _shares(self, logits: Tensor) -> Tensor:
        """Return shares in the hyperedges, rows adding up to 1: with Gumbel noise in training only."""
        if self.training:
            return functional.gumbel_softmax(logits, tau=self.config.temperature, dim=1)
        return functional.softmax(logits / self.config.temperature, dim=1)

    def _sum_of_items(self, vectors: Tensor) -> Tensor:
        """Sum over each user's items, by edges of ``1 / sqrt(d_u d_i)`` without another matrix."""
        edges = self.graph.used
        received = self.graph.to_users(vectors * self._degrees(edges.back_starts).sqrt())
        return received * self._degrees(edges.starts).sqrt()

    def _degrees(self, starts: Tensor) -> Tensor:
        """Return numbers of edges, at least 1, as a column."""
        return starts.diff().clamp_min(1).to(self.users.dtype).unsqueeze(1)

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.features.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        total = vectors.new_zeros(len(cold), vectors.shape[1])
        for content, weight, view in zip(self.features.filled(some), self.to_edges, views.hyper, strict=True):
            total = total + self.dropout(self._shares(content @ weight)) @ view.edges
        return vectors.index_put((cold,), self.config.alpha * functional.normalize(total))


def contrast(anchors: Tensor, others: Tensor, rows: Tensor, among: Tensor, temperature: float) -> Tensor:
    """InfoNCE of some rows of two views against all rows of the other, added up.

    Parameters
    ----------
    anchors, others
        Two views of the same things, shape ``(n, d)``.
    rows
        Which are asked, shape ``(b,)``; one that occurs twice counts twice.
    among
        Which rows are in the denominators, bool, shape ``(n,)``; the asked ones are.
    temperature
        Divides the cosines.

    Returns
    -------
    Tensor
        A scalar, ``sum over rows r of  ln sum_j exp(cos(a_r, o_j) / t) - cos(a_r, o_r) / t``.
    """
    # Each row's logits are needed once, however often it occurs.
    rows, counts = torch.unique(rows, return_counts=True)
    asked = functional.normalize(anchors[rows], dim=1) / temperature
    others = functional.normalize(others, dim=1)
    each = (asked @ others[among].T).logsumexp(dim=1) - (asked * others[rows]).sum(dim=1)
    total: Tensor = (each * counts).sum()
    return total


def _drawn(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))
