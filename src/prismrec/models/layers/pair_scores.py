"""Scores of chosen pairs, without copies of the items' vectors."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def pair_scores(users: Tensor, items: Tensor, places: Tensor) -> Tensor:
    """Return the dot product of each user with some items.

    Parameters
    ----------
    users
        Shape ``(b, d)``.
    items
        Shape ``(n, d)``.
    places
        Rows of `items`, int64, shape ``(b, m)``.

    Returns
    -------
    Tensor
        float32, shape ``(b, m)``.
    """
    users, items = users.float(), items.float()
    if users.device.type == "cpu":
        scores: Tensor = _PairScores.apply(users, items, places)  # type: ignore[no-untyped-call]
        return scores
    return (functional.embedding(places, items) * users.unsqueeze(1)).sum(dim=2)


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, places: Tensor) -> Tensor:
        users, items, places = users.contiguous(), items.contiguous(), places.contiguous()
        scores = np.empty(tuple(places.shape), np.float32)
        _forward(users.detach().numpy(), items.detach().numpy(), places.numpy(), scores)
        ctx.save_for_backward(users, items, places)
        return torch.from_numpy(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        users, items, places = ctx.saved_tensors
        to_users = np.zeros(tuple(users.shape), np.float32)
        to_items = np.zeros(tuple(items.shape), np.float32)
        gradient = gradients[0].contiguous().numpy()
        _backward(
            users.detach().numpy(), items.detach().numpy(), places.numpy(), gradient, to_users, to_items
        )
        return torch.from_numpy(to_users), torch.from_numpy(to_items), None


# One thread: beside torch's pool of threads a second one would take its cores from it.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _forward(users: Any, items: Any, places: Any, scores: Any) -> None:
    for row in range(len(places)):
        for column in range(places.shape[1]):
            item, total = places[row, column], np.float32(0.0)
            for c in range(users.shape[1]):
                total += users[row, c] * items[item, c]
            scores[row, column] = total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _backward(users: Any, items: Any, places: Any, gradient: Any, to_users: Any, to_items: Any) -> None:
    for row in range(len(places)):
        for column in range(places.shape[1]):
            item, factor = places[row, column], gradient[row, column]
            for c in range(users.shape[1]):
                to_users[row, c] += factor * items[item, c]
                to_items[item, c] += factor * users[row, c]
