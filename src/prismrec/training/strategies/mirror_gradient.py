"""Mirror Gradient: now and then a step down and part of a step up.

S. Zhong, Z. Huang, D. Li, W. Wen, J. Qin, L. Lin: Mirror Gradient: Towards Robust Multimodal Recommender
Systems via Exploring Flat Local Minima, WWW 2024, arXiv 2402.11262, algorithm 1.
"""

from torch import Tensor

from prismrec.models.strategies import MirrorGradient
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.passes import Passes


class MirrorGradientSteps(StepStrategy):
    """Every beta-th step: ``w' = w - a1 lr g(w)``, then ``w = w' + a2 lr g(w')``; others are the base's."""

    def __init__(self, settings: MirrorGradient) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        settings = self.settings
        here = passes.take()
        if (passes.number + 1) % settings.every != 0:
            passes.descend(here.gradients)
        elif settings.as_released:
            passes.descend([gradient.times(settings.down) for gradient in here.gradients])
            there = passes.take(fresh=settings.fresh_noise)
            passes.descend([gradient.times(-settings.up) for gradient in there.gradients])
        else:
            passes.shift(here.gradients, -settings.down * passes.rate)
            there = passes.take(fresh=settings.fresh_noise)
            passes.shift(there.gradients, settings.up * passes.rate)
        return here.terms
