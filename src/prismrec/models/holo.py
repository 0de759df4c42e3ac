"""HOLO: held-out learning of items. Every training item is learnt as it would look if it were new.

A model of cold items is trained on warm ones. There, what content predicts of an item has seen the item
itself, and so it is better than it will ever be for a new one: users learn to trust details that content
cannot tell. HOLO replaces each training item by what a regression from content says of it when the item is
left out, which costs no more than the regression (`prismrec.models.layers.left_out`). On these vectors, which
are what new items have, popularity gets its weight, and users are tuned by a softmax over all training items.
The method is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import Explanation, GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, UserBatch
from prismrec.models.layers.content import Content, ContentTable, share_grid
from prismrec.models.layers.kernels import Kernel, kernel_matrix, mean_squared_distance
from prismrec.models.layers.left_out import LeftOut, left_out_regression
from prismrec.models.layers.losses import softmax_cross_entropy
from prismrec.models.layers.search import best_of
from prismrec.models.layers.svd import svd_factors
from prismrec.models.plan import TrainingPlan

# Kernels to choose from: inverse squared bandwidths relative to distances, and a power of the cosine.
_KERNELS: tuple[tuple[Kernel, float], ...] = (
    ("rbf", 2.0),
    ("rbf", 1.0),
    ("rbf", 4.0),
    ("rbf", 8.0),
    ("cosine", 16.0),
)
_PENALTIES = (1.0, 0.3, 3.0)
_POPULARITY = (0.5, 0.0, 0.25, 1.0, 2.0, 4.0)
_TASTES: tuple[Literal["factors", "fitted", "shrunken"], ...] = ("factors", "fitted", "shrunken")
# Penalties of 'fitted' and 'shrunken', relative to the mean square of a left-out column over all items.
_FITTED, _SHRUNKEN = 0.3, 3.0
_SCOUTS = 1536
_FEW = 64
_BLOCK = 4096

Taste = Literal["factors", "fitted", "shrunken"]


class HOLOConfig(ModelConfig):
    """Hyper-parameters of HOLO. What is None is chosen by validation."""

    name: ClassVar[str] = "holo"
    summary: ClassVar[str] = "Ours: learns users on items as content alone would predict them, left out."
    phases: ClassVar[tuple[str, ...]] = ("left-out regression", "gradient steps")

    dim: int = Field(256, ge=1, le=4096, description="Factors of the training matrix that are predicted.")
    rank: int | None = Field(
        None,
        ge=1,
        description="Leading factors that users begin with; None: all of them or 64, by validation.",
    )
    penalty: float | None = Field(None, gt=0, description="Ridge penalty of the regression; None: 0.3 to 3.")
    noise: float = Field(
        3.0,
        ge=0,
        description="An item of n interactions is taken to be 0.1 + 0.9 c / (n + c) times as noisy as one of "
        "none; this is c. 0: all alike.",
    )
    popularity: float | None = Field(
        None, ge=0, description="Weight of predicted popularity beside taste; None: 0 to 4."
    )
    taste: Taste | None = Field(
        None,
        description="Where users begin. 'factors': their singular vectors. 'fitted', 'shrunken': a ridge "
        "regression of their history on the left-out items, with a small or a large penalty. None: by "
        "validation.",
    )
    left_out: bool = Field(
        True, description="False: training items as the regression fits them, themselves included (ablation)."
    )
    tune: bool = Field(True, description="Choose the modalities' weights and the kernel by validation.")
    sharpness: float = Field(
        3.0, gt=0, description="Standard deviation of a user's scores over training items at the start."
    )
    landmarks: int = Field(
        8192, ge=1, le=32768, description="Training items that carry the kernel; Nyström beyond."
    )

    def build(self, inputs: ModelInputs) -> "HOLO":
        """Make an untrained model."""
        return HOLO(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``."""
        plan = TrainingPlan(
            sampling="users", batch_size=512, epochs=30, learning_rate=3e-4, patience=4, row_updates="dense"
        )
        return {"default": Preset(cls(), plan, "Chosen on other splits than those that are reported.")}


