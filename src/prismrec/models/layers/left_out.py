"""Kernel ridge regression that says of each training item what it would have been predicted as without it.

With ``A = K + p N`` (K the kernel of the training items, N a diagonal of noise, p the penalty) and targets Y,
the prediction of item i by the regression on all the others is ``y_i - (A^-1 Y)_i / (A^-1)_ii``, without
solving again (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.2). Where
landmarks carry the kernel (subset of regressors), with features ``phi``, weights ``1 / n_i`` and
``S = Phi' N^-1 Phi + p I`` it is ``(f_i - h_i y_i) / (1 - h_i)``, f_i the fit and
``h_i = phi_i' S^-1 phi_i / n_i`` (the same identity in the features' space).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prismrec.models.layers.cholesky import cholesky_
from prismrec.models.layers.kernels import Kernel, kernel_matrix

_BLOCK = 4096
# A trace of ridge, relative to the diagonal: identical items make a kernel singular up to rounding.
_TRACE = 1e-8


@dataclass(frozen=True)
class LeftOut:
    """The fitted regression.

    Parameters
    ----------
    dual
        Coefficients of the landmarks, float32, shape ``(landmarks, t)``: the prediction is
        ``kernel(content, landmarks) @ dual``.
    predictions
        Of each training item without itself, float32, shape ``(n, t)``.
    """

    dual: Tensor
    predictions: Tensor


def left_out_regression(
    kind: Kernel,
    scale: Tensor,
    vectors: Tensor,
    landmarks: Tensor,
    targets: Tensor,
    noise: Tensor,
    penalty: float,
    rough: bool = False,
) -> LeftOut:
    """Fit.

    Parameters
    ----------
    kind, scale
        Of the kernel (`prismrec.models.layers.kernels.kernel_matrix`).
    vectors
        Content of the training items, unit or zero rows, shape ``(n, p)``.
    landmarks
        Rows of `vectors` that carry the kernel; all of them: exact.
    targets
        Shape ``(n, t)``; the regression has no intercept.
    noise
        Variance of each item's targets relative to the others', above 0, shape ``(n,)``.
    penalty
        Above 0.
    rough
        To compare settings: fewer digits, and predictions that include the item itself.
    """
    y, variance = targets.double(), noise.double()
    if len(landmarks) == len(vectors):
        kernel = kernel_matrix(kind, vectors, vectors, scale)
        if rough:
            return _fit(kernel, targets.float(), noise.float() * penalty)
        return _exact(kernel.double(), y, variance * penalty)
    features = _Features(kind, scale.double(), vectors, vectors[landmarks].double())
    return _by_features(features, y, variance, penalty, rough)


def _exact(kernel: Tensor, y: Tensor, ridge: Tensor) -> LeftOut:
    kernel.diagonal().add_(ridge + _TRACE * float(kernel.diagonal().mean()))
    inverse = torch.cholesky_inverse(cholesky_(kernel))
    dual = inverse @ y
    predictions = y - dual / inverse.diagonal().unsqueeze(1)
    return LeftOut(dual.float(), predictions.float())


def _fit(kernel: Tensor, y: Tensor, ridge: Tensor) -> LeftOut:
    """Solve in single precision, without leaving out; by ``K (K + R)^-1 Y = Y - R (K + R)^-1 Y``."""
    kernel.diagonal().add_(ridge + 1e-6 * float(kernel.diagonal().mean()))
    dual = torch.cholesky_solve(y, cholesky_(kernel))
    return LeftOut(dual, y - ridge.unsqueeze(1) * dual)


class _Features:
    """Rows ``phi = L^-1 k`` with ``K = L L'`` for the landmarks, made in blocks: all of them may not fit."""

    def __init__(self, kind: Kernel, scale: Tensor, vectors: Tensor, carrying: Tensor) -> None:
        self._kind, self._scale, self._vectors, self._carrying = kind, scale, vectors, carrying
        among = kernel_matrix(kind, carrying, carrying, scale)
        among.diagonal().add_(1e-5)
        self.whitener = cholesky_(among)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their features, float64, shape ``(rows, landmarks)``."""
        for first in range(0, len(self._vectors), _BLOCK):
            rows = slice(first, first + _BLOCK)
            seen = kernel_matrix(self._kind, self._vectors[rows].double(), self._carrying, self._scale)
            yield rows, torch.linalg.solve_triangular(self.whitener, seen.T, upper=False).T


def _by_features(features: _Features, y: Tensor, noise: Tensor, penalty: float, rough: bool) -> LeftOut:
    size = len(features.whitener)
    system = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(size, y.shape[1], dtype=torch.float64)
    for rows, phi in features.blocks():
        weighed = phi / noise[rows].unsqueeze(1)
        system.addmm_(phi.T, weighed)
        right.addmm_(weighed.T, y[rows])
    system.diagonal().add_(penalty)
    factor = cholesky_(system)
    coefficients = torch.cholesky_solve(right, factor)
    predictions = torch.empty_like(y)
    for rows, phi in features.blocks():
        if rough:
            predictions[rows] = phi @ coefficients
            continue
        half = torch.linalg.solve_triangular(factor, phi.T, upper=False)
        own = (half.square().sum(dim=0) / noise[rows]).clamp_max(1.0 - 1e-6).unsqueeze(1)
        predictions[rows] = (phi @ coefficients - own * y[rows]) / (1.0 - own)
    dual = torch.linalg.solve_triangular(features.whitener.T, coefficients, upper=True)
    return LeftOut(dual.float(), predictions.float())
