"""Weighted sums of an item's modalities, and how far each modality is from them."""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def fuse(parts: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted sums of parts, and the squared distance of each part to its item's sum.

    Parameters
    ----------
    parts
        One tensor a modality, float32, shape ``(n, d)``.
    weights
        Shape ``(n, modalities)``.

    Returns
    -------
    vectors
        Shape ``(n, d)``.
    gaps
        Shape ``(n, modalities)``.
    """
    stacked = torch.stack(list(parts), dim=1)
    if stacked.device.type == "cpu" and stacked.dtype == torch.float32:
        vectors, gaps = _Fusion.apply(stacked, weights.float())  # type: ignore[no-untyped-call]
        return vectors, gaps
    vectors = (stacked * weights.unsqueeze(2)).sum(dim=1)
    return vectors, (vectors.unsqueeze(1) - stacked).square().sum(dim=2)


class _Fusion(torch.autograd.Function):
    """One pass over memory each way, where autograd would take some twenty."""

    @staticmethod
    def forward(ctx: Any, stacked: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        n, modalities, d = stacked.shape
        vectors, gaps = np.zeros((n, d), np.float32), np.zeros((n, modalities), np.float32)
        weights = weights.contiguous()
        _forward(stacked.detach().numpy(), weights.detach().numpy(), vectors, gaps)
        sums = torch.from_numpy(vectors)
        ctx.save_for_backward(stacked, weights, sums)
        return sums, torch.from_numpy(gaps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        stacked, weights, sums = ctx.saved_tensors
        to_stacked = np.empty(tuple(stacked.shape), np.float32)
        to_weights = np.zeros(tuple(weights.shape), np.float32)
        to_sums, to_gaps = (gradient.contiguous().numpy() for gradient in gradients)
        _backward(
            stacked.detach().numpy(),
            weights.detach().numpy(),
            sums.numpy(),
            to_sums,
            to_gaps,
            to_stacked,
            to_weights,
        )
        return torch.from_numpy(to_stacked), torch.from_numpy(to_weights)


# One thread: beside torch's pool of threads a second one would take its cores from it. Loops that sum write
# to no array: see `prismrec.models.layers.routing`.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _forward(stacked: Any, weights: Any, vectors: Any, gaps: Any) -> None:
    n, modalities, d = stacked.shape
    for row in range(n):
        for m in range(modalities):
            for column in range(d):
                vectors[row, column] += weights[row, m] * stacked[row, m, column]
        for m in range(modalities):
            total = np.float32(0.0)
            for column in range(d):
                gap = vectors[row, column] - stacked[row, m, column]
                total += gap * gap
            gaps[row, m] = total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _backward(
    stacked: Any, weights: Any, sums: Any, to_sums: Any, to_gaps: Any, to_stacked: Any, to_weights: Any
) -> None:
    n, modalities, d = stacked.shape
    whole = np.empty(d, dtype=np.float32)
    for row in range(n):
        for column in range(d):
            whole[column] = to_sums[row, column]
        for m in range(modalities):
            factor = np.float32(2.0) * to_gaps[row, m]
            for column in range(d):
                pull = factor * (sums[row, column] - stacked[row, m, column])
                whole[column] += pull
                to_stacked[row, m, column] = -pull
        for m in range(modalities):
            weight, agreement = weights[row, m], np.float32(0.0)
            for column in range(d):
                to_stacked[row, m, column] += weight * whole[column]
            for column in range(d):
                agreement += whole[column] * stacked[row, m, column]
            to_weights[row, m] = agreement
