"""What a strategy may do with a batch: take gradients, move the weights and put them back, step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, Turn
from prismrec.models.batches import Batch, part_of
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.training.processes import average_gradients
from prismrec.training.strategies.gradients import Gradient, Gradients, read, write


@dataclass(frozen=True)
class Taken:
    """What a pass forward and backward gave.

    Parameters
    ----------
    terms
        The loss by name, detached.
    gradients
        Of the parameters that this step may move.
    content
        Of what the model reads of items (`Content.leaves`), None where nothing depends on it; empty if not
        asked.
    """

    terms: dict[str, Tensor]
    gradients: Gradients
    content: list[Tensor | None]

    @property
    def loss(self) -> float:
        """The sum of the terms."""
        return float(torch.stack([value.float() for value in self.terms.values()]).sum())


class Content:
    """What a model reads of items in a batch: the batch's vectors, and tables that stay as they are.

    Parameters
    ----------
    model, batch
        As in training.
    """

    def __init__(self, model: GradientModel, batch: Batch) -> None:
        self.own = [vectors.detach().clone() for vectors in batch.items.vectors]
        layers = [module for module in model.modules() if isinstance(module, FeatureTables)]
        # Tables that are parameters are learnt, and part of the weights.
        self.tables = [table for layer in layers if not layer.trained for table in layer.tables]

    @property
    def leaves(self) -> list[Tensor]:
        """The batch's vectors, then the tables."""
        return [*self.own, *self.tables]


