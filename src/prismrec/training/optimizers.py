"""What moves the weights in a step: optimisers by kind of parameter, clipping, precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from prismrec.models.base import GradientModel
from prismrec.models.plan import TrainingPlan
from prismrec.training.row_adam import RowAdam
from prismrec.training.row_sgd import RowSGD


def make_optimizers(model: GradientModel, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Make an optimiser for what every batch touches, and one for tables of which it touches a few rows.

    They are AdamW and lazy Adam, or plain SGD for both. Tables that are updated by rows are not decayed.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    tables: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if model.lazy_rows and name in model.row_tables:
            tables.append(parameter)
        else:
            (free if name in model.undecayed else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = []
    if decayed or free:
        # Fused: one pass over parameter, gradient and moments instead of seven.
        fused = all(p.device.type in ("cpu", "cuda") for p in (*decayed, *free))
        # Without momentum SGD's decay is the decoupled one: both shrink by 1 - rate * decay before the step.
        kind = torch.optim.SGD if plan.optimizer == "sgd" else torch.optim.AdamW
        found.append(kind([g for g in groups if g["params"]], lr=plan.learning_rate, fused=fused))
    if tables:
        rows = RowSGD if plan.optimizer == "sgd" else RowAdam
        found.append(rows(tables, lr=plan.learning_rate))
    for optimizer in found:
        optimizer.register_step_post_hook(_mark_changed)
    return found


def _mark_changed(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Raise the counters of what a step has moved, by which `Kept` knows: fused and lazy steps do not."""
    del args, kwargs
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            increment_version(parameter)


def row_moments(
    optimizers: list[torch.optim.Optimizer], tables: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return the state of lazy Adam of each table by name, made where there is none; nothing for SGD."""
    for optimizer in optimizers:
        if isinstance(optimizer, RowAdam):
            return {name: optimizer.started(table) for name, table in tables.items()}
    return {}


def clip(model: GradientModel, norm: float) -> None:
    """Scale all gradients down to a norm; torch's own function refuses those that hold touched rows only."""
    values = []
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    factor = (norm / (torch.nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all parameters of an optimiser."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def in_half(plan: TrainingPlan, device: torch.device) -> bool:
    """Whether products are taken in bfloat16; 'auto' asks whether there are units for it."""
    if plan.precision != "auto":
        return plan.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
