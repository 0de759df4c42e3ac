"""Plain steps: the gradient of the batch, and the base optimiser."""

from torch import Tensor

from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.passes import Passes


class PlainSteps(StepStrategy):
    """One pass a step."""

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        return passes.plain()
