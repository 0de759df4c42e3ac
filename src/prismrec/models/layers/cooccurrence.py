"""Which items the same people touch, histories that are spread along it, and how wide a user's scores are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor, nn

from prismrec.data.interactions import Pairs
from prismrec.models.layers.history import History

# Up to so many training items the whole matrix is kept; beyond it the largest entries of each row.
_WHOLE = 8192
_ENTRIES = 128
_BLOCK = 1024


@dataclass(frozen=True)
class Smoothing:
    """How a history is spread: ``own X + passed X C``.

    Parameters
    ----------
    own
        Weight of what the user touched.
    passed
        Weight of what those touch who touched the same.
    """

    own: float
    passed: float


def smoothings(beta: float | None, only: bool) -> list[Smoothing]:
    """Return what there is to choose from: a given beta, ``X C`` alone for `only`, otherwise four."""
    if only:
        return [Smoothing(0.0, 1.0)]
    if beta is not None:
        return [Smoothing(1.0, beta)]
    return [Smoothing(1.0, 1.0), Smoothing(1.0, 0.0), Smoothing(1.0, 3.0), Smoothing(0.0, 1.0)]


def beginning_with(chosen: Smoothing, options: list[Smoothing]) -> list[Smoothing]:
    """Return the options with the chosen one first, so that it stays where nothing is better."""
    return [chosen, *(option for option in options if option != chosen)]


def cooccurrence(
    pairs: Pairs, warm: npt.NDArray[np.int32], n_users: int, *, whole: int = _WHOLE, entries: int = _ENTRIES
) -> scipy.sparse.csr_matrix:
    """Return how often two training items were touched by the same user, normalised.

    With ``A = X' X`` without its diagonal and d its row sums, an entry is ``A_ij / sqrt(d_i d_j)``: the
    normalised adjacency of a graph of items, whose largest eigenvalue is 1.

    Parameters
    ----------
    pairs
        The training pairs.
    warm
        Codes of the training items, ascending.
    n_users
        Users of the vocabulary.
    whole
        With more training items than this, only the largest entries of each row are kept, so that memory
        grows with the items and not with their square. The matrix is not symmetric then.
    entries
        So many of them.

    Returns
    -------
    scipy.sparse.csr_matrix
        Float32, shape ``(warm, warm)``. Rows of items whose users touched nothing else are 0.
    """
    columns = np.searchsorted(warm, pairs.items)
    ones = np.ones(len(pairs), dtype=np.float32)
    touched = scipy.sparse.csr_matrix((ones, (pairs.users, columns)), shape=(n_users, len(warm)))
    # A user with h items adds h - 1 to the row of each.
    others = np.bincount(pairs.users, minlength=n_users)[pairs.users] - 1
    sums = np.bincount(columns, weights=others, minlength=len(warm))
    scale = np.zeros(len(warm), dtype=np.float32)
    scale[sums > 0] = 1.0 / np.sqrt(sums[sums > 0])
    by_item = touched.T.tocsr()
    blocks = []
    for start in range(0, len(warm), _BLOCK):
        block = (by_item[start : start + _BLOCK] @ touched).tocoo()
        apart = block.row + start != block.col
        rows, found = block.row[apart], block.col[apart]
        values = block.data[apart] * scale[rows + start] * scale[found]
        kept = scipy.sparse.csr_matrix((values, (rows, found)), shape=block.shape)
        blocks.append(kept if len(warm) <= whole else _largest(kept, entries))
    return scipy.sparse.vstack(blocks, format="csr", dtype=np.float32)


def _largest(matrix: scipy.sparse.csr_matrix, entries: int) -> scipy.sparse.csr_matrix:
    """Keep the largest entries of each row; of equal ones those that come first."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    places = np.arange(len(rows)) - matrix.indptr[rows]  # Sorted or not, a row holds the same number.
    kept = order[places < entries]
    return scipy.sparse.csr_matrix(
        (matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape
    )


class SmoothedHistory(nn.Module):
    """Users as sums, over what they touched, of rows that hold the item itself and what goes with it.

    With P the training items in the space of the vectors, the rows are ``own P + passed C P``; a user is
    ``x_u`` times them, computed when asked for, so that there is no table of users x size of a vector.
    """

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.register_buffer("table", torch.zeros(0, 0))
        self._links: scipy.sparse.csr_matrix | None = None
        self._own: Any = None
        self._passed: npt.NDArray[np.float32] | None = None

    def fit(self, pairs: Pairs, warm: npt.NDArray[np.int32], n_users: int) -> None:
        """Take over the training pairs; parameters as in `cooccurrence`."""
        self.history.fit(pairs, warm, n_users)
        self._links = cooccurrence(pairs, warm, n_users)

    def lay_columns(self, columns: Tensor, width: int) -> None:
        """Let training items be unit vectors: 1 in the column of each, shape ``(warm,)``; -1: zeros."""
        places = columns.numpy()
        kept = np.flatnonzero(places >= 0)
        ones = np.ones(len(kept), dtype=np.float32)
        self._own = scipy.sparse.csr_matrix((ones, (kept, places[kept])), shape=(len(places), width))
        self._passed = None

    def lay_rows(self, rows: Tensor) -> None:
        """Let training items be these vectors, shape ``(warm, d)``."""
        self._own = rows.numpy()
        self._passed = None

    def smooth(self, smoothing: Smoothing) -> None:
        """Compute the table from what was laid."""
        self.table = torch.zeros(0, 0)  # Before the next one, so that there is one at a time.
        table = smoothing.own * _dense(self._own)
        if smoothing.passed:
            if self._passed is None:
                self._passed = _dense(self._links @ self._own)
            table += smoothing.passed * self._passed
        self.table = torch.from_numpy(table)

    def finish(self) -> None:
        """Let go of what only other settings would need."""
        self._links, self._own, self._passed = None, None, None

    def forward(self, users: Tensor) -> Tensor:
        """Return the users' vectors, shape ``(n, d)``; zeros for users without history."""
        return self.history.sum(users, self.table)

    def of_items(self, history: Tensor) -> Tensor:
        """Return the vector of a user who touched these training items, -1 for items that are none."""
        return self.table[history[history >= 0]].sum(dim=0)


def _dense(matrix: Any) -> npt.NDArray[np.float32]:
    dense = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
    return np.asarray(dense, dtype=np.float32)


def score_width(users: Tensor, items: Tensor) -> Tensor:
    """Return the standard deviation of each user's scores over some items, shape ``(n,)``.

    Parameters
    ----------
    users
        User vectors, shape ``(n, d)``.
    items
        Item vectors, shape ``(m, d)``.
    """
    widths = []
    for block in torch.split(users, _BLOCK):
        scores = block @ items.T
        widths.append((scores - scores.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt())
    return torch.cat(widths)


def standardised(users: Tensor, widths: Tensor) -> Tensor:
    """Divide user vectors by their scores' widths; users without any scores but 0 stay 0."""
    return users / torch.where(widths > 0, widths, 1.0).unsqueeze(1)
