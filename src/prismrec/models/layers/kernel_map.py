"""A kernel ridge regression from content to factors, one addend a modality.

The kernel of two items is the sum over modalities of a share times a Gaussian kernel of their content. So a
missing modality adds nothing, and an item that is unlike all training items is predicted near 0: little
evidence, little score. Shares, bandwidth and penalty are those with the best validation; without validation
those with the least leave-one-out error on the training items (Rasmussen and Williams, Gaussian Processes
for Machine Learning, 2006, section 5.4.2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.models.layers.cholesky import add_gram_, cholesky_, solve_
from prismrec.models.layers.content import share_grid
from prismrec.models.layers.kernels import kernel_matrix, lower_panels, mean_squared_distance

_GAMMAS = (2.0, 1.0, 4.0)
_PENALTIES = (1.0, 0.3, 3.0)
# Items on which shares and bandwidths are compared before the regression is solved with all landmarks.
_SCOUTS = 1536
_BLOCK = 4096

Score = Callable[[], float]


@dataclass(frozen=True)
class KernelChoice:
    """Settings of the regression.

    Parameters
    ----------
    shares
        Of the modalities, sum 1.
    gamma
        Inverse squared bandwidth, in inverse mean squared distances of the modality.
    penalty
        Ridge penalty.
    spread
        Whether an item that lacks modalities is predicted as strongly as one that has all: its addends are
        divided by the sum of the shares that it has. Otherwise its vector is shorter.
    """

    shares: tuple[float, ...]
    gamma: float
    penalty: float
    spread: bool = True


class KernelMap(nn.Module):
    """The fitted regression; its parameters are buffers, not trained.

    Parameters
    ----------
    dims
        Sizes of the modalities' vectors.
    dim
        Size of the factors.
    landmarks
        At most so many training items carry the kernel: exact up to there, Nyström beyond (subset of
        regressors).
    """

    landmarks: Tensor
    dual: Tensor
    scales: Tensor
    shares: Tensor
    spread: Tensor

    def __init__(self, dims: Sequence[int], dim: int, landmarks: int) -> None:
        super().__init__()
        self.dims = list(dims)
        self._used = landmarks
        self.register_buffer("landmarks", torch.zeros(landmarks, sum(dims)))
        self.register_buffer("dual", torch.zeros(landmarks, dim))
        self.register_buffer("scales", torch.ones(len(self.dims)))
        self.register_buffer("shares", torch.full((len(self.dims),), 1.0 / len(self.dims)))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return each modality's addend of the prediction.

        Parameters
        ----------
        inputs
            Unit vectors, one tensor a modality, shape ``(n, dim)``; zero rows where content is missing.

        Returns
        -------
        list of Tensor
            Shape ``(n, d)`` each; zero rows where content is missing.
        """
        parts = torch.split(self.landmarks[: self._used], self.dims, dim=1)
        dual = self.dual[: self._used]
        present = torch.stack([content.square().sum(dim=1) > 0 for content in inputs], dim=1)
        there = (present * self.shares).sum(dim=1, keepdim=True).clamp_min(1e-12)
        strength = torch.where(self.spread > 0, 1.0 / there, torch.ones_like(there))
        return [
            self.shares[m] * strength * (kernel_matrix("rbf", content, parts[m], self.scales[m]) @ dual)
            for m, content in enumerate(inputs)
        ]

    @torch.no_grad()
    def fit(
        self,
        inputs: Sequence[Tensor],
        factors: Tensor,
        weights: Tensor,
        seed: int,
        score: Score | None,
        spread: bool | None = None,
    ) -> KernelChoice:
        """Choose settings and solve.

        Parameters
        ----------
        inputs
            The training items' unit vectors, as in `forward`.
        factors
            What to predict, shape ``(n, d)``.
        weights
            Weight of each factor in the leave-one-out error, shape ``(d,)``: singular values, say, so that an
            error counts as much as it changes scores.
        seed
            Of the draws of landmarks and scouts.
        score
            Validation of the model that holds this map, as it stands; higher is better. None: leave-one-out.
        spread
            What a missing modality means, see `KernelChoice`; None: validation chooses.

        Returns
        -------
        KernelChoice
        """
        queue = torch.from_numpy(np.random.default_rng(seed).permutation(len(factors)))
        queue = queue[torch.stack([c[queue].square().sum(dim=1) for c in inputs]).sum(dim=0) > 0]
        full = _Regression(inputs, factors, queue[: len(self.landmarks)], len(self.landmarks))
        if score is None:
            scouts = queue[:_SCOUTS]
            choice = _least_error([content[scouts] for content in inputs], factors[scouts] * weights)
            choice = replace(choice, spread=spread is not False)
        else:
            few = full
            if len(full.chosen) > _SCOUTS:
                few = _Regression(inputs, factors, queue[:_SCOUTS], len(self.landmarks))
            choice = self._best_score(few, full, score, spread)
        self._use(full, choice)
        self._used = len(self.landmarks)
        return choice

    def _best_score(
        self, few: "_Regression", full: "_Regression", score: Score, spread: bool | None
    ) -> KernelChoice:
        """Try shares and bandwidths on scouts; penalties and what missing means with all landmarks."""
        shares = [tuple(s.tolist()) for s in share_grid(len(few.landmarks))]
        best = KernelChoice(shares[0], _GAMMAS[0], _PENALTIES[0], spread is not False)
        stages = [
            ([replace(best, shares=s) for s in shares], few),
            ([replace(best, gamma=gamma) for gamma in _GAMMAS], few),
            ([replace(best, penalty=penalty) for penalty in _PENALTIES], full),
            ([best, replace(best, spread=False)] if spread is None else [best], full),
        ]
        scores: dict[tuple[KernelChoice, int], float] = {}
        for stage, (options, regression) in enumerate(stages):
            found = -math.inf
            winner = best
            for option in options:
                tried = _merged(best, option, stage)
                key = tried, len(regression.chosen)
                if key not in scores:  # The first of a stage is the best of the one before.
                    self._use(regression, tried)
                    scores[key] = score()
                if scores[key] > found:
                    found, winner = scores[key], tried
            best = winner
        return best

    def _use(self, regression: "_Regression", choice: KernelChoice) -> None:
        """Set the buffers: the regression under a choice."""
        scales, dual = regression.solve(choice)
        count = len(dual)
        self.spread.fill_(float(choice.spread))
        self.shares.copy_(torch.tensor(choice.shares))
        self.scales.copy_(scales)
        self.landmarks[:count] = torch.cat(regression.landmarks, dim=1)
        self.landmarks[count:] = 0.0
        self.dual[:count] = dual
        self.dual[count:] = 0.0
        self._used = count


