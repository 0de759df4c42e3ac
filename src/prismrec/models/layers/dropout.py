"""Dropout whose mask costs little on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 1 << 15


class Dropout(nn.Module):
    """Dropout, as `torch.nn.Dropout`.

    On a CPU torch draws a number of 64 bits for each element, one after the other, which takes longer than
    the layers around it. Here each draw serves four elements; the rate is rounded to 1 / 32,768.

    Parameters
    ----------
    rate
        Share of elements that are set to 0; the others are scaled up by ``1 / (1 - rate)``.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs with some elements dropped; as they are outside of training."""
        if not self.training or self.rate == 0:
            return inputs
        if inputs.device.type != "cpu":
            return functional.dropout(inputs, self.rate)
        draws = torch.empty((inputs.numel() + 3) // 4, dtype=torch.int64).random_()
        bits = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        # int64 draws leave the sign bit of every fourth piece 0, so only 15 bits of each are used.
        kept = (bits & (_STEPS - 1)) >= round(self.rate * _STEPS)
        return inputs * (kept.to(inputs.dtype) / (1.0 - self.rate))
