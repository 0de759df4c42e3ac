"""Preference losses: what a policy pays for not telling a chosen answer from rejected ones.

All but SimPO are functions of the margins ``z = (log pi_w - log ref_w) - (log pi_l - log ref_l)``, shape
``(B, K)``: B prompts, K rejected answers each. S-DPO and DMPO take the K together, as their papers do. DPO,
SimPO, beta-DPO and HaNoRec are made for one rejected answer: here they are averaged over all B x K pairs.

Nothing here keeps a state, and nothing knows of processes: what has to be counted over the batches of all
processes goes through a `gather` that is passed in. Each process returns the mean over its own pairs; with
equally many pairs on each, the mean over processes is the loss of the whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.settings import parse_settings
from prismrec.sequential.hardness import Direction

Loss = Literal["dpo", "s-dpo", "dmpo", "simpo", "beta-dpo", "hanorec"]

Gather = Callable[[Tensor], Tensor]
"""From a process's values, shape ``(n,)``, to those of all processes, the same order everywhere."""

_TINY = 1e-8
_FEWEST = 3


class PreferenceConfig(BaseModel):
    """Which loss, and its parameters; each loss reads its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: Loss = Field("hanorec", description="One of dpo, s-dpo, dmpo, simpo, beta-dpo, hanorec.")
    beta: float = Field(
        0.1, gt=0, description="How much a log-ratio counts. SimPO's paper takes 2 to 2.5, the others 0.1."
    )
    gamma: float = Field(0.5, ge=0, description="SimPO: how far apart it wants the answers, after beta.")
    beta_slope: float = Field(
        0.6, ge=0, description="beta-DPO: how much beta rises with a batch's mean margin."
    )
    margin_momentum: float = Field(
        0.9, ge=0, lt=1, description="beta-DPO: share of the running mean and deviation that a batch leaves."
    )
    batch_beta_floor: float = Field(1e-3, gt=0, description="beta-DPO: least beta of a batch.")
    hars: bool = Field(True, description="HaNoRec: a beta for each pair; without it, DPO.")
    temperature: float = Field(
        1.0, gt=0, description="HaNoRec: of the neighbours' similarities; 1 is published and nearly inert."
    )
    direction: Direction = Field(
        "as_published", description="HaNoRec: 'as_published' (easier is heavier) or 'harder_is_heavier'."
    )
    beta_floor: float = Field(1e-6, gt=0, description="HaNoRec: least beta of a pair.")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from plain values.

        Raises
        ------
        ConfigError
            Naming the field, what was expected, and for an unknown field the nearest known one.
        """
        return parse_settings(cls, values, "preference")


