"""Kernel ridge regression from content to interactions that co-occurrence has smoothed.

An item that few have touched says little about who would touch it. Spread along co-occurrence, a history
also holds what others touched beside the same items, and the regression has more to learn from.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.cholesky import add_gram_, cholesky_, solve_
from prismrec.models.layers.content import Content, ContentTable, share_grid
from prismrec.models.layers.cooccurrence import SmoothedHistory, Smoothing, beginning_with, smoothings
from prismrec.models.layers.kernels import SelfKernel, kernel_matrix, mean_squared_distance
from prismrec.models.layers.search import best_of

_GAMMAS = (2.0, 0.5, 1.0, 4.0, 8.0)
_POWERS = (8, 2, 4, 16, 32)
_PENALTIES = (1.0, 0.1, 0.3, 3.0, 10.0, 30.0)
_BLOCK = 4096
# Where landmarks are needed, kernels are compared with so many of them, and the best is solved with all.
_SCOUTS = 1024
# From this penalty on, in numbers of training items (which bound the kernel's norm), single precision is
# enough to compare settings; what was chosen is solved in double precision.
_ROUGH_PENALTY = 1e-5


class CooccurrenceConfig(ModelConfig):
    """Hyper-parameters of kernel ridge regression to smoothed interactions. None is chosen by validation."""

    name: ClassVar[str] = "co-occurrence"
    summary: ClassVar[str] = "Kernel ridge regression from content to histories smoothed by co-occurrence."

    smoothing: float | None = Field(None, ge=0, le=1000, description="beta of X + beta X C.")
    only_smoothed: bool = Field(False, description="Regress to X C alone; `smoothing` is not read then.")
    kernel: Literal["rbf", "cosine"] = Field("rbf", description="How alike two items are.")
    gamma: float | None = Field(
        None, gt=0, description="'rbf': inverse squared bandwidth, in inverse mean squared distances."
    )
    power: int | None = Field(None, ge=1, le=1000, description="'cosine': exponent of (1 + cosine) / 2.")
    penalty: float | None = Field(None, gt=0, description="Ridge penalty lambda.")
    tune: bool = Field(True, description="Choose the weights of two or three modalities by validation.")
    landmarks: int = Field(
        8192, ge=1, le=32768, description="Exact up to so many training items, Nyström with so many beyond."
    )

    def build(self, inputs: ModelInputs) -> "Cooccurrence":
        """Make an unfitted model."""
        return Cooccurrence(self, inputs)


class Cooccurrence(ClosedFormModel):
    """Score ``y_u (K + lambda I)^-1 k(c)`` with ``y_u = x_u + beta x_u C``.

    x_u is a user's history, C the normalised co-occurrence of training items
    (`prismrec.models.layers.cooccurrence.cooccurrence`), K and k kernels with the training items. Up to
    `landmarks` training items the user's vector is y_u and the item's the rest; with more of them K is
    ``Phi Phi'`` (Nyström), the user's vector ``y_u Phi`` and the item's ``(Phi' Phi + lambda I)^-1 phi(c)``.
    Users without history have the zero vector. Memory: training items x landmarks.

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

    landmarks: Tensor
    anchors: Tensor
    scale: Tensor
    factor: Tensor
    whitener: Tensor
    bridge: Tensor

    def __init__(self, config: CooccurrenceConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Co-occurrence")
        self.config: CooccurrenceConfig = config
        self.content = Content(inputs.modalities)
        self.users = SmoothedHistory()
        self.register_buffer("landmarks", torch.zeros(0, self.content.dim))
        self.register_buffer("anchors", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("factor", torch.zeros(0, 0))
        self.register_buffer("whitener", torch.zeros(0, 0))
        self.register_buffer("bridge", torch.zeros(0, 0))

    @property
    def exact(self) -> bool:
        """Whether all training items are landmarks."""
        return len(self.whitener) == 0

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Choose by validation: weights of modalities, the kernel's scale, then smoothing and penalty."""
        config = self.config
        given, grid = (config.gamma, _GAMMAS) if config.kernel == "rbf" else (config.power, _POWERS)
        scales = grid if given is None else (given,)
        penalties = _PENALTIES if config.penalty is None else (config.penalty,)
        smooth = smoothings(config.smoothing, config.only_smoothed)
        shares = share_grid(len(data.inputs.modalities))
        search = _Search(self, data, scales[0], penalties[0], smooth[0], score)
        best_of(shares if config.tune else shares[:1], search.use_shares, search.score)
        best_of(scales, search.use_scale, search.score)
        search.use_landmarks(config.landmarks)
        best_of(smooth, search.use_smoothing, search.score)
        best_of(penalties, search.use_penalty, search.score)
        # Once more: how much to smooth the targets depends on how much the regression smooths.
        best_of(beginning_with(search.smoothing, smooth), search.use_smoothing, search.score)
        search.finish()
        names = [modality.name for modality in data.inputs.modalities]
        return {
            "gamma" if config.kernel == "rbf" else "power": search.scale,
            "penalty": search.penalty,
            "own": search.smoothing.own,
            "passed": search.smoothing.passed,
            "landmarks": float(len(self.landmarks)),
            **{f"share {n}": float(s) for n, s in zip(names, self.content.shares, strict=True)},
        }

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' vectors; zeros for users without history."""
        vectors: Tensor = self.users(users)
        return vectors

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the items' vectors; zeros for items without content."""
        kernel = kernel_matrix(self.config.kernel, self.content(items), self.landmarks, self.scale).T
        if not self.exact:
            torch.linalg.solve_triangular(self.whitener, kernel, upper=False, out=kernel)
        return solve_(self.factor, kernel).T

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the vector that a user with these items has: a training user's own comes out again.

        A later item counts as the mixture of training items that predicts it.
        """
        del catalog
        later = liked[history < 0].sum(dim=0)
        mixed = self.users.table[self.anchors] if self.exact else self.bridge
        return self.users.of_items(history) + later @ mixed


class _Search:
    """What stays the same while settings are tried out.

    Settings are taken down when they are chosen, and solved when they are scored: once each.
    """

    def __init__(
        self,
        model: Cooccurrence,
        data: TrainingData,
        scale: float,
        penalty: float,
        smoothing: Smoothing,
        score: Callable[[], float],
    ) -> None:
        self.scale, self.penalty, self.smoothing = float(scale), penalty, smoothing
        self._model, self._score = model, score
        self._scores: dict[tuple[object, ...], float] = {}
        self._kernelled: tuple[object, ...] = ()
        self._solved: tuple[object, ...] = ()
        self._smoothed: Smoothing | None = None
        model.content.fit(data.features, data.warm)
        model.users.fit(data.pairs, data.warm, data.inputs.n_users)
        self._table = ContentTable(model.content, data.features, data.warm)
        self._queue = np.flatnonzero(self._table.present.any(dim=1).numpy())
        self._exact = len(self._queue) <= model.config.landmarks
        if not self._exact:
            self._queue = np.random.default_rng(data.seed).permutation(self._queue)
        self._choose(len(self._queue) if self._exact else min(model.config.landmarks, _SCOUTS))

    def use_shares(self, shares: Tensor) -> None:
        """Weigh the modalities."""
        self._model.content.shares = shares

    def use_scale(self, scale: float) -> None:
        """Set the kernel's scale, relative to the items' distances."""
        self.scale = float(scale)

    def use_landmarks(self, count: int) -> None:
        """Solve with more landmarks from now on."""
        if not self._exact and count != len(self._model.anchors):
            self._choose(count)

    def use_penalty(self, penalty: float) -> None:
        """Set the ridge penalty."""
        self.penalty = penalty

    def use_smoothing(self, smoothing: Smoothing) -> None:
        """Set how histories are smoothed."""
        self.smoothing = smoothing

    def score(self) -> float:
        """Return the validation of the settings as they are."""
        key = (*self._solved_key(), self.smoothing)
        if key not in self._scores:
            self._prepare(rough=self.penalty >= _ROUGH_PENALTY * len(self._table.present))
            self._scores[key] = self._score()
        return self._scores[key]

    def finish(self) -> None:
        """Solve with the settings as they are, and keep what serves."""
        model = self._model
        self._solved = ()
        self._prepare(rough=False)
        if not model.exact:
            # A later item is the mixture Phi a of training items, each of which counts with its row.
            model.bridge = self._phi.T @ model.users.table
        model.users.finish()

    def _kernel_key(self) -> tuple[object, ...]:
        return (tuple(self._model.content.shares.tolist()), len(self._model.anchors), self.scale)

    def _solved_key(self) -> tuple[object, ...]:
        return (*self._kernel_key(), self.penalty)

    def _choose(self, count: int) -> None:
        """Take the first `count` of the queue, in the order of their codes."""
        self._model.anchors = torch.from_numpy(np.sort(self._queue[:count]))
        self._kernelled = ()
        self._solved = ()
        self._smoothed = None
        if self._exact:
            columns = torch.full((len(self._table.present),), -1, dtype=torch.int64)
            columns[self._model.anchors] = torch.arange(count)
            self._model.users.lay_columns(columns, count)

    def _prepare(self, rough: bool) -> None:
        """Bring the model under the settings, from the first that has changed on."""
        model = self._model
        if self._kernelled != self._kernel_key():
            self._kernelled = self._kernel_key()
            self._compute_kernel()
        if self._solved != self._solved_key():
            self._solved = self._solved_key()
            system = self._system.float() if rough else self._system.clone()
            system.diagonal().add_(self.penalty)
            model.factor = cholesky_(system).float()
        if self._smoothed != self.smoothing:
            self._smoothed = self.smoothing
            model.users.smooth(self.smoothing)

    def _compute_kernel(self) -> None:
        model = self._model
        vectors = self._table.weighed()
        model.landmarks = vectors[model.anchors]
        distance = max(mean_squared_distance(model.landmarks), 1e-12)
        relative = self.scale / distance if model.config.kernel == "rbf" else self.scale
        model.scale = torch.tensor(relative, dtype=torch.float32)
        among = torch.empty(len(model.landmarks), len(model.landmarks), dtype=torch.float64)
        marks = model.landmarks if self._exact else model.landmarks.double()
        SelfKernel(marks).fill(among, model.config.kernel, model.scale.to(marks.dtype))
        self._system = among if self._exact else self._approximate(vectors, among)

    def _approximate(self, vectors: Tensor, among: Tensor) -> Tensor:
        """Return Phi' Phi. With ``K_mm = L L'`` for the landmarks, a row of Phi is ``L^-1 k_m(c)``."""
        model = self._model
        # Landmarks that are alike make the kernel singular up to rounding.
        among.diagonal().add_(1e-5)
        model.whitener = cholesky_(among).float()
        self._phi = torch.empty(len(vectors), len(among))
        system = among.zero_()
        for start in range(0, len(vectors), _BLOCK):
            rows = slice(start, start + _BLOCK)
            seen = kernel_matrix(model.config.kernel, vectors[rows], model.landmarks, model.scale).T
            torch.linalg.solve_triangular(model.whitener, seen, upper=False, out=seen)
            self._phi[rows] = seen.T
            add_gram_(system, self._phi[rows])
        model.users.lay_rows(self._phi)
        self._smoothed = None
        return system
