"""Alternating least squares for implicit feedback (Hu, Koren and Volinsky, ICDM 2008).

Minimises ``sum_ui c_ui (p_ui - x_u y_i)^2 + penalty (|x|^2 + |y|^2)`` over all users and items, where p is 1
and the weight c is ``1 + alpha`` for an interaction, and both are 0 and 1 for everything else.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers in flight at a time: gathered rows, and systems to solve.
_NUMBERS = 1 << 23


def als_factors(
    matrix: Any, dim: int, *, alpha: float, penalty: float, iterations: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Fit factors.

    Parameters
    ----------
    matrix
        SciPy CSR matrix, users x items; its pattern alone counts.
    dim
        Size of the factors.
    alpha
        Additional weight of an interaction.
    penalty
        Above 0.
    iterations
        Rounds over items and users; the users come last, so that they are exact for the items returned.
    seed
        Of the start.

    Returns
    -------
    users, items
        Float32, shape ``(users, dim)`` and ``(items, dim)``.
    """
    generator = torch.Generator().manual_seed(seed)
    by_user, by_item = matrix.tocsr(), matrix.T.tocsr()
    items = torch.randn(matrix.shape[1], dim, generator=generator) * 0.1
    users = solve_rows(by_user, items, alpha, penalty)
    for _ in range(iterations):
        items = solve_rows(by_item, users, alpha, penalty)
        users = solve_rows(by_user, items, alpha, penalty)
    return users, items


def solve_rows(matrix: Any, others: Tensor, alpha: float, penalty: float) -> Tensor:
    """Return the exact factors of the rows of a matrix, given those of its columns.

    Rows are taken by length and padded to the longest of a block, so that a block is one batch of products
    and of linear systems.
    """
    dim = others.shape[1]
    base = others.T @ others + penalty * torch.eye(dim, dtype=others.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(base))
    padded = torch.cat((others, others.new_zeros(1, dim)))
    starts, columns = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    solved = others.new_zeros(matrix.shape[0], dim)
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        short = longest < dim
        size = max(1, _NUMBERS // (dim * (longest if short else max(longest, dim))))
        rows = order[begin : begin + size]
        places = starts[rows][:, None] + np.arange(longest)
        inside = np.arange(longest) < lengths[rows][:, None]
        # Places past a row's end show the row of zeros that was appended.
        found = np.where(inside, columns[np.minimum(places, len(columns) - 1)], len(others))
        gathered = padded[torch.from_numpy(found)]
        factors = fold_short(gathered, inverse, alpha) if short else fold(gathered, base, alpha)
        solved[torch.from_numpy(rows)] = factors
        begin += size
    return solved


def fold(gathered: Tensor, base: Tensor, alpha: float) -> Tensor:
    """Solve for rows that are known by the factors of their columns.

    Parameters
    ----------
    gathered
        Factors V of each row's columns, shape ``(rows, columns, dim)``; rows of zeros count for nothing.
    base
        ``B = Y'Y + penalty I`` over all columns, shape ``(dim, dim)``.
    alpha
        Additional weight of an interaction.

    Returns
    -------
    Tensor
        ``(B + alpha V'V)^-1 (1 + alpha) V'1``, shape ``(rows, dim)``.
    """
    systems = base + alpha * torch.bmm(gathered.transpose(1, 2), gathered)
    targets = (1.0 + alpha) * gathered.sum(dim=1)
    solved: Tensor = torch.linalg.solve(systems, targets)
    return solved


def fold_short(gathered: Tensor, inverse: Tensor, alpha: float) -> Tensor:
    """Solve the same as `fold` by systems of the size of the rows, where that is below `dim`.

    By Woodbury's identity the solution is ``(1 + alpha) B^-1 V' (I + alpha V B^-1 V')^-1 1``.

    Parameters
    ----------
    gathered, alpha
        As in `fold`.
    inverse
        ``B^-1``.
    """
    whitened = gathered @ inverse
    systems = alpha * torch.bmm(whitened, gathered.transpose(1, 2))
    systems.diagonal(dim1=1, dim2=2).add_(1.0)
    weights = torch.linalg.solve(systems, torch.ones_like(systems[:, :, 0]))
    return (1.0 + alpha) * torch.bmm(weights.unsqueeze(1), whitened).squeeze(1)
