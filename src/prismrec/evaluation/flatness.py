"""How flat the loss is around trained weights.

The ascent gap of sharpness-aware minimisation (P. Foret et al., ICLR 2021, arXiv 2010.01412), the largest
eigenvalue of the Hessian by power iteration, its trace by Hutchinson's estimate, and a picture of the loss
over two random directions that are scaled row by row (H. Li et al., NeurIPS 2018, arXiv 1712.09913).

Embeddings grow many times over in training, and a flat-looking minimum may be a large-looking one. So each
measure also comes relative to the length of each row of each parameter: it does not change when rows are
scaled in a way that leaves the loss as it is (the idea of ASAM, J. Kwon et al., ICML 2021, arXiv 2102.11600,
with the rows' lengths as operator).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.errors import InputError, PrismError
from prismrec.evaluation.landscape import Landscape, Vector, added, dot, in_rows, norm, scaled_by, unit
from prismrec.models.base import GradientModel
from prismrec.models.batches import Batch, TrainingData
from prismrec.models.plan import TrainingPlan
from prismrec.training.batches import Batches

RADII = (0.05, 0.1, 0.5, 1.0, 2.0)
"""Lengths of the steps uphill."""

RELATIVE_RADII = (0.01, 0.05, 0.1)
"""The same relative to the rows' lengths; at 1 a single row might be turned round."""


@dataclass(frozen=True)
class Gap:
    """How much the loss rises by a step uphill.

    Parameters
    ----------
    radius
        Length of the step; of its relative form: in lengths of rows.
    gap
        ``L(theta + eps) - L(theta)``, eps along the gradient.
    random
        The same for random directions of that length, the mean of several.
    """

    radius: float
    gap: float
    random: float


@dataclass(frozen=True)
class Curvature:
    """What the Hessian is like.

    Parameters
    ----------
    largest
        Its largest eigenvalue.
    trace
        Its trace.
    trace_error
        Standard error of the trace over its random vectors.
    """

    largest: float
    trace: float
    trace_error: float


@dataclass(frozen=True)
class Surface:
    """The loss over two random directions.

    Parameters
    ----------
    along
        Steps along each direction, 0 among them; at 1 each row has moved by its own length.
    losses
        Shape ``(len(along), len(along))``: the first direction by rows.
    """

    along: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]


def ascent_gaps(
    landscape: Landscape, radii: Sequence[float], *, relative: bool = False, directions: int = 3
) -> list[Gap]:
    """Return how much the loss rises by steps of several lengths.

    Plain: ``eps = rho g / |g|``. Relative, with s the length of each parameter's row:
    ``eps = rho s^2 g / |s g|``, so that ``|eps / s| = rho``.

    Parameters
    ----------
    landscape
        Where.
    radii
        Values of rho.
    relative
        Which of the two.
    directions
        Random directions for comparison.
    """
    before = landscape.loss()
    scale = landscape.row_lengths() if relative else None
    ascent = unit(_times(landscape.gradient(), scale))
    generator = landscape.generator()
    others = [unit(_alive(landscape.random_normal(generator), scale)) for _ in range(directions)]
    gaps = []
    for radius in radii:
        gap = landscape.loss_at(_times(scaled_by(ascent, radius), scale)) - before
        rises = [landscape.loss_at(_times(scaled_by(other, radius), scale)) - before for other in others]
        gaps.append(Gap(radius, gap, sum(rises) / max(1, len(rises))))
    return gaps


def curvature(
    landscape: Landscape,
    *,
    relative: bool = False,
    iterations: int = 50,
    tolerance: float = 1e-3,
    probes: int = 10,
) -> Curvature:
    """Return the largest eigenvalue and the trace of the Hessian H, or of ``S H S`` with S the rows' lengths.

    Parameters
    ----------
    landscape
        Where.
    relative
        Which of the two.
    iterations, tolerance
        Of the power iteration: at most so many, and the relative change at which it ends.
    probes
        Random vectors of signs in Hutchinson's estimate, at least 2.
    """
    scale = landscape.row_lengths() if relative else None

    def image(vector: Vector) -> Vector:
        return _times(landscape.curved(_times(vector, scale)), scale)

    generator = landscape.generator()
    start = unit(landscape.random_normal(generator))
    largest = _dominant(image, start, iterations, tolerance)
    if largest < 0:
        # The largest in size is the most negative one: shifted by it, the largest becomes that.
        low = largest
        largest = low + _dominant(
            lambda vector: added(image(vector), vector, -low), start, iterations, tolerance
        )
    found = []
    for _ in range(max(2, probes)):
        signs = landscape.random_signs(generator)
        found.append(dot(signs, image(signs)))
    estimates = np.array(found)
    error = float(estimates.std(ddof=1) / math.sqrt(len(estimates)))
    return Curvature(largest, float(estimates.mean()), error)


