"""Sparse mixtures of linear experts."""

from typing import Any

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """K affine maps that are applied in one matrix product.

    On a CPU only the products of the chosen experts are computed. Gathering their rows costs less than it
    saves, even where half of four experts are chosen (``benchmarks/bench_mamex.py``). Elsewhere all products
    are computed: finding the rows would make the device wait.

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
        routed = kind == "cpu" and self.chosen < self.experts
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
    """The same as `_Mixture`, expert by expert, each for the inputs that chose it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, maps: Tensor, weights: Tensor, half: torch.dtype | None) -> Tensor:
        cast = inputs if half is None else inputs.to(half)
        k = weights.shape[1]
        summed = inputs.new_zeros(len(inputs), len(maps) // k)
        saved = []
        for expert, matrix in enumerate(maps.to(cast.dtype).chunk(k)):
            rows = weights[:, expert].nonzero().squeeze(1)
            taken = cast.index_select(0, rows)
            output = (taken @ matrix.T).float()
            weight = weights[:, expert].index_select(0, rows).unsqueeze(1)
            summed.index_add_(0, rows, output * weight)
            saved += [rows, taken, output, weight]
        ctx.save_for_backward(cast, maps, weights, *saved)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        cast, maps, weights, *saved = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        k = weights.shape[1]
        to_inputs = torch.zeros_like(cast, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        to_maps, to_weights = torch.empty_like(maps), torch.zeros_like(weights)
        for expert, matrix in enumerate(maps.to(cast.dtype).chunk(k)):
            # An expert that was not chosen has weight 0, and its softmax passes no gradient on.
            rows, taken, output, weight = saved[4 * expert : 4 * expert + 4]
            part = gradient.index_select(0, rows)
            spread = (part * weight).to(cast.dtype)
            to_maps[expert * len(matrix) : (expert + 1) * len(matrix)] = spread.T @ taken
            to_weights[:, expert].index_copy_(0, rows, (part * output).sum(dim=1))
            if to_inputs is not None:
                to_inputs.index_add_(0, rows, (spread @ matrix).float())
        return to_inputs, to_maps, to_weights, None


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