class Passes:
    """One step's batch and everything that it takes to make the step.

    Both passes of a step see the same random numbers unless they are asked not to, and normalisation layers
    take running statistics from the first one alone.

    Parameters
    ----------
    model, batch
        In training mode, on the right device.
    turn
        The turn that the step belongs to, where the model takes turns.
    optimizers
        What makes the step.
    backward
        Takes gradients of a loss.
    autocast
        Makes the context of a pass forward.
    finish
        Called with gradients in place, before the step: clipping.
    rate
        Learning rate of the step.
    number
        Steps that were taken before.
    weight
        What the terms are multiplied by, where a process was given some of the batch's pairs alone: so that
        the mean over processes is the batch's. Then all of them step alike.
    """

    def __init__(
        self,
        model: GradientModel,
        batch: Batch,
        turn: Turn | None,
        *,
        optimizers: Sequence[torch.optim.Optimizer],
        backward: Callable[[Tensor], None] = lambda loss: loss.backward(),  # type: ignore[no-untyped-call]
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        finish: Callable[[], None] = lambda: None,
        rate: float = 1e-3,
        number: int = 0,
        weight: float = 1.0,
    ) -> None:
        self.model, self.batch, self.turn = model, batch, turn
        self.rate, self.number = rate, number
        self._weight = weight
        self._optimizers, self._backward, self._autocast = optimizers, backward, autocast
        self._finish = finish
        self._random: tuple[Tensor, list[Tensor]] | None = None
        self.named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (turn is None or turn.moves(name))
        ]

    def take(
        self, batch: Batch | None = None, *, fresh: bool = False, content: Content | None = None
    ) -> Taken:
        """Take the loss and its gradients where the weights stand.

        Parameters
        ----------
        batch
            Another one than the step's.
        fresh
            Whether to draw noise anew instead of seeing that of the first pass again.
        content
            Take gradients by these vectors too, and read the batch's own ones from there.
        """
        terms, found = self._pass(self.batch if batch is None else batch, fresh, content)
        gradients = read([parameter for _, parameter in self.named])
        return Taken(terms, gradients, found)

    def plain(self) -> dict[str, Tensor]:
        """Make a step of the base optimiser down the batch's gradient, and return the terms of the loss."""
        terms, _ = self._pass(self.batch, True, None)
        moving = {id(parameter) for _, parameter in self.named}
        for parameter in self.model.parameters():
            if id(parameter) not in moving:
                # An optimiser leaves alone what has no gradient, its moments too.
                parameter.grad = None
        self._step()
        return terms

    def _pass(
        self, batch: Batch, fresh: bool, content: Content | None
    ) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Go forward and backward, and leave the gradients with the parameters."""
        first, reached = self._random is None, None
        if self._random is None:
            self._random = _random_state()
        elif not fresh:
            reached = _random_state()
            _set_random_state(self._random)
        for parameter in self.model.parameters():
            parameter.grad = None
        with _asking(content) as leaves, _statistics(self.model, frozen=not first):
            if content is not None:
                vectors = tuple(leaves[: len(content.own)])
                batch = replace(batch, items=replace(batch.items, vectors=vectors))
            with self._autocast():
                terms = self._terms(batch)
            values = torch.stack([value.float() for value in terms.values()]) * self._weight
            self._backward(values.sum())
            if self.model.team.size > 1:
                values = self.model.team.mean(values)
                average_gradients(self.model, self.model.team)
            # Where a learnt table stands in for content, a gradient comes back that is 0 everywhere.
            found = [leaf.grad if leaf.grad is not None and leaf.grad.any() else None for leaf in leaves]
        if reached is not None:
            # What other passes have drawn since then must not come again in the next step.
            _set_random_state(reached)
        return dict(zip(terms, values.detach(), strict=True)), found

    def descend(self, gradients: Gradients) -> None:
        """Make a step of the base optimiser along gradients."""
        write(gradients, list(self.model.parameters()))
        self._step()

    def _step(self) -> None:
        self._finish()
        for optimizer in self._optimizers:
            optimizer.step()

    @contextmanager
    def moved(self, by: Gradients, factor: float = 1.0) -> Iterator[None]:
        """Add a multiple of something to the weights; when the block ends they are as before, bit for bit."""
        saved = []
        with torch.no_grad():
            for step in by:
                if step.rows is None:
                    # Other memory for a while: the weights themselves are never written.
                    saved.append(step.parameter.data)
                    step.parameter.data = torch.add(step.parameter.data, step.values, alpha=factor)
                else:
                    saved.append(step.of_parameter().clone())
                    self._add(step, factor)
        try:
            yield
        finally:
            with torch.no_grad():
                for step, before in zip(by, saved, strict=True):
                    if step.rows is None:
                        step.parameter.data = before
                    else:
                        step.parameter[step.rows] = before

    @torch.no_grad()
    def shift(self, by: Gradients, factor: float) -> None:
        """Add a multiple of something to the weights for good."""
        for step in by:
            self._add(step, factor)

    def halves(self) -> tuple[Batch, Batch]:
        """Return the step's batch in two halves with all items each.

        Raises
        ------
        InputError
            If there is only one pair or user.
        """
        return halves(self.batch)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.losses(batch) if self.turn is None else self.model.turn_losses(self.turn, batch)

    def _add(self, step: Gradient, factor: float) -> None:
        if step.rows is None:
            step.parameter.add_(step.values, alpha=factor)
        else:
            step.parameter.index_add_(0, step.rows, step.values, alpha=factor)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Divide a batch: its pairs, or its users with all their positives; both halves keep all items.

    Raises
    ------
    InputError
        If there is only one pair or user.
    """
    middle = len(batch.users) // 2
    if middle == 0:
        raise InputError(
            "A batch of one cannot be divided.", "Choose another training.strategy.reading or batch_size."
        )
    return part_of(batch, slice(0, middle)), part_of(batch, slice(middle, len(batch.users)))


@contextmanager
def _asking(content: Content | None) -> Iterator[list[Tensor]]:
    """Let gradients reach content for a while."""
    if content is None:
        yield []
        return
    leaves = [vectors.requires_grad_() for vectors in content.leaves]
    try:
        yield leaves
    finally:
        for leaf in leaves:
            leaf.requires_grad_(False)
            leaf.grad = None


@contextmanager
def _statistics(model: nn.Module, *, frozen: bool) -> Iterator[None]:
    """Keep running statistics as they are: a second pass sees the same batch with other weights."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if frozen else []
    before = [(layer, {name: b.clone() for name, b in layer.named_buffers()}) for layer in layers]
    try:
        yield
    finally:
        for layer, buffers in before:
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    there = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if there else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
