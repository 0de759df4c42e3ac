"""BM3: a graph recommender that learns without negatives, by guessing perturbed copies of its own vectors.

X. Zhou, H. Zhou, Y. Liu, Z. Zeng, C. Miao, P. Wang, Y. You, F. Jiang: Bootstrap Latent Representations for
Multi-modal Recommendation, WWW 2023, arXiv 2207.05969. Content shapes the embeddings in training and never
enters a score, so it says nothing of an item that nobody has touched.
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
from prismrec.models.plan import TrainingPlan


class BM3Config(ModelConfig):
    """Hyper-parameters of BM3."""

    name: ClassVar[str] = "bm3"
    summary: ClassVar[str] = "Graph recommender trained without negatives (BM3, WWW 2023); warm items only."
    recommends_cold_items: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of embeddings and final vectors.")
    layers: int = Field(1, ge=0, le=16, description="Steps of LightGCN along the users' and items' graph.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of numbers dropped from what is guessed.")
    content: float = Field(
        2.0, ge=0, description="Weight of the guesses from content; 0 leaves them out, and content with them."
    )
    norm: float = Field(
        0.1, ge=0, description="Weight of the lengths of all users' and all items' vectors, over all items."
    )
    trained_features: bool = Field(
        True, description="Whether content moves in training, as published; otherwise only its maps do."
    )
    cold_from_content: bool = Field(
        False,
        description="Whether an item without training pairs gets a vector guessed from the mean of its "
        "mapped content instead of 0. Not in the paper, and not checked on real data.",
    )

    def build(self, inputs: ModelInputs) -> "BM3":
        """Make an untrained model."""
        return BM3(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            learning_rate=1e-3, epochs=1000, patience=20, metric="recall@20", row_updates="dense"
        )
        return {"default": Preset(cls(), plan, "As released, with the settings for Amazon Baby.")}


@dataclass(frozen=True)
class Vectors:
    """Vectors of all users and items, from one pass over the graph.

    Parameters
    ----------
    users, items
        Shape ``(n_users, d)`` and ``(n_items, d)``; rows of cold items mean nothing.
    """

    users: Tensor
    items: Tensor


class BM3(GradientModel):
    """The model: ``q(h_u) . q(h_i)``, h being LightGCN's vectors, an item's own embedding added once more.

    Users without training pairs all have the same vector, the offset of q; items without training pairs
    have the vector 0, or what `cold_from_content` gives. Their embeddings are never read.

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

    def __init__(self, config: BM3Config, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("BM3")
        self.config: BM3Config = config
        dim, modalities = config.dim, inputs.modalities
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.tables = FeatureTables(
            modalities, inputs.n_items, trained=config.trained_features, normalise=False
        )
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs.n_users, dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs.n_items, dim)))
        self.maps = nn.ModuleList(_linear(modality.dim, dim) for modality in modalities)
        self.predictor = _linear(dim, dim)
        self.dropout = Dropout(config.dropout)
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
        """Return ``q(h_u)``; the offset of q alone for users without training pairs."""
        rows = self.final().users[users.clamp_min(0)]
        return torch.where((users >= 0).unsqueeze(1), rows, self.predictor.bias)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``q(h_i)`` for training items; for others 0, or with `cold_from_content` a guess."""
        warm = self.tables.marks(items)
        vectors = rows_or_zero(self.final().items, torch.where(warm, items.codes, -1))
        cold = torch.nonzero(~warm)[:, 0]
        if len(cold) == 0 or not self.config.cold_from_content:
            return vectors
        some = ItemBatch(items.codes[cold], tuple(v[cold] for v in items.vectors), items.present[cold])
        contents = torch.stack(self._mapped(self.tables.filled(some)))
        return vectors.index_put((cold,), self.predictor(contents.mean(dim=0)))

    def final(self) -> Vectors:
        """Return ``q(h)``. Outside of training it is kept until a parameter changes."""
        if self.training or torch.is_grad_enabled():
            self._kept.forget()
            return self._predicted()
        return self._kept.of((*self.parameters(), *self.buffers()), self._predicted)

    def hidden(self) -> Vectors:
        """Return h of all users and items; 0 for those without training pairs."""
        # Cold rows of the table are noise.
        ids = self.items * self.tables.warm.unsqueeze(1)
        users, items = light_gcn(self.graph, self.users, ids, self.config.layers)
        return Vectors(users, items + ids)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms user_item, item_user and, where they have a weight, content and norm.

        Negatives are not used. Targets are perturbed anew in each call, from torch's global generator.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("BM3 is trained on triplets.", "Set sampling='triplets'.")
        config, hidden = self.config, self.hidden()
        # However often it is in the batch, a user or item is perturbed once, as by a mask of a whole table.
        who, of_user = torch.unique(batch.users, return_inverse=True)
        what, of_item = torch.unique(batch.items.codes[batch.positives], return_inverse=True)
        users, items = hidden.users[who], hidden.items[what]
        user_targets, item_targets = self._target(users), self._target(items)
        from_users, from_items = self.predictor(users), self.predictor(items)
        terms = {
            "user_item": distance(from_users[of_user], item_targets[of_item]).mean(),
            "item_user": distance(from_items[of_item], user_targets[of_user]).mean(),
        }
        if config.content > 0:
            total = items.new_zeros(len(what))
            for content in self._mapped([table[what] for table in self.tables.tables]):
                guess = self.predictor(content)
                total = total + distance(guess, item_targets) + distance(guess, self._target(content))
            terms["content"] = config.content * total[of_item].mean()
        if config.norm > 0:
            # Whole tables and no squares, as released; a cold item is no row of them here.
            lengths = torch.linalg.vector_norm(hidden.users) + torch.linalg.vector_norm(hidden.items)
            terms["norm"] = config.norm * lengths / self.tables.warm.sum().clamp_min(1)
        return terms

    def _target(self, vectors: Tensor) -> Tensor:
        perturbed: Tensor = self.dropout(vectors.detach())
        return perturbed

    def _mapped(self, contents: Sequence[Tensor]) -> list[Tensor]:
        return [linear(x) for linear, x in zip(self.maps, contents, strict=True)]

    def _predicted(self) -> Vectors:
        hidden = self.hidden()
        return Vectors(self.predictor(hidden.users), self.predictor(hidden.items))


def distance(guesses: Tensor, targets: Tensor) -> Tensor:
    """Return 1 minus the cosine of each row, shape ``(n,)`` for shapes ``(n, d)``; 1 where a row is 0."""
    return 1.0 - functional.cosine_similarity(guesses, targets, dim=1)


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_normal_(layer.weight)
    return layer
