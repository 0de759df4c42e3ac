"""Kernel ridge regression from an item's content to who touches it."""

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
from prismrec.models.layers.history import History
from prismrec.models.layers.kernels import SelfKernel, kernel_matrix, mean_squared_distance
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.search import best_of

_GAMMAS = (2.0, 0.5, 1.0, 4.0, 8.0)
_POWERS = (8, 1, 2, 4, 16, 32)
_PENALTIES = (1.0, 0.1, 0.3, 3.0, 10.0, 30.0)
_BLOCK = 4096
# Where landmarks are needed, kernels are compared with so many of them, and the best is solved with all.
_SCOUTS = 1024
# From this penalty on, in numbers of training items (which bound the kernel's norm), single precision is
# enough to compare settings; what was chosen is solved in double precision.
_ROUGH_PENALTY = 1e-5


class KernelRidgeConfig(ModelConfig):
    """Hyper-parameters of kernel ridge regression. What is None is chosen by validation."""

    name: ClassVar[str] = "kernel-ridge"
    summary: ClassVar[str] = "Kernel ridge regression from content to users; Nyström where items are many."

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

    def build(self, inputs: ModelInputs) -> "KernelRidge":
        """Make an unfitted model."""
        return KernelRidge(self, inputs)


class KernelRidge(ClosedFormModel):
    """Score ``x_u (K + lambda I)^-1 k(c)``: x_u a user's history, K and k kernels with the training items.

    Up to `landmarks` training items the user's vector is x_u itself and the item's the rest. With more of
    them K is replaced by the Nyström approximation ``Phi Phi'`` from landmarks drawn by the seed: the user's
    vector is then ``x_u Phi`` and the item's ``(Phi' Phi + lambda I)^-1 phi(c)``. Vectors are as long as
    there are landmarks; those of users are computed when asked for. Memory: landmarks x landmarks, and
    beyond the exact case training items x landmarks.

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
    columns: Tensor
    scale: Tensor
    penalty: Tensor
    factor: Tensor
    whitener: Tensor
    phi: Tensor

    def __init__(self, config: KernelRidgeConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Kernel ridge")
        self.config: KernelRidgeConfig = config
        self.content = Content(inputs.modalities)
        self.history = History()
        self.register_buffer("landmarks", torch.zeros(0, self.content.dim))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("penalty", torch.ones(()))
        self.register_buffer("factor", torch.zeros(0, 0))
        self.register_buffer("whitener", torch.zeros(0, 0))
        self.register_buffer("phi", torch.zeros(0, 0))

    @property
    def exact(self) -> bool:
        """Whether all training items are landmarks."""
        return len(self.whitener) == 0

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Choose by validation: weights of modalities, then the kernel's scale, then the penalty; solve."""
        config = self.config
        given, grid = (config.gamma, _GAMMAS) if config.kernel == "rbf" else (config.power, _POWERS)
        scales = grid if given is None else (given,)
        penalties = _PENALTIES if config.penalty is None else (config.penalty,)
        shares = share_grid(len(data.inputs.modalities))
        search = _Search(self, data, scales[0], penalties[0], score)
        best_of(shares if config.tune else shares[:1], search.use_shares, search.score)
        best_of(scales, search.use_scale, search.score)
        search.use_landmarks(config.landmarks)
        best_of(penalties, search.use_penalty, search.score)
        search.finish()
        names = [modality.name for modality in data.inputs.modalities]
        found = {f"share {n}": float(s) for n, s in zip(names, self.content.shares, strict=True)}
        scale = "gamma" if config.kernel == "rbf" else "power"
        landmarks = float(len(self.landmarks))
        return {scale: search.scale, "penalty": search.penalty, "landmarks": landmarks, **found}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' vectors; zeros for users without history."""
        if self.exact:
            return self.history.multi_hot(users, self.columns, len(self.landmarks))
        return self.history.sum(users, self.phi)

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
        known = history >= 0
        later = liked[~known].sum(dim=0)
        if self.exact:
            places = self.columns[history[known]]
            later[places[places >= 0]] += 1.0
            return later
        mixed = self.factor @ (self.factor.T @ later) - self.penalty * later
        return mixed + rows_or_zero(self.phi, history).sum(dim=0)


