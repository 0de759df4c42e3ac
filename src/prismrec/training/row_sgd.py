"""Plain stochastic gradient descent, also for tables of which a batch touches few rows."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prismrec.base.errors import InputError


class RowSGD(torch.optim.SGD):
    """Gradient steps without momentum; of a table only the rows that have a gradient are read and written.

    It keeps no state. As a row without a gradient would not move anyway, the steps are those of
    `torch.optim.SGD` on whole tables. Gradients of one row are added up before it moves, so that the result
    depends neither on threads nor on the device's order of additions.

    Parameters
    ----------
    params
        Parameters, or groups of them. Gradients may be dense, or come from
        ``torch.nn.functional.embedding(..., sparse=True)``.
    lr
        Learning rate.

    Raises
    ------
    InputError
        If the learning rate is below 0.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        if lr < 0:
            raise InputError(f"RowSGD cannot run with lr={lr}.", "lr is at least 0.")
        super().__init__(params, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Parameters
        ----------
        closure
            Computes the loss again; None: gradients are there.

        Returns
        -------
        float or None
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient: Tensor | None = parameter.grad
                if gradient is not None and gradient.is_sparse:
                    parameter.grad = gradient.coalesce()
        super().step()
        return loss
