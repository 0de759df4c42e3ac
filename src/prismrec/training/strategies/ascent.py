"""Where a sharpness-aware step takes its second gradient: how far, and with which weights."""

import torch
from torch import Tensor

from prismrec.models.base import GradientModel
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.strategies import Radius, Scope
from prismrec.training.strategies.gradients import Gradient, Gradients, length, row_lengths
from prismrec.training.strategies.passes import Passes

_TINY = 1e-12


def climb(gradients: Gradients, rho: float, radius: Radius) -> float:
    """Return how often a gradient goes into the perturbation along it.

    With the length of the gradient's row r written ``|g_r|`` and that of the parameter's row ``|w_r|``,

    - global: ``rho g / |g|`` (Foret et al., arXiv 2010.01412, equation 2),
    - rows: ``rho g sum_r |g_r| / |g|^2``. Moving each row by rho along its own gradient raises the loss by
      ``rho sum_r |g_r|`` to first order; this perturbation raises it as much. If n rows have gradients of one
      length it is ``rho sqrt(n) g / |g|``, and where a graph spreads a little gradient over all rows, those
      hardly count.
    - relative: the same with ``sum_r |g_r| |w_r|``: each row by rho times its own length. Embeddings grow
      many times in training, and this grows with them.

    Parameters
    ----------
    gradients
        Of what shall be moved.
    rho
        How far.
    radius
        See above.
    """
    if radius == "global":
        return float(rho / (length(gradients) + _TINY))
    total, square = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for gradient in gradients:
        rows = row_lengths(gradient.values).double()
        square = square + rows.square().sum().to(square.device)
        if radius == "relative":
            rows = rows * row_lengths(gradient.of_parameter())
        total = total + rows.sum().to(total.device)
    return float(rho * total / (square + _TINY**2))


def in_scope(passes: Passes, gradients: Gradients, scope: Scope) -> Gradients:
    """Return the gradients of what a scope lets move."""
    if scope == "all":
        return gradients
    kept = _ids(passes.model) if scope == "ids_only" else None
    tables = _feature_tables(passes.model)
    return [
        gradient
        for gradient in gradients
        if (id(gradient.parameter) not in tables if kept is None else id(gradient.parameter) in kept)
    ]


def id_tables(passes: Passes, gradients: Gradients) -> Gradients:
    """Return the gradients of embeddings of users and items."""
    kept = _ids(passes.model)
    return [gradient for gradient in gradients if id(gradient.parameter) in kept]


def named_by_batch(passes: Passes, gradient: Gradient) -> Gradient:
    """Leave those rows of an embedding's gradient that the batch names as user or item.

    What a table holds is told by its number of rows: users, items, or users and then items.
    """
    users, items = passes.batch.users, passes.batch.items.codes
    items = items[items >= 0]
    inputs, rows = passes.model.inputs, len(gradient.parameter)
    codes = {inputs.n_users: users, inputs.n_items: items, inputs.n_users + inputs.n_items: None}.get(rows)
    if inputs.n_users == inputs.n_items == rows or rows == inputs.n_users + inputs.n_items:
        shift = inputs.n_users if rows != inputs.n_users else 0
        codes = torch.cat([users, items + shift])
    if codes is None:
        return gradient
    codes = torch.unique(codes).to(gradient.values.device)
    if gradient.rows is not None:
        kept = torch.isin(gradient.rows, codes)
        return Gradient(gradient.parameter, gradient.values[kept], gradient.rows[kept])
    return Gradient(gradient.parameter, gradient.values[codes], codes)


def each_row(gradient: Gradient, rho: float) -> Gradient:
    """Move each row by rho along its own gradient (as AMR moves features: arXiv 1809.07062, equation 8)."""
    factors = rho / (row_lengths(gradient.values) + _TINY)
    return Gradient(
        gradient.parameter, (gradient.by_row() * factors).reshape(gradient.values.shape), gradient.rows
    )


def anywhere(like: Gradients, seed: int) -> Gradients:
    """Return a random direction of the same length: the control of every strategy here."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for step in like:
        noise = torch.randn(step.values.shape, generator=generator).to(step.values)
        drawn.append(Gradient(step.parameter, noise, step.rows))
    factor = float(length(like) / (length(drawn) + _TINY))
    return [step.times(factor) for step in drawn]


def _ids(model: GradientModel) -> set[int]:
    names = {*model.row_tables, *model.undecayed}
    return {id(p) for name, p in model.named_parameters() if name in names and p.ndim == 2}


def _feature_tables(model: GradientModel) -> set[int]:
    layers = [module for module in model.modules() if isinstance(module, FeatureTables)]
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def unit(values: Tensor) -> Tensor:
    """Return rows of length 1, or 0 where there is nothing."""
    return values / (row_lengths(values) + _TINY)
