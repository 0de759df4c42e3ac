"""AlignRec: a graph recommender whose content vectors and ID vectors are aligned.

Y. Liu, K. Zhang, X. Ren, Y. Huang, J. Jin, Y. Qin, R. Su, R. Xu, Y. Yu, W. Zhang: AlignRec: Aligning and
Training in Multimodal Recommendations, CIKM 2024, doi 10.1145/3627673.3679626, arXiv 2403.12384. It was made
for items of the training part; what a cold item is here is an addition.
"""

from collections.abc import Callable
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
from prismrec.models.layers.content import Content
from prismrec.models.layers.graph import UserItemGraph, light_gcn
from prismrec.models.layers.item_graph import ItemGraph
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, info_nce
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class AlignRecConfig(ModelConfig):
    """Hyper-parameters of AlignRec."""

    name: ClassVar[str] = "alignrec"
    summary: ClassVar[str] = "Graph recommender with aligned content and ID vectors (AlignRec, CIKM 2024)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(2, ge=0, le=16, description="Steps of LightGCN along the users' and items' graph.")
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="Training items k that an item is tied to by content, a training item itself among them.",
    )
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )
    align: float = Field(
        0.01, ge=0, description="Weight of the contrastive term between content vectors and ID vectors."
    )
    temperature: float = Field(0.2, gt=0, description="Of the contrastive term.")
    user_item: float = Field(
        0.0,
        ge=0,
        description="Weight of the cosine between a user and a positive; 0 leaves it out, published is 0.1.",
    )
    similarity: float = Field(
        0.1, ge=0, description="Weight of the gap between products of content vectors and cosines of content."
    )
    l2: float = Field(
        1e-4, ge=0, description="Weight of half the squared length of user, positive and negative."
    )

    def build(self, inputs: ModelInputs) -> "AlignRec":
        """Make an untrained model."""
        return AlignRec(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        default = Preset(
            cls(),
            TrainingPlan(learning_rate=3e-3, epochs=200, patience=10, row_updates="dense"),
            "Centred content, no cosine between users and items, stopping by validation.",
        )
        published = Preset(
            cls(centre=False, user_item=0.1),
            TrainingPlan(
                learning_rate=1e-3,
                epochs=1000,
                patience=30,
                metric="recall@20",
                row_updates="dense",
                schedule="decay",
            ),
            "Sizes and stopping as released, weights from the released grid; content stays frozen.",
        )
        return {"default": default, "as_published": published}


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items, from one pass over both graphs.

    Parameters
    ----------
    user_ids, item_ids
        ``t``: what LightGCN makes of the embeddings, shape ``(n_users, d)`` and ``(n_items, d)``.
    user_contents, item_contents
        ``h``: what comes from content, same shapes.
    sent
        ``g``: what an item sends to those that are like it, shape ``(n_items, d)``.
    """

    user_ids: Tensor
    item_ids: Tensor
    user_contents: Tensor
    item_contents: Tensor
    sent: Tensor

    @property
    def users(self) -> Tensor:
        """Users' vectors."""
        return self.user_ids + self.user_contents

    @property
    def items(self) -> Tensor:
        """Training items' vectors; 0 for the others."""
        return self.item_ids + self.item_contents


class AlignRec(GradientModel):
    """The model: users and training items are ``t + h``, cold and later items ``h`` from training items.

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

    def __init__(self, config: AlignRecConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("AlignRec")
        self.config: AlignRecConfig = config
        self.content = Content(inputs.modalities)
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.item_graph = ItemGraph(inputs.n_items, self.content.dim, config.neighbours)
        self.users = nn.Parameter(torch.empty(inputs.n_users, config.dim))
        self.items = nn.Parameter(torch.empty(inputs.n_items, config.dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)
        self.map = nn.Linear(self.content.dim, config.dim)
        self.gate = nn.Linear(config.dim, config.dim)
        self._views: Kept[Views] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make both graphs, and set users without pairs to 0."""
        del score
        if self.config.centre:
            self.content.fit(data.features, data.warm)
        self.graph.fit(data.pairs)
        self.item_graph.fit(self.content, data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {"content edges": float(len(self.item_graph.edges.values))}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``t_u + h_u``; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``t_i + h_i`` for training items, ``h_i`` for cold and later ones."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over both graphs. Outside of training the result is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate()
        return self._views.of((*self.parameters(), *self.buffers()), self._propagate)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms rank, and where they have a weight l2, align, user_item and similarity.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("AlignRec is trained on triplets.", "Set sampling='triplets'.")
        config = self.config
        views = self.views()
        users, items = views.users[batch.users], self._item_vectors(batch.items, views)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if config.l2 > 0:
            terms["l2"] = config.l2 * _half_square(users, items, batch)
        # Twice in a batch, a user would be its own negative.
        who, what = torch.unique(batch.users), batch.items.codes[torch.unique(batch.positives)]
        if config.align > 0:
            of_users = info_nce(views.user_contents[who], views.user_ids[who], config.temperature)
            of_items = info_nce(views.item_contents[what], views.item_ids[what], config.temperature)
            terms["align"] = config.align * (of_items + of_users)
        if config.user_item > 0:
            cosines = functional.cosine_similarity(users, items[batch.positives], dim=1)
            terms["user_item"] = config.user_item * (1.0 - cosines.mean())
        if config.similarity > 0:
            # Nothing is known of what an item without content is like.
            what = what[self.item_graph.content[what].any(dim=1)]
            gap = similarity_gap(views.item_contents[what], self.item_graph.content[what])
            terms["similarity"] = config.similarity * gap
        return terms

    def _propagate(self) -> Views:
        # Cold rows of the table are noise.
        ids = self.items * self.item_graph.warm.unsqueeze(1)
        user_ids, item_ids = light_gcn(self.graph, self.users, ids, self.config.layers)
        sent = ids * torch.sigmoid(self.gate(self.map(self.item_graph.content)))
        item_contents = self.item_graph(sent)
        return Views(user_ids, item_ids, self.graph.to_users(item_contents), item_contents, sent)

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.item_graph.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        return vectors.index_put((cold,), self.item_graph.received_by(self.content(some), views.sent))


def similarity_gap(vectors: Tensor, contents: Tensor) -> Tensor:
    """Frobenius norm of ``H H' - X X'`` over the number of rows.

    Parameters
    ----------
    vectors
        H, shape ``(n, d)``.
    contents
        X, rows of unit length or 0, shape ``(n, dim)``.

    Returns
    -------
    Tensor
        A scalar; 0 without rows.
    """
    gap: Tensor = torch.linalg.norm(torch.addmm(contents @ contents.T, vectors, vectors.T, beta=-1))
    return gap / max(1, len(vectors))


def _half_square(users: Tensor, items: Tensor, batch: TripletBatch) -> Tensor:
    """Half the mean over the batch of ``|u|^2 + |i|^2 + |j|^2``, the mean over a pair's negatives j."""
    lengths = items.square().sum(dim=1)
    per_pair = lengths[batch.positives] + lengths[batch.negatives].mean(dim=1)
    return 0.5 * (users.square().sum(dim=1) + per_pair).mean()
