"""Local kernel: a new item is wanted by those who want the few items that look like it.

Ridge regression averages over the whole catalogue, which needs data. Where there is little, a plain sum over
the most similar items can do better, above all with histories that co-occurrence has smoothed.
"""

import itertools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.cholesky import cholesky_, solve_
from prismrec.models.layers.content import Content, ContentTable, share_grid
from prismrec.models.layers.cooccurrence import SmoothedHistory, Smoothing, beginning_with, smoothings
from prismrec.models.layers.search import best_of

_POWERS = (4, 2, 3, 8)
_NEIGHBOURS = (0, 10, 30, 100)
_PENALTIES = (0.0, 0.3, 3.0)
_BLOCK = 4096


class LocalKernelConfig(ModelConfig):
    """Hyper-parameters of the local kernel. What is None is chosen by validation."""

    name: ClassVar[str] = "local-kernel"
    summary: ClassVar[str] = "Sums over the most similar training items, of histories that may be smoothed."

    smoothing: float | None = Field(None, ge=0, le=1000, description="beta of X + beta X C.")
    only_smoothed: bool = Field(False, description="Sum X C alone; `smoothing` is not read then.")
    power: int | None = Field(None, ge=1, le=1000, description="Exponent of the cosine, below 0 cut off.")
    neighbours: int | None = Field(None, ge=0, description="Most similar items that count; 0: all of them.")
    penalty: float | None = Field(
        None, ge=0, description="Ridge penalty lambda; 0: no regression, a plain weighted sum."
    )
    tune: bool = Field(True, description="Choose the weights of two or three modalities by validation.")
    landmarks: int = Field(
        8192,
        ge=1,
        le=32768,
        description="Beyond so many training items each counts as the most like of them.",
    )

    @model_validator(mode="after")
    def _one_way_of_being_local(self) -> "LocalKernelConfig":
        if self.neighbours and self.penalty:
            raise ValueError("neighbours and penalty cannot both be above 0: ridge needs the whole kernel")
        return self

    def build(self, inputs: ModelInputs) -> "LocalKernel":
        """Make an unfitted model."""
        return LocalKernel(self, inputs)


def local_kernel(left: Tensor, right: Tensor, power: Tensor, neighbours: int) -> Tensor:
    """Return ``max(0, x y)^power``, for the most similar ones only.

    Parameters
    ----------
    left, right
        Unit vectors, shape ``(n, p)`` and ``(m, p)``; a zero vector is like nothing.
    power
        Shape ``()``.
    neighbours
        So many entries of each row are kept, the others are 0; 0 keeps all.

    Returns
    -------
    Tensor
        Shape ``(n, m)``.
    """
    kernel = (left @ right.T).clamp_min_(0.0).pow_(power)
    if not 0 < neighbours < kernel.shape[1]:
        return kernel
    values, places = kernel.topk(neighbours, dim=1)
    return torch.zeros_like(kernel).scatter_(1, places, values)


