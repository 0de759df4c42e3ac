"""NoDO: Gaussian noise in the policy's forward pass while it is trained.

Y. Wang, Y. Yang, L. Wu, Y. Zhang, F. Liu, R. Hong: Hardness-Aware and Noise-Regularized Preference
Optimization for Multimodal Sequential Recommendation, SIGIR 2026, arXiv 2511.18740. The abstract puts the
noise on the output logits, the authors' released code on the adapter's weights; both are here.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.sequential.lora_noise import NoisyPair, generator, noisy_pairs, norm, share


class NoiseConfig(BaseModel):
    """Where noise goes and how strong it is.

    The published sigma of 0.05 to 0.1 on weights is strong: at width 2048, rank 8 and alpha 32 the noise is
    1.5 to 5 times a layer's output. Watch `NoDO.ratio`, or set ``sigma_relative``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: Literal["weights", "logits", "none"] = Field(
        "weights",
        description="On the adapter's matrices (released code), on the logits (abstract), or nowhere.",
    )
    sigma: float = Field(
        0.05, ge=0, allow_inf_nan=False, description="Standard deviation, in units of a weight or a logit."
    )
    sigma_relative: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="If set, sigma is found for each layer so that |noise| / |W x| is this; weights only.",
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.where == "logits" and self.sigma_relative is not None:
            raise ValueError("sigma_relative is for where = 'weights'; give sigma for where = 'logits'")
        return self


