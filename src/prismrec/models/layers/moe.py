"""Sparse mixtures of linear experts."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

_ROWS = 128
_ROUTED_SHARE = 0.6


class Experts(nn.Module):
    """K affine maps that are applied in one matrix product.

    On a CPU only the products of the chosen experts are computed, where at most six of ten are chosen: with
    two of four, gathering rows costs less than it saves, with three of four more
    (``benchmarks/bench_mamex.py``). Elsewhere all are computed: finding the rows would make the device wait.

    Parameters
    ----------
    dim_in, dim_out
        Sizes of a vector before and after.
    experts
        Their number K.
    chosen
        How many of them have a weight above 0 for an input.
    """

    def __init__(self, dim_in: int, dim_out: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.experts = experts
        self.dim_out = dim_out
        self.chosen = chosen
        self.maps = nn.Linear(dim_in, experts * dim_out)

    def forward(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return the experts' outputs, weighted and summed.

        Under autocast the large products are taken in its type, everything else in float32.

        Parameters
        ----------
        inputs
            Shape ``(n, dim_in)``.
        weights
            Weight of each expert for each input, shape ``(n, K)``; 0 for those not chosen.

        Returns
        -------
        Tensor
            Shape ``(n, dim_out)``, float32.
        """
        kind = inputs.device.type
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        routed = kind == "cpu" and self.chosen <= _ROUTED_SHARE * self.experts
        apply = _RoutedMixture.apply if routed else _Mixture.apply
        with torch.autocast(kind, enabled=False):
            mixed: Tensor = apply(  # type: ignore[no-untyped-call]
                inputs.float(), self.maps.weight, weights.float(), half
            )
            biases: Tensor = weights.float() @ self.maps.bias.view(self.experts, self.dim_out)
            return mixed + biases


