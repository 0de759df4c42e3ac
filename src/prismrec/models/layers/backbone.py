"""The collaborative model that content models are taught by, computed at once from the training pairs.

DropoutNet, GAR and Meta-Embedding begin with users' and items' vectors of a model that knows no content. Each
of them takes them from here, so with the same settings and seed they are taught by the same backbone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from prismrec.models.batches import TrainingData
from prismrec.models.layers.als import als_factors
from prismrec.models.layers.svd import svd_factors


@dataclass(frozen=True)
class Backbone:
    """Vectors whose dot products say who touches what.

    Parameters
    ----------
    users
        Float32, shape ``(n_users, d)``; zeros for users without training pairs.
    items
        Float32, shape ``(n_items, d)``, by item code; zeros for items outside the training part.
    """

    users: Tensor
    items: Tensor


def backbone_of(
    data: TrainingData,
    kind: Literal["als", "svd"],
    dim: int,
    *,
    alpha: float = 10.0,
    penalty: float = 10.0,
    iterations: int = 10,
) -> Backbone:
    """Factorise the training pairs.

    Parameters
    ----------
    data
        The training data; its seed is the start's.
    kind
        "als": weighted matrix factorisation (Hu, Koren and Volinsky, ICDM 2008), scores near 1 for what is
        touched and near 0 for the rest. "svd": leading singular vectors, the singular values shared equally
        between users and items.
    dim
        Size of the vectors. Where the data has fewer dimensions the last columns are zeros.
    alpha, penalty, iterations
        Of "als", see `prismrec.models.layers.als`.
    """
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    columns = np.searchsorted(data.warm, data.pairs.items)
    ones = np.ones(len(data.pairs), dtype=np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (data.pairs.users, columns)), shape=(n_users, len(data.warm)))
    if kind == "als":
        users, warm = als_factors(
            matrix, dim, alpha=alpha, penalty=penalty, iterations=iterations, seed=data.seed
        )
    else:
        users, warm = svd_factors(matrix, dim, data.seed)
        roots = users.norm(dim=0).clamp_min(1e-12).sqrt()
        users, warm = users / roots, warm * roots
    return Backbone(_placed(users, np.arange(n_users), n_users, dim), _placed(warm, data.warm, n_items, dim))


def _placed(rows: Tensor, codes: np.ndarray[tuple[int], np.dtype[np.integer]], n: int, dim: int) -> Tensor:
    table = torch.zeros(n, dim)
    table[torch.from_numpy(codes.astype(np.int64)), : rows.shape[1]] = rows
    return table
