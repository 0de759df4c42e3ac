"""A kernel ridge regression from content to factors, with every setting found on the training items alone.

The kernel of two items is the sum over modalities of a share times a Gaussian kernel of their content, so
the prediction falls into one addend a modality, a missing modality adds nothing, and an item that is unlike
all training items is predicted near 0: little evidence, little score. Shares, bandwidth and penalty are
those with the least leave-one-out error, which costs one eigendecomposition a candidate and no held-out
data (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.models.layers.content import share_grid
from prismrec.models.layers.kernels import kernel_matrix, mean_squared_distance

_GAMMAS = (2.0, 1.0, 4.0)
_PENALTIES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
# Items on which settings are compared: an eigendecomposition of this size takes a second.
_SCOUTS = 1536
_BLOCK = 4096


@dataclass(frozen=True)
class KernelChoice:
    """Settings with the least leave-one-out error.

    Parameters
    ----------
    shares
        Of the modalities, shape ``(modalities,)``, sum 1.
    gamma
        Inverse squared bandwidth, in inverse mean squared distances of the modality.
    penalty
        Ridge penalty.
    error
        Leave-one-out error relative to predicting 0.
    """

    shares: Tensor
    gamma: float
    penalty: float
    error: float


class KernelMap(nn.Module):
    """The fitted regression; its parameters are buffers, not trained.

    Parameters
    ----------
    dims
        Sizes of the modalities' vectors.
    dim
        Size of the factors.
    landmarks
        At most so many training items carry the kernel: exact up to there, Nyström beyond (subset of
        regressors).
    """

    landmarks: Tensor
    dual: Tensor
    scales: Tensor
    shares: Tensor

    def __init__(self, dims: Sequence[int], dim: int, landmarks: int) -> None:
        super().__init__()
        self.dims = list(dims)
        self.register_buffer("landmarks", torch.zeros(landmarks, sum(dims)))
        self.register_buffer("dual", torch.zeros(landmarks, dim))
        self.register_buffer("scales", torch.ones(len(self.dims)))
        self.register_buffer("shares", torch.full((len(self.dims),), 1.0 / len(self.dims)))

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return each modality's addend of the prediction.

        Parameters
        ----------
        inputs
            Unit vectors, one tensor a modality, shape ``(n, dim)``; zero rows where content is missing.

        Returns
        -------
        list of Tensor
            Shape ``(n, d)`` each; zero rows where content is missing.
        """
        parts = torch.split(self.landmarks, self.dims, dim=1)
        return [
            self.shares[m] * (kernel_matrix("rbf", content, parts[m], self.scales[m]) @ self.dual)
            for m, content in enumerate(inputs)
        ]

    @torch.no_grad()
    def fit(self, inputs: Sequence[Tensor], factors: Tensor, weights: Tensor, seed: int) -> KernelChoice:
        """Choose settings and solve.

        Parameters
        ----------
        inputs
            The training items' unit vectors, as in `forward`.
        factors
            What to predict, shape ``(n, d)``.
        weights
            Weight of each factor in the error that chooses, shape ``(d,)``: singular values, say, so that an
            error counts as much as it changes scores.
        seed
            Of the draws of landmarks and scouts.

        Returns
        -------
        KernelChoice
        """
        queue = torch.from_numpy(np.random.default_rng(seed).permutation(len(factors)))
        scouts = queue[:_SCOUTS]
        choice = _choose([content[scouts] for content in inputs], factors[scouts] * weights)
        chosen = queue[: len(self.landmarks)]
        exact = len(chosen) == len(factors)
        landmarks = [content[chosen] for content in inputs]
        self.shares.copy_(choice.shares)
        self.scales.copy_(_scales(landmarks, choice.gamma))
        self.landmarks[: len(chosen)] = torch.cat(landmarks, dim=1)
        targets = factors[chosen] if exact else factors
        self.dual[: len(chosen)] = self._solve(inputs, landmarks, targets, choice.penalty, exact)
        return choice

    def _solve(
        self,
        inputs: Sequence[Tensor],
        landmarks: Sequence[Tensor],
        factors: Tensor,
        penalty: float,
        exact: bool,
    ) -> Tensor:
        """Solve for the dual coefficients; with `exact` the factors are those of the landmarks."""
        kernel = self._sum(landmarks, landmarks).double()
        if exact:
            system, target = kernel, factors.double()
            system.diagonal().add_(penalty)
        else:
            system, target = penalty * kernel, torch.zeros(len(kernel), factors.shape[1], dtype=torch.float64)
            for first in range(0, len(factors), _BLOCK):
                rows = slice(first, first + _BLOCK)
                block = self._sum([content[rows] for content in inputs], landmarks).double()
                system += block.T @ block
                target += block.T @ factors[rows].double()
        # Identical items make the system singular; a trace of ridge makes it solvable and changes nothing.
        system.diagonal().add_(1e-7 * float(system.diagonal().mean()) + 1e-12)
        return torch.cholesky_solve(target, torch.linalg.cholesky(system)).float()

    def _sum(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        """Return the kernel of all modalities together."""
        total = left[0].new_zeros(len(left[0]), len(right[0]))
        for m, (a, b) in enumerate(zip(left, right, strict=True)):
            total += self.shares[m] * kernel_matrix("rbf", a, b, self.scales[m])
        return total


def _choose(inputs: Sequence[Tensor], targets: Tensor) -> KernelChoice:
    """Compare shares at the first bandwidth, then bandwidths at the best shares, each with all penalties."""
    grid = share_grid(len(inputs))
    best = min((_score(inputs, targets, shares, _GAMMAS[0]) for shares in grid), key=lambda c: c.error)
    others = [_score(inputs, targets, best.shares, gamma) for gamma in _GAMMAS[1:]]
    return min([best, *others], key=lambda c: c.error)


def _score(inputs: Sequence[Tensor], targets: Tensor, shares: Tensor, gamma: float) -> KernelChoice:
    """Leave-one-out error of the best penalty: residual i over ``1 - H_ii`` with ``H = K (K + p I)^-1``."""
    scales = _scales(inputs, gamma)
    kernel = torch.zeros(len(targets), len(targets), dtype=torch.float64)
    for share, content, scale in zip(shares, inputs, scales, strict=True):
        kernel += share.double() * kernel_matrix("rbf", content, content, scale).double()
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0.0)
    target = targets.double()
    rotated, squares = vectors.T @ target, vectors.square()
    total = float(target.square().sum().clamp_min(1e-30))
    best = KernelChoice(shares, gamma, _PENALTIES[0], float("inf"))
    for penalty in _PENALTIES:
        kept = values / (values + penalty)
        residual = target - vectors @ (kept.unsqueeze(1) * rotated)
        left_out = residual / (1.0 - squares @ kept).clamp_min(1e-6).unsqueeze(1)
        error = float(left_out.square().sum()) / total
        if error < best.error:
            best = KernelChoice(shares, gamma, penalty, error)
    return best


def _scales(inputs: Sequence[Tensor], gamma: float) -> Tensor:
    """Scale of each modality's kernel, from the distances between the items that have the modality."""
    distances = [mean_squared_distance(content[content.square().sum(dim=1) > 0]) for content in inputs]
    return torch.tensor([gamma if math.isnan(d) else gamma / max(d, 1e-6) for d in distances])