@dataclass(frozen=True)
class _Settings:
    """What validation chooses."""

    shares: Tensor
    kernel: tuple[Kernel, float]
    penalty: float
    taste: Taste
    popularity: float
    rank: int


class HOLO(GradientModel):
    """The model: ``s(u, i) = p_u W f_i``, f_i an item's factors and log popularity as content predicts them.

    Training items go by their left-out predictions, in ranking too: so they stand on one scale with new ones.
    A user without training pairs has predicted popularity as taste; an item without content has the mean
    item's factors.

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

    undecayed: ClassVar[tuple[str, ...]] = ("users", "mix")

    landmarks: Tensor
    dual: Tensor
    scale: Tensor
    cosine: Tensor
    offset: Tensor
    known: Tensor
    is_known: Tensor
    stranger: Tensor

    def __init__(self, config: HOLOConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("HOLO")
        self.config: HOLOConfig = config
        self.content = Content(inputs.modalities)
        size, carrying = config.dim + 1, min(config.landmarks, inputs.n_items)
        self.users = nn.Parameter(torch.zeros(inputs.n_users, size))
        self.mix = nn.Parameter(torch.eye(size))
        self.register_buffer("landmarks", torch.zeros(carrying, self.content.dim))
        self.register_buffer("dual", torch.zeros(carrying, size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("cosine", torch.zeros((), dtype=torch.bool))
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("known", torch.zeros(inputs.n_items, size))
        self.register_buffer("is_known", torch.zeros(inputs.n_items, dtype=torch.bool))
        self.register_buffer("stranger", torch.zeros(size))

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Regress factors and popularity on content, leaving each item out, and set the users.

        Modalities' weights are chosen on some of the items, then the kernel and the penalty, then users'
        taste and the weight of popularity; without validation the first of each is taken.
        """
        start = _Start(self, data)
        ask = score if score is not None else lambda: 0.0
        if self.config.tune and score is not None:
            start.use_landmarks(min(_SCOUTS, len(self.landmarks)))
            best_of(share_grid(len(data.inputs.modalities)), start.use_shares, ask)
            start.use_landmarks(len(self.landmarks))
            best_of(_KERNELS, start.use_kernel, ask)
        start.use_landmarks(len(self.landmarks))
        given = self.config.penalty
        best_of(
            _PENALTIES if given is None and score is not None else (given or 1.0,), start.use_penalty, ask
        )
        start.leave_out()
        weight, taste = self.config.popularity, self.config.taste
        weights = _POPULARITY[:1] if score is None else _POPULARITY
        tastes = _TASTES[:1] if score is None else _TASTES
        options = [
            (one, other)
            for one in (tastes if taste is None else (taste,))
            for other in (weights if weight is None else (weight,))
        ]
        best_of(options, start.use_users, ask)
        few = (self.config.dim, *(() if self.config.dim <= _FEW or score is None else (_FEW,)))
        best_of(few if self.config.rank is None else (self.config.rank,), start.use_rank, ask)
        return start.described()

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' rows; predicted popularity alone for users who came later."""
        known = (users >= 0).unsqueeze(1)
        return torch.where(known, self.users[users.clamp_min(0)], self.stranger)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``W f_i``."""
        return self._outlook(items) @ self.mix.T

    def explain(self, items: ItemBatch) -> Explanation:
        """Return the shares of the modalities that an item has; there is one expert."""
        shares = self.content.shares * items.present
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return Explanation(shares, items.present.to(shares.dtype).unsqueeze(2))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the term ``rank``: a softmax over all training items.

        A user counts by the root of the history's length: the metric counts users alike, and a longer
        history says more.

        Raises
        ------
        InputError
            If the batch holds triplets.
        """
        if not isinstance(batch, UserBatch):
            raise InputError("HOLO ranks against all training items.", "Set sampling='users'.")
        vectors = self.known[batch.items.codes] @ self.mix.T
        logits = self.users[batch.users] @ vectors.T
        each = softmax_cross_entropy(logits, batch.rows, batch.columns)
        lengths = torch.bincount(batch.rows, minlength=len(batch.users)).to(each.dtype)
        weights = lengths.rsqrt()[batch.rows]
        return {"rank": (each * weights).sum() / weights.sum()}

    def _outlook(self, items: ItemBatch) -> Tensor:
        """Return f_i: left out for training items, predicted for all others."""
        known = (items.codes >= 0) & self.is_known[items.codes.clamp_min(0)]
        rows = self.known[items.codes.clamp_min(0)]
        if bool(known.all()):
            return rows
        return torch.where(known.unsqueeze(1), rows, self.predict(self.content(items)))

    def predict(self, content: Tensor) -> Tensor:
        """Return what content says of items that are not known, shape ``(n, dim + 1)``."""
        kind: Kernel = "cosine" if bool(self.cosine) else "rbf"
        found = [
            kernel_matrix(kind, content[first : first + _BLOCK], self.landmarks, self.scale) @ self.dual
            for first in range(0, len(content), _BLOCK)
        ]
        return torch.cat([self.offset.new_zeros(0, len(self.offset)), *found]) + self.offset