def surface(landscape: Landscape, *, reach: float = 1.0, points: int = 11) -> Surface:
    """Return the loss over two random directions, each row of which is as long as the parameter's row.

    Parameters
    ----------
    landscape
        Where.
    reach
        How far to go along each direction.
    points
        Points along each, odd, so that the weights themselves are one of them.

    Raises
    ------
    InputError
        If the number of points is even or below 3.
    """
    if points < 3 or points % 2 == 0:
        raise InputError(
            f"A surface of {points} points a side has no middle.", "Choose an odd number from 3 on."
        )
    generator = landscape.generator()
    one, other = (_row_normalised(landscape, generator) for _ in range(2))
    along = np.linspace(-reach, reach, points)
    along[points // 2] = 0.0
    losses = [
        [landscape.loss_at(added(scaled_by(one, float(a)), other, float(b))) for b in along] for a in along
    ]
    return Surface(along, np.array(losses))


def landscape_of(
    model: GradientModel, data: TrainingData, plan: TrainingPlan, *, batches: int = 4, seed: int = 0
) -> Landscape:
    """Return the training loss of a model on the first batches of an epoch.

    The model itself is not touched: a copy is made ready for training as the loop would, and takes the
    model's weights. Dropout and sampled edges are those of the first epoch, the same in every evaluation.

    Parameters
    ----------
    model
        Trained, on the CPU.
    data
        What it was trained on.
    plan
        How it was trained.
    batches
        How many.
    seed
        Of the batches, and of what is random in the loss.

    Raises
    ------
    InputError
        If the model trains in turns, which have no one loss.
    """
    if model.turns:
        raise InputError(f"{model.config.name} trains in turns, which have no one loss.")
    ready = _ready(model, data, seed)
    ready.lazy_rows = False
    ready.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ready.start_epoch(1)
    source = Batches(data, plan, seed, ready.wants_catalog, ready.targets)

    def loss_of(number: int, batch: Batch) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            ready.start_batch(number)
            return torch.stack([term.float() for term in ready.losses(batch).values()]).sum()

        return loss

    losses = [loss_of(number, batch) for number, batch in enumerate(islice(source.epoch(1), batches))]
    return Landscape(dict(ready.named_parameters()), losses, seed)


def _ready(model: GradientModel, data: TrainingData, seed: int) -> GradientModel:
    """Return a copy that has been through `prepare`, which sets up what is not among the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = model.config.build(model.inputs)
        assert isinstance(built, GradientModel)
        try:
            built.prepare(data, None)
            built.load_state(model.state())
        except PrismError:
            # It prepares itself otherwise without a validation part; the weights alone have to do.
            return copy.deepcopy(model)
    return built


def _dominant(image: Callable[[Vector], Vector], start: Vector, iterations: int, tolerance: float) -> float:
    """Return the eigenvalue of the largest size."""
    vector, value = start, 0.0
    for _ in range(iterations):
        moved = image(vector)
        found, length = dot(vector, moved), norm(moved)
        if length == 0:
            return 0.0
        settled = abs(found - value) <= tolerance * abs(found)
        vector, value = scaled_by(moved, 1.0 / length), found
        if settled:
            break
    return value


def _row_normalised(landscape: Landscape, generator: torch.Generator) -> Vector:
    drawn = landscape.random_normal(generator)
    direction = []
    for part, length in zip(drawn, landscape.row_lengths(), strict=True):
        flat = in_rows(part)
        units = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
        direction.append(units.reshape(part.shape) * length)
    return direction


def _alive(vector: Vector, scale: Vector | None) -> Vector:
    """Leave out what a scale of 0 would swallow, so that the rest has the whole length."""
    if scale is None:
        return vector
    return [v * (s > 0) for v, s in zip(vector, scale, strict=True)]


def _times(vector: Vector, scale: Vector | None) -> Vector:
    return vector if scale is None else [v * s for v, s in zip(vector, scale, strict=True)]
