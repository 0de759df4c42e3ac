"""Kernels on unit vectors of content."""

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["rbf", "cosine"]


def kernel_matrix(kind: Kernel, left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Return how alike each row of one matrix is to each row of another, 0 to 1.

    Parameters
    ----------
    kind
        ``"rbf"``: ``exp(-scale |x - y|^2)``. ``"cosine"``: ``((1 + x y) / 2) ^ scale``, which is positive
        semi-definite for whole numbers (a polynomial in x y without negative coefficients).
    left, right
        Unit vectors, shape ``(n, p)`` and ``(m, p)``. A zero vector (no content) is like nothing: 0.
    scale
        Shape ``()``.

    Returns
    -------
    Tensor
        Shape ``(n, m)``.
    """
    product = left @ right.T
    squares = left.square().sum(dim=1, keepdim=True), right.square().sum(dim=1)
    if kind == "rbf":
        kernel = torch.exp(-scale * (squares[0] + squares[1] - 2.0 * product).clamp_min(0.0))
    else:
        kernel = ((1.0 + product).clamp_min(0.0) / 2.0).pow(scale)
    return kernel * (squares[0] > 0) * (squares[1] > 0)


def mean_squared_distance(vectors: Tensor) -> float:
    """Return the mean of ``|x - y|^2`` over all pairs of rows, each row with itself included."""
    mean = vectors.mean(dim=0, dtype=torch.float64)
    squares = vectors.square().sum(dim=1, dtype=torch.float64).mean()
    return float(2.0 * (squares - mean.square().sum()))
