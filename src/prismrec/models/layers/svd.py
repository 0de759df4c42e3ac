"""Leading singular vectors of a sparse matrix."""

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor


def svd_factors(matrix: Any, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of a matrix by factors of a given size.

    Parameters
    ----------
    matrix
        SciPy sparse matrix, users x items.
    dim
        Size of the factors; fewer where the matrix has fewer rows or columns.
    seed
        Of the start vector.

    Returns
    -------
    users
        ``U S`` by falling singular value, float32, shape ``(users, d)``.
    items
        ``V``, orthonormal columns, float32, shape ``(items, d)``.
    """
    smaller = min(matrix.shape)
    if dim + 1 >= smaller:  # Lanczos needs room, and so small a matrix needs no Lanczos.
        u, s, vt = np.linalg.svd(matrix.toarray().astype(np.float64), full_matrices=False)
    else:
        start = np.random.default_rng(seed).standard_normal(smaller)
        u, s, vt = scipy.sparse.linalg.svds(matrix.astype(np.float64), k=dim, v0=start)
    order = np.argsort(-s, kind="stable")[:dim]
    users = np.ascontiguousarray(u[:, order] * s[order], dtype=np.float32)
    items = np.ascontiguousarray(vt[order].T, dtype=np.float32)
    return torch.from_numpy(users), torch.from_numpy(items)
