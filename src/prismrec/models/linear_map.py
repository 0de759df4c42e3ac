"""Linear map: factors of the training matrix, and a ridge regression from content to them.

An item is what its content predicts, a training item too: then cold and warm items stand on one scale.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import scipy.sparse
import torch
from pydantic import Field
from torch import Tensor

from prismrec.models.base import ClosedFormModel, ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.als import als_factors, fold
from prismrec.models.layers.content import Content, ContentTable, share_grid
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.ridge import Ridge
from prismrec.models.layers.search import best_of
from prismrec.models.layers.svd import svd_factors

_DIMS = (64, 32, 128)
_RIDGES = (10.0, 0.1, 0.3, 1.0, 3.0, 30.0, 100.0)


class LinearMapConfig(ModelConfig):
    """Hyper-parameters of the linear map. What is None is chosen by validation."""

    name: ClassVar[str] = "linear-map"
    summary: ClassVar[str] = "SVD or ALS factors of the log, predicted from content by ridge regression."

    factors: Literal["svd", "als"] = Field("svd", description="Where users' and items' factors come from.")
    dim: int | None = Field(None, ge=1, le=4096, description="Size of the factors; None: 32, 64 or 128.")
    ridge: float | None = Field(None, gt=0, description="Penalty of the regression; None: 0.1 to 100.")
    intercept: bool = Field(True, description="Whether the regression has one.")
    tune: bool = Field(True, description="Choose the weights of two or three modalities by validation.")
    alpha: float = Field(10.0, ge=0, description="ALS: additional weight of an interaction.")
    als_penalty: float = Field(10.0, gt=0, description="ALS: penalty on the factors.")
    als_iterations: int = Field(10, ge=1, le=1000, description="ALS: rounds.")

    def build(self, inputs: ModelInputs) -> "LinearMap":
        """Make an unfitted model."""
        return LinearMap(self, inputs)


class LinearMap(ClosedFormModel):
    """The model. Users without history have the zero vector.

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

    users: Tensor
    factors: Tensor
    coefficients: Tensor
    offset: Tensor

    def __init__(self, config: LinearMapConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Linear map")
        self.config: LinearMapConfig = config
        self.content = Content(inputs.modalities)
        self.register_buffer("users", torch.zeros(inputs.n_users, 0))
        self.register_buffer("factors", torch.zeros(0, 0))
        self.register_buffer("coefficients", torch.zeros(self.content.dim, 0))
        self.register_buffer("offset", torch.zeros(0))

    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Factorise, regress, and choose by validation: weights of modalities, then size, then penalty."""
        search = _Search(self, data)
        shares = share_grid(len(data.inputs.modalities))
        dims = _DIMS if self.config.dim is None else (self.config.dim,)
        ridges = _RIDGES if self.config.ridge is None else (self.config.ridge,)
        search.dim, search.ridge = dims[0], ridges[0]
        best_of(shares if self.config.tune else shares[:1], search.use_shares, score)
        best_of(dims, search.use_dim, score)
        best_of(ridges, search.use_ridge, score)
        names = [modality.name for modality in data.inputs.modalities]
        chosen = {f"share {n}": float(s) for n, s in zip(names, self.content.shares, strict=True)}
        return {"dim": float(self.users.shape[1]), "ridge": search.ridge, **chosen}

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the users' factors."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the factors that the items' content predicts."""
        content: Tensor = self.content(items)
        return content @ self.coefficients + self.offset

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the factors that a user with these items has: a training user's own come out again.

        Items of the training part count with their own factors, later ones with the predicted ones.
        """
        del catalog
        known = (history >= 0).unsqueeze(1)
        chosen = torch.where(known, self.factors[history.clamp_min(0)], liked)
        if self.config.factors == "svd":
            return chosen.sum(dim=0)
        eye = torch.eye(liked.shape[1], dtype=liked.dtype, device=liked.device)
        base = self.factors.T @ self.factors + self.config.als_penalty * eye
        return fold(chosen.unsqueeze(0), base, self.config.alpha).squeeze(0)


class _Search:
    """What stays the same while settings are tried out."""

    def __init__(self, model: LinearMap, data: TrainingData) -> None:
        self.dim, self.ridge = _DIMS[0], _RIDGES[0]
        self._model = model
        self._seed = data.seed
        columns = np.searchsorted(data.warm, data.pairs.items)
        ones = np.ones(len(data.pairs), dtype=np.float32)
        shape = (data.inputs.n_users, len(data.warm))
        self._matrix = scipy.sparse.csr_matrix((ones, (data.pairs.users, columns)), shape=shape)
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}
        model.content.fit(data.features, data.warm)
        self._table = ContentTable(model.content, data.features, data.warm)
        # What has no content teaches nothing about it.
        self._seen = self._table.present.any(dim=1)

    def use_shares(self, shares: Tensor) -> None:
        self._model.content.shares = shares
        self._ridge = Ridge(self._table.weighed()[self._seen], self._model.config.intercept)
        self._apply()

    def use_dim(self, dim: int) -> None:
        self.dim = dim
        self._apply()

    def use_ridge(self, ridge: float) -> None:
        self.ridge = ridge
        self._apply()

    def _apply(self) -> None:
        model = self._model
        model.users, model.factors = self._factorised(self.dim)
        model.coefficients, model.offset = self._ridge.solve(model.factors[self._seen], self.ridge)

    def _factorised(self, dim: int) -> tuple[Tensor, Tensor]:
        if dim not in self._factors:
            self._factors[dim] = self._factorise(dim)
        return self._factors[dim]

    def _factorise(self, dim: int) -> tuple[Tensor, Tensor]:
        config = self._model.config
        if config.factors == "svd":
            return svd_factors(self._matrix, dim, self._seed)
        return als_factors(
            self._matrix,
            dim,
            alpha=config.alpha,
            penalty=config.als_penalty,
            iterations=config.als_iterations,
            seed=self._seed,
        )
