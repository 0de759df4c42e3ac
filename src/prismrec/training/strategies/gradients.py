"""Gradients of all parameters as one long vector, with rows that a batch did not touch left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gradient:
    """The gradient of one parameter.

    Parameters
    ----------
    parameter
        Whose it is.
    values
        Shape of the parameter; ``(touched, d)`` where `rows` says which rows there are.
    rows
        Codes of the touched rows, ascending; None: all of them.
    """

    parameter: nn.Parameter
    values: Tensor
    rows: Tensor | None = None

    def times(self, factor: Tensor | float) -> "Gradient":
        """Return a multiple of it; a tensor of one number a row scales each row by its own."""
        return Gradient(self.parameter, self.values * factor, self.rows)

    def of_parameter(self) -> Tensor:
        """Return the parameter's own values at the gradient's places, not a copy where it is whole."""
        data = self.parameter.detach()
        return data if self.rows is None else data[self.rows]

    def by_row(self) -> Tensor:
        """Return the values as rows, ``(rows, d)``; a vector is one row."""
        return _as_rows(self.values)


Gradients = list[Gradient]


def read(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Take the gradients away from the parameters; those without one are left out.

    Nothing is copied: the next pass makes new ones.
    """
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            found.append(Gradient(parameter, gradient.values().detach(), gradient.indices()[0]))
        else:
            found.append(Gradient(parameter, gradient.detach()))
        parameter.grad = None
    return found


def write(gradients: Gradients, parameters: Sequence[nn.Parameter]) -> None:
    """Give the parameters these gradients, and those that are not among them none."""
    for parameter in parameters:
        parameter.grad = None
    for gradient in gradients:
        parameter = gradient.parameter
        if gradient.rows is None:
            parameter.grad = gradient.values
        else:
            parameter.grad = torch.sparse_coo_tensor(
                gradient.rows.unsqueeze(0),
                gradient.values,
                parameter.shape,
                is_coalesced=True,
                check_invariants=False,
            )


def dot(first: Gradients, second: Gradients) -> Tensor:
    """Return the scalar product; what only one of them has adds nothing."""
    others = {id(gradient.parameter): gradient for gradient in second}
    total = torch.zeros((), dtype=torch.float64)
    for one in first:
        other = others.get(id(one.parameter))
        if other is None:
            continue
        if one.rows is None and other.rows is None:
            product = (one.values * other.values).sum()
        else:
            product = (
                (_whole(one) * _whole(other)).sum()
                if not _same_rows(one, other)
                else (one.values * other.values).sum()
            )
        total = total + product.double().to(total.device)
    return total


def length(gradients: Gradients) -> Tensor:
    """Return the Euclidean length of the long vector."""
    total = torch.zeros((), dtype=torch.float64)
    for gradient in gradients:
        total = total + torch.linalg.vector_norm(gradient.values).double().to(total.device).square()
    return total.sqrt()


def mixed(first: Gradients, a: Tensor | float, second: Gradients, b: Tensor | float) -> Gradients:
    """Return ``a * first + b * second``; the memory of `first` may be used for it."""
    others = {id(gradient.parameter): gradient for gradient in second}
    found = []
    for one in first:
        other = others.pop(id(one.parameter), None)
        if other is None:
            found.append(one.times(_number(a)))
        elif _same_rows(one, other):
            values = one.values.mul_(_number(a)).add_(other.values, alpha=_number(b))
            found.append(Gradient(one.parameter, values, one.rows))
        else:
            found.append(_united(one, _number(a), other, _number(b)))
    return found + [other.times(_number(b)) for other in others.values()]


def row_lengths(values: Tensor) -> Tensor:
    """Return the length of each row of a matrix, or of a vector as a whole, shape ``(rows, 1)``."""
    lengths: Tensor = torch.linalg.vector_norm(_as_rows(values), dim=1, keepdim=True)
    return lengths


def rowwise(gradient: Gradient, factors: Tensor) -> Gradient:
    """Scale each row by its own factor, shape ``(rows, 1)``."""
    scaled = (gradient.by_row() * factors).reshape(gradient.values.shape)
    return Gradient(gradient.parameter, scaled, gradient.rows)


def _as_rows(values: Tensor) -> Tensor:
    return values.reshape(1, -1) if values.ndim < 2 else values.flatten(1)


def _number(factor: Tensor | float) -> float:
    return float(factor)


def _same_rows(one: Gradient, other: Gradient) -> bool:
    if one.rows is None or other.rows is None:
        return one.rows is other.rows
    return torch.equal(one.rows, other.rows)


def _whole(gradient: Gradient) -> Tensor:
    if gradient.rows is None:
        return gradient.values
    return torch.zeros_like(gradient.parameter).index_copy_(0, gradient.rows, gradient.values)


def _united(one: Gradient, a: float, other: Gradient, b: float) -> Gradient:
    if one.rows is None or other.rows is None:
        return Gradient(one.parameter, _whole(one) * a + _whole(other) * b)
    rows, places = torch.unique(torch.cat([one.rows, other.rows]), return_inverse=True)
    values = one.values.new_zeros(len(rows), one.values.shape[1])
    values.index_add_(0, places[: len(one.rows)], one.values * a)
    values.index_add_(0, places[len(one.rows) :], other.values * b)
    return Gradient(one.parameter, values, rows)
