"""A sparse matrix of constants that multiplies dense matrices from both sides, with gradients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Rows(NamedTuple):
    """Entries of a sparse matrix row by row.

    Parameters
    ----------
    starts
        Where each row begins, shape ``(rows + 1,)``.
    columns, values
        Shape ``(entries,)``.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor


class SparseMatrix(nn.Module):
    """A matrix that is filled from data and saved with the model, however many entries it has.

    It is kept row by row and column by column, so that its product and that of its transpose, which is the
    gradient of the first, both gather whole rows: quicker than torch's sparse products and, unlike adding up
    by index, the same in every run on a GPU too.

    Parameters
    ----------
    n_rows, n_columns
        Shape. All entries are 0 until `fill`.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    back_starts: Tensor
    back_columns: Tensor
    back_values: Tensor

    def __init__(self, n_rows: int, n_columns: int) -> None:
        super().__init__()
        self.n_rows, self.n_columns = n_rows, n_columns
        self.register_buffer("starts", torch.zeros(n_rows + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0))
        # The same entries column by column follow from these, so they are not saved.
        self.register_buffer("back_starts", torch.zeros(n_columns + 1, dtype=torch.int64), persistent=False)
        self.register_buffer("back_columns", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("back_values", torch.zeros(0), persistent=False)

    def fill(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Take over entries in place of those that there are.

        Parameters
        ----------
        rows, columns
            int64, shape ``(entries,)``; entries at the same place add up.
        values
            Shape ``(entries,)``; they get no gradient.
        """
        device, kind = self.values.device, self.values.dtype
        rows, columns, values = rows.to(device), columns.to(device), values.detach().to(device, kind)
        self.starts, self.columns, self.values = _by_row(rows, columns, values, self.n_rows)
        self._turn()

    def forward(self, dense: Tensor) -> Tensor:
        """Return ``A X``.

        Parameters
        ----------
        dense
            Shape ``(n_columns, d)``.

        Returns
        -------
        Tensor
            Shape ``(n_rows, d)``.
        """
        return _product(dense, self._ahead(), self._back())

    def transposed(self, dense: Tensor) -> Tensor:
        """Return ``A' X`` of shape ``(n_columns, d)``, for X of shape ``(n_rows, d)``."""
        return _product(dense, self._back(), self._ahead())

    def _ahead(self) -> Rows:
        return Rows(self.starts, self.columns, self.values)

    def _back(self) -> Rows:
        return Rows(self.back_starts, self.back_columns, self.back_values)

    def _turn(self) -> None:
        """Sort the entries by column."""
        rows = torch.repeat_interleave(
            torch.arange(self.n_rows, device=self.starts.device), self.starts.diff()
        )
        turned = _by_row(self.columns, rows, self.values, self.n_columns)
        self.back_starts, self.back_columns, self.back_values = turned

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load entries whose number is known only now."""
        for name in ("columns", "values"):
            given = state_dict.get(prefix + name)
            if given is not None:
                setattr(self, name, getattr(self, name).new_empty(given.shape))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if missing_keys or error_msgs:
            return
        if self._is_whole():
            self._turn()
        else:
            error_msgs.append(f"{prefix}starts, columns and values are not those of one matrix.")

    def _is_whole(self) -> bool:
        entries = len(self.columns)
        if self.columns.ndim != 1 or self.values.shape != self.columns.shape:
            return False
        ends = bool(self.starts[0] == 0) and bool(self.starts[-1] == entries)
        if not ends or bool((self.starts.diff() < 0).any()):
            return False
        return entries == 0 or bool((self.columns >= 0).all() and (self.columns < self.n_columns).all())


def _by_row(rows: Tensor, columns: Tensor, values: Tensor, n_rows: int) -> Rows:
    order = torch.argsort(rows, stable=True)
    starts = torch.zeros(n_rows + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=n_rows).cumsum(0)
    return Rows(starts, columns[order], values[order])


def _product(dense: Tensor, ahead: Rows, back: Rows) -> Tensor:
    product: Tensor = _Product.apply(dense.to(ahead.values.dtype), ahead, back)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, ahead: Rows, back: Rows) -> Tensor:
        ctx.back = back
        return _gathered(dense, ahead)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(gradients[0], ctx.back), None, None


def _gathered(dense: Tensor, matrix: Rows) -> Tensor:
    if len(matrix.columns) == 0:
        return dense.new_zeros(len(matrix.starts) - 1, dense.shape[1])
    return functional.embedding_bag(
        matrix.columns, dense.contiguous(), matrix.starts[:-1], mode="sum", per_sample_weights=matrix.values
    )
