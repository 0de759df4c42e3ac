"""The graph of who has touched what, in which each node hears itself as well."""

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.data.interactions import Pairs
from prismrec.models.layers.sparse import SparseMatrix


class LoopedGraph(nn.Module):
    """Training pairs as edges, and an edge from each node to itself; a node receives the mean of what comes.

    This is ``D^-1 (A + I)`` of the graph that has both users and items as nodes.

    Parameters
    ----------
    n_users, n_items
        Numbers of nodes. There are no edges but those of nodes to themselves until `fit`.
    """

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.edges = SparseMatrix(n_users, n_items)

    def fit(self, pairs: Pairs) -> None:
        """Take the pairs as edges, in place of those that there are."""
        users, items = (torch.from_numpy(codes.astype(np.int64)) for codes in (pairs.users, pairs.items))
        self.edges.fill(users, items, torch.ones(len(users)))

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return what users and items receive, ``(n_users, d)`` and ``(n_items, d)`` as they are given."""
        of_users = 1 + self.edges.starts.diff().unsqueeze(1)
        of_items = 1 + self.edges.back_starts.diff().unsqueeze(1)
        to_users, to_items = self.edges(items), self.edges.transposed(users)
        return (users + to_users) / of_users, (items + to_items) / of_items
