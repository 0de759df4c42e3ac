"""Gaussian noise on one pair of LoRA matrices: drawn, added by forward hooks, measured."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from prismrec.base.errors import InputError


class NoisyPair:
    """One active pair ``A`` (rank, in) and ``B`` (out, rank) of a model, for one draw.

    Once hooked, the pair works as ``A' = A + eps_A`` and ``B' = B + eps_B`` in training mode: the two
    matrices' own modules add ``eps_A x`` and ``eps_B (A' x)``. The noise is drawn in the first pass and
    stays.

    Parameters
    ----------
    name
        The layer's, for messages.
    a, b
        The modules of the two matrices.
    base
        The layer under the adapter, whose output is ``W x``.
    scale
        What ``B A x`` is multiplied by.
    seeds
        Of this pair's noise.
    sigma, sigma_relative
        As in `NoiseConfig`.
    """

    def __init__(
        self,
        name: str,
        a: nn.Linear,
        b: nn.Linear,
        base: nn.Module,
        scale: float,
        seeds: np.random.SeedSequence,
        *,
        sigma: float,
        sigma_relative: float | None,
    ) -> None:
        self.name = name
        self.paused = False
        self.ratio: Tensor | None = None
        self._a = a
        self._b = b
        self._base = base
        self._scale = scale
        self._seeds = seeds
        self._sigma = sigma
        self._sigma_relative = sigma_relative
        self._base_norm: Tensor | None = None
        self._noise: tuple[Tensor, Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    def hook(self) -> None:
        """Add noise from now on."""
        self._handles = [
            self._base.register_forward_hook(self._after_base),
            self._a.register_forward_hook(self._after_a),
            self._b.register_forward_hook(self._after_b),
        ]

    def unhook(self) -> None:
        """Add none any more, and free the noise; the measured ratio stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._noise, self._base_norm = [], None, None

    def _after_base(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._noise is None and not self.paused:
            self._base_norm = norm(output.detach())

    def _after_a(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.paused or not module.training:
            return None
        x: Tensor = inputs[0]
        if self._noise is None:
            # Sums of squares over all positions; autocast would take them in half precision.
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self._noise = self._drawn(x.detach(), output.detach())
        return output + functional.linear(x, self._noise[0])

    def _after_b(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.paused or self._noise is None or not module.training:
            return None
        return output + functional.linear(inputs[0], self._noise[1])

    def _drawn(self, x: Tensor, ax: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._a.weight, self._b.weight
        random = generator(a.device, self._seeds)
        # In float32 whatever the parameters are, so that all types get the same noise.
        unit_a = torch.randn(a.shape, generator=random, device=a.device, dtype=torch.float32)
        unit_b = torch.randn(b.shape, generator=random, device=a.device, dtype=torch.float32).to(b.device)
        powers = self._scale**2 * squared_noise(b, unit_b, ax, functional.linear(x, unit_a.to(x.dtype)))
        sigma = self._sigma
        base_norm = torch.zeros_like(powers[0]) if self._base_norm is None else self._base_norm
        if self._sigma_relative is not None:
            target = (self._sigma_relative * base_norm.to(powers)) ** 2
            sigma = sigma_for(*torch.cat([target[None], powers]).tolist())
        squared = sigma**2 * (powers[0] + sigma * (powers[1] + sigma * powers[2]))
        self.ratio = share(squared.clamp_min(0).sqrt(), base_norm.to(powers))
        return (sigma * unit_a).to(a.dtype), (sigma * unit_b).to(b.dtype)


def noisy_pairs(
    model: nn.Module, seeds: tuple[int, ...], *, sigma: float, sigma_relative: float | None
) -> list[NoisyPair]:
    """Return a model's active LoRA pairs in their order, not hooked yet.

    Parameters
    ----------
    model
        A PEFT model.
    seeds
        Each pair's noise is seeded with these and its place.
    sigma, sigma_relative
        As in `NoiseConfig`.

    Raises
    ------
    InputError
        If no pair is active, one is merged, or one is of a kind whose forward pass is not ``W x + s B A x``
        with linear A and B.
    """
    pairs: list[NoisyPair] = []
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "lora_A", None), nn.ModuleDict):
            continue
        layer: Any = module
        for adapter in layer.active_adapters:
            if adapter not in layer.lora_A and adapter not in layer.lora_embedding_A:
                continue
            _check(name, layer, adapter)
            pairs.append(
                NoisyPair(
                    name,
                    layer.lora_A[adapter],
                    layer.lora_B[adapter],
                    layer.base_layer,
                    float(layer.scaling[adapter]),
                    np.random.SeedSequence([*seeds, len(pairs)]),
                    sigma=sigma,
                    sigma_relative=sigma_relative,
                )
            )
    if not pairs:
        raise InputError(
            "The model has no active LoRA adapter to put noise on.",
            "Add one with peft.get_peft_model, or put the noise on 'logits' or nowhere ('none').",
        )
    return pairs


def _check(name: str, layer: Any, adapter: str) -> None:
    if adapter in layer.merged_adapters:
        raise InputError(
            f"Layer '{name}': the adapter '{adapter}' is merged, so no A and B are left to put noise on.",
            "Call model.unmerge_adapter() before training.",
        )
    linear = adapter in layer.lora_A and isinstance(layer.lora_A[adapter], nn.Linear)
    if not linear or adapter in layer.lora_variant:
        raise InputError(
            f"Layer '{name}': noise on weights is for plain LoRA on linear layers, and this is another kind.",
            "Target linear layers only, without DoRA and the like, or put the noise on 'logits'.",
        )


def squared_noise(b: Tensor, unit_b: Tensor, ax: Tensor, ex: Tensor) -> Tensor:
    """Return how the squared Frobenius norm of the noise in ``B A x`` grows with sigma.

    ``(B + sigma E_B)(A + sigma E_A) x - B A x = sigma (E_B a + B e) + sigma^2 E_B e`` with ``a = A x`` and
    ``e = E_A x``. Its square needs no more than products within the rank: nothing of the size of the layer's
    output is made.

    Parameters
    ----------
    b, unit_b
        ``B`` and ``E_B``, shape ``(out, rank)``.
    ax, ex
        ``a`` and ``e`` of all positions, shape ``(..., rank)``.

    Returns
    -------
    Tensor
        Shape ``(3,)``: what ``sigma^2``, ``sigma^3`` and ``sigma^4`` are multiplied by.
    """
    wide = torch.promote_types(ax.dtype, torch.float32)
    inner = torch.cat([ax, ex], dim=-1).flatten(0, -2).to(wide)
    gram = inner.T @ inner
    once = torch.cat([unit_b, b.detach()], dim=1).to(gram)
    twice = torch.cat([torch.zeros_like(unit_b), unit_b], dim=1).to(gram)
    return torch.stack(
        [
            (once.T @ once * gram).sum(),
            2 * (once.T @ twice * gram).sum(),
            (twice.T @ twice * gram).sum(),
        ]
    )


def sigma_for(target: float, second: float, third: float, fourth: float) -> float:
    """Return a sigma with ``second sigma^2 + third sigma^3 + fourth sigma^4 = target``.

    It is 0 where noise has no effect, as on an input of zeros, and where a number is not finite: then the
    loss is not either, and says so.
    """
    if not all(map(math.isfinite, (target, second, third, fourth))) or target <= 0 or second + fourth <= 0:
        return 0.0

    def short(sigma: float) -> bool:
        return sigma * sigma * (second + sigma * (third + sigma * fourth)) < target

    low, high = 0.0, 1.0
    while short(high):
        high *= 2
    # More than the 53 bits of a double, because a sigma may be far below 1.
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) else (low, middle)
    return high


def generator(device: torch.device, seeds: np.random.SeedSequence) -> torch.Generator:
    """Return a generator of its own, so that torch's global ones are neither read nor moved."""
    return torch.Generator(device=device).manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))


def norm(values: Tensor) -> Tensor:
    """Return the Frobenius norm over all dimensions, in float32 at least."""
    wide = torch.promote_types(values.dtype, torch.float32)
    result: Tensor = torch.linalg.vector_norm(values, dtype=wide)
    return result


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Return ``part / whole``; 0 if both are 0."""
    return part / whole.clamp_min(torch.finfo(whole.dtype).tiny)
