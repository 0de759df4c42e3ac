"""The interface of a strategy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from prismrec.training.strategies.passes import Passes


class StepStrategy(ABC):
    """Takes the steps of a training run."""

    @abstractmethod
    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step.

        Parameters
        ----------
        passes
            The batch, and what may be done with it.

        Returns
        -------
        dict
            The terms of the loss on the batch, as they were before anything moved.
        """

    def state(self) -> dict[str, Tensor]:
        """Return what the next step depends on, by name; most strategies remember nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        del state