@dataclass(frozen=True)
class AnswerScores:
    """What a model gives to the answers of B prompts, one chosen and K rejected each.

    Parameters
    ----------
    chosen
        Log-probabilities (natural) summed over the tokens of the chosen answers, shape ``(B,)``.
    rejected
        Of the rejected answers, shape ``(B, K)``.
    chosen_tokens, rejected_tokens
        Numbers of tokens that were summed, shapes as above.

    Raises
    ------
    InputError
        If the shapes do not fit each other, or there is no prompt or no rejected answer.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def __post_init__(self) -> None:
        pairs = self.rejected.shape
        fits = len(pairs) == 2 and self.chosen.shape == pairs[:1] == self.chosen_tokens.shape
        if not fits or self.rejected_tokens.shape != pairs or self.rejected.numel() == 0:
            raise InputError(
                f"Scores of shapes {tuple(self.chosen.shape)} and {tuple(pairs)}, tokens of "
                f"{tuple(self.chosen_tokens.shape)} and {tuple(self.rejected_tokens.shape)}.",
                "Chosen answers need shape (B,), rejected ones (B, K), neither of them empty.",
            )


@dataclass(frozen=True)
class RunningMargin:
    """What beta-DPO remembers between batches.

    Parameters
    ----------
    mean
        Running mean M0 of the margins.
    std
        Running standard deviation of the margins.
    batches
        Number of batches seen.
    """

    mean: float = 0.0
    std: float = 0.0
    batches: int = 0

    def after(self, margins: Tensor, momentum: float = 0.9) -> "RunningMargin":
        """Return what is remembered after one more batch of margins; the first is taken as it is."""
        mean = float(margins.mean())
        std = float(margins.std()) if margins.numel() > 1 else 0.0
        kept = momentum if self.batches else 0.0
        return RunningMargin(
            kept * self.mean + (1 - kept) * mean, kept * self.std + (1 - kept) * std, self.batches + 1
        )


@dataclass(frozen=True)
class LossTerms:
    """A loss and what the log says of it; numbers are of this process's pairs.

    Parameters
    ----------
    loss
        Scalar with a gradient.
    margin
        Mean of z; for SimPO of ``avg log pi_w - avg log pi_l``.
    accuracy
        Share of pairs for which that is positive.
    beta
        Mean beta over the pairs.
    eta
        Scale of the batch (8); 1 but for HaNoRec with HaRS.
    state
        For the next batch: changed by beta-DPO only. Drop it in evaluation.
    """

    loss: Tensor
    margin: float
    accuracy: float
    beta: float
    eta: float
    state: RunningMargin


def alone(values: Tensor) -> Tensor:
    """Gather for a single process: the values themselves."""
    return values


def preference_loss(
    config: PreferenceConfig,
    policy: AnswerScores,
    reference: AnswerScores | None,
    hardness_weights: Tensor | None = None,
    state: RunningMargin | None = None,
    gather: Gather = alone,
) -> LossTerms:
    """Evaluate the loss that the settings name.

    Parameters
    ----------
    config
        Loss and parameters.
    policy
        Scores with gradients.
    reference
        Scores of the same answers by the reference; SimPO reads none.
    hardness_weights
        lambda of each pair, shape ``(B, K)`` (`prismrec.sequential.hardness.hardness_weights`). Needed by
        HaNoRec with HaRS, read by nothing else.
    state
        What the last batch's `LossTerms` held; None at the start.
    gather
        Over processes; called once or not at all. All processes need equally many pairs.

    Raises
    ------
    InputError
        If reference or weights are missing, or of another shape than the policy's scores.
    """
    state = state or RunningMargin()
    beta, eta = config.beta, 1.0
    if config.loss == "simpo":
        gap = length_normalised_gap(policy)
        return _terms(simpo(gap, beta, config.gamma), gap, beta, eta, state)
    if reference is None:
        raise InputError(
            f"The loss {config.loss!r} needs the reference's scores.", "Only 'simpo' needs none."
        )
    z = margins(policy, reference)
    match config.loss:
        case "dpo":
            loss = dpo(z, beta)
        case "s-dpo":
            loss = s_dpo(z, beta)
        case "dmpo":
            loss = dmpo(z, beta)
        case "beta-dpo":
            loss, beta, state = beta_dpo(
                z,
                beta,
                state,
                slope=config.beta_slope,
                momentum=config.margin_momentum,
                floor=config.batch_beta_floor,
                gather=gather,
            )
        case "hanorec" if config.hars:
            weights = _fitting(hardness_weights, z)
            scale = batch_scale(beta * z, gather)
            betas = pair_betas(beta, scale, weights, config.beta_floor)
            loss, beta, eta = hanorec(z, betas), float(betas.mean()), float(scale)
        case "hanorec":
            loss = dpo(z, beta)
    return _terms(loss, z, beta, eta, state)


def margins(policy: AnswerScores, reference: AnswerScores) -> Tensor:
    """Margins z of equation (7), shape ``(B, K)``; no gradient goes into the reference.

    Raises
    ------
    InputError
        If policy and reference have scored other numbers of answers.
    """
    if policy.rejected.shape != reference.rejected.shape:
        raise InputError(
            f"The policy scored {tuple(policy.rejected.shape)} rejected answers, the reference "
            f"{tuple(reference.rejected.shape)}.",
            "Both need scores of the same answers.",
        )
    chosen = policy.chosen - reference.chosen.detach()
    return chosen.unsqueeze(1) - (policy.rejected - reference.rejected.detach())


def length_normalised_gap(policy: AnswerScores) -> Tensor:
    """``avg log pi_w - avg log pi_l``, averages over an answer's tokens, shape ``(B, K)``."""
    chosen = policy.chosen / policy.chosen_tokens
    return chosen.unsqueeze(1) - policy.rejected / policy.rejected_tokens


def dpo(z: Tensor, beta: float) -> Tensor:
    """DPO, mean over all pairs of ``-log sigmoid(beta z)`` (Rafailov et al., NeurIPS 2023, arXiv 2305.18290).

    Parameters
    ----------
    z
        Margins, shape ``(B, K)``.
    beta
        Positive.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -functional.logsigmoid(beta * z).mean()


def s_dpo(z: Tensor, beta: float) -> Tensor:
    """S-DPO, mean over prompts of ``-log sigmoid(-log sum_d exp(r_d - r_p))``; ``r_d - r_p = -beta z_d``.

    Y. Chen et al., On Softmax Direct Preference Optimization for Recommendation, NeurIPS 2024, arXiv
    2406.09215. Parameters and result as of `dpo`, which it is for K = 1.
    """
    return -functional.logsigmoid(-torch.logsumexp(-beta * z, dim=1)).mean()


def dmpo(z: Tensor, beta: float) -> Tensor:
    """DMPO, mean over prompts of ``-log sigmoid(r_p - mean_d r_d)``; ``r_p - r_d = beta z_d``.

    Z. Bai et al., Finetuning Large Language Model for Personalized Ranking, arXiv 2405.16127. Parameters and
    result as of `dpo`, which it is for K = 1.
    """
    return -functional.logsigmoid(beta * z.mean(dim=1)).mean()


def simpo(gap: Tensor, beta: float, gamma: float) -> Tensor:
    """SimPO, mean over all pairs of ``-log sigmoid(beta gap - gamma)``; no reference.

    Y. Meng et al., NeurIPS 2024, arXiv 2405.14734.

    Parameters
    ----------
    gap
        What `length_normalised_gap` returns, shape ``(B, K)``.
    beta
        Positive.
    gamma
        The margin that is asked for, not negative.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -functional.logsigmoid(beta * gap - gamma).mean()


