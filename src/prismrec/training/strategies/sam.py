"""SAM and its relatives that only differ in what is made of two gradients.

SAM: P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, ICLR 2021, arXiv 2010.01412.
ASAM: J. Kwon, J. Kim, H. Park, I. K. Choi, ICML 2021, arXiv 2102.11600.
GSAM: J. Zhuang et al., ICLR 2022, arXiv 2203.08065.
WSAM: Y. Yue et al., KDD 2023, arXiv 2305.15817.
"""

import torch
from torch import Tensor

from prismrec.models.strategies import ASAM, GSAM, SAM, WSAM
from prismrec.training.strategies.ascent import climb, in_scope
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.gradients import Gradient, Gradients, dot, length, mixed
from prismrec.training.strategies.passes import Passes


class SAMSteps(StepStrategy):
    """The base optimiser gets the gradient at the perturbed weights."""

    def __init__(self, settings: SAM) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        scope = in_scope(passes, here.gradients, settings.scope)
        with passes.moved(scope, climb(scope, settings.rho, settings.radius)):
            there = passes.take(fresh=settings.fresh_noise)
        passes.descend(there.gradients)
        return here.terms


class ASAMSteps(StepStrategy):
    """SAM where each weight is moved in proportion to its size: ``rho t^2 g / |t g|``, ``t = |w| + eta``."""

    def __init__(self, settings: ASAM) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        scope = in_scope(passes, here.gradients, settings.scope)
        sizes = [gradient.of_parameter().abs() + settings.eta for gradient in scope]
        scaled = [_times(gradient, size) for gradient, size in zip(scope, sizes, strict=True)]
        factor = float(settings.rho / (length(scaled) + 1e-12))
        up = [_times(gradient, size).times(factor) for gradient, size in zip(scaled, sizes, strict=True)]
        with passes.moved(up):
            there = passes.take(fresh=settings.fresh_noise)
        passes.descend(there.gradients)
        return here.terms


class GSAMSteps(StepStrategy):
    """SAM's gradient less a share of the plain one's part at right angles to it."""

    def __init__(self, settings: GSAM) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        scope = in_scope(passes, here.gradients, settings.scope)
        with passes.moved(scope, climb(scope, settings.rho, settings.radius)):
            there = passes.take(fresh=settings.fresh_noise)
        along = _along(here.gradients, there.gradients)
        across = mixed(here.gradients, 1.0, there.gradients, -along)
        passes.descend(mixed(there.gradients, 1.0, across, -settings.alpha))
        return here.terms


class WSAMSteps(StepStrategy):
    """The loss plus ``gamma / (1 - gamma)`` times its rise to the perturbed weights.

    Coupled, the base optimiser gets the gradient of that sum. Decoupled, it gets the plain gradient, and the
    weights go down the rise by the learning rate alone.
    """

    def __init__(self, settings: WSAM) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        scope = in_scope(passes, here.gradients, settings.scope)
        with passes.moved(scope, climb(scope, settings.rho, settings.radius)):
            there = passes.take(fresh=settings.fresh_noise)
        weight = settings.gamma / (1.0 - settings.gamma)
        rise = mixed(there.gradients, weight, here.gradients, -weight)
        if settings.decoupled:
            passes.descend(here.gradients)
            passes.shift(rise, -passes.rate)
        else:
            passes.descend(mixed(here.gradients, 1.0, rise, 1.0))
        return here.terms


def _times(gradient: Gradient, factors: Tensor) -> Gradient:
    return Gradient(gradient.parameter, gradient.values * factors, gradient.rows)


def _along(first: Gradients, second: Gradients) -> Tensor:
    """How often `second` goes into the projection of `first` on it."""
    square = dot(second, second)
    return dot(first, second) / square if float(square) > 0 else torch.zeros((), dtype=torch.float64)
