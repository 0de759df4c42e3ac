"""Which experts an item is sent to: logits, their softmax, and the softmax of the largest, in one pass."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from prismrec.models.layers.moe import sparse_softmax


def route(router: nn.Linear, inputs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the softmax over all experts and the softmax over the k with the largest logits.

    Parameters
    ----------
    router
        Gives the logits.
    inputs
        Shape ``(n, dim)``.
    k
        Between 1 and the number of experts K.

    Returns
    -------
    dense, sparse
        Shape ``(n, K)`` each.
    """
    if inputs.device.type == "cpu" and inputs.dtype == torch.float32 and not inputs.requires_grad:
        dense, sparse = _Route.apply(inputs, router.weight, router.bias, k)  # type: ignore[no-untyped-call]
        return dense, sparse
    logits = router(inputs)
    return logits.softmax(dim=1), sparse_softmax(logits, k)


class _Route(torch.autograd.Function):
    """A product with a handful of columns is what libraries of linear algebra are slowest at."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
        inputs = inputs.contiguous()
        shape = len(inputs), len(weight)
        dense, sparse = np.empty(shape, np.float32), np.zeros(shape, np.float32)
        _forward(
            inputs.numpy(), weight.detach().numpy(), bias.detach().numpy(), min(k, len(weight)), dense, sparse
        )
        found = torch.from_numpy(dense), torch.from_numpy(sparse)
        ctx.save_for_backward(inputs, *found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        inputs, dense, sparse = ctx.saved_tensors
        to_logits = torch.zeros_like(dense)
        for values, gradient in zip((dense, sparse), gradients, strict=True):
            weighed = values * gradient
            to_logits += weighed - values * weighed.sum(dim=1, keepdim=True)
        to_weight = np.zeros((dense.shape[1], inputs.shape[1]), np.float32)
        _backward(to_logits.numpy(), inputs.numpy(), to_weight)
        return None, torch.from_numpy(to_weight), to_logits.sum(dim=0), None


# One thread: beside torch's pool of threads a second one would take its cores from it. A loop that sums
# must not write to an array as well: the compiled code then looks whether arrays lie near each other in
# memory, and sums in another order if they do, so that last places would depend on where memory was free.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _forward(inputs: Any, weight: Any, bias: Any, k: int, dense: Any, sparse: Any) -> None:
    experts = len(weight)
    logits = np.empty(experts, dtype=np.float32)
    for row in range(len(inputs)):
        for expert in range(experts):
            total = np.float32(0.0)
            for column in range(inputs.shape[1]):
                total += inputs[row, column] * weight[expert, column]
            logits[expert] = total + bias[expert]
        top, whole = logits.max(), np.float32(0.0)
        for expert in range(experts):
            dense[row, expert] = np.exp(logits[expert] - top)
        for expert in range(experts):
            whole += dense[row, expert]
        part = np.float32(0.0)
        for _ in range(k):
            best = -1
            for expert in range(experts):
                if sparse[row, expert] == 0 and (best < 0 or logits[expert] > logits[best]):
                    best = expert
            sparse[row, best] = max(dense[row, best], np.float32(1e-30))
            part += sparse[row, best]
        for expert in range(experts):
            dense[row, expert] /= whole
            sparse[row, expert] /= part


@numba.njit(cache=True, nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _backward(to_logits: Any, inputs: Any, to_weight: Any) -> None:
    """Add the outer products up, item after item: in this order on every machine and in every run.

    The library's product of so few rows was seen to differ in last places between runs on a busy machine.
    """
    for row in range(len(inputs)):
        for expert in range(len(to_weight)):
            factor = to_logits[row, expert]
            for column in range(inputs.shape[1]):
                to_weight[expert, column] += factor * inputs[row, column]
