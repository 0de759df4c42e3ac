"""Several processes that train one model: joining them, and making their gradients one.

Accelerate and torchrun start processes and tell each its number; torch.distributed carries what they say to
each other, gloo on processors and NCCL on GPUs. Gradients are averaged here and not by torch's DDP, which
would not see that a step takes two of them (`prismrec.training.strategies`), and knows no rows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prismrec.base.errors import InputError, ProcessLostError
from prismrec.models.team import ALONE, Team

# The others wait while the first validates. One that dies is noticed at once, by its connections.
_PATIENCE = timedelta(hours=2)

# Where their names stand in an error, it came from what carries messages.
_CARRIERS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def join(device: str) -> tuple[Any, Team]:
    """Find the other processes, if there are any.

    Parameters
    ----------
    device
        "cpu", "cuda" or "mps"; with several GPUs on a machine each process gets its own.

    Returns
    -------
    accelerator, team
        What Accelerate knows of this process, and its place among the others.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate keeps its choice of device for the process, so another one resets it.
    if PartialState(cpu=device == "cpu", timeout=_PATIENCE).device.type != device:
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.num_processes == 1:
        return accelerator, ALONE
    return accelerator, Team(accelerator.process_index, accelerator.num_processes)


def several() -> bool:
    """Whether Accelerate or torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def team_of(device: str) -> Team:
    """Return the team of this process, as `join`; alone it costs nothing."""
    return join(device)[1] if several() else ALONE


@contextmanager
def others_may_go(team: Team) -> Iterator[None]:
    """Say what happened when another process ends while this one waits for it.

    Raises
    ------
    ProcessLostError
        If it does.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        told = isinstance(error, dist.DistError) or any(word in text for word in _CARRIERS)
        if team.size == 1 or not told:
            raise
        raise ProcessLostError(
            f"Process {team.rank} of {team.size} cannot reach the others: one of them is gone or hangs.",
            "Look what it said last. The same command goes on from the last checkpoint.",
        ) from error


@torch.no_grad()
def average_gradients(model: nn.Module, team: Team) -> None:
    """Put the mean over the processes in the place of each gradient.

    Dense ones go in one message. Of those by rows the touched rows go alone, so that a table costs what a
    batch touches. A parameter has a gradient afterwards if it had one anywhere.

    Parameters
    ----------
    model
        The same in all processes.
    team
        More than one process.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    kinds = [0 if p.grad is None else 2 if p.grad.is_sparse else 1 for p in parameters]
    had = torch.tensor(kinds, dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(had, op=dist.ReduceOp.MAX)
    dense = [p for p, kind in zip(parameters, had.tolist(), strict=True) if kind == 1]
    if dense:
        _average_dense(dense, team)
    for parameter, kind in zip(parameters, had.tolist(), strict=True):
        if kind == 2:
            parameter.grad = _mean_of_rows(parameter, team)


def _average_dense(parameters: list[nn.Parameter], team: Team) -> None:
    flat = torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).to(torch.float32)
            for p in parameters
        ]
    )
    dist.all_reduce(flat)
    flat /= team.size
    sizes = [p.numel() for p in parameters]
    for parameter, values in zip(parameters, torch.split(flat, sizes), strict=True):
        parameter.grad = values.view_as(parameter).to(parameter.dtype)


def _mean_of_rows(table: nn.Parameter, team: Team) -> Tensor:
    """Return the mean of gradients that hold touched rows only."""
    if table.grad is None:
        rows = torch.zeros(0, dtype=torch.int64, device=table.device)
        values = table.new_zeros((0, *table.shape[1:]))
    else:
        own = table.grad.coalesce()
        rows, values = own.indices()[0], own.values()
    counts = torch.zeros(team.size, dtype=torch.int64, device=table.device)
    counts[team.rank] = len(rows)
    dist.all_reduce(counts)
    longest = int(counts.max())
    all_rows = _gathered(rows, longest, team)
    all_values = _gathered(values, longest, team)
    lengths = counts.tolist()
    indices = torch.cat([rows[:n] for rows, n in zip(all_rows, lengths, strict=True)])
    found = torch.cat([values[:n] for values, n in zip(all_values, lengths, strict=True)]) / team.size
    return torch.sparse_coo_tensor(indices[None, :], found, table.shape, check_invariants=False).coalesce()


def _gathered(own: Tensor, longest: int, team: Team) -> list[Tensor]:
    """Return the rows of each process, padded to a length."""
    padded = own.new_zeros((longest, *own.shape[1:]))
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in range(team.size)]
    dist.all_gather(found, padded)
    return found


@torch.no_grad()
def require_alike(model: nn.Module, team: Team) -> None:
    """Check that the model is the same in all processes.

    Raises
    ------
    InputError
        If it is not: other data, another version, or a step that one of them did not take.
    """
    if team.size == 1:
        return
    sums = [p.detach().double().sum() for p in model.parameters()]
    own = torch.stack(sums).float() if sums else torch.zeros(1)
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    scale = torch.maximum(least.abs(), most.abs()).clamp_min(1.0)
    if bool(((most - least) > 1e-3 * scale).any()):
        names = [name for name, _ in model.named_parameters()]
        place = int(((most - least) / scale).argmax())
        raise InputError(
            f"The processes do not train the same model any more: {names[place]} differs.",
            "Give all of them the same data, versions and settings, and start again.",
        )
