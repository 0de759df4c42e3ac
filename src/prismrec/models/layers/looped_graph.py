"""The graph of who has touched what, in which each node hears itself as well."""

import torch
from torch import Tensor

from prismrec.models.layers.graph import PairGraph


class LoopedGraph(PairGraph):
    """Training pairs as edges, and an edge from each node to itself; a node receives the mean of what comes.

    This is ``D^-1 (A + I)`` of the graph that has both users and items as nodes. The edge to itself is never
    left out.
    """

    @staticmethod
    def weights(of_user: Tensor, of_item: Tensor) -> Tensor:
        """Return 1 for each edge."""
        del of_item
        return torch.ones(len(of_user))

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return what users and items receive, ``(n_users, d)`` and ``(n_items, d)`` as they are given."""
        edges = self.used
        of_users = 1 + edges.starts.diff().unsqueeze(1)
        of_items = 1 + edges.back_starts.diff().unsqueeze(1)
        to_users, to_items = edges(items), edges.transposed(users)
        return (users + to_users) / of_users, (items + to_items) / of_items
