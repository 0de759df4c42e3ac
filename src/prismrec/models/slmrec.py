"""SLMRec: a LightGCN for IDs and for each modality, fused linearly, trained by contrast alone.

Z. Tao, X. Liu, Y. Xia, X. Wang, L. Yang, X. Huang, T.-S. Chua: Self-supervised Learning for Multimedia
Recommendation, IEEE Transactions on Multimedia 25, 2022, doi 10.1109/TMM.2022.3187556. It was made for items
of the training part and for up to three modalities; cold items and any number are additions.
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
from prismrec.models.batches import Batch, ItemBatch, Modality, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.plan import TrainingPlan


class SLMRecConfig(ModelConfig):
    """Hyper-parameters of SLMRec."""

    name: ClassVar[str] = "slmrec"
    summary: ClassVar[str] = (
        "A LightGCN for IDs and for each modality, trained by contrast (SLMRec, TMM 2022)."
    )
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(
        64, ge=1, le=4096, description="Size d of embeddings, of each view and of final vectors."
    )
    layers: int = Field(3, ge=0, le=16, description="Steps of LightGCN along the users' and items' graph.")
    temperature: float = Field(0.2, gt=0, description="Of the contrast between users and their items.")
    fac: float = Field(
        0.1, ge=0, description="Weight of the contrast between the views of an item; 0 leaves it out."
    )
    fac_temperature: float = Field(0.2, gt=0, description="Of the contrast between the views of an item.")
    mask_repeats: bool = Field(
        False,
        description="Whether an item that is a positive of the batch more than once is left out of its own "
        "negatives; published is False.",
    )
    l2: float = Field(
        1e-4,
        ge=0,
        description="Weight of half the squared length of all parameters: what Adam calls weight decay.",
    )

    def build(self, inputs: ModelInputs) -> "SLMRec":
        """Make an untrained model."""
        return SLMRec(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        about = "Sizes, decay and stopping as released; weight, temperature and rate from within its grids."
        return {"default": Preset(cls(), plan, about)}


@dataclass(frozen=True)
class Vectors:
    """Vectors of all users and items, from one pass over the graph.

    Parameters
    ----------
    users, items
        Shape ``(n_users, size)`` and ``(n_items, size)``; rows of cold items mean nothing.
    """

    users: Tensor
    items: Tensor


class SLMRec(GradientModel):
    """The model: what LightGCN makes of IDs and of each modality, side by side, through one linear map.

    Users without training pairs all have the same vector, the offset of that map. Embeddings of items
    without training pairs are never read.

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

    def __init__(self, config: SLMRecConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("SLMRec")
        self.config: SLMRecConfig = config
        dim, modalities = config.dim, inputs.modalities
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.tables = FeatureTables(modalities, inputs.n_items, trained=False, normalise=True)
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs.n_users, dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs.n_items, dim)))
        self.maps = nn.ModuleList(_linear(modality.dim, dim) for modality in modalities)
        views = 1 + len(modalities)
        self.fuse_users, self.fuse_items = _linear(views * dim, dim), _linear(views * dim, dim)
        self.agreement = FineToCoarse(dim, fine_to_coarse(modalities)) if config.fac > 0 else None
        self._kept: Kept[Vectors] = Kept()

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over graph and content, and set users without pairs to 0."""
        del score
        self.graph.fit(data.pairs)
        self.tables.fit(data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return fused vectors; the map's offset alone for users without training pairs."""
        rows = self.final().users[users.clamp_min(0)]
        return torch.where((users >= 0).unsqueeze(1), rows, self.fuse_users.bias)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return fused vectors, of cold and later items from their content alone."""
        warm = self.tables.marks(items)
        vectors = rows_or_zero(self.final().items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        # An item that nobody has touched keeps what it started with, as one of `layers + 1` stages.
        contents = self._mapped(self.tables.filled(some)) / (self.config.layers + 1)
        unknown = contents.new_zeros(len(cold), self.config.dim)
        own: Tensor = self.fuse_items(torch.cat([unknown, contents], dim=1))
        return vectors.index_put((cold,), own)

    def final(self) -> Vectors:
        """Return fused vectors. Outside of training they are kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._kept.forget()
            return self._fused()
        return self._kept.of((*self.parameters(), *self.buffers()), self._fused)

    def views(self) -> Vectors:
        """Return what LightGCN makes of IDs and of each modality, side by side, ``(modalities + 1) * d``.

        Propagation is linear. What begins at the users is the same in all views and is passed on once, so
        two modalities cost two thirds of three whole passes.
        """
        views, layers = 1 + len(self.maps), self.config.layers
        starts = torch.cat([self._ids(), self._mapped(self.tables.tables)], dim=1)
        to_users, to_items = self.graph.to_users, self.graph.to_items
        items, from_items = spread(starts, to_users, to_items, len(self.users), layers)
        users, from_users = spread(self.users, to_items, to_users, len(self.items), layers)
        return Vectors(users.repeat(1, views) + from_items, items + from_users.repeat(1, views))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms contrast and, where they have a weight, fac and l2; negatives are not used.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("SLMRec is trained on triplets.", "Set sampling='triplets'.")
        config, views = self.config, self.views()
        codes = batch.items.codes[batch.positives]
        same = (codes.unsqueeze(1) == codes).fill_diagonal_(False) if config.mask_repeats else None
        of_items = views.items[codes]
        users = functional.normalize(self.fuse_users(views.users[batch.users]), dim=1)
        items = functional.normalize(self.fuse_items(of_items), dim=1)
        terms = {"contrast": contrast(users, items, config.temperature, same)}
        if self.agreement is not None:
            pairs = self.agreement(torch.split(of_items, config.dim, dim=1))
            parts = [contrast(ids, others, config.fac_temperature, same) for ids, others in pairs]
            terms["fac"] = config.fac * torch.stack(parts).sum()
        if config.l2 > 0:
            others = [p for p in self.parameters() if p is not self.items]
            squares = torch.stack([part.square().sum() for part in (self._ids(), *others)])
            terms["l2"] = 0.5 * config.l2 * squares.sum()
        return terms

    def _ids(self) -> Tensor:
        # Cold rows of the table are noise.
        return self.items * self.tables.warm.unsqueeze(1)

    def _mapped(self, contents: Sequence[Tensor]) -> Tensor:
        return torch.cat([linear(x) for linear, x in zip(self.maps, contents, strict=True)], dim=1)

    def _fused(self) -> Vectors:
        views = self.views()
        return Vectors(self.fuse_users(views.users), self.fuse_items(views.items))


