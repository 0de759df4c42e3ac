"""GRCN: IDs are passed along a graph whose edges are weighed by how well content and user agree.

Y. Wei, X. Wang, L. Nie, X. He, T.-S. Chua: Graph-Refined Convolutional Network for Multimedia Recommendation
with Implicit Feedback, ACM Multimedia 2020, doi 10.1145/3394171.3413556, arXiv 2111.02036. It was made for
items of the training part; what a cold item is here is an addition.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.edges import Edges
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class GRCNConfig(ModelConfig):
    """Hyper-parameters of GRCN."""

    name: ClassVar[str] = "grcn"
    summary: ClassVar[str] = "IDs on a graph that is weighed by content (GRCN, ACM MM 2020)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(
        64,
        ge=1,
        le=4096,
        description="Size d of an ID and of what a modality gives; vectors have all of them.",
    )
    routings: int = Field(
        3,
        ge=0,
        le=16,
        description="How often a user's tastes are drawn to the content of the user's items; the released "
        "code has 3 that do nothing, which is 0 here.",
    )
    layers: int = Field(2, ge=0, le=16, description="Steps of the IDs along the graph.")
    prune: bool = Field(
        True, description="Cut edges of negative weight; the authors' commands leave them in."
    )
    l2: float = Field(1e-3, ge=0, description="Weight of the mean squares of the batch's IDs and tastes.")

    def build(self, inputs: ModelInputs) -> "GRCN":
        """Make an untrained model."""
        return GRCN(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_released``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        return {
            "default": Preset(cls(), plan, "Routing as in the paper; sizes and stopping as released."),
            "as_released": Preset(cls(routings=0), plan, "Without routing, which the released code misses."),
        }


@dataclass(frozen=True)
class Refined:
    """What a modality gives.

    Parameters
    ----------
    users, items
        ``c``: content and what neighbours send, shape ``(n_users, d)`` and ``(n_items, d)``.
    to_users, to_items
        ``a``: how much users attend to their items and items to their users, shape ``(edges,)``.
    """

    users: Tensor
    items: Tensor
    to_users: Tensor
    to_items: Tensor


@dataclass(frozen=True)
class Views:
    """Vectors of users, shape ``(n_users, (1 + modalities) d)``, and of the vocabulary's items."""

    users: Tensor
    items: Tensor


