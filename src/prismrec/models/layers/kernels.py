"""Kernels on unit vectors of content."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["rbf", "cosine"]

# Numbers that are turned from dot products into kernels at a time: 1 MiB, which a core's cache holds.
_CACHED = 1 << 18
# Rows of a symmetric matrix at a time; of each panel only the columns up to the diagonal are computed.
_PANEL = 512


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
        Shape ``(n, m)``. Kernels are not differentiated.
    """
    with torch.no_grad():
        squares = left.square().sum(dim=1), right.square().sum(dim=1)
        # Autocast may have taken the product in half precision, in which small distances are lost.
        kernel = (left @ right.T).to(squares[0].dtype)
        _fill(kernel, kind, kernel, squares, scale)
        return kernel


class SelfKernel:
    """The kernel of items with each other for one scale after another; dot products are taken once.

    Of the symmetric matrices the lower triangle is computed, and what lies above it is arbitrary.

    Parameters
    ----------
    vectors
        Unit vectors, or zero ones as in `kernel_matrix`, shape ``(n, p)``.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._squares = vectors.square().sum(dim=1)
        self._products = vectors.new_empty(len(vectors), len(vectors))
        for rows, columns in lower_panels(len(vectors)):
            torch.mm(vectors[rows], vectors[columns].T, out=self._products[rows, columns])

    def fill(self, out: Tensor, kind: Kernel, scale: Tensor) -> None:
        """Write the kernel into a matrix of shape ``(n, n)``, of any precision."""
        for rows, columns in lower_panels(len(out)):
            squares = self._squares[rows], self._squares[columns]
            _fill(out[rows, columns], kind, self._products[rows, columns], squares, scale)


def lower_panels(size: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of blocks that cover the lower triangle of a square matrix."""
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        yield slice(start, stop), slice(0, stop)


def _fill(out: Tensor, kind: Kernel, products: Tensor, squares: tuple[Tensor, Tensor], scale: Tensor) -> None:
    """Turn dot products into kernels, in blocks that stay in the cache; `out` may be `products`."""
    left, right = squares
    height = len(out) if out.is_cuda else max(1, _CACHED // max(1, out.shape[1]))
    for start in range(0, len(out), height):
        rows = slice(start, start + height)
        if kind == "rbf":
            block = left[rows, None] + right
            block = block.sub_(products[rows], alpha=2.0).clamp_min_(0.0).mul_(-scale).exp_()
        else:
            block = (1.0 + products[rows]).clamp_min_(0.0).div_(2.0).pow_(scale)
        out[rows] = block.mul_(left[rows, None] > 0).mul_(right > 0)


def mean_squared_distance(vectors: Tensor) -> float:
    """Return the mean of ``|x - y|^2`` over all pairs of rows, each row with itself included."""
    mean = vectors.mean(dim=0, dtype=torch.float64)
    squares = vectors.square().sum(dim=1, dtype=torch.float64).mean()
    return float(2.0 * (squares - mean.square().sum()))
