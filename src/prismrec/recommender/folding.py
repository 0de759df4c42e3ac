"""Vectors for users whom the training did not see, from a handful of items.

A model may have a way of its own (`Model.fold_in`). The general way learns, from the users of the training
part, the ridge regression from what a user's items look like (the mean of their vectors) to the user's
trained vector. It is one d x d matrix, works for every model, and needs no training of the model.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Relative to the mean variance of the inputs: enough to keep directions that hardly vary from exploding.
_RIDGE = 1e-2


def learn_folding(
    users: Floats, items: Floats, starts: npt.NDArray[np.int64], touched: npt.NDArray[np.int32]
) -> Floats:
    """Learn the map from histories to user vectors.

    Parameters
    ----------
    users
        Trained user vectors, shape ``(u, d)``.
    items
        Vectors of the training items by code, shape ``(n, d)``.
    starts, touched
        Each user's training items, as `Pairs.by_user` gives them.

    Returns
    -------
    ndarray
        Shape ``(d + 1, d)``; the last row is the intercept.
    """
    sizes = np.diff(starts)
    known = sizes > 0
    if not known.any():
        return np.zeros((items.shape[1] + 1, users.shape[1]), dtype=np.float32)
    from scipy import sparse

    # A sparse product: the vectors of all pairs at once would not fit into memory for a large log.
    shares = np.repeat(1.0 / np.maximum(sizes, 1), sizes)
    rows = sparse.csr_matrix((shares, touched, starts), shape=(len(sizes), len(items)))
    means = (rows @ items)[known]
    centre, target = means.mean(axis=0), users[known].mean(axis=0)
    inputs = (means - centre).astype(np.float64)
    ridge = _RIDGE * float(np.square(inputs).sum()) / inputs.shape[1] + 1e-12
    if len(inputs) < inputs.shape[1]:
        # The same solution by way of the smaller of the two systems.
        gram = inputs @ inputs.T + ridge * np.eye(len(inputs))
        slope = inputs.T @ np.linalg.solve(gram, users[known] - target)
    else:
        gram = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
        slope = np.linalg.solve(gram, inputs.T @ (users[known] - target))
    return np.vstack([slope, target - centre @ slope]).astype(np.float32)


def fold(folding: Floats, liked: Floats) -> Floats:
    """Return the vector of a user who is known by some items, shape ``(d,)``.

    Parameters
    ----------
    folding
        What `learn_folding` gave.
    liked
        Vectors of the items, shape ``(h, d)``, h at least 1.
    """
    result: Floats = liked.mean(axis=0) @ folding[:-1] + folding[-1]
    return result
