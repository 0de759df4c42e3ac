"""FREEDOM: a frozen graph of alike items beside a graph of users and items that is pruned anew each epoch.

X. Zhou, Z. Shen: A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation,
ACM MM 2023, doi 10.1145/3581783.3611943, arXiv 2211.06924.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.edge_sampling import SampledGraph
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph, light_gcn
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.models.layers.modality_graphs import ModalityGraphs, modality_shares
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class FREEDOMConfig(ModelConfig):
    """Hyper-parameters of FREEDOM."""

    name: ClassVar[str] = "freedom"
    summary: ClassVar[str] = "Frozen item graph, user-item graph pruned each epoch (FREEDOM, ACM MM 2023)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(2, ge=0, le=16, description="Steps of LightGCN along the users' and items' graph.")
    item_layers: int = Field(1, ge=1, le=16, description="Steps along the items' graph.")
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="Training items k that an item is tied to in each modality, itself among them.",
    )
    shares: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        description="Weight of each modality in the items' graph, in the order of the features; scaled to "
        "add up to 1. None: 0.1 for image and 0.9 for text if these are the modalities, else equal weights.",
    )
    pruned: float = Field(
        0.8, ge=0, le=1, description="Share of the user-item edges that an epoch leaves out in training."
    )
    reg: float = Field(
        1e-4, ge=0, description="Weight of the ranking by projected content, summed over the modalities."
    )

    def build(self, inputs: ModelInputs) -> "FREEDOM":
        """Make an untrained model."""
        return FREEDOM(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        return {
            "default": Preset(cls(), plan, "As released; pruning and weight from the middle of its grid.")
        }


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items, from one pass over both graphs.

    Parameters
    ----------
    users
        Z, what LightGCN makes of the users' embeddings, shape ``(n_users, d)``.
    items
        Training items' vectors, shape ``(n_items, d)``; 0 for the others.
    sent
        What a training item sends in the last step along the items' graph, shape ``(n_items, d)``.
    """

    users: Tensor
    items: Tensor
    sent: Tensor


class FREEDOM(GradientModel):
    """The model: users are ``z``, training items ``z + h``, cold and later items ``h`` from training items.

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
        If there is no modality, or the shares do not fit the modalities.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items")

    def __init__(self, config: FREEDOMConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("FREEDOM")
        self.config: FREEDOMConfig = config
        shares = modality_shares(inputs.modalities, config.shares)
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.sampled = SampledGraph(inputs.n_users, inputs.n_items)
        self.item_graph = ModalityGraphs(
            inputs.modalities, inputs.n_items, config.neighbours, "binary", shares
        )
        self.content = FeatureTables(inputs.modalities, inputs.n_items, trained=True, normalise=False)
        self.users = nn.Parameter(torch.empty(inputs.n_users, config.dim))
        self.items = nn.Parameter(torch.empty(inputs.n_items, config.dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)
        self.maps = nn.ModuleList(nn.Linear(modality.dim, config.dim) for modality in inputs.modalities)
        self._views: Kept[Views] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make both graphs, take over the content, and set users without pairs to 0."""
        del score
        self.graph.fit(data.pairs)
        self.content.fit(data.features, data.warm)
        self.item_graph.fit(data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {"content edges": float(len(self.item_graph.edges.values))}

    def start_epoch(self, number: int) -> None:
        """Draw the edges of the epoch."""
        del number
        self.sampled.draw(self.graph, self.config.pruned)

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``z_u`` on the whole graph; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``z_i + h_i`` on the whole graph for training items, ``h_i`` for cold and later ones."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over the whole graphs. Outside of training the result is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate(self.graph)
        return self._views.of((*self.parameters(), *self.buffers()), lambda: self._propagate(self.graph))

    @property
    def divides(self) -> bool:
        """All terms are means over the pairs."""
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms rank and, where it has a weight, content, on the epoch's edges.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("FREEDOM is trained on triplets.", "Set sampling='triplets'.")
        views = self._propagate(self.sampled)
        users = views.users[batch.users]
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, self._item_vectors(batch.items, views), places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.reg > 0:
            ranks = []
            for to_dim, vectors in zip(self.maps, self.content.of(batch.items), strict=True):
                scores = pair_scores(users, to_dim(vectors), places)
                ranks.append(bpr(scores[:, :1], scores[:, 1:]).mean())
            terms["content"] = self.config.reg * torch.stack(ranks).sum()
        return terms

    def _propagate(self, graph: UserItemGraph) -> Views:
        # Cold rows of the table are noise.
        ids = self.items * self.content.warm.unsqueeze(1)
        users, items = light_gcn(graph, self.users, ids, self.config.layers)
        sent = received = ids
        for _ in range(self.config.item_layers):
            sent, received = received, self.item_graph(received)
        return Views(users, items + received, sent)

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.content.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        return vectors.index_put((cold,), self.item_graph.received_by(some, views.sent))
