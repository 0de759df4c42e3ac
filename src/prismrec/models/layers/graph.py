"""The graph of who has touched what, and LightGCN's way of passing vectors along it."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.data.interactions import Pairs
from prismrec.models.layers.sparse import SparseMatrix


class PairGraph(nn.Module):
    """Training pairs as edges between users and items, some of which training may leave out.

    The thinned graph is not saved with the model, and evaluation does not see it.

    Parameters
    ----------
    n_users, n_items
        Numbers of nodes. There are no edges until `fit`.
    """

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.edges = SparseMatrix(n_users, n_items)
        self.thinned = SparseMatrix(n_users, n_items)
        for name, buffer in list(self.thinned.named_buffers()):
            self.thinned.register_buffer(name, buffer, persistent=False)
        self._is_thin = False

    @staticmethod
    @abstractmethod
    def weights(of_user: Tensor, of_item: Tensor) -> Tensor:
        """Return the weights of edges.

        Parameters
        ----------
        of_user, of_item
            How many edges the user and the item of each edge have, int64, shape ``(edges,)``.
        """

    @property
    def used(self) -> SparseMatrix:
        """The edges that vectors pass along: all, or in training those that `thin` has left."""
        return self.thinned if self.training and self._is_thin else self.edges

    def fit(self, pairs: Pairs) -> None:
        """Take the pairs as edges, in place of those that there are."""
        self.restore()
        users, items = (torch.from_numpy(codes.astype(np.int64)) for codes in (pairs.users, pairs.items))
        self._fill(self.edges, users, items)

    @torch.no_grad()
    def thin(self, rate: float, generator: np.random.Generator) -> None:
        """Leave out some edges in training until `restore`; evaluation and the saved edges stay as they are.

        Edges that are kept weigh what they would if there were no others. A node may lose all of its edges.

        Parameters
        ----------
        rate
            Probability that an edge is left out.
        generator
            One number is drawn for each edge, on the CPU, so that a GPU keeps the same edges.
        """
        starts, columns = self.edges.starts.cpu(), self.edges.columns.cpu()
        kept = torch.from_numpy(generator.random(len(columns)) >= rate)
        users = torch.arange(self.edges.n_rows).repeat_interleave(starts.diff())[kept]
        self._fill(self.thinned, users, columns[kept])
        self._is_thin = True

    def restore(self) -> None:
        """Drop the thinned graph."""
        nothing = torch.zeros(0, dtype=torch.int64)
        self.thinned.fill(nothing, nothing, torch.zeros(0))
        self._is_thin = False

    def _fill(self, edges: SparseMatrix, users: Tensor, items: Tensor) -> None:
        of_user = torch.bincount(users, minlength=edges.n_rows)[users]
        of_item = torch.bincount(items, minlength=edges.n_columns)[items]
        edges.fill(users, items, self.weights(of_user, of_item))


class UserItemGraph(PairGraph):
    """Training pairs as edges of weight ``1 / sqrt(d_u d_i)``, d being numbers of edges.

    This is the normalised adjacency ``D^-1/2 A D^-1/2`` of the graph that has both users and items as nodes;
    as its diagonal blocks are 0, the block ``R`` of users by items is all there is of it. Nodes without edges
    receive 0.
    """

    @staticmethod
    def weights(of_user: Tensor, of_item: Tensor) -> Tensor:
        """Return ``1 / sqrt(d_u d_i)``."""
        return (of_user * of_item).double().rsqrt()

    def to_users(self, items: Tensor) -> Tensor:
        """Return what users receive from their items, ``R X``: from ``(n_items, d)`` to ``(n_users, d)``."""
        product: Tensor = self.used(items)
        return product

    def to_items(self, users: Tensor) -> Tensor:
        """Return what items receive from their users, ``R' X``: from ``(n_users, d)`` to ``(n_items, d)``."""
        return self.used.transposed(users)


def light_gcn(graph: UserItemGraph, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Pass vectors along the graph and take the mean of all stages, the first one included.

    X. He, K. Deng, X. Wang, Y. Li, Y. Zhang, M. Wang: LightGCN, SIGIR 2020, arXiv 2002.02126, equations (3),
    (4) and (9) with equal weights of the layers.

    Parameters
    ----------
    graph
        The training pairs.
    users, items
        Shape ``(n_users, d)`` and ``(n_items, d)``.
    layers
        Steps along the graph; with 0 vectors stay as they are.

    Returns
    -------
    tuple of Tensor
        Of the same shapes.
    """
    user_sum, item_sum = users, items
    for _ in range(layers):
        users, items = graph.to_users(items), graph.to_items(users)
        user_sum, item_sum = user_sum + users, item_sum + items
    return user_sum / (layers + 1), item_sum / (layers + 1)
