"""Users tied to those who touched the same items: most of a user's vector may come from them."""

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor, nn

from prismrec.data.interactions import Pairs
from prismrec.models.layers.sparse import SparseMatrix

# Counts that are held at once, 8 bytes each.
_ENTRIES = 1 << 24


class UserGraph(nn.Module):
    """The k users with whom a user shares most training items, weighted by a softmax of the shared numbers.

    As the softmax is of raw counts, it is peaked: a user who shares two items more weighs seven times more.
    Of users who share equally many, those with lower codes come first. A user who shares no item with anybody
    receives 0.

    In training a user with fewer than k neighbours gets k all the same: `redraw` fills the list up with one
    of its own entries at a time, so that a neighbour can stand there, and count, more than once. Otherwise
    each neighbour counts once. Before the softmax is normalised a neighbour then weighs what it weighs on
    average over all drawings but for a factor common to the user's list, since none is preferred in them.

    DualGNN: Q. Wang, Y. Wei, J. Yin, J. Wu, X. Song, L. Nie, IEEE Transactions on Multimedia 25, as released.

    Parameters
    ----------
    n_users
        Users of the vocabulary. There are no edges until `fit`.
    k
        Neighbours of a user.
    """

    def __init__(self, n_users: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.edges = SparseMatrix(n_users, n_users)
        self.drawn = _UnsavedMatrix(n_users, n_users)

    def fit(self, pairs: Pairs) -> None:
        """Count shared items and take over neighbours, in place of those that there are."""
        users, partners, counts = most_shared(pairs, self.edges.n_rows, self.k)
        highest = np.zeros(self.edges.n_rows)
        np.maximum.at(highest, users, counts)
        powers = np.exp(counts - highest[users])
        weights = powers / np.bincount(users, weights=powers, minlength=self.edges.n_rows)[users]
        self.edges.fill(*(torch.from_numpy(array) for array in (users, partners, weights)))
        nothing = torch.zeros(0, dtype=torch.int64)
        self.drawn.fill(nothing, nothing, torch.zeros(0))

    @torch.no_grad()
    def redraw(self) -> None:
        """Fill up lists of fewer than k neighbours for the coming epoch, by torch's global generator."""
        starts, columns = self.edges.starts.cpu(), self.edges.columns.cpu()
        lengths = starts.diff()
        short = torch.nonzero((lengths > 0) & (lengths < self.k))[:, 0]
        times = torch.ones(len(columns), dtype=torch.float64)
        places = torch.arange(self.k)
        there = places < lengths[short].unsqueeze(1)
        times[(starts[short].unsqueeze(1) + places)[there]] = _times(lengths[short], self.k)[there]
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        weights = times * self.edges.values.cpu()
        sums = torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, rows, weights)
        self.drawn.fill(rows, columns, weights / sums[rows])

    def forward(self, vectors: Tensor) -> Tensor:
        """Return what users receive from their neighbours, shape ``(n_users, d)`` as `vectors`.

        In training along the lists that `redraw` filled up, if it was called; otherwise along the neighbours
        as they are.
        """
        matrix = self.drawn if self.training and len(self.drawn.columns) > 0 else self.edges
        received: Tensor = matrix(vectors)
        return received


class _UnsavedMatrix(SparseMatrix):
    """A matrix that is not saved with the model, as it holds for one epoch."""

    def __init__(self, n_rows: int, n_columns: int) -> None:
        super().__init__(n_rows, n_columns)
        for name in ("starts", "columns", "values"):
            self.register_buffer(name, getattr(self, name), persistent=False)


def most_shared(
    pairs: Pairs, n_users: int, k: int, *, entries: int = _ENTRIES
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each user the k others who touched most of the same items.

    Parameters
    ----------
    pairs
        The training pairs.
    n_users
        Users of the vocabulary.
    k
        At most so many for each user.
    entries
        Counts that may be held at once, about; users are taken in blocks that stay below it, and a user whose
        counts alone are more is a block.

    Returns
    -------
    tuple of array
        Users, ascending; their partners, those who share most first and of equal ones the lower code; how
        many items they share. Shape ``(found,)`` each. Users who share nothing with anybody do not occur.
    """
    ones = np.ones(len(pairs), dtype=np.int32)
    n_items = int(pairs.items.max(initial=0)) + 1
    touched = scipy.sparse.csr_matrix((ones, (pairs.users, pairs.items)), shape=(n_users, n_items))
    by_item = touched.T.tocsr()
    # A user meets at most as many others as its items have users.
    most = np.minimum(touched @ np.bincount(pairs.items, minlength=n_items), n_users)
    users, partners, counts = [], [], []
    for first, end in _blocks(most, entries):
        block = (touched[first:end] @ by_item).tocsr()
        for row in range(end - first):
            part = slice(block.indptr[row], block.indptr[row + 1])
            who, shared = _largest(block.indices[part], block.data[part], first + row, n_users, k)
            users.append(np.full(len(who), first + row, dtype=np.int64))
            partners.append(who)
            counts.append(shared)
    nothing = np.zeros(0, dtype=np.int64)
    return (
        np.concatenate([nothing, *users]),
        np.concatenate([nothing, *partners]),
        np.concatenate([nothing, *counts]).astype(np.float64),
    )


def _blocks(sizes: npt.NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    blocks, first, total = [], 0, 0
    for place, size in enumerate(sizes.tolist()):
        if total + size > most and place > first:
            blocks.append((first, place))
            first, total = place, 0
        total += size
    return [*blocks, (first, len(sizes))] if len(sizes) > first else blocks


def _largest(
    who: npt.NDArray[np.int32], shared: npt.NDArray[np.int32], own: int, n_users: int, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    apart = who != own
    # One number for both orders: more shared items first, then the lower code.
    keys = who[apart].astype(np.int64) - shared[apart].astype(np.int64) * n_users
    if len(keys) > k:
        keys = np.partition(keys, k - 1)[:k]
    keys.sort()
    return keys % n_users, -(keys // n_users)


def _times(lengths: Tensor, k: int) -> Tensor:
    """Draw how often each entry stands in a list that has grown to k, shape ``(lists, k)``; float64."""
    drawn = torch.rand(len(lengths), k)
    lists = torch.arange(k).repeat(len(lengths), 1)
    for place in range(1, k):
        # A product that is rounded up would be a place that is not filled yet.
        picked = (drawn[:, place] * place).long().clamp_max(place - 1)
        again = lists.gather(1, picked.unsqueeze(1))[:, 0]
        lists[:, place] = torch.where(place < lengths, place, again)
    times = torch.zeros(len(lengths), k, dtype=torch.float64)
    return times.scatter_add_(1, lists, torch.ones_like(times))