class _Regression:
    """The regression that some of the training items carry, under one choice after another.

    What does not depend on the penalty is computed once for all of them, and each choice is solved once.

    Parameters
    ----------
    inputs, factors
        As `KernelMap.fit` takes them.
    chosen
        The items that carry it.
    most
        So many items could.
    """

    def __init__(self, inputs: Sequence[Tensor], factors: Tensor, chosen: Tensor, most: int) -> None:
        self.chosen = chosen
        self.landmarks = [content[chosen] for content in inputs]
        self._inputs, self._factors = inputs, factors
        # Exact on the landmarks: all training items, or scouts alone.
        self._exact = len(chosen) == len(factors) or len(chosen) < most
        self._kernel_of: tuple[object, ...] = ()
        self._duals: dict[KernelChoice, Tensor] = {}

    def solve(self, choice: KernelChoice) -> tuple[Tensor, Tensor]:
        """Return the scales of the modalities' kernels, and the dual coefficients, shape ``(chosen, d)``."""
        scales = _scales(self.landmarks, choice.gamma)
        key = replace(choice, spread=True)  # What missing means does not change the solution.
        if key not in self._duals:
            if self._kernel_of != (choice.shares, choice.gamma):
                self._kernel_of = (choice.shares, choice.gamma)
                self._prepare(choice.shares, scales)
            self._duals[key] = self._dual(choice.penalty)
        return scales, self._duals[key]

    def _prepare(self, shares: Sequence[float], scales: Tensor) -> None:
        """Compute the kernel of the landmarks, and what is summed over all training items."""
        size = len(self.chosen)
        self._kernel = torch.empty(0)  # Before the next one, so that there is one at a time.
        self._kernel = torch.empty(size, size)
        for rows, columns in lower_panels(size):
            left = [content[rows] for content in self.landmarks]
            right = [content[columns] for content in self.landmarks]
            self._kernel[rows, columns] = _summed(left, right, shares, scales)
        if self._exact:
            self._target = self._factors[self.chosen].double()
            return
        # Subset of regressors: all training items are fitted, the landmarks carry the kernel.
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._target = torch.zeros(size, self._factors.shape[1], dtype=torch.float64)
        for first in range(0, len(self._factors), _BLOCK):
            rows = slice(first, first + _BLOCK)
            block = _summed([content[rows] for content in self._inputs], self.landmarks, shares, scales)
            add_gram_(self._gram, block)
            self._target += block.T @ self._factors[rows]

    def _dual(self, penalty: float) -> Tensor:
        system = self._kernel.double()
        if self._exact:
            system.diagonal().add_(penalty)
        else:
            system.mul_(penalty).add_(self._gram)
        # Identical items make the system singular; a trace of ridge makes it solvable and changes nothing.
        system.diagonal().add_(1e-6 * float(system.diagonal().mean()) + 1e-12)
        return solve_(
            cholesky_(system), self._target.T.clone(memory_format=torch.contiguous_format).T
        ).float()