def noisy_logits(logits: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Return ``logits + eps``, each ``eps ~ N(0, sigma^2)``, drawn in float32; gradients pass unchanged.

    Parameters
    ----------
    logits
        Any shape, floating point.
    sigma
        Standard deviation, at least 0.
    generator
        On the device of the logits.

    Returns
    -------
    Tensor
        Shape and type of ``logits``.

    Raises
    ------
    InputError
        If sigma is negative or not finite.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InputError(f"The noise on logits has sigma = {sigma}.", "Give a number of at least 0.")
    noise = torch.randn(logits.shape, generator=generator, device=logits.device, dtype=torch.float32)
    return logits + (sigma * noise).to(logits.dtype)


class NoDO:
    """Noise on the policy in training; the parameters are never changed.

    On ``weights``, each active LoRA pair works as ``A' = A + eps_A`` and ``B' = B + eps_B``, by forward
    hooks on the two matrices' own modules. They see what dropout left of x, so this is exact with dropout
    too.

    One draw is the noise of one trained forward pass and its backward pass. Gradient checkpointing runs the
    forward pass again inside ``backward``, so a draw must last until ``backward`` has returned; ended
    earlier, it gives an error at best, and at worst a wrong gradient and no error::

        noise = NoDO(model, NoiseConfig(), seed=0)
        with noise.draw(index):
            loss = compute_loss(model, batch)
            loss.backward()

    Where both are not in one place, call `start` before the forward pass and `stop` after ``backward``. A
    subclass of ``transformers.Trainer`` overrides ``training_step``: `start`, then
    ``super().training_step``, which does forward and backward, then `stop` in a ``finally``.
    ``compute_loss`` returns before ``backward`` and is too small a place.

    Always clean: passes with the adapter disabled (``model.disable_adapter()``), modules in evaluation mode,
    and what runs within `paused`. Under gradient checkpointing, run nothing within `paused` that gradients
    are taken of: its second pass would be noisy.

    Noise depends on the seed, the draw and the pair's place in the model, and on nothing else: torch's global
    generators are neither read nor moved. Another kind of device gives other noise. Processes that train
    together have the same noise on weights if they have the same seed; add the rank for independent noise.

    With ``sigma_relative = r``, each pair's sigma solves ``||y' - y|| = r ||W x||`` for the noise that was
    drawn: y' and y are the layer's output with and without this pair's noise for the same input, W x is the
    output of the layer under the adapter, its bias included, and norms are Frobenius over all positions of
    the draw's first pass, padding included. The input is what the layer sees, after noisy layers. That sigma
    holds for the whole draw. To find it, the program waits for the device once a layer.

    Parameters
    ----------
    model
        For ``weights`` a PEFT model with plain LoRA on linear layers.
    config
        Where and how strong.
    seed
        Of all noise, at least 0.

    Raises
    ------
    InputError
        If the seed is negative; for ``weights``, if no LoRA pair is active, one is merged, or one is of a
        kind whose forward pass is not ``W x + s B A x`` with linear A and B.
    """

    def __init__(self, model: nn.Module, config: NoiseConfig, seed: int) -> None:
        if seed < 0:
            raise InputError(f"The seed of the noise is {seed}.", "Give a number of at least 0.")
        self._model = model
        self._config = config
        self._seed = seed
        self._draw: int | None = None
        self._paused = False
        self._logit_generator: torch.Generator | None = None
        self._logit_ratios: list[Tensor] = []
        # Found again at each draw, as the active adapter may change; here to fail before training begins.
        self._pairs = self._find_pairs(0)

    @contextmanager
    def draw(self, index: int) -> Iterator[None]:
        """Train with noise within; put forward pass, loss and backward pass inside (see `start`)."""
        self.start(index)
        try:
            yield
        finally:
            self.stop()

    def start(self, index: int) -> None:
        """Begin a draw; does nothing if this draw is on already.

        Parameters
        ----------
        index
            Number of the draw, at least 0; the same index gives the same noise. Count forward passes that are
            trained, not steps, where a step accumulates gradients, and go on counting after a restart.

        Raises
        ------
        InputError
            If another draw is on, the index is negative, or as for the class.
        """
        if self._config.where == "none" or self._draw == index:
            return
        if self._draw is not None:
            raise InputError(
                f"Draw {index} of the noise begins while draw {self._draw} is on.",
                "Call stop() once backward has returned, before the next draw.",
            )
        if index < 0:
            raise InputError(f"A draw of the noise has the index {index}.", "Count draws from 0.")
        self._logit_generator, self._logit_ratios = None, []
        self._pairs = self._find_pairs(index)
        for pair in self._pairs:
            pair.paused = self._paused
            pair.hook()
        self._draw = index

    def stop(self) -> None:
        """End the draw, once ``backward`` has returned; does nothing if none is on."""
        for pair in self._pairs:
            pair.unhook()
        self._draw = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Compute without noise within; afterwards the draw goes on with the same noise."""
        before = self._paused
        self._set_paused(True)
        try:
            yield
        finally:
            self._set_paused(before)

    def logits(self, logits: Tensor) -> Tensor:
        """Return the policy's logits, with noise if that is where it goes and a draw is on.

        Each call in a draw goes on where the last one stopped. Call it outside of what gradient checkpointing
        runs again.

        Parameters
        ----------
        logits
            The policy's, any shape.

        Returns
        -------
        Tensor
            Same shape; ``logits`` itself where there is no noise.
        """
        if self._config.where != "logits" or self._draw is None or self._paused or not self._model.training:
            return logits
        if self._logit_generator is None:
            seeds = np.random.SeedSequence([self._seed, self._draw])
            self._logit_generator = generator(logits.device, seeds)
        noisy = noisy_logits(logits, self._config.sigma, self._logit_generator)
        with torch.no_grad():
            self._logit_ratios.append(share(norm(noisy - logits), norm(logits)))
        return noisy

    def ratio(self) -> float | None:
        """Return how strong the noise of the last draw was, for the training log.

        Returns
        -------
        float or None
            For ``weights``, the mean over pairs of ``||y' - y|| / ||W x||`` in their first pass of the draw
            (see the class for the norms); for ``logits``, the mean over calls of the noise's norm by that of
            the logits. None if there was no noise. Waits for the device.
        """
        ratios = self._logit_ratios + [pair.ratio for pair in self._pairs if pair.ratio is not None]
        if not ratios:
            return None
        return float(torch.stack([ratio.to("cpu", torch.float32) for ratio in ratios]).mean())

    def silent(self) -> tuple[str, ...]:
        """Return the active layers that had no noise in the last draw, because no pass ran their A and B.

        Such are layers of a vision tower in a batch without pictures, and kinds of LoRA layers that multiply
        the matrices without calling their modules.
        """
        return tuple(pair.name for pair in self._pairs if pair.ratio is None)

    def _find_pairs(self, index: int) -> list[NoisyPair]:
        if self._config.where != "weights":
            return []
        return noisy_pairs(
            self._model,
            (self._seed, index),
            sigma=self._config.sigma,
            sigma_relative=self._config.sigma_relative,
        )

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        for pair in self._pairs:
            pair.paused = paused
