"""Adam for tables of which a batch touches few rows: only those rows are read and written.

Dense Adam moves every row of parameter, gradient and both moments in every step, whatever the batch holds:
with 192,403 users, 63,001 items and 64 dimensions that is 458 MB a step for some 1.5 MB of gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.models.layers.lazy_adam import AdamStep, update_rows


class RowAdam(torch.optim.Optimizer):
    """Lazy Adam on the rows of tables: the same steps as `torch.optim.SparseAdam`.

    A row without a gradient stays as it is, moments included; bias is corrected by the number of steps. There
    is no weight decay. On the CPU, float32 tables are updated by one compiled loop; elsewhere by torch's
    operations.

    A dense gradient touches every row: then this is Adam.

    Parameters
    ----------
    params
        Tables, shape ``(rows, d)``, or groups of them. Their gradients come from
        ``torch.nn.functional.embedding(..., sparse=True)``; rows may repeat.
    lr
        Learning rate.
    betas
        Shares that the two moments keep.
    eps
        Added to the root of the second moment.

    Raises
    ------
    InputError
        If a parameter is not a table, or a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(
                f"RowAdam cannot run with lr={lr}, betas={betas}, eps={eps}.",
                "lr and eps are at least 0, betas at least 0 and below 1.",
            )
        self._slots: dict[Tensor, npt.NDArray[np.int32]] = {}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add tables with settings of their own.

        Raises
        ------
        InputError
            If a parameter is not a table.
        """
        super().add_param_group(param_group)
        for table in self.param_groups[-1]["params"]:
            if table.ndim != 2:
                raise InputError(
                    f"RowAdam updates rows of tables; a parameter has the shape {tuple(table.shape)}.",
                    "Give it to another optimiser.",
                )

    def started(self, table: Tensor) -> dict[str, Tensor]:
        """Return the state of a table, made where there is none: ``step``, ``exp_avg``, ``exp_avg_sq``."""
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(table, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(table, memory_format=torch.contiguous_format)
        return state

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
            how = AdamStep(group["lr"], group["betas"], group["eps"])
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, how)
        return loss

    def _update(self, table: Tensor, gradient: Tensor, how: AdamStep) -> None:
        state = self.started(table)
        state["step"] += 1
        size = how.size(int(state["step"]))
        if not gradient.is_sparse:
            codes, values = None, gradient
        else:
            if gradient.sparse_dim() != 1:
                raise InputError("RowAdam needs gradients by rows; one is sparse in its columns too.")
            codes, values = gradient._indices()[0], gradient._values()
        # Under autocast a gradient may come in half precision; moments and sums are kept in full.
        values = values.to(table.dtype)
        moments = state["exp_avg"], state["exp_avg_sq"]
        if codes is None:
            _move(table, *moments, values, how, size)
        elif table.device.type == "cpu" and table.dtype == torch.float32 and table.is_contiguous():
            self._update_here(table, *moments, codes, values, how, size)
        else:
            _update_there(table, *moments, gradient.coalesce(), how, size)

    def _update_here(
        self,
        table: Tensor,
        mean: Tensor,
        square: Tensor,
        codes: Tensor,
        values: Tensor,
        how: AdamStep,
        size: float,
    ) -> None:
        if table not in self._slots:
            self._slots[table] = np.full(len(table), -1, dtype=np.int32)
        update_rows(
            table.detach().numpy(),
            mean.numpy(),
            square.numpy(),
            codes.contiguous().numpy(),
            values.contiguous().numpy(),
            self._slots[table],
            np.float32(size),
            np.float32(how.betas[0]),
            np.float32(how.betas[1]),
            np.float32(how.eps),
        )


def _update_there(
    table: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, how: AdamStep, size: float
) -> None:
    """Gather the rows that are touched, move them, put them back."""
    codes, values = gradient.indices()[0], gradient.values().to(table.dtype)
    rows, its_mean, its_square = table[codes], mean[codes], square[codes]
    _move(rows, its_mean, its_square, values, how, size)
    table.index_copy_(0, codes, rows)
    mean.index_copy_(0, codes, its_mean)
    square.index_copy_(0, codes, its_square)


def _move(rows: Tensor, mean: Tensor, square: Tensor, values: Tensor, how: AdamStep, size: float) -> None:
    mean.lerp_(values, 1.0 - how.betas[0])
    square.mul_(how.betas[1]).addcmul_(values, values, value=1.0 - how.betas[1])
    rows.addcdiv_(mean, square.sqrt().add_(how.eps), value=-size)