class FineToCoarse(nn.Module):
    """Maps into the spaces in which IDs are compared with one modality after the other.

    Each space is reached from the one before: IDs and the first modality meet in a space of size d, the
    result and the next modality in another one, and all with the last one in a space of size d / 2. With one
    modality there is the first space only; with two, one more map of size d leads to the last space, where
    the released code has the place of sound.

    Parameters
    ----------
    dim
        Size d of the views.
    order
        Places of the modalities, from the one compared first to the one compared last.
    """

    def __init__(self, dim: int, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)
        half = max(1, dim // 2)
        sizes = [dim] * (len(order) - 1) + [half if len(order) > 1 else dim]
        self.ids = nn.ModuleList(_linear(dim, size) for size in sizes)
        self.between = _linear(dim, dim) if len(order) == 2 else None
        # An offset of these would add one number to all logits of a row, which the softmax takes out again.
        self.contents = nn.ModuleList(_linear(dim, size, bias=False) for size in sizes)

    def forward(self, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return, for each modality, IDs and content in their common space.

        Parameters
        ----------
        views
            IDs and then each modality in the order of `ItemBatch`, shape ``(n, d)`` each.
        """
        ids, *contents = views
        pairs = []
        for step, place in enumerate(self.order):
            if step == 1 and self.between is not None:
                ids = self.between(ids)
            ids = self.ids[step](ids)
            pairs.append((ids, self.contents[step](contents[place])))
        return pairs


def fine_to_coarse(modalities: Sequence[Modality]) -> list[int]:
    """Return places of modalities in the order of comparison: image first, text last, as published."""
    first = [place for place, modality in enumerate(modalities) if modality.name == "image"]
    last = [place for place, modality in enumerate(modalities) if modality.name == "text"]
    others = [place for place in range(len(modalities)) if place not in (*first, *last)]
    return [*first, *others, *last]


def spread(
    vectors: Tensor,
    ahead: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    n_others: int,
    layers: int,
) -> tuple[Tensor, Tensor]:
    """Return what LightGCN makes of vectors on one side of the graph while the other side starts at 0.

    Parameters
    ----------
    vectors
        Of one side, shape ``(n, size)``.
    ahead, back
        Passes vectors to the `n_others` nodes of the other side, and from there to this one.
    n_others, layers
        Nodes of the other side; steps along the graph.

    Returns
    -------
    tuple of Tensor
        Means of all stages on this side and on the other, shape ``(n, size)`` and ``(n_others, size)``.
    """
    own, others = vectors, vectors.new_zeros(n_others, vectors.shape[1])
    for step in range(layers):
        if step % 2 == 0:
            vectors = ahead(vectors)
            others = others + vectors
        else:
            vectors = back(vectors)
            own = own + vectors
    return own / (layers + 1), others / (layers + 1)


def contrast(anchors: Tensor, others: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """``-ln softmax`` of an anchor's product with its own other among those with all others, as a mean.

    Parameters
    ----------
    anchors, others
        Shape ``(n, d)``; they are taken as they are, whatever their lengths.
    temperature
        Divides the products.
    same
        What is left out, bool, shape ``(n, n)``, False on the diagonal; None: nothing.
    """
    logits = anchors @ others.T / temperature
    if same is not None:
        logits = logits.masked_fill(same, float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _linear(n_inputs: int, n_outputs: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    return layer