def _summed(
    left: Sequence[Tensor], right: Sequence[Tensor], shares: Sequence[float], scales: Tensor
) -> Tensor:
    """Return the kernel of all modalities together."""
    total = left[0].new_zeros(len(left[0]), len(right[0]))
    for a, b, share, scale in zip(left, right, shares, scales, strict=True):
        total.add_(kernel_matrix("rbf", a, b, scale), alpha=share)
    return total


def _merged(best: KernelChoice, option: KernelChoice, stage: int) -> KernelChoice:
    """Take from an option what its stage is about."""
    if stage == 0:
        return replace(best, shares=option.shares)
    if stage == 1:
        return replace(best, gamma=option.gamma)
    return replace(best, penalty=option.penalty) if stage == 2 else replace(best, spread=option.spread)


def _least_error(inputs: Sequence[Tensor], targets: Tensor) -> KernelChoice:
    """Compare shares at the first bandwidth, then bandwidths at the best shares, each with all penalties."""
    tried = [_left_out(inputs, targets, tuple(s.tolist()), _GAMMAS[0]) for s in share_grid(len(inputs))]
    shares = min(tried, key=lambda pair: pair[0])[1].shares
    tried += [_left_out(inputs, targets, shares, gamma) for gamma in _GAMMAS[1:]]
    return min(tried, key=lambda pair: pair[0])[1]


def _left_out(
    inputs: Sequence[Tensor], targets: Tensor, shares: tuple[float, ...], gamma: float
) -> tuple[float, KernelChoice]:
    """Leave-one-out error of the best penalty: with ``G = (K + p I)^-1`` residual i is ``(G T)_i / G_ii``."""
    kernel = _summed(inputs, inputs, shares, _scales(inputs, gamma)).double()
    target = targets.double()
    tried = []
    for penalty in _PENALTIES:
        system = kernel.clone()
        system.diagonal().add_(penalty)
        inverse = torch.cholesky_inverse(cholesky_(system))
        left_out = inverse @ target / inverse.diagonal().clamp_min(1e-6 / penalty).unsqueeze(1)
        tried.append((float(left_out.square().sum()), KernelChoice(shares, gamma, penalty)))
    return min(tried, key=lambda pair: pair[0])


def _scales(inputs: Sequence[Tensor], gamma: float) -> Tensor:
    """Scale of each modality's kernel, from the distances between the items that have the modality."""
    distances = [mean_squared_distance(content[content.square().sum(dim=1) > 0]) for content in inputs]
    return torch.tensor([gamma if math.isnan(d) else gamma / max(d, 1e-6) for d in distances])
