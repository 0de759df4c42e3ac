"""DropoutNet: two towers that learn a backbone's scores while its vectors of items are dropped.

M. Volkovs, G. Yu, T. Poutanen: DropoutNet: Addressing Cold Start in Recommender Systems, NIPS 2017. What an
item's collaborative vector no longer says the tower must learn from content, so it goes on where there is
content alone.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.backbone import Backbone, backbone_of
from prismrec.models.layers.content import Content, ContentTable
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.plan import TrainingPlan

_CLIP = 5.0
# Scores in flight while the highest are looked for.
_NUMBERS = 1 << 23


class DropoutNetConfig(ModelConfig):
    """Hyper-parameters of DropoutNet."""

    name: ClassVar[str] = "dropoutnet"
    summary: ClassVar[str] = "Towers that learn a backbone's scores with its inputs dropped (NIPS 2017)."
    phases: ClassVar[tuple[str, ...]] = ("backbone", "gradient steps")

    dim: int = Field(64, ge=1, le=4096, description="Size of the backbone's vectors and of the towers'.")
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (256,), min_length=1, max_length=8, description="Sizes of the hidden layers of each tower."
    )
    item_dropout: float = Field(
        0.5, ge=0, le=1, description="Share of a batch's items whose collaborative vector is dropped."
    )
    top_items: int = Field(
        100, ge=1, description="Items of each user that are taught because the backbone ranks them highest."
    )
    backbone: Literal["als", "svd"] = Field("als", description="Where collaborative vectors come from.")
    alpha: float = Field(10.0, ge=0, description="ALS: additional weight of an interaction.")
    als_penalty: float = Field(50.0, gt=0, description="ALS: penalty on the factors.")
    als_iterations: int = Field(10, ge=1, le=1000, description="ALS: rounds.")

    def build(self, inputs: ModelInputs) -> "DropoutNet":
        """Make an untrained model."""
        return DropoutNet(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        published = cls(dim=200, hidden=(800, 400), top_items=2500)
        return {
            "default": Preset(
                cls(),
                TrainingPlan(epochs=50, patience=5, learning_rate=3e-4),
                "Smaller towers and fewer pairs than published.",
            ),
            "as_published": Preset(
                published,
                TrainingPlan(batch_size=50, epochs=10, patience=2),
                "Sizes and batches as published for the RecSys data; Adam. An epoch is 2,500 pairs a user.",
            ),
        }


class DropoutNet(GradientModel):
    """The model: ``f_U(U_u) . f_V([V_i ; c_i])``, and ``f_V([0 ; c_i])`` for a cold item.

    U and V are vectors of the backbone, fixed and standardised; c is content. Users without training pairs
    have a zero row for U, which stands for the average user.

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

    content_scale: Tensor

    def __init__(self, config: DropoutNetConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("DropoutNet")
        self.config: DropoutNetConfig = config
        self.content = Content(inputs.modalities)
        self.register_buffer("content_scale", torch.ones(()))
        self.users = _Factors(inputs.n_users, config.dim)
        self.items = _Factors(inputs.n_items, config.dim)
        self.user_tower = _Tower(config.dim, config.hidden)
        self.item_tower = _Tower(config.dim, config.hidden)
        self.from_content = nn.Linear(self.content.dim, config.hidden[0], bias=False)
        _start_small(self.from_content)
        self._targets: Pairs | None = None

    @property
    def targets(self) -> Pairs | None:
        """Each user with the items that the backbone ranks highest, what was touched among them."""
        return self._targets

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Fit the backbone, standardise its vectors and content, and list the pairs to learn."""
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
        active, warm = np.unique(data.pairs.users), np.unique(data.pairs.items)
        self.users.fit(found.users, active)
        self.items.fit(found.items, warm)
        self.content.fit(data.features, warm)
        mean_square = ContentTable(self.content, data.features, warm).weighed().square().mean()
        self.content_scale.copy_(mean_square.clamp_min(1e-12).rsqrt())
        self._targets = _top_pairs(found, active, warm, config.top_items)
        return {"pairs": float(len(self._targets))}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``f_U``; of a zero row for users without training pairs."""
        vectors: Tensor = self.user_tower(self.users.standardised(users))
        return vectors

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``f_V``; of content alone for items without training pairs."""
        vectors: Tensor = self.item_tower(self.items.standardised(items.codes), self._from_content(items))
        return vectors

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the term ``scores``: mean squared difference to the backbone's scores.

        Raises
        ------
        InputError
            If the batch holds whole users, or items without training pairs.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("DropoutNet is trained on triplets.", "Set sampling='triplets'.")
        if not bool(self.items.known[batch.items.codes].all()):
            # The backbone has no scores of them: the tower would learn that content means a score of 0.
            raise InputError("DropoutNet got cold items to learn from.", "Set negative_items='warm'.")
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        codes = batch.items.codes[places]
        targets = (self.users.table[batch.users].unsqueeze(1) * self.items.table[codes]).sum(dim=2)
        kept = self._kept(places.numel(), places.device).unsqueeze(1)
        factors = self.items.standardised(codes.flatten()) * kept
        # The widest product is taken once for each item, not for each pair.
        content = self._from_content(batch.items)[places.flatten()]
        items = self.item_tower(factors, content).view(*places.shape, -1)
        scores = (self.user_vectors(batch.users).unsqueeze(1) * items).sum(dim=2)
        return {"scores": functional.mse_loss(scores, targets)}

    def _from_content(self, items: ItemBatch) -> Tensor:
        """Return what content adds to the first layer, shape ``(n, hidden)``."""
        added: Tensor = self.from_content(self.content(items) * self.content_scale)
        return added

    def _kept(self, n: int, device: torch.device) -> Tensor:
        """Return 0 for a random share of rows, exactly `item_dropout` up to rounding, and 1 for the rest."""
        dropped = torch.randperm(n, device=device) < round(self.config.item_dropout * n)
        return (~dropped).float()


class _Factors(nn.Module):
    """Vectors of the backbone: as they are for targets, standardised for inputs. Nothing of it is trained."""

    table: Tensor
    known: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(rows, dim))
        self.register_buffer("known", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.zeros(dim))

    def fit(self, table: Tensor, codes: npt.NDArray[np.int32]) -> None:
        """Take over a table, of which the rows of `codes` mean something."""
        rows = torch.from_numpy(codes.astype(np.int64))
        self.table.zero_()[rows] = table[rows]
        self.known.zero_()[rows] = True
        self.mean.copy_(table[rows].mean(dim=0))
        spread = table[rows].std(dim=0, correction=0)
        # A column that does not vary says nothing, and its rounding errors must not be blown up.
        self.scale.copy_(torch.where(spread > 1e-6 * spread.max(), 1.0 / spread, 0.0))

    def standardised(self, codes: Tensor) -> Tensor:
        """Return rows with mean 0 and deviation 1 by column, clipped; zeros for rows that mean nothing."""
        rows = ((rows_or_zero(self.table, codes) - self.mean) * self.scale).clamp(-_CLIP, _CLIP)
        return rows * rows_or_zero(self.known.to(rows.dtype).unsqueeze(1), codes)


class _Tower(nn.Module):
    """Hidden layers of a linear map, batch normalisation and tanh; a linear output of the input's size."""

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        # The normalisation takes away whatever a bias before it adds.
        sizes = zip((dim, *hidden), hidden, strict=False)
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=False) for before, after in sizes)
        self.norms = nn.ModuleList(_Norm(size) for size in hidden)
        self.output = nn.Linear(hidden[-1], dim)
        for layer in (*self.layers, self.output):
            assert isinstance(layer, nn.Linear)
            _start_small(layer)

    def forward(self, factors: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the tower's vectors; `added` is added to what the first layer gives."""
        values = factors
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            values = layer(values)
            if place == 0 and added is not None:
                values = values + added
            values = norm(values).tanh()
        vectors: Tensor = self.output(values)
        return vectors


class _Norm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of a single row by what it knows from others.

    Torch refuses one in training, and an epoch's last batch may be such a batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        training = self.training and len(input) > 1
        return functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum or 0.0,
            self.eps,
        )


@torch.no_grad()
def _start_small(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    if layer.bias is not None:
        layer.bias.zero_()


def _top_pairs(
    found: Backbone, users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], top: int
) -> Pairs:
    """Return users with those of the items that have their highest scores."""
    candidates = found.items[torch.from_numpy(items.astype(np.int64))]
    count = min(top, len(items))
    chosen = np.empty((len(users), count), dtype=np.int32)
    block = max(1, _NUMBERS // max(1, len(items)))
    for first in range(0, len(users), block):
        some = torch.from_numpy(users[first : first + block].astype(np.int64))
        places = (found.users[some] @ candidates.T).topk(count, dim=1, sorted=False).indices
        chosen[first : first + block] = items[places.numpy()]
    return Pairs(np.repeat(users, count).astype(np.int32), chosen.ravel())
