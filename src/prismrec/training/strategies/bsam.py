"""BSAM and BSAM+: sharpness-aware steps on batch data.

J. Xu et al., IEEE TKDE 37(11):6406-6419, 2025, doi 10.1109/TKDE.2025.3604242. Its record says:
sharpness-aware, focused on batch data, no extensive tuning, and a mixed loss that converges faster. The full
text is closed, so there are several readings; docs/bsam.md says which evidence there is for each.
"""

import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.models.strategies import BSAM, BSAMPlus
from prismrec.training.strategies.ascent import (
    anywhere,
    climb,
    each_row,
    id_tables,
    in_scope,
    named_by_batch,
)
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.gradients import Gradients, mixed, row_lengths
from prismrec.training.strategies.passes import Content, Passes, Taken


class BSAMSteps(StepStrategy):
    """Up along the batch's gradient, and down the gradient found there, or a mix of both gradients."""

    def __init__(self, settings: BSAM) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step."""
        if self.settings.reading == "R2":
            return self._rows_of_the_batch(passes)
        if self.settings.reading == "R3":
            return self._two_halves(passes)
        here = passes.take()
        with passes.moved(*self._up(passes, here.gradients)):
            there = passes.take(fresh=self.settings.fresh_noise)
        passes.descend(self._made_of(here, there))
        return here.terms

    def _two_halves(self, passes: Passes) -> dict[str, Tensor]:
        """Climb on one half of the batch, so that what is lowered is not what was raised.

        A pair that is left alone at the end of an epoch is both halves.
        """
        first, second = (passes.batch, passes.batch) if len(passes.batch.users) < 2 else passes.halves()
        # The plain pass comes first, as the last one sees its noise again: both are of the same half.
        plain = passes.take(second) if self._mix > 0 else None
        up = passes.take(first, fresh=True)
        with passes.moved(*self._up(passes, up.gradients)):
            there = passes.take(second, fresh=plain is None or self.settings.fresh_noise)
        passes.descend(there.gradients if plain is None else self._made_of(plain, there))
        return up.terms if plain is None else plain.terms

    def _rows_of_the_batch(self, passes: Passes) -> dict[str, Tensor]:
        """Move the embeddings and the content that the batch names, each row by its own gradient."""
        content = Content(passes.model, passes.batch)
        here = passes.take(content=content)
        rho = self.settings.rho
        up = [each_row(named_by_batch(passes, g), rho) for g in id_tables(passes, here.gradients)]
        if self.settings.direction == "random":
            up = anywhere(up, passes.number)
        before = [leaf.clone() for leaf in content.leaves]
        with torch.no_grad():
            for leaf, gradient in zip(content.leaves, here.content, strict=True):
                if gradient is not None:
                    leaf.add_(along_rows(gradient, leaf, rho))
        try:
            with passes.moved(up):
                there = passes.take(fresh=self.settings.fresh_noise, content=content)
        finally:
            with torch.no_grad():
                for leaf, old in zip(content.leaves, before, strict=True):
                    leaf.copy_(old)
        if not up and all(gradient is None for gradient in here.content):
            raise InputError(
                f"{passes.model.config.name} has no embeddings and reads no content that could be moved.",
                "Choose another training.strategy.reading.",
            )
        passes.descend(self._made_of(here, there))
        return here.terms

    def _up(self, passes: Passes, gradients: Gradients) -> tuple[Gradients, float]:
        settings = self.settings
        scope = in_scope(passes, gradients, settings.scope)
        factor = climb(scope, settings.rho, settings.radius)
        return anywhere(scope, passes.number) if settings.direction == "random" else scope, factor

    @property
    def _mix(self) -> float:
        return self.settings.mix if isinstance(self.settings, BSAMPlus) else 0.0

    def _made_of(self, here: Taken, there: Taken) -> Gradients:
        if self.settings.reading == "R1-sum":
            return mixed(here.gradients, 1.0, there.gradients, 1.0)
        if self._mix == 0:
            return there.gradients
        return mixed(here.gradients, self._mix, there.gradients, 1.0 - self._mix)


def along_rows(gradient: Tensor, leaf: Tensor, share: float) -> Tensor:
    """Move each row of content along its gradient by a share of the row's length, as scales differ."""
    return gradient * (share * row_lengths(leaf) / (row_lengths(gradient) + 1e-12))
