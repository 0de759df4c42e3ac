"""Friendly SAM: it climbs along what is particular to a batch, not along what all batches share.

T. Li, P. Zhou, Z. He, X. Cheng, X. Huang: Friendly Sharpness-Aware Minimization, CVPR 2024, arXiv 2403.12350.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prismrec.models.strategies import FriendlySAM
from prismrec.training.strategies.ascent import climb, in_scope
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.gradients import Gradient
from prismrec.training.strategies.passes import Passes


class FriendlySAMSteps(StepStrategy):
    """The perturbation follows ``g - sigma m``, m being the mean of the gradients before (equation 8).

    As in the released code the mean starts at the first gradient, and that step climbs along all of it.
    """

    def __init__(self, settings: FriendlySAM) -> None:
        self.settings = settings
        self._means: dict[str, Tensor] = {}

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        names = {id(parameter): name for name, parameter in passes.named}
        particular = [
            self._without_mean(names[id(gradient.parameter)], gradient)
            for gradient in in_scope(passes, here.gradients, settings.scope)
        ]
        with passes.moved(particular, climb(particular, settings.rho, settings.radius)):
            there = passes.take(fresh=settings.fresh_noise)
        passes.descend(there.gradients)
        return here.terms

    def _without_mean(self, name: str, gradient: Gradient) -> Gradient:
        """Take the mean out of a gradient, then the gradient into the mean, where untouched rows decay."""
        settings, mean = self.settings, self._means.get(name)
        if mean is None:
            mean = self._means[name] = torch.zeros_like(gradient.parameter)
            _add(mean, gradient, 1.0)
            return gradient
        before = mean if gradient.rows is None else mean[gradient.rows]
        own = Gradient(gradient.parameter, gradient.values - settings.sigma * before, gradient.rows)
        mean.mul_(settings.decay)
        _add(mean, gradient, 1.0 - settings.decay)
        return own

    def state(self) -> dict[str, Tensor]:
        """Return the mean gradients by parameter."""
        return dict(self._means)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over mean gradients."""
        self._means = {name: value.clone() for name, value in state.items()}


def _add(mean: Tensor, gradient: Gradient, share: float) -> None:
    if gradient.rows is None:
        mean.add_(gradient.values, alpha=share)
    else:
        mean.index_add_(0, gradient.rows, gradient.values, alpha=share)