class _Start:
    """What stays the same while settings are tried out."""

    def __init__(self, model: HOLO, data: TrainingData) -> None:
        self._model = model
        model.content.fit(data.features, data.warm)
        self._table = ContentTable(model.content, data.features, data.warm)
        self._queue = torch.from_numpy(np.random.default_rng(data.seed).permutation(len(data.warm)))
        self._codes = torch.from_numpy(data.warm.astype(np.int64))
        self._names = [modality.name for modality in data.inputs.modalities]
        place = np.searchsorted(data.warm, data.pairs.items)
        shape = (data.inputs.n_users, len(data.warm))
        self._matrix = csr_matrix((np.ones(len(place), dtype=np.float32), (data.pairs.users, place)), shape)
        self._targets, self._factors = self._decompose(data.seed)
        counts = torch.from_numpy(np.bincount(place, minlength=len(data.warm)).astype(np.float32))
        half = model.config.noise
        self._noise = 0.1 + 0.9 * half / (counts + half) if half > 0 else torch.ones(len(counts))
        self._settings = _Settings(
            model.content.shares.clone(),
            _KERNELS[0],
            model.config.penalty or _PENALTIES[0],
            model.config.taste or _TASTES[0],
            _POPULARITY[0] if model.config.popularity is None else model.config.popularity,
            model.config.rank or model.config.dim,
        )
        self._count = len(model.landmarks)

    def use_landmarks(self, count: int) -> None:
        """Let so many items carry the kernel from now on."""
        self._count = count

    def use_shares(self, shares: Tensor) -> None:
        self._settings = replace(self._settings, shares=shares)
        self._regress()

    def use_kernel(self, kernel: tuple[Kernel, float]) -> None:
        self._settings = replace(self._settings, kernel=kernel)
        self._regress()

    def use_penalty(self, penalty: float) -> None:
        self._settings = replace(self._settings, penalty=penalty)
        self._regress()

    def leave_out(self) -> None:
        """Solve once more in full, and leave each item out: to compare regressions that is not needed."""
        self._regress(rough=not self._model.config.left_out)

    def use_users(self, option: tuple[Taste, float]) -> None:
        self._settings = replace(self._settings, taste=option[0], popularity=option[1])
        self._set_users()

    def use_rank(self, rank: int) -> None:
        self._settings = replace(self._settings, rank=rank)
        self._set_users()

    def described(self) -> dict[str, float]:
        """Return what was chosen as numbers by name, for the log."""
        chosen = self._settings
        shares = {f"share {n}": float(s) for n, s in zip(self._names, chosen.shares, strict=True)}
        kernel = {f"{chosen.kernel[0]} scale": chosen.kernel[1], "penalty": chosen.penalty}
        users = {"taste": float(_TASTES.index(chosen.taste)), "popularity": chosen.popularity}
        users["rank"] = float(chosen.rank)
        return {**shares, **kernel, **users}

    def _decompose(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the items' targets, shape ``(warm, dim + 1)``, and the users' factors, ``(users, dim)``."""
        dim = self._model.config.dim
        left, right = svd_factors(self._matrix, dim, seed)
        rank = left.shape[1]
        lengths = left.norm(dim=0).clamp_min(1e-12)
        targets = torch.zeros(len(right), dim + 1)
        # Scores are the same wherever the singular values stand.
        targets[:, :rank] = right * lengths
        popularity = np.log1p(np.asarray(self._matrix.sum(axis=0)).ravel())
        targets[:, dim] = torch.from_numpy(popularity.astype(np.float32))
        factors = torch.zeros(left.shape[0], dim)
        factors[:, :rank] = left / lengths
        return targets, factors

    def _regress(self, rough: bool = True) -> None:
        model, chosen = self._model, self._settings
        model.content.shares = chosen.shares
        vectors = self._table.weighed()
        kind, relative = chosen.kernel
        distance = max(mean_squared_distance(vectors), 1e-12)
        model.cosine.fill_(kind == "cosine")
        model.scale.fill_(relative if kind == "cosine" else relative / distance)
        model.offset.copy_(self._targets.mean(dim=0))
        carrying = torch.sort(self._queue[: self._count]).values
        found = left_out_regression(
            kind,
            model.scale,
            vectors,
            carrying,
            self._targets - model.offset,
            self._noise,
            chosen.penalty,
            rough,
        )
        count = len(found.dual)
        model.dual.zero_()
        model.landmarks.zero_()
        model.dual[:count] = found.dual
        model.landmarks[:count] = vectors[carrying]
        self._know(found)
        self._set_users()

    def _know(self, found: LeftOut) -> None:
        model = self._model
        known = found.predictions + model.offset
        # Where the system is nearly singular a left-out prediction may run wild: no item counts for more than
        # any training item does.
        known = known.clamp(self._targets.amin(dim=0), self._targets.amax(dim=0))
        model.known.zero_()
        model.known[self._codes] = known
        model.is_known.fill_(False)
        model.is_known[self._codes] = True
        self._known = known

    def _set_users(self) -> None:
        """Taste of unit spread over the training items, and popularity beside it."""
        model, chosen = self._model, self._settings
        dim = model.config.dim
        taste = self._factors.clone() if chosen.taste == "factors" else self._fitted(chosen.taste)
        taste[:, chosen.rank :] = 0.0
        centred = self._known - self._known.mean(dim=0)
        spread = torch.sqrt(((taste @ (centred[:, :dim].T @ centred[:, :dim])) * taste).sum(dim=1))
        spread = spread / max(1, len(centred)) ** 0.5
        seen = spread > 1e-3 * spread.median()
        taste = torch.where(seen.unsqueeze(1), taste / spread.clamp_min(1e-12).unsqueeze(1), 0.0 * taste)
        weight = chosen.popularity / float(centred[:, dim].std(unbiased=False).clamp_min(1e-6))
        sharpness = model.config.sharpness / (1.0 + chosen.popularity**2) ** 0.5
        model.users[:, :dim] = taste * sharpness
        model.users[:, dim] = weight * sharpness
        model.stranger.zero_()
        # Of someone unknown nothing else is known, so popularity must not be switched off.
        model.stranger[dim] = max(weight, 1e-3) * sharpness
        model.mix.copy_(torch.eye(dim + 1))

    def _fitted(self, taste: Taste) -> Tensor:
        """Regress histories on the left-out factors, all of them by one matrix."""
        items = self._known[:, : self._model.config.dim].double()
        gram = items.T @ items
        penalty = (_FITTED if taste == "fitted" else _SHRUNKEN) * float(gram.diagonal().mean())
        gram.diagonal().add_(max(penalty, 1e-12))
        solved = torch.linalg.solve(gram, items.T).T.contiguous().numpy()
        return torch.from_numpy((self._matrix @ solved).astype(np.float32))
