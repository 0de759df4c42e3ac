"""Each modality's own vectors of users and items, passed along the graph of who has touched what."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph


class ModalityPropagation(nn.Module):
    """``z_m = x_m + A x_m + A A x_m`` with ``x_m = norm([P_m ; MLP_m(X_m)])``, as in DualGNN and DRAGON.

    P_m are users' embeddings, X_m the training items' content, A the normalised graph, norm brings a row to
    unit length. The MLP has one hidden layer with a leaky ReLU. Stages are added, not averaged. Where an item
    lacks a modality, the training items' mean stands for it.

    Parameters
    ----------
    inputs
        Sizes.
    dim
        Size d of each modality's vectors.
    hidden
        Size of the hidden layer.
    """

    def __init__(self, inputs: ModelInputs, dim: int, hidden: int) -> None:
        super().__init__()
        self.tables = FeatureTables(inputs.modalities, inputs.n_items, trained=False, normalise=False)
        self.graph = UserItemGraph(inputs.n_users, inputs.n_items)
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(modality.dim, hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, dim))
            for modality in inputs.modalities
        )

    def fit(self, data: TrainingData) -> None:
        """Take over the training items' content and the training pairs."""
        self.tables.fit(data.features, data.warm)
        self.graph.fit(data.pairs)

    def forward(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``z`` of all users and items.

        Parameters
        ----------
        users
            P, shape ``(n_users, modalities, d)``. A user with a row of 0 and without pairs comes out as 0.

        Returns
        -------
        tuple of Tensor
            Shape ``(n_users, modalities, d)`` and ``(n_items, modalities, d)``; 0 for items that are not
            training items.
        """
        shape = users.shape[1:]
        # All modalities take the same way, so they take it side by side.
        of_users = functional.normalize(users, dim=2).flatten(1)
        of_items = (self._mapped(self.tables.tables) * self.tables.warm[:, None, None]).flatten(1)
        user_sum, item_sum = of_users, of_items
        for _ in range(2):
            of_users, of_items = self.graph.to_users(of_items), self.graph.to_items(of_users)
            user_sum, item_sum = user_sum + of_users, item_sum + of_items
        return user_sum.view(-1, *shape), item_sum.view(-1, *shape)

    def alone(self, items: ItemBatch) -> Tensor:
        """Return ``norm(MLP_m(x))``, which is ``z`` of items without edges, ``(n, modalities, d)``."""
        return self._mapped(self.tables.filled(items))

    def _mapped(self, contents: list[Tensor]) -> Tensor:
        mapped = [layers(content) for layers, content in zip(self.maps, contents, strict=True)]
        return functional.normalize(torch.stack(mapped, dim=1), dim=2)


def drawn_users(n_users: int, modalities: int, dim: int) -> nn.Parameter:
    """Draw users' embeddings by Xavier's normal rule, shape ``(n_users, modalities, dim)``."""
    return nn.Parameter(torch.randn(n_users, modalities, dim) * math.sqrt(2.0 / (n_users + dim)))


def drawn_weights(n_users: int, modalities: int) -> nn.Parameter:
    """Draw what a modality counts for each user, shape ``(n_users, modalities)``.

    Nearly equal, and adding up to 1 at the start; from then on they are free.
    """
    drawn = torch.randn(n_users, modalities) * math.sqrt(2.0 / (n_users + modalities))
    return nn.Parameter(torch.softmax(drawn, dim=1))


@torch.no_grad()
def forget_strangers(users: Tensor, data: TrainingData) -> None:
    """Set rows of users without training pairs to 0, in place: as drawn they would rank items by chance."""
    known = torch.zeros(len(users), dtype=torch.bool)
    known[torch.from_numpy(data.pairs.users.astype(np.int64))] = True
    users[~known.to(users.device)] = 0.0


def mean_squares(users: Tensor, weights: Tensor, batch: Tensor) -> Tensor:
    """Return ``sum over m of mean(P_m[u]^2) + mean(w^2)``, the penalty of DualGNN and DRAGON.

    Parameters
    ----------
    users
        P, shape ``(n_users, modalities, d)``.
    weights
        w of all users, shape ``(n_users, modalities)``.
    batch
        Codes of the batch's users, each as often as it occurs, shape ``(b,)``.

    Returns
    -------
    Tensor
        A scalar.
    """
    return users[batch].square().mean(dim=(0, 2)).sum() + weights.square().mean()
