"""MMGCN: a graph network for each modality, whose outputs are averaged.

Y. Wei, X. Wang, L. Nie, X. He, R. Hong, T.-S. Chua: MMGCN: Multi-modal Graph Convolution Network for
Personalized Recommendation of Micro-video, ACM Multimedia 2019, doi 10.1145/3343031.3351034. It was made for
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


class MMGCNConfig(ModelConfig):
    """Hyper-parameters of MMGCN."""

    name: ClassVar[str] = "mmgcn"
    summary: ClassVar[str] = "A graph network for each modality, averaged (MMGCN, ACM MM 2019)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    layers: int = Field(3, ge=1, le=16, description="Steps along the users' and items' graph.")
    longest: int = Field(
        384, ge=1, description="Content vectors of up to this size are taken as they are, longer ones mapped."
    )
    latent: int = Field(256, ge=1, le=4096, description="Size that longer content vectors are mapped to.")
    l2: float = Field(
        1e-3, ge=0, description="Weight of the mean square of the batch's IDs and of the users' tastes."
    )
    frozen: bool = Field(
        False,
        description="Leave IDs and users' tastes as they were drawn. So does the released code, by mistake.",
    )

    def build(self, inputs: ModelInputs) -> "MMGCN":
        """Make an untrained model."""
        return MMGCN(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_released``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        return {
            "default": Preset(cls(), plan, "As in the paper; sizes and stopping as released."),
            "as_released": Preset(
                cls(frozen=True), plan, "IDs and users' tastes stay random, as in the released code."
            ),
        }


@dataclass(frozen=True)
class Nodes:
    """A vector for each user, shape ``(n_users, d)``, and for each item of the vocabulary."""

    users: Tensor
    items: Tensor


class ModalityNet(nn.Module):
    """The weights of a modality's network.

    Parameters
    ----------
    dim
        Size of the modality's vectors.
    config
        Hyper-parameters.
    """

    def __init__(self, dim: int, config: MMGCNConfig) -> None:
        super().__init__()
        mapped = dim > config.longest
        self.width = config.latent if mapped else dim
        self.map = nn.Linear(dim, self.width) if mapped else nn.Identity()
        sizes = [self.width, *[config.dim] * (config.layers - 1)]
        self.hear = nn.ModuleList(nn.Linear(size, size, bias=False) for size in sizes)
        self.keep = nn.ModuleList(nn.Linear(size, config.dim) for size in sizes)
        self.mix = nn.ModuleList(nn.Linear(size + config.dim, config.dim) for size in sizes)
        for linear in (*self.hear, *self.keep, self.mix[0]):
            nn.init.xavier_normal_(linear.get_parameter("weight"))

    def start(self, contents: Tensor) -> Tensor:
        """Return what items begin with, unit vectors of shape ``(n, width)``."""
        return functional.normalize(self.map(contents), dim=1)

    def step(self, layer: int, own: Tensor, heard: Tensor, ids: Tensor) -> Tensor:
        """Return what nodes are after a layer.

        Parameters
        ----------
        layer
            From 0.
        own
            What they were, shape ``(n, width)``, after the first layer ``(n, d)``.
        heard
            Mean of their neighbours, of the same shape.
        ids
            Shape ``(n, d)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``.
        """
        heard = functional.leaky_relu(self.hear[layer](heard))
        kept = functional.leaky_relu(self.keep[layer](own)) + ids
        return functional.leaky_relu(self.mix[layer](torch.cat([heard, kept], dim=1)))


class MMGCN(GradientModel):
    """The model: the mean over modalities of what their networks make of content, tastes and IDs.

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

    undecayed: ClassVar[tuple[str, ...]] = ("users", "items", "tastes")

    def __init__(self, config: MMGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("MMGCN")
        self.config: MMGCNConfig = config
        self.features = FeatureTables(inputs.modalities, inputs.n_items, trained=False, normalise=False)
        self.edges = Edges(inputs.n_users, inputs.n_items)
        self.nets = nn.ModuleList(ModalityNet(modality.dim, config) for modality in inputs.modalities)
        ids = nn.init.xavier_normal_(torch.empty(inputs.n_users + inputs.n_items, config.dim))
        users, items = torch.split(ids, [inputs.n_users, inputs.n_items])
        widths = [net.width for net in self._each]
        tastes = [nn.init.xavier_normal_(torch.empty(inputs.n_users, width)) for width in widths]
        # Of all modalities side by side: weight decay spares parameters by name.
        self.tastes = nn.Parameter(torch.cat(tastes, dim=1), requires_grad=not config.frozen)
        self.users = nn.Parameter(users.clone(), requires_grad=not config.frozen)
        self.items = nn.Parameter(items.clone(), requires_grad=not config.frozen)
        self._views: Kept[Nodes] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over the training items' content, and the training pairs as edges."""
        del score
        self.features.fit(data.features, data.warm)
        self.edges.fit(data.pairs)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return what the users' networks give; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return what the networks give: with neighbours and ID for training items, else without."""
        return self._item_vectors(items, self.views())

    def views(self) -> Nodes:
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
        """Return the terms rank and, where it has a weight and something to move, l2.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("MMGCN is trained on triplets.", "Set sampling='triplets'.")
        views = self.views()
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        items = self._item_vectors(batch.items, views)
        scores = pair_scores(views.users[batch.users], items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.l2 > 0 and not self.config.frozen:
            terms["l2"] = self.config.l2 * self._mean_squares(batch)
        return terms

    @property
    def _each(self) -> list[ModalityNet]:
        return [net for net in self.nets if isinstance(net, ModalityNet)]

    @property
    def _each_tastes(self) -> tuple[Tensor, ...]:
        return torch.split(self.tastes, [net.width for net in self._each], dim=1)

    def _propagate(self) -> Nodes:
        starts = zip(self._each, self._each_tastes, self.features.tables, strict=True)
        found = [self._pass(net, Nodes(tastes, table)) for net, tastes, table in starts]
        known = self.edges.known_users.unsqueeze(1)
        users = torch.stack([nodes.users for nodes in found]).mean(dim=0)
        return Nodes(users * known, torch.stack([nodes.items for nodes in found]).mean(dim=0))

    def _pass(self, net: ModalityNet, raw: Nodes) -> Nodes:
        # Nobody hears the items without edges, and their rows are not read.
        users, items = functional.normalize(raw.users, dim=1), net.start(raw.items)
        for layer in range(self.config.layers):
            to_users, to_items = self.edges.mean_to_users(items), self.edges.mean_to_items(users)
            users = net.step(layer, users, to_users, self.users)
            items = net.step(layer, items, to_items, self.items)
        return Nodes(users, items)

    def _item_vectors(self, items: ItemBatch, views: Nodes) -> Tensor:
        warm = self.features.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        return vectors.index_put((cold,), self._alone(some).to(vectors.dtype))

    def _alone(self, items: ItemBatch) -> Tensor:
        """Return the vectors of items that have no neighbours and no ID."""
        found = []
        nothing = self.items.new_zeros(len(items), self.config.dim)
        for net, contents in zip(self._each, self.features.filled(items), strict=True):
            own = net.start(contents)
            for layer in range(self.config.layers):
                own = net.step(layer, own, torch.zeros_like(own), nothing)
            found.append(own)
        return torch.stack(found).mean(dim=0)

    def _mean_squares(self, batch: TripletBatch) -> Tensor:
        warm = self.features.marks(batch.items)
        ids = rows_or_zero(self.items, torch.where(warm, batch.items.codes, -1)).square().mean(dim=1)
        of_items = (ids[batch.positives].mean() + ids[batch.negatives].mean()) / 2
        of_users = self.users[batch.users].square().mean()
        tastes = [tastes.square().mean() for tastes in self._each_tastes]
        # The released code counts those of images alone.
        names = [modality.name for modality in self.inputs.modalities]
        if set(names) == {"image", "text"}:
            tastes = [tastes[names.index("image")]]
        return of_users + of_items + torch.stack(tastes).mean()
