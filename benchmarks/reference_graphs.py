"""Plain steps of three recommenders, written as one would at first: what the fast ones are compared with.

Whole tables go through every batch, propagation is torch's product with a sparse matrix of both sides' nodes,
Adam moves every row in a loop over parameters, and negatives are drawn pair by pair in Python.
"""

import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.data.interactions import Pairs


class PlainGraph(nn.Module):
    """LightGCN, and on wish FREEDOM's frozen items' graph and content term.

    Parameters
    ----------
    n_users, n_items, dim, layers
        Sizes.
    pairs
        The training pairs.
    features
        Content, ``(n_items, d)`` each, trained; none: LightGCN.
    """

    def __init__(
        self, n_users: int, n_items: int, dim: int, layers: int, pairs: Pairs, features: list[Tensor]
    ) -> None:
        super().__init__()
        self.n_users, self.layers = n_users, layers
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim)))
        self.tables = nn.ParameterList([nn.Parameter(table.clone()) for table in features])
        self.maps = nn.ModuleList([nn.Linear(table.shape[1], dim) for table in features])
        self.graph = both_sides(n_users, n_items, pairs)
        self.item_graph = nearest(features, 10) if features else None

    def losses(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch."""
        stage = torch.cat([self.users, self.items])
        total = stage
        for _ in range(self.layers):
            stage = torch.sparse.mm(self.graph, stage)
            total = total + stage
        u, i = torch.split(total / (self.layers + 1), [self.n_users, len(self.items)])
        if self.item_graph is not None:
            i = i + torch.sparse.mm(self.item_graph, self.items)
        loss = bpr(u[users], i[positives], i[negatives])
        for table, layer in zip(self.tables, self.maps, strict=True):
            content = layer(table)
            loss = loss + 1e-4 * bpr(u[users], content[positives], content[negatives])
        return loss


class PlainVBPR(nn.Module):
    """VBPR with all items' content projected for every batch."""

    def __init__(self, n_users: int, n_items: int, dim: int, features: list[Tensor]) -> None:
        super().__init__()
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, 2 * dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim)))
        self.features = torch.cat(features, dim=1)
        self.map = nn.Linear(self.features.shape[1], dim)

    def losses(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch."""
        items = torch.cat([self.items, self.map(self.features)], dim=1)
        return bpr(self.users[users], items[positives], items[negatives])


def bpr(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean BPR loss of a batch."""
    return functional.softplus((users * (negatives - positives)).sum(dim=1)).mean()


def both_sides(n_users: int, n_items: int, pairs: Pairs) -> Tensor:
    """Return the normalised adjacency of users and items, a square sparse matrix."""
    users, items = pairs.users.astype(np.int64), pairs.items.astype(np.int64)
    weights = 1 / np.sqrt(np.bincount(users, minlength=n_users)[users] * np.bincount(items)[items])
    rows = np.concatenate([users, items + n_users])
    columns = np.concatenate([items + n_users, users])
    places = torch.from_numpy(np.stack([rows, columns]))
    values = torch.from_numpy(np.concatenate([weights, weights]).astype(np.float32))
    size = n_users + n_items
    return torch.sparse_coo_tensor(places, values, (size, size), check_invariants=False).coalesce()


def nearest(features: list[Tensor], k: int) -> Tensor:
    """Return the items' graph, found in a dense matrix of all items against all."""
    total = torch.zeros(len(features[0]), len(features[0]))
    for table in features:
        unit = functional.normalize(table, dim=1)
        places = (unit @ unit.T).topk(k, dim=1).indices
        total += torch.zeros_like(total).scatter_(1, places, 1 / k) / len(features)
    return total.to_sparse().coalesce()


def python_batches(
    pairs: Pairs, n_items: int, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield an epoch of triplets; each negative is drawn until the user has not touched it."""
    touched: dict[int, set[int]] = {}
    for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
        touched.setdefault(user, set()).add(item)
    draw = random.Random(seed)
    order: npt.NDArray[np.int64] = np.random.default_rng(seed).permutation(len(pairs.users))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        users, positives, negatives = [], [], []
        for row in rows:
            user = int(pairs.users[row])
            item = draw.randrange(n_items)
            while item in touched[user]:
                item = draw.randrange(n_items)
            users.append(user)
            positives.append(int(pairs.items[row]))
            negatives.append(item)
        yield torch.tensor(users), torch.tensor(positives), torch.tensor(negatives)


def reference_epoch(model: PlainGraph | PlainVBPR, pairs: Pairs, n_items: int, seed: int) -> None:
    """Train an epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False)
    for users, positives, negatives in python_batches(pairs, n_items, 2048, seed):
        optimizer.zero_grad()
        model.losses(users, positives, negatives).backward()
        optimizer.step()