def beta_dpo(
    z: Tensor,
    beta: float,
    state: RunningMargin,
    *,
    slope: float = 0.6,
    momentum: float = 0.9,
    floor: float = 1e-3,
    gather: Gather = alone,
) -> tuple[Tensor, float, RunningMargin]:
    """beta-DPO: one beta for a batch, and outliers count less (J. Wu et al., NeurIPS 2024, arXiv 2407.08639).

    M0 and std first take the batch in. Then its beta is ``beta (1 + slope (mean z - M0))``, at least `floor`,
    and a pair's weight ``exp(-((z - M0) / std)^2 / 2)``; neither has a gradient. Three departures from the
    released code: it draws four fifths of the batch with these weights as chances, here all pairs count,
    their weights scaled to a mean of 1; it takes the mean z of those drawn, here of all; and it starts M0 and
    std at 0, which narrows the weights of the first batches to a few pairs, here at the first batch's.

    Parameters
    ----------
    z
        Margins, shape ``(B, K)``.
    beta
        beta0, positive.
    state
        What the last batch left.
    slope, momentum, floor
        See above and `RunningMargin`.
    gather
        Over processes: mean, deviation and weights are of all their pairs.

    Returns
    -------
    loss
        A scalar.
    beta
        The batch's.
    state
        For the next batch.
    """
    own = z.detach()
    everyone = gather(own.flatten())
    state = state.after(everyone, momentum)
    beta = max(floor, beta * (1.0 + slope * (float(everyone.mean()) - state.mean)))
    if state.std > _TINY:
        # As a softmax, because far from M0 all powers would be 0.
        total = torch.logsumexp(_log_normal(everyone, state), dim=0)
        weights = torch.exp(_log_normal(own, state) - total) * everyone.numel()
    else:
        weights = torch.ones_like(own)
    return -(weights * functional.logsigmoid(beta * z)).mean(), beta, state


@torch.no_grad()
def batch_scale(g: Tensor, gather: Gather = alone) -> Tensor:
    """Scale eta of a batch, equation (8), without a gradient.

    ``g^ = g / mean g``, or over the mean of ``|g|`` where ``|mean g| <= 1e-8``;
    ``eta = sigmoid(mean of g^ without its smallest and its largest) / sigmoid(mean g^)``.

    It is 1 for a batch of equal g, the very first step's zeros among them, and, unless all g are next to 0,
    below 1.37. As published it falls to 0 where g of both signs nearly cancel, since then g^ is huge. What
    gradient accumulation sums up over several batches is not one batch here.

    Parameters
    ----------
    g
        ``beta0 z``, any shape; each pair is a sample.
    gather
        Over processes, so that all of them have the same eta.

    Returns
    -------
    Tensor
        A scalar; 1 with fewer than 3 samples, which leave nothing when the extremes are gone.
    """
    everyone = gather(g.detach().flatten())
    if everyone.numel() < _FEWEST:
        return everyone.new_ones(())
    mean = everyone.mean()
    size = everyone.abs().mean().clamp_min(_TINY)
    relative = everyone / torch.where(mean.abs() > _TINY, mean, size)
    inner = relative.sort().values[1:-1].mean()
    return torch.sigmoid(inner) / torch.sigmoid(relative.mean())


def pair_betas(beta: float, eta: Tensor, weights: Tensor, floor: float = 1e-6) -> Tensor:
    """``max(floor, beta eta lambda)`` of each pair, equation (11), no gradient; shape of `weights`."""
    return (beta * eta.detach() * weights.detach()).clamp_min(floor)


def hanorec(z: Tensor, betas: Tensor) -> Tensor:
    """HaNoRec, mean over all pairs of ``-log sigmoid(beta_i z_i)``, equation (12).

    Parameters
    ----------
    z
        Margins, shape ``(B, K)``.
    betas
        What `pair_betas` returns, same shape.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -functional.logsigmoid(betas * z).mean()


def _log_normal(z: Tensor, state: RunningMargin) -> Tensor:
    return -0.5 * ((z - state.mean) / state.std).square()


def _fitting(weights: Tensor | None, z: Tensor) -> Tensor:
    if weights is None or weights.shape != z.shape:
        given = "none" if weights is None else f"some of shape {tuple(weights.shape)}"
        raise InputError(
            f"HaNoRec with HaRS needs hardness weights of shape {tuple(z.shape)}, and got {given}.",
            "Pass one a pair, or set hars to false.",
        )
    return weights.to(z)


def _terms(loss: Tensor, gap: Tensor, beta: float, eta: float, state: RunningMargin) -> LossTerms:
    gap = gap.detach()
    return LossTerms(loss, float(gap.mean()), float((gap > 0).float().mean()), beta, eta, state)
