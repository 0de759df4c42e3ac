"""The training interactions of each user, as sparse rows that are saved with the model."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.data.interactions import Pairs


class History(nn.Module):
    """Which training items each user has touched.

    User vectors that are sums over a history are computed from it when they are asked for, so that no table
    of users x size of a vector is kept.
    """

    starts: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))

    def fit(self, pairs: Pairs, warm: npt.NDArray[np.int32], n_users: int) -> None:
        """Take over the training pairs.

        Parameters
        ----------
        pairs
            The training pairs.
        warm
            Codes of the training items, ascending. Histories hold positions in this array.
        n_users
            Users of the vocabulary.
        """
        starts, items = pairs.by_user(n_users)
        self.starts = torch.from_numpy(starts)
        self.items = torch.from_numpy(np.searchsorted(warm, items).astype(np.int64))

    def mean(self, users: Tensor, table: Tensor) -> Tensor:
        """Return the mean row of `table` over each user's items; zeros for users without any.

        Parameters
        ----------
        users
            User codes, shape ``(n,)``; those below 0 have no history.
        table
            One row a training item, shape ``(warm, d)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``.
        """
        items, counts = self._flat(users)
        return functional.embedding_bag(items, table, counts.cumsum(0) - counts, mode="mean")

    def sum(self, users: Tensor, table: Tensor) -> Tensor:
        """Return the sum of rows of `table` over each user's items; parameters as in `mean`."""
        items, counts = self._flat(users)
        return functional.embedding_bag(items, table, counts.cumsum(0) - counts, mode="sum")

    def multi_hot(self, users: Tensor, columns: Tensor, width: int) -> Tensor:
        """Return 1 for each item of each user and 0 elsewhere.

        Parameters
        ----------
        users
            User codes, shape ``(n,)``.
        columns
            Column of each training item, shape ``(warm,)``; -1 leaves the item out.
        width
            Number of columns.

        Returns
        -------
        Tensor
            Float32, shape ``(n, width)``.
        """
        items, counts = self._flat(users)
        rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        places = columns[items]
        kept = places >= 0
        hot = torch.zeros(len(users), width, device=users.device)
        hot[rows[kept], places[kept]] = 1.0
        return hot

    def _flat(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Items of the users one after the other, and how many each has."""
        known = users.clamp_min(0)
        first = self.starts[known]
        counts = (self.starts[known + 1] - first) * (users >= 0)
        begins = counts.cumsum(0) - counts
        within = torch.arange(int(counts.sum()), device=users.device)
        within = within + torch.repeat_interleave(first - begins, counts)
        return self.items[within], counts