class LocalKernel(ClosedFormModel):
    """Score ``y_u w(c)`` with ``y_u = x_u + beta x_u C`` and w(c) weights of the training items.

    ``w(c) = k(c)``, the clipped cosines to a power, perhaps of the nearest items only; or with a penalty
    ``w(c) = (K + lambda I)^-1 k(c)``. A clipped cosine is no positive semi-definite kernel: where the system
    is not positive definite, lambda is doubled until it is. Beyond `landmarks` training items those are drawn
    by the seed, and each of the others counts as the landmark that it is most like. Users without history
    have the zero vector. Memory: training items x landmarks.

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
    power: Tensor
    neighbours: Tensor
    factor: Tensor

    def __init__(self, config: LocalKernelConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Local kernel")
        self.config: LocalKernelConfig = config
        self.content = Content(inputs.modalities)
        self.users = SmoothedHistory()
        self.register_buffer("landmarks", torch.zeros(0, self.content.dim))
        self.register_buffer("anchors", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("power", torch.ones(()))
        self.register_buffer("neighbours", torch.zeros((), dtype=torch.int64))
        self.register_buffer("factor", torch.zeros(0, 0))

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Choose by validation: weights of modalities, the power, then smoothing, and reach or penalty."""
        config = self.config
        powers = _POWERS if config.power is None else (config.power,)
        neighbours = _NEIGHBOURS if config.neighbours is None else (config.neighbours,)
        penalties = _PENALTIES if config.penalty is None else (config.penalty,)
        reaches = [(n, p) for n, p in itertools.product(neighbours, penalties) if not (n and p)]
        smooth = smoothings(config.smoothing, config.only_smoothed)
        shares = share_grid(len(data.inputs.modalities))
        search = _Search(self, data, powers[0], reaches[0], smooth[0], score)
        best_of(shares if config.tune else shares[:1], search.use_shares, search.score)
        best_of(powers, search.use_power, search.score)
        best_of(smooth, search.use_smoothing, search.score)
        best_of(reaches, search.use_reach, search.score)
        # Once more: the fewer items count, the more smoothed histories may be worth.
        best_of(beginning_with(search.smoothing, smooth), search.use_smoothing, search.score)
        search.finish()
        names = [modality.name for modality in data.inputs.modalities]
        return {
            "power": search.power,
            "neighbours": float(search.reach[0]),
            "penalty": search.used_penalty,
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
        """Return the items' vectors; zeros for items without content or without similar ones."""
        kernel = local_kernel(self.content(items), self.landmarks, self.power, int(self.neighbours))
        return solve_(self.factor, kernel.T).T if len(self.factor) else kernel

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the vector that a user with these items has: a training user's own comes out again.

        A later item counts as the mixture of training items that it is like; the weights of a plain sum are
        divided by their sum, so that it counts as one item.
        """
        del catalog
        later = liked[history < 0]
        if not len(self.factor):
            later = later / later.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return self.users.of_items(history) + later.sum(dim=0) @ self.users.table[self.anchors]


class _Search:
    """What stays the same while settings are tried out.

    Settings are taken down when they are chosen, and solved when they are scored: once each.
    """

    def __init__(
        self,
        model: LocalKernel,
        data: TrainingData,
        power: float,
        reach: tuple[int, float],
        smoothing: Smoothing,
        score: Callable[[], float],
    ) -> None:
        self.power, self.reach, self.smoothing = float(power), reach, smoothing
        self.used_penalty = 0.0
        self._model, self._score = model, score
        self._scores: dict[tuple[object, ...], float] = {}
        self._weighed: tuple[object, ...] = ()
        self._solved: tuple[object, ...] = ()
        self._smoothed: tuple[object, ...] = ()
        model.content.fit(data.features, data.warm)
        model.users.fit(data.pairs, data.warm, data.inputs.n_users)
        self._table = ContentTable(model.content, data.features, data.warm)
        queue = np.flatnonzero(self._table.present.any(dim=1).numpy())
        self._exact = len(queue) <= model.config.landmarks
        if not self._exact:
            queue = np.random.default_rng(data.seed).permutation(queue)[: model.config.landmarks]
        model.anchors = torch.from_numpy(np.sort(queue))

    def use_shares(self, shares: Tensor) -> None:
        """Weigh the modalities."""
        self._model.content.shares = shares

    def use_power(self, power: float) -> None:
        """Set the exponent."""
        self.power = float(power)

    def use_reach(self, reach: tuple[int, float]) -> None:
        """Set neighbours and penalty."""
        self.reach = reach

    def use_smoothing(self, smoothing: Smoothing) -> None:
        """Set how histories are smoothed."""
        self.smoothing = smoothing

    def score(self) -> float:
        """Return the validation of the settings as they are."""
        key = (*self._key(), self.smoothing)
        if key not in self._scores:
            self._prepare()
            self._scores[key] = self._score()
        return self._scores[key]

    def finish(self) -> None:
        """Solve with the settings as they are, and keep what serves."""
        self._prepare()
        self._model.users.finish()

    def _shares(self) -> tuple[float, ...]:
        return tuple(self._model.content.shares.tolist())

    def _key(self) -> tuple[object, ...]:
        return (self._shares(), self.power, self.reach)

    def _prepare(self) -> None:
        """Bring the model under the settings, from the first that has changed on."""
        model = self._model
        if self._weighed != self._shares():
            self._weighed = self._shares()
            vectors = self._table.weighed()
            model.landmarks = vectors[model.anchors]
            if self._exact and not self._smoothed:
                self._lay(self._own_columns())
            elif not self._exact:
                self._lay(_most_like(vectors, model.landmarks))
        if self._solved != self._key():
            self._solved = self._key()
            model.power = torch.tensor(self.power, dtype=torch.float32)
            model.neighbours = torch.tensor(self.reach[0])
            model.factor = self._factorised(self.reach[1])
        if self._smoothed != (self.smoothing,):
            self._smoothed = (self.smoothing,)
            model.users.smooth(self.smoothing)

    def _own_columns(self) -> Tensor:
        columns = torch.full((len(self._table.present),), -1, dtype=torch.int64)
        columns[self._model.anchors] = torch.arange(len(self._model.anchors))
        return columns

    def _lay(self, columns: Tensor) -> None:
        self._model.users.lay_columns(columns, len(self._model.anchors))
        self._smoothed = ()

    def _factorised(self, penalty: float) -> Tensor:
        """Return the factor of the system, without rows where there is no regression."""
        self.used_penalty = penalty
        if not penalty:
            return torch.zeros(0, 0)
        model = self._model
        kernel = local_kernel(model.landmarks, model.landmarks, model.power, 0)
        while True:
            system = kernel.double()
            system.diagonal().add_(self.used_penalty)
            try:
                return cholesky_(system).float()
            except RuntimeError:  # torch's LinAlgError is one.
                if self.used_penalty > len(kernel):  # Which bounds every eigenvalue: it is something else.
                    raise
                self.used_penalty *= 2.0


def _most_like(vectors: Tensor, landmarks: Tensor) -> Tensor:
    """Return the landmark with the largest cosine for each row; -1 where none is above 0."""
    found = []
    for block in torch.split(vectors, _BLOCK):
        cosines, places = (block @ landmarks.T).max(dim=1)
        found.append(torch.where(cosines > 0, places, -1))
    return torch.cat(found)
