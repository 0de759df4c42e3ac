"""GAR: a generator turns content into collaborative vectors, a recommender ranks true ones above them.

H. Chen, Z. Wang, F. Huang, X. Huang, Y. Xu, Y. Lin, P. He, Z. Li: Generative Adversarial Framework for
Cold-Start Item Recommendation, SIGIR 2022, doi 10.1145/3477495.3531897. What is made of content alone has to
pass for an item that people have touched, for the very model that ranks both.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset, Turn
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.backbone import backbone_of
from prismrec.models.layers.content import Content
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.plan import TrainingPlan


class GARConfig(ModelConfig):
    """Hyper-parameters of GAR."""

    name: ClassVar[str] = "gar"
    summary: ClassVar[str] = "A generator of item vectors against a recommender that ranks them (SIGIR 2022)."
    phases: ClassVar[tuple[str, ...]] = ("backbone", "gradient steps in two turns")

    dim: int = Field(
        64, ge=1, le=4096, description="Size d of the backbone's, the generated and the final vectors."
    )
    hidden: int = Field(200, ge=1, le=65536, description="Hidden units of the generator and of each tower.")
    reconstruction: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Weight alpha of the distance between generated and true vector; deceiving the "
        "recommender weighs 1 - alpha.",
    )
    rebuilds: Literal["items", "pairs"] = Field(
        "items",
        description="What that distance is a mean over. 'items': the batch's items, negatives too, each "
        "once. 'pairs': the items of its pairs, so that much of it is a few popular ones, as published.",
    )
    negative_share: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share beta of the negative in what the recommender ranks below the true item; the "
        "generated one has 1 - beta.",
    )
    generator_dropout: float = Field(0.5, ge=0, lt=1, description="Dropout in the generator.")
    tower_dropout: float = Field(0.5, ge=0, lt=1, description="Dropout in the towers.")
    l2: float = Field(1e-2, ge=0, description="Weight of half the squares of the linear maps' weights.")
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )
    backbone: Literal["als", "svd"] = Field("als", description="Where collaborative vectors come from.")
    alpha: float = Field(10.0, ge=0, description="ALS: additional weight of an interaction.")
    als_penalty: float = Field(10.0, gt=0, description="ALS: penalty on the factors.")
    als_iterations: int = Field(10, ge=1, le=1000, description="ALS: rounds.")

    def build(self, inputs: ModelInputs) -> "GAR":
        """Make an untrained model."""
        return GAR(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        default = Preset(
            cls(),
            TrainingPlan(batch_size=1024, learning_rate=1e-3, epochs=60, patience=10),
            "Ours: more weight on true vectors and on true negatives, each item rebuilt once.",
        )
        released = cls(
            dim=200,
            reconstruction=0.05,
            rebuilds="pairs",
            negative_share=0.1,
            generator_dropout=0.1,
            l2=1e-3,
            centre=False,
        )
        published = Preset(
            released,
            TrainingPlan(batch_size=1024, learning_rate=1e-3, epochs=1000, patience=10, metric="ndcg@20"),
            "Sizes and weights of the released code, on our backbone.",
        )
        return {"default": default, "as_published": published}


class GAR(GradientModel):
    """The model: ``s(u, i) = T_u(p_u) . T_v(v_i)``, with ``v_i = q_i`` for warm items, else ``v_i = G(c_i)``.

    The backbone's vectors p and q are fixed. Users without training pairs have 0 for p_u, as the backbone
    gives it, and ``T_u(0)`` as their vector. A cold item without content has the zero vector.

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

    undecayed: ClassVar[tuple[str, ...]] = ()
    turns: ClassVar[tuple[Turn, ...]] = (
        Turn("recommender", ("user_tower.", "item_tower.")),
        Turn("generator", ("generator.",)),
    )

    users: Tensor
    items: Tensor
    warm: Tensor

    def __init__(self, config: GARConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("GAR")
        self.config: GARConfig = config
        self.content = Content(inputs.modalities)
        d = config.dim
        self.register_buffer("users", torch.zeros(inputs.n_users, d))
        self.register_buffer("items", torch.zeros(inputs.n_items, d))
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))
        self.generator = _network(self.content.dim, config.hidden, d, config.generator_dropout, False)
        self.user_tower = _network(d, config.hidden, d, config.tower_dropout, True)
        self.item_tower = _network(d, config.hidden, d, config.tower_dropout, True)

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Compute the backbone, mark the training items, and take the content's means."""
        del score
        config = self.config
        found = backbone_of(
            data,
            config.backbone,
            config.dim,
            alpha=config.alpha,
            penalty=config.als_penalty,
            iterations=config.als_iterations,
        )
        self.users.copy_(found.users)
        self.items.copy_(found.items)
        self.warm.zero_()
        self.warm[torch.from_numpy(data.warm.astype(np.int64)).to(self.warm.device)] = True
        if config.centre:
            self.content.fit(data.features, data.warm)
        return {}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``T_u(p_u)``; ``T_u(0)`` for users who came later."""
        vectors: Tensor = self.user_tower(rows_or_zero(self.users, users))
        return vectors

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``T_v(q_i)`` for training items and ``T_v(G(c_i))`` for all others."""
        known = self._is_warm(items) | items.present.any(dim=1, keepdim=True)
        vectors: Tensor = self.item_tower(self._with_ids(items, self.generator(self.content(items))))
        return torch.where(known, vectors, 0.0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both turns; they oppose each other, so training does not take their sum."""
        return {
            f"{turn.name} {name}": value
            for turn in self.turns
            for name, value in self.turn_losses(turn, batch).items()
        }

    def turn_losses(self, turn: Turn, batch: Batch) -> dict[str, Tensor]:
        """Return ``rank`` for the recommender, ``deceive`` and ``rebuild`` for the generator, and ``l2``.

        What does not learn in a turn runs as it does at inference: no dropout, and the normalisation by what
        it knows of all batches.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("GAR is trained on triplets.", "Set sampling='triplets'.")
        return self._recommend(batch) if turn.name == "recommender" else self._generate(batch)

    def _recommend(self, batch: TripletBatch) -> dict[str, Tensor]:
        pairs, count = batch.negatives.shape
        self._learn(self.generator, 0)
        self._learn(self.user_tower, pairs)
        self._learn(self.item_tower, (2 + count) * pairs)
        with torch.no_grad():
            made = self.generator(self.content(batch.items))
        real = self._with_ids(batch.items, made)
        seen = batch.items.present.any(dim=1)[batch.positives].unsqueeze(1)
        # Of an item without content nothing can be made: a negative stands in for it.
        fake = torch.where(seen, made[batch.positives], real[batch.negatives[:, 0]])
        rows = torch.cat((real[batch.positives], fake, real[batch.negatives.flatten()]))
        # One call: each kind in a call of its own would be centred on itself, and their means be hidden.
        true, false, others = self.item_tower(rows).split((pairs, pairs, count * pairs))
        users = self.user_tower(self.users[batch.users])
        s_r, s_g = (users * true).sum(dim=1, keepdim=True), (users * false).sum(dim=1, keepdim=True)
        s_n = (users.unsqueeze(1) * others.unflatten(0, (pairs, count))).sum(dim=2)
        beta = self.config.negative_share
        terms = {"rank": functional.softplus((1 - beta) * s_g + beta * s_n - s_r).mean()}
        return terms | self._l2(self.user_tower, self.item_tower)

    def _generate(self, batch: TripletBatch) -> dict[str, Tensor]:
        items = batch.items
        able = items.present.any(dim=1) & self._is_warm(items).squeeze(1)
        pairs = able[batch.positives].nonzero().squeeze(1)
        users, positives = batch.users[pairs], batch.positives[pairs]
        # Rows of the batch's items to make vectors of, and where among them each pair's item is.
        if self.config.rebuilds == "pairs":
            rows, places = positives, torch.arange(len(pairs), device=pairs.device)
        else:
            rows, places = able.nonzero().squeeze(1), (able.cumsum(dim=0) - 1)[positives]
        self._learn(self.generator, len(rows))
        self._learn(self.user_tower, 0)
        self._learn(self.item_tower, 0)
        made = self.generator(self.content(items)[rows])
        with torch.no_grad():
            own = self.items[items.codes[rows]]
            towards, true = self.user_tower(self.users[users]), self.item_tower(own)
        gaps = (towards * (true - self.item_tower(made))[places]).sum(dim=1)
        share = self.config.reconstruction
        # Sums over what there is, so that a batch without any content gives 0.
        terms = {
            "deceive": (1 - share) * functional.softplus(gaps).sum() / max(1, len(pairs)),
            "rebuild": share * (made - own).abs().sum() / max(1, len(rows)),
        }
        return terms | self._l2(self.generator)

    def _learn(self, network: nn.Module, rows: int) -> None:
        """Let a network learn from so many rows; a single one has no spread to normalise by."""
        network.train(self.training and rows > 1)

    def _with_ids(self, items: ItemBatch, made: Tensor) -> Tensor:
        """Return ``q_i`` for training items and what was generated for all others."""
        return torch.where(self._is_warm(items), self.items[items.codes.clamp_min(0)], made)

    def _is_warm(self, items: ItemBatch) -> Tensor:
        """Return which items were trained on, shape ``(n, 1)``."""
        return (self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)).unsqueeze(1)

    def _l2(self, *networks: nn.Module) -> dict[str, Tensor]:
        if self.config.l2 == 0:
            return {}
        squares = [m.weight.square().sum() for n in networks for m in n.modules() if isinstance(m, nn.Linear)]
        return {"l2": 0.5 * self.config.l2 * torch.stack(squares).sum()}


def _network(inputs: int, hidden: int, outputs: int, dropout: float, normalise: bool) -> nn.Sequential:
    """Make a map of one hidden layer; shifts and scales that the next layer takes away are left out."""
    layers: list[nn.Module] = [nn.BatchNorm1d(inputs, affine=False)] if normalise else []
    first, last = nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, outputs)
    for layer in (first, last):
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, first, nn.BatchNorm1d(hidden), nn.Tanh(), nn.Dropout(dropout), last)