class _Search:
    """What stays the same while settings are tried out.

    Settings are taken down when they are chosen, and solved when they are scored: once each.
    """

    def __init__(
        self, model: KernelRidge, data: TrainingData, scale: float, penalty: float, score: Callable[[], float]
    ) -> None:
        self.scale, self.penalty = float(scale), penalty
        self._model = model
        self._score = score
        self._scores: dict[tuple[object, ...], float] = {}
        self._among: SelfKernel | None = None
        self._system = torch.zeros(0, 0)
        model.content.fit(data.features, data.warm)
        model.history.fit(data.pairs, data.warm, data.inputs.n_users)
        self._table = ContentTable(model.content, data.features, data.warm)
        self._queue = np.flatnonzero(self._table.present.any(dim=1).numpy())
        self._exact = len(self._queue) <= model.config.landmarks
        if not self._exact:
            self._queue = np.random.default_rng(data.seed).permutation(self._queue)
        self._choose(len(self._queue) if self._exact else min(model.config.landmarks, _SCOUTS))

    def use_shares(self, shares: Tensor) -> None:
        """Weigh the modalities."""
        self._model.content.shares = shares

    def use_landmarks(self, count: int) -> None:
        """Solve with more landmarks from now on."""
        if not self._exact and count != len(self._chosen):
            self._choose(count)

    def use_scale(self, scale: float) -> None:
        """Set the kernel's scale, relative to the items' distances."""
        self.scale = float(scale)

    def use_penalty(self, penalty: float) -> None:
        """Set the ridge penalty."""
        self.penalty = penalty

    def score(self) -> float:
        """Return the validation of the settings as they are."""
        key = (*self._kernel_key(), self.penalty)
        if key not in self._scores:
            self._prepare()
            self._solve(rough=self.penalty >= _ROUGH_PENALTY * len(self._table.present))
            self._scores[key] = self._score()
        return self._scores[key]

    def finish(self) -> None:
        """Solve with the settings as they are, in double precision."""
        self._model.factor = torch.zeros(0, 0)
        self._prepare()
        self._solve(rough=False, last=True)

    def _weighed_key(self) -> tuple[object, ...]:
        return (tuple(self._model.content.shares.tolist()), len(self._chosen))

    def _kernel_key(self) -> tuple[object, ...]:
        return (*self._weighed_key(), self.scale)

    def _choose(self, count: int) -> None:
        """Take the first `count` of the queue, in the order of their codes."""
        self._chosen = torch.from_numpy(np.sort(self._queue[:count]))
        self._model.columns = torch.full((len(self._table.present),), -1, dtype=torch.int64)
        self._model.columns[self._chosen] = torch.arange(len(self._chosen))
        self._weighed: tuple[object, ...] = ()
        self._prepared: tuple[object, ...] = ()

    def _prepare(self) -> None:
        """Compute what depends on the shares and on the kernel, and not on the penalty."""
        model = self._model
        if self._weighed != self._weighed_key():
            self._weighed = self._weighed_key()
            self._vectors = self._table.weighed()
            model.landmarks = self._vectors[self._chosen]
            self._distance = mean_squared_distance(model.landmarks)
            if self._exact:
                self._among = None  # Before the next one, so that there is one at a time.
                self._among = SelfKernel(model.landmarks)
        if self._prepared != self._kernel_key():
            self._prepared = self._kernel_key()
            relative = self.scale / max(self._distance, 1e-12) if model.config.kernel == "rbf" else self.scale
            model.scale = torch.tensor(relative, dtype=torch.float32)
            if not self._exact:
                self._approximate()

    def _approximate(self) -> None:
        """Nyström: with ``K_mm = L L'`` for the landmarks, a row of Phi is ``L^-1 k_m(c)``."""
        model = self._model
        landmarks = model.landmarks.double()
        kernel = torch.empty(len(landmarks), len(landmarks), dtype=torch.float64)
        SelfKernel(landmarks).fill(kernel, model.config.kernel, model.scale.double())
        # Landmarks that are alike make the kernel singular up to rounding.
        kernel.diagonal().add_(1e-5)
        model.whitener = cholesky_(kernel).float()
        model.phi = torch.empty(len(self._vectors), len(landmarks))
        self._system = kernel.zero_()
        for start in range(0, len(self._vectors), _BLOCK):
            rows = slice(start, start + _BLOCK)
            seen = kernel_matrix(model.config.kernel, self._vectors[rows], model.landmarks, model.scale).T
            torch.linalg.solve_triangular(model.whitener, seen, upper=False, out=seen)
            model.phi[rows] = seen.T
            add_gram_(self._system, model.phi[rows])

    def _solve(self, rough: bool, last: bool = False) -> None:
        """Factorise the system; rough: in single precision; last: what else is kept here may go."""
        model, size = self._model, len(self._chosen)
        if rough and len(model.factor) == size:
            system = model.factor  # Of the settings before; its memory serves again.
        else:
            model.factor = torch.zeros(0, 0)
            system = torch.empty(size, size, dtype=torch.float32 if rough else torch.float64)
        if self._among is not None:
            self._among.fill(system, model.config.kernel, model.scale)
        else:
            system.copy_(self._system)
        if last:
            self._among, self._system = None, torch.zeros(0, 0)
        system.diagonal().add_(self.penalty)
        model.factor = cholesky_(system).float()
        model.penalty = torch.tensor(self.penalty, dtype=torch.float32)
