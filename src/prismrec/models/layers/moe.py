"""Sparse mixtures of linear experts."""

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """K affine maps that are applied in one matrix product.

    Parameters
    ----------
    dim_in, dim_out
        Sizes of a vector before and after.
    experts
        Their number K.
    """

    def __init__(self, dim_in: int, dim_out: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.dim_out = dim_out
        self.maps = nn.Linear(dim_in, experts * dim_out)

    def forward(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return the experts' outputs, weighted and summed.

        Parameters
        ----------
        inputs
            Shape ``(n, dim_in)``.
        weights
            Weight of each expert for each input, shape ``(n, K)``; 0 for those not chosen.

        Returns
        -------
        Tensor
            Shape ``(n, dim_out)``.
        """
        outputs = self.maps(inputs).view(len(inputs), self.experts, self.dim_out)
        summed: Tensor = (outputs * weights.to(outputs.dtype).unsqueeze(2)).sum(dim=1)
        return summed


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
