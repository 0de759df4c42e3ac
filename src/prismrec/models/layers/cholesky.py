"""Cholesky factorisation without copies: matrices of thousands of items fill the memory by themselves."""

import torch
from torch import Tensor

from prismrec.models.layers.kernels import lower_panels


def cholesky_(matrix: Tensor) -> Tensor:
    """Replace a symmetric matrix by its factor L with ``matrix = L L'``, and return it.

    Parameters
    ----------
    matrix
        Positive definite, shape ``(n, n)``, rows one after the other in memory. Only the lower triangle is
        read; zeros are written above it.

    Raises
    ------
    torch.linalg.LinAlgError
        If the matrix is not positive definite up to rounding; it is destroyed then.
    """
    assert matrix.is_contiguous()
    # LAPACK counts by columns, so it sees the transpose, whose upper factor is L'.
    view = matrix.mT
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(view, upper=True, check_errors=True, out=(view, info))
    return matrix


def solve_(factor: Tensor, right: Tensor) -> Tensor:
    """Replace B by ``(L L')^-1 B``, and return it.

    Parameters
    ----------
    factor
        L, lower triangular, shape ``(n, n)``.
    right
        B, shape ``(n, m)``, columns one after the other in memory (the transpose of rows).
    """
    assert right.mT.is_contiguous()
    torch.linalg.solve_triangular(factor, right, upper=False, out=right)
    torch.linalg.solve_triangular(factor.mT, right, upper=True, out=right)
    return right


def add_gram_(total: Tensor, rows: Tensor) -> None:
    """Add ``rows' rows`` to the lower triangle of a matrix, possibly of higher precision.

    Parameters
    ----------
    total
        Shape ``(p, p)``.
    rows
        Shape ``(n, p)``.
    """
    for upper, columns in lower_panels(len(total)):
        total[upper, columns] += rows[:, upper].T @ rows[:, columns]
