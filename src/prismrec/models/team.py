"""The processes that train one model together, as a model sees them.

What holds for a step: each process returns terms of the loss whose mean over the processes is the batch's
term. Then the mean of the gradients over the processes is the batch's gradient, whatever they divide.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """Processes, started by Accelerate or torchrun, each with the same model and the same batches.

    Parameters
    ----------
    rank
        Number of this process, from 0.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return which of n rows are this process's: a run of rows, in the order of the processes."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def whole(self, own: Tensor, n: int) -> Tensor:
        """Return the rows of all processes; gradients find their way back to where a row came from.

        Parameters
        ----------
        own
            This process's `share` of n rows, shape ``(rows, d)``.
        n
            Rows of all.

        Returns
        -------
        Tensor
            Shape ``(n, d)``, the same in every process.
        """
        if self.size == 1:
            return own
        whole: Tensor = _Whole.apply(own, self, n)  # type: ignore[no-untyped-call]
        return whole

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Draw random numbers of this process's own; behind the block all processes draw alike again."""
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(1 << 62, ()))
        here = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng([torch.cuda.current_device()] if here else []):
            torch.manual_seed(seed + self.rank)
            yield

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes of a tensor of one shape, without gradients."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def told(self, value: Any) -> Any:
        """Return what the first process has; the others' values are passed over."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]


ALONE = Team()
"""One process."""


class _Whole(torch.autograd.Function):
    """Rows of all processes; backward, what all of them say about this process's rows, added up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, team: Team, n: int) -> Tensor:
        ctx.team, ctx.n = team, n
        # Shares differ by a row at most: padded to one length, they go in one message.
        longest = -(-n // team.size)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(team.size)]
        dist.all_gather(found, padded)
        shares = [Team(rank, team.size).share(n) for rank in range(team.size)]
        return torch.cat([rows[: s.stop - s.start] for rows, s in zip(found, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.team.share(ctx.n)], None, None