class GRCN(GradientModel):
    """The model: ``[e || c of each modality]``, e from IDs on the weighed graph; cold items ``[0 || f]``.

    Users without training pairs have the zero vector. IDs of items without training pairs are never read.

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

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items", "tastes", "user_trust", "item_trust")

    def __init__(self, config: GRCNConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("GRCN")
        self.config: GRCNConfig = config
        n_users, modalities = inputs.n_users, len(inputs.modalities)
        self.features = FeatureTables(inputs.modalities, inputs.n_items, trained=False, normalise=False)
        self.edges = Edges(n_users, inputs.n_items)
        self.maps = nn.ModuleList(nn.Linear(modality.dim, config.dim) for modality in inputs.modalities)
        for linear in self.maps:
            nn.init.xavier_normal_(linear.get_parameter("weight"))
        ids = nn.init.xavier_normal_(torch.empty(n_users + inputs.n_items, config.dim))
        trust = nn.init.xavier_normal_(torch.empty(n_users + inputs.n_items, modalities))
        tastes = [nn.init.xavier_normal_(torch.empty(n_users, config.dim)) for _ in inputs.modalities]
        self.users, self.items = nn.Parameter(ids[:n_users].clone()), nn.Parameter(ids[n_users:].clone())
        # Of all modalities side by side.
        self.tastes = nn.Parameter(torch.cat(tastes, dim=1))
        self.user_trust = nn.Parameter(trust[:n_users].clone())
        self.item_trust = nn.Parameter(trust[n_users:].clone())
        self._views: Kept[Views] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over the training items' content, and the training pairs as edges."""
        del score
        self.features.fit(data.features, data.warm)
        self.edges.fit(data.pairs)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``[e || c ...]``; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``[e || c ...]`` for training items, ``[0 || f ...]`` for cold and later ones."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over the graph. Outside of training the result is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate()
        return self._views.of((*self.parameters(), *self.buffers()), self._propagate)

    @property
    def divides(self) -> bool:
        """All terms are means over the pairs."""
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms rank and, where it has a weight, l2.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("GRCN is trained on triplets.", "Set sampling='triplets'.")
        views = self.views()
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        items = self._item_vectors(batch.items, views)
        scores = pair_scores(views.users[batch.users], items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.l2 > 0:
            terms["l2"] = self.config.l2 * self._mean_squares(batch)
        return terms

    def edge_weights(self, refined: list[Refined]) -> tuple[Tensor, Tensor]:
        """Return how much users receive over each edge, and how much items do, shape ``(edges,)`` each.

        Parameters
        ----------
        refined
            One for each modality.
        """
        attention = torch.stack([part.to_users for part in refined], dim=1)
        to_users = (attention * self.item_trust[self.edges.items]).amax(dim=1)
        attention = torch.stack([part.to_items for part in refined], dim=1)
        to_items = (attention * self.user_trust[self.edges.users]).amax(dim=1)
        if self.config.prune:
            return to_users.relu(), to_items.relu()
        return to_users, to_items

    def _propagate(self) -> Views:
        contents = self._contents(self.features.tables)
        tastes = torch.split(self.tastes, self.config.dim, dim=1)
        refined = [self._refine(p, f) for p, f in zip(tastes, contents, strict=True)]
        to_users, to_items = self.edge_weights(refined)
        users, items = functional.normalize(self.users, dim=1), functional.normalize(self.items, dim=1)
        user_sum, item_sum = users, items
        for _ in range(self.config.layers):
            users, items = self.edges.to_users(items, to_users), self.edges.to_items(users, to_items)
            user_sum, item_sum = user_sum + users, item_sum + items
        known = self.edges.known_users.unsqueeze(1)
        return Views(
            torch.cat([user_sum, *(part.users for part in refined)], dim=1) * known,
            torch.cat([item_sum, *(part.items for part in refined)], dim=1),
        )

    def _refine(self, tastes: Tensor, contents: Tensor) -> Refined:
        edges = self.edges
        users = functional.normalize(tastes, dim=1)
        for _ in range(self.config.routings):
            attention = edges.softmax_by_user(edges.dots(users, contents))
            users = functional.normalize(users + edges.to_users(contents, attention), dim=1)
        affinity = edges.dots(users, contents)
        to_users, to_items = edges.softmax_by_user(affinity), edges.softmax_by_item(affinity)
        return Refined(
            users + edges.to_users(contents, to_users),
            contents + edges.to_items(users, to_items),
            to_users,
            to_items,
        )

    def _contents(self, tables: list[Tensor]) -> list[Tensor]:
        """Return f of each modality, unit vectors of shape ``(n, d)``."""
        mapped = [linear(table) for linear, table in zip(self.maps, tables, strict=True)]
        return [functional.normalize(functional.leaky_relu(part), dim=1) for part in mapped]

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.features.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        nothing = vectors.new_zeros(len(cold), self.config.dim)
        alone = torch.cat([nothing, *self._contents(self.features.filled(some))], dim=1)
        return vectors.index_put((cold,), alone)

    def _mean_squares(self, batch: TripletBatch) -> Tensor:
        warm = self.features.marks(batch.items)
        ids = rows_or_zero(self.items, torch.where(warm, batch.items.codes, -1)).square().mean(dim=1)
        of_items = (ids[batch.positives].mean() + ids[batch.negatives].mean()) / 2
        of_users = self.users[batch.users].square().mean()
        names = [modality.name for modality in self.inputs.modalities]
        shape = (-1, len(names), self.config.dim)
        of_tastes = self.tastes[batch.users].view(shape).square().mean(dim=(0, 2)).sum()
        whole = self.tastes.view(shape).square().mean(dim=(0, 2))
        # The released code counts the whole table of images alone.
        counted = whole[names.index("image")] if set(names) == {"image", "text"} else whole.mean()
        return of_users + of_items + of_tastes + counted
