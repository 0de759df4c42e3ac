"""LATTICE: a graph of alike items that is learnt from content, beside LightGCN on users and items.

J. Zhang, Y. Zhu, Q. Liu, S. Wu, S. Wang, L. Wang: Mining Latent Structures for Multimedia Recommendation,
ACM MM 2021, doi 10.1145/3474085.3475259, arXiv 2104.09036.
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
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.kept import Kept
from prismrec.models.layers.learned_graph import LearnedGraph
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.looped_graph import LoopedGraph
from prismrec.models.layers.losses import bpr, half_squares
from prismrec.models.layers.modality_graphs import ModalityGraph
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.layers.sparse import SparseMatrix
from prismrec.models.plan import TrainingPlan


class LATTICEConfig(ModelConfig):
    """Hyper-parameters of LATTICE."""

    name: ClassVar[str] = "lattice"
    summary: ClassVar[str] = "Item graph learnt from content, beside LightGCN (LATTICE, ACM MM 2021)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(
        64, ge=1, le=4096, description="Size d of user and item vectors, and of projected content."
    )
    layers: int = Field(2, ge=0, le=16, description="Steps along the users' and items' graph.")
    item_layers: int = Field(1, ge=1, le=16, description="Steps along the items' graph.")
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="Training items k that an item is tied to in each modality, itself among them.",
    )
    frozen: float = Field(
        0.9, ge=0, le=1, description="Share of the graph of the content as it came; the rest is learnt."
    )
    reg: float = Field(
        1e-4, ge=0, description="Weight of half the squared length of user, positive and negative."
    )

    def build(self, inputs: ModelInputs) -> "LATTICE":
        """Make an untrained model."""
        return LATTICE(self, inputs)

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
        return {
            "default": Preset(cls(), plan, "As released; weight and first rate from the middle of its grid.")
        }


@dataclass(frozen=True)
class Mixture:
    """The items' graph as the weights make it.

    Parameters
    ----------
    shares
        Of the modalities, shape ``(modalities,)``.
    learned
        What is learnt of it.
    constant
        The whole of it, frozen part included, as one matrix of constants; None: with gradients.
    """

    shares: Tensor
    learned: LearnedGraph
    constant: SparseMatrix | None


@dataclass(frozen=True)
class Views:
    """Vectors of all users and items, from one pass over both graphs.

    Parameters
    ----------
    users
        Shape ``(n_users, d)``.
    items
        Training items' vectors, shape ``(n_items, d)``; 0 for the others.
    sent
        What a training item sends in the last step along the items' graph, shape ``(n_items, d)``.
    mixture
        The items' graph.
    """

    users: Tensor
    items: Tensor
    sent: Tensor
    mixture: Mixture


class LATTICE(GradientModel):
    """The model: users are ``z``, training items ``z + h``, cold and later items ``h`` from training items.

    The items' graph has gradients in an epoch's first batch; it is then built once more and stands still for
    the others. Users without training pairs have the zero vector. Embeddings of items without training pairs
    are never read.

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

    def __init__(self, config: LATTICEConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("LATTICE")
        self.config: LATTICEConfig = config
        self.graph = LoopedGraph(inputs.n_users, inputs.n_items)
        self.frozen_graphs = nn.ModuleList(
            ModalityGraph(inputs.n_items, modality.dim, config.neighbours, "cosine")
            for modality in inputs.modalities
        )
        self.content = FeatureTables(inputs.modalities, inputs.n_items, trained=True, normalise=False)
        self.users = nn.Parameter(torch.empty(inputs.n_users, config.dim))
        self.items = nn.Parameter(torch.empty(inputs.n_items, config.dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)
        self.maps = nn.ModuleList(nn.Linear(modality.dim, config.dim) for modality in inputs.modalities)
        self.logits = nn.Parameter(torch.full((len(inputs.modalities),), 0.5))
        self._views: Kept[Views] = Kept()
        self._still: Mixture | None = None

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Make the frozen graphs, take over the content, and set users without pairs to 0."""
        del score
        self.graph.fit(data.pairs)
        self.content.fit(data.features, data.warm)
        for place, graph in enumerate(self._each_frozen):
            graph.fit(place, data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        self._still = None
        return {"content edges": float(sum(len(graph.edges.values) for graph in self._each_frozen))}

    @torch.no_grad()
    def start_batch(self, number: int) -> None:
        """Let the items' graph learn in the first batch of an epoch, and stand still in the others."""
        if number == 0:
            self._still = None
        elif self._still is None:
            self._still = self._standing(self._mixture())

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``z_u``; zeros for users without training pairs."""
        return rows_or_zero(self.views().users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``z_i + h_i`` for training items, ``h_i`` for cold and later ones."""
        return self._item_vectors(items, self.views())

    def views(self) -> Views:
        """Pass over both graphs, the items' graph made of the weights as they are.

        Outside of training the result is kept until a parameter changes.
        """
        if self.training or torch.is_grad_enabled():
            self._views.forget()
            return self._propagate(self._mixture())
        tensors = (*self.parameters(), *self.buffers())
        return self._views.of(tensors, lambda: self._propagate(self._mixture()))

    @property
    def divides(self) -> bool:
        """All terms are means over the pairs."""
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms rank and, where it has a weight, reg.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("LATTICE is trained on triplets.", "Set sampling='triplets'.")
        views = self._propagate(self._mixture() if self._still is None else self._still)
        users, items = views.users[batch.users], self._item_vectors(batch.items, views)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, items, places)
        terms = {"rank": bpr(scores[:, :1], scores[:, 1:]).mean()}
        if self.config.reg > 0:
            liked = half_squares(users, items[batch.positives])
            terms["reg"] = self.config.reg * (liked + half_squares(items[batch.negatives.flatten()]))
        return terms

    def _mixture(self) -> Mixture:
        """Build the items' graph from the weights as they are."""
        shares = torch.softmax(self.logits, dim=0)
        vectors = [to_dim(table) for to_dim, table in zip(self.maps, self.content.tables, strict=True)]
        nodes = self._nodes
        learned = LearnedGraph.of(vectors, nodes, _of_each(shares, nodes), self.config.neighbours)
        return Mixture(shares, learned, None)

    def _standing(self, mixture: Mixture) -> Mixture:
        """Add up all parts of the items' graph to one matrix: one product then stands for several."""
        learned, shares = mixture.learned, _of_each(mixture.shares, self._nodes)
        own = torch.arange(len(self.items), device=shares.device)
        rows, columns = [own.repeat_interleave(learned.targets.shape[1])], [learned.targets.flatten()]
        values = [(1.0 - self.config.frozen) * learned.weights.flatten()]
        for place, graph in enumerate(self._each_frozen):
            rows.append(own.repeat_interleave(graph.edges.starts.diff()))
            columns.append(graph.edges.columns)
            values.append(self.config.frozen * shares[rows[-1], place] * graph.edges.values)
        source, target, value = torch.cat(rows), torch.cat(columns), torch.cat(values)
        kept = value > 0
        matrix = SparseMatrix(len(self.items), len(self.items)).to(shares.device)
        matrix.fill(source[kept], target[kept], value[kept])
        return Mixture(mixture.shares, learned, matrix)

    def _propagate(self, mixture: Mixture) -> Views:
        # Cold rows of the table are noise.
        ids = self.items * self.content.warm.unsqueeze(1)
        users, items = self.users, ids
        user_sum, item_sum = users, items
        for _ in range(self.config.layers):
            users, items = self.graph(users, items)
            user_sum, item_sum = user_sum + users, item_sum + items
        sent = received = ids
        for _ in range(self.config.item_layers):
            sent, received = received, self._step(received, mixture)
        stages = self.config.layers + 1
        return Views(
            user_sum / stages, item_sum / stages + functional.normalize(received, dim=1), sent, mixture
        )

    def _step(self, sent: Tensor, mixture: Mixture) -> Tensor:
        if mixture.constant is not None:
            product: Tensor = mixture.constant(sent)
            return product
        shares = _of_each(mixture.shares, self._nodes)
        received = (1.0 - self.config.frozen) * mixture.learned(sent)
        for place, graph in enumerate(self._each_frozen):
            received = received + self.config.frozen * shares[:, place : place + 1] * graph(sent)
        return received

    def _item_vectors(self, items: ItemBatch, views: Views) -> Tensor:
        warm = self.content.marks(items)
        vectors = rows_or_zero(views.items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        return vectors.index_put((cold,), self._received_by(some, views))

    def _received_by(self, items: ItemBatch, views: Views) -> Tensor:
        """Return what cold and later items receive, of unit length, or 0."""
        mixture = views.mixture
        shares = _of_each(mixture.shares, items.present)
        # Where the graph stands still, cold negatives do not move it either.
        with torch.set_grad_enabled(torch.is_grad_enabled() and mixture.constant is None):
            vectors = [to_dim(v) for to_dim, v in zip(self.maps, self.content.filled(items), strict=True)]
        received = mixture.learned.received_by(vectors, items.present, shares, views.sent)
        received = (1.0 - self.config.frozen) * received
        for place, graph in enumerate(self._each_frozen):
            own = graph.received_by(items.vectors[place], items.present[:, place], views.sent)
            received = received + self.config.frozen * shares[:, place : place + 1] * own
        return functional.normalize(received, dim=1)

    @property
    def _each_frozen(self) -> list[ModalityGraph]:
        return [graph for graph in self.frozen_graphs if isinstance(graph, ModalityGraph)]

    @property
    def _nodes(self) -> Tensor:
        """Which modalities the training items have, bool, shape ``(n_items, modalities)``."""
        return torch.stack([graph.nodes for graph in self._each_frozen], dim=1)


def _of_each(shares: Tensor, present: Tensor) -> Tensor:
    """Share the modalities of each item alone, shape ``(n, modalities)``."""
    own = shares * present
    return own / own.sum(dim=1, keepdim=True).clamp_min(1e-12)
