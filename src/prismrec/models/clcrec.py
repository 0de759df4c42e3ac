"""CLCRec: contrastive learning ties content to the identity of items, and both to users.

Y. Wei, X. Wang, Q. Li, L. Nie, Y. Li, X. Li, T.-S. Chua: Contrastive Learning for Cold-Start Recommendation,
ACM MM 2021, doi 10.1145/3474085.3475665, arXiv 2107.05315. What collaboration and content have in common is
made as much as can be, so that content stands for collaboration where there is none yet.
"""

from collections.abc import Callable
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
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.plan import TrainingPlan


class CLCRecConfig(ModelConfig):
    """Hyper-parameters of CLCRec. How many negatives a pair has is a setting of the training plan."""

    name: ClassVar[str] = "clcrec"
    summary: ClassVar[str] = (
        "Contrasts content with identities of items and with users (CLCRec, ACM MM 2021)."
    )
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size d of user and item vectors.")
    hidden: int = Field(256, ge=1, le=65536, description="Hidden units of the content encoder.")
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight lambda of telling an item's content from others' by its identity; telling a "
        "user's items from others has 1 - lambda.",
    )
    temperature: float = Field(
        1.0, gt=0, description="Temperature tau by which scores and cosines are divided."
    )
    replaced: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share rho of the identities, positives and negatives, that the content's vector "
        "replaces where a user's items are told from others.",
    )
    norm: float = Field(
        0.1, ge=0, description="Weight of the mean length, not squared, of embeddings of users and items."
    )
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )

    def build(self, inputs: ModelInputs) -> "CLCRec":
        """Make an untrained model."""
        return CLCRec(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``, ``as_published`` and ``as_published_amazon``."""
        default = Preset(
            cls(),
            TrainingPlan(batch_size=2048, negatives=64, learning_rate=3e-3, epochs=60, patience=10),
            "Ours: a lower temperature, and larger batches with fewer negatives.",
        )
        # The released code draws slots with replacement: of 0.5 it replaces 1 - exp(-0.5) = 0.39.
        published = cls(centre=False, replaced=0.39, temperature=2.0)
        return {
            "default": default,
            "as_published": Preset(
                published,
                TrainingPlan(batch_size=256, negatives=128, learning_rate=1e-3, epochs=1000, patience=10),
                "Settings published for MovieLens.",
            ),
            "as_published_amazon": Preset(
                published.model_copy(update={"balance": 0.9, "temperature": 1.0, "norm": 1e-3}),
                TrainingPlan(batch_size=256, negatives=512, learning_rate=1e-3, epochs=1000, patience=10),
                "Settings published for Amazon.",
            ),
        }


class CLCRec(GradientModel):
    """The model: users ``e_u``, warm items ``e_i``, cold items ``f_i = F(c_i)``.

    Users without training pairs have the zero vector, and so has a cold item without content. Embeddings of
    items without training pairs are never read: such an item is ``f_i``, in training and afterwards.

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
    row_tables: ClassVar[tuple[str, ...]] = ("users", "items")

    warm: Tensor

    def __init__(self, config: CLCRecConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("CLCRec")
        self.config: CLCRecConfig = config
        self.content = Content(inputs.modalities)
        # Xavier's deviation of users and items in one table, as both were released.
        deviation = (2.0 / (inputs.n_users + inputs.n_items + config.dim)) ** 0.5
        self.users = nn.Parameter(torch.randn(inputs.n_users, config.dim) * deviation)
        self.items = nn.Parameter(torch.randn(inputs.n_items, config.dim) * deviation)
        self.encoder = nn.Sequential(
            nn.Linear(self.content.dim, config.hidden), nn.LeakyReLU(), nn.Linear(config.hidden, config.dim)
        )
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Mark the training items, take the content's means, and set users without pairs to 0."""
        del score
        self.warm.zero_()
        self.warm[torch.from_numpy(data.warm.astype(np.int64)).to(self.warm.device)] = True
        if self.config.centre:
            self.content.fit(data.features, data.warm)
        known = torch.zeros(len(self.users), 1, device=self.users.device)
        known[torch.from_numpy(data.pairs.users.astype(np.int64)).to(known.device)] = 1.0
        self.users.mul_(known)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``e_u``; zeros for users who came later."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``e_i`` for training items and ``f_i`` for all others."""
        made = torch.where(items.present.any(dim=1, keepdim=True), self._encoded(items), 0.0)
        return torch.where(self._is_warm(items).unsqueeze(1), rows_or_zero(self.items, items.codes), made)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``content`` (R-E of the paper), ``rank`` (U-I) and ``norm``, where they have a weight.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("CLCRec is trained on triplets.", "Set sampling='triplets'.")
        config, items = self.config, batch.items
        users, ids = self.rows(self.users, batch.users), self.rows(self.items, items.codes)
        made = self._encoded(items)
        seen, warm = items.present.any(dim=1), self._is_warm(items)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        terms = {}
        if config.balance > 0:
            terms["content"] = config.balance * self._contrast(ids, made, seen, places)
        if config.balance < 1:
            terms["rank"] = (1 - config.balance) * self._rank(users, (ids, made), (warm, seen), places)
        if config.norm > 0:
            lengths = ids.norm(dim=1)[places] * warm[places]
            terms["norm"] = 0.5 * config.norm * (users.norm(dim=1).mean() + lengths.mean())
        return terms

    def _contrast(self, ids: Tensor, made: Tensor, seen: Tensor, places: Tensor) -> Tensor:
        """Tell the positive's content from the negatives' by the positive's identity.

        Items without content take no part: neither as positives nor among the others.
        """
        places = places[seen[places[:, 0]]]
        anchors = functional.normalize(ids, dim=1)[places[:, 0]]
        scores = pair_scores(anchors, functional.normalize(made, dim=1), places) / self.config.temperature
        scores = scores.masked_fill(~seen[places], -torch.inf)
        # A sum, so that a batch in which no positive has content gives 0.
        return (scores.logsumexp(dim=1) - scores[:, 0]).sum() / max(1, len(places))

    def _rank(
        self, users: Tensor, vectors: tuple[Tensor, Tensor], has: tuple[Tensor, Tensor], places: Tensor
    ) -> Tensor:
        """Tell the user's item from the negatives, each of them as its identity or its content."""
        (ids, made), (warm, seen) = vectors, has
        drawn = torch.rand(places.shape, device=places.device) < self.config.replaced
        by_content = (drawn & seen[places]) | ~warm[places]
        scores = torch.where(by_content, pair_scores(users, made, places), pair_scores(users, ids, places))
        scores = scores / self.config.temperature
        return (scores.logsumexp(dim=1) - scores[:, 0]).mean()

    def _encoded(self, items: ItemBatch) -> Tensor:
        """Return ``f_i`` of all items."""
        vectors: Tensor = self.encoder(self.content(items))
        return vectors

    def _is_warm(self, items: ItemBatch) -> Tensor:
        """Return which items were trained on, shape ``(n,)``."""
        return self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)