class _Mixture(torch.autograd.Function):
    """``z_n = sum_k w_nk W_k x_n`` and its gradients.

    Written by hand because autograd would keep and pass over tensors of n x K x d numbers several times,
    which takes longer than the products.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, maps: Tensor, weights: Tensor, half: torch.dtype | None) -> Tensor:
        cast = inputs if half is None else inputs.to(half)
        k = weights.shape[1]
        each = (cast @ maps.to(cast.dtype).T).float().view(len(inputs), k, len(maps) // k)
        ctx.save_for_backward(cast, maps, weights, each)
        return torch.bmm(weights.unsqueeze(1), each).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        cast, maps, weights, each = ctx.saved_tensors
        # A gradient without memory of its own (that of a sum) would send bmm row by row.
        gradient = gradients[0].contiguous()
        spread = (weights.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1).to(cast.dtype)
        to_inputs = (spread @ maps.to(cast.dtype)).float() if ctx.needs_input_grad[0] else None
        to_maps = (spread.T @ cast).float()
        to_weights = torch.bmm(each, gradient.unsqueeze(2)).squeeze(2) if ctx.needs_input_grad[2] else None
        return to_inputs, to_maps, to_weights, None


class _RoutedMixture(torch.autograd.Function):
    """The same as `_Mixture`, expert by expert, each for the inputs that chose it; on the CPU.

    The inputs are copied side by side in the order of the experts, so that each product is one contiguous
    piece; ``order`` names the input of each place, and places between two pieces belong to none (-1).
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, maps: Tensor, weights: Tensor, half: torch.dtype | None) -> Tensor:
        cast = inputs if half is None else inputs.to(half)
        k = weights.shape[1]
        order, starts = _places(weights.detach().numpy(), 1 if half is None else _ROWS)
        taken = cast.index_select(0, torch.from_numpy(np.maximum(order, 0)))
        outputs = torch.empty(len(order), len(maps) // k, dtype=cast.dtype)
        for expert, matrix in enumerate(maps.to(cast.dtype).chunk(k)):
            piece = slice(starts[expert], starts[expert + 1])
            torch.mm(taken[piece], matrix.T, out=outputs[piece])
        summed = np.zeros((len(inputs), outputs.shape[1]), dtype=np.float32)
        full = outputs.float()
        _combine(full.numpy(), weights.detach().numpy(), order, starts, summed)
        ctx.order, ctx.starts = order, starts
        ctx.save_for_backward(taken, maps, weights, full)
        return torch.from_numpy(summed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        taken, maps, weights, outputs = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        k = weights.shape[1]
        # An expert that was not chosen has weight 0, and its softmax passes no gradient on.
        to_weights = np.zeros(tuple(weights.shape), dtype=np.float32)
        full = np.empty(tuple(outputs.shape), dtype=np.float32)
        _spread(
            gradient.numpy(),
            outputs.numpy(),
            weights.detach().numpy(),
            ctx.order,
            ctx.starts,
            full,
            to_weights,
        )
        spread = torch.from_numpy(full).to(taken.dtype)
        to_maps = torch.empty(maps.shape, dtype=taken.dtype)
        to_taken = torch.empty_like(taken) if ctx.needs_input_grad[0] else None
        cast, size = maps.to(taken.dtype), len(maps) // k
        for expert in range(k):
            piece, block = (
                slice(ctx.starts[expert], ctx.starts[expert + 1]),
                slice(expert * size, (expert + 1) * size),
            )
            torch.mm(spread[piece].T, taken[piece], out=to_maps[block])
            if to_taken is not None:
                torch.mm(spread[piece], cast[block], out=to_taken[piece])
        to_inputs = None
        if to_taken is not None:
            kept = torch.from_numpy(np.flatnonzero(ctx.order >= 0))
            rows = torch.from_numpy(ctx.order[ctx.order >= 0])
            to_inputs = torch.zeros(len(weights), taken.shape[1])
            to_inputs.index_add_(0, rows, to_taken.index_select(0, kept).float())
        return to_inputs, to_maps.float(), torch.from_numpy(to_weights), None


# The loops below run on one thread: a second pool of threads beside torch's would take its cores from it.


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _places(weights: Any, multiple: int) -> Any:
    """Return the input of each place, experts side by side, and where each expert's places begin.

    An expert's places are rounded up to a multiple: a product in half precision is compiled for each shape
    that was not there before, which takes longer than the product. Rounded, the same few shapes come again.
    """
    n, k = weights.shape
    starts = np.zeros(k + 1, dtype=np.int64)
    for row in range(n):
        for expert in range(k):
            if weights[row, expert] != 0:
                starts[expert + 1] += 1
    for expert in range(k):
        rounded = (starts[expert + 1] + multiple - 1) // multiple * multiple
        starts[expert + 1] = starts[expert] + rounded
    order = np.full(starts[k], -1, dtype=np.int64)
    free = starts[:k].copy()
    for row in range(n):
        for expert in range(k):
            if weights[row, expert] != 0:
                order[free[expert]] = row
                free[expert] += 1
    return order, starts


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _combine(outputs: Any, weights: Any, order: Any, starts: Any, summed: Any) -> None:
    for expert in range(len(starts) - 1):
        for place in range(starts[expert], starts[expert + 1]):
            row = order[place]
            if row >= 0:
                weight = weights[row, expert]
                for column in range(outputs.shape[1]):
                    summed[row, column] += weight * outputs[place, column]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _spread(
    gradient: Any, outputs: Any, weights: Any, order: Any, starts: Any, spread: Any, to_weights: Any
) -> None:
    for expert in range(len(starts) - 1):
        for place in range(starts[expert], starts[expert + 1]):
            row = order[place]
            if row < 0:
                spread[place] = 0.0
                continue
            weight, agreement = weights[row, expert], np.float32(0.0)
            for column in range(outputs.shape[1]):
                spread[place, column] = weight * gradient[row, column]
            # On its own, as a loop that sums must write to no array: see `prismrec.models.layers.routing`.
            for column in range(outputs.shape[1]):
                agreement += gradient[row, column] * outputs[place, column]
            to_weights[row, expert] = agreement


def whole_rows(inputs: Tensor) -> Tensor:
    """Under autocast on a CPU, round the number of rows up by rows of 0, for the reason `_places` gives.

    Parameters
    ----------
    inputs
        Shape ``(n, d)``.

    Returns
    -------
    Tensor
        Shape ``(m, d)``; the first n rows are the inputs.
    """
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return inputs
    return nn.functional.pad(inputs, (0, 0, 0, -len(inputs) % _ROWS))


def sparse_softmax(logits: Tensor, k: int) -> Tensor:
    """Softmax over the k largest logits of each row, 0 elsewhere.

    Parameters
    ----------
    logits
        Shape ``(n, K)``.
    k
        Between 1 and K.

    Returns
    -------
    Tensor
        Shape ``(n, K)``; rows add up to 1 and have k entries above 0.
    """
    if k >= logits.shape[1]:
        return logits.softmax(dim=1)
    top, chosen = logits.topk(k, dim=1)
    return torch.zeros_like(logits).scatter(1, chosen, top.softmax(dim=1))


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the entries where `mask` is true; a row without any is all 0.

    Parameters
    ----------
    logits, mask
        Shape ``(n, m)``.
    """
    shifted = logits.masked_fill(~mask, float("-inf"))
    top = shifted.amax(dim=1, keepdim=True)
    # A row of nothing but -inf has no maximum; 0 keeps it free of NaN, also in the gradient.
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    raised = torch.where(mask, (shifted - top).exp(), torch.zeros_like(logits))
    return raised / raised.sum(dim=1, keepdim=True).clamp_min(1e-12)
