"""LookSAM: a second pass in every k-th step only.

Y. Liu, S. Mai, X. Chen, C.-J. Hsieh, Y. You: Towards Efficient and Scalable Sharpness-Aware Minimization,
CVPR 2022, arXiv 2203.02714.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.models.strategies import LookSAM
from prismrec.training.strategies.ascent import climb, in_scope
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.gradients import Gradient, Gradients, dot, length, mixed
from prismrec.training.strategies.passes import Passes


class LookSAMSteps(StepStrategy):
    """The part of SAM's gradient at right angles to the plain one changes slowly, so it is used again.

    Between two second passes the gradient is ``g + alpha |g| / |v| v``, v being that part (algorithm 1).
    """

    def __init__(self, settings: LookSAM) -> None:
        self.settings = settings
        self._across: dict[str, Tensor] = {}

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step.

        Raises
        ------
        InputError
            If gradients hold touched rows only: other steps touch other rows.
        """
        settings = self.settings
        here = passes.take()
        if any(gradient.rows is not None for gradient in here.gradients):
            raise InputError(
                "LookSAM uses a direction again on rows that the next batch does not touch.",
                "Set training.row_updates='dense'.",
            )
        if passes.number % settings.every == 0 or not self._across:
            passes.descend(self._look(passes, here.gradients))
        else:
            passes.descend(self._again(passes, here.gradients))
        return here.terms

    def _look(self, passes: Passes, plain: Gradients) -> Gradients:
        settings = self.settings
        scope = in_scope(passes, plain, settings.scope)
        with passes.moved(scope, climb(scope, settings.rho, settings.radius)):
            there = passes.take(fresh=settings.fresh_noise)
        square = dot(plain, plain)
        along = dot(there.gradients, plain) / square if float(square) > 0 else torch.zeros(())
        across = mixed(plain, -along, there.gradients, 1.0)
        names = {id(parameter): name for name, parameter in passes.named}
        self._across |= {names[id(part.parameter)]: part.values for part in across}
        return there.gradients

    def _again(self, passes: Passes, plain: Gradients) -> Gradients:
        kept = [
            Gradient(parameter, self._across[name])
            for name, parameter in passes.named
            if name in self._across
        ]
        size = float(length(kept))
        if size == 0:
            return plain
        return mixed(plain, 1.0, kept, self.settings.alpha * float(length(plain)) / size)

    def state(self) -> dict[str, Tensor]:
        """Return the direction by parameter."""
        return dict(self._across)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a direction."""
        self._across = {name: value.clone() for name, value in state.items()}
