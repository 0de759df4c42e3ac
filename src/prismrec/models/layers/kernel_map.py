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

from prismrec.models.layers.content import share_grid
from prismrec.models.layers.kernels import kernel_matrix, mean_squared_distance

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
        self._solved: tuple[KernelChoice, Tensor] | None = None
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
        parts = torch.split(self.landmarks, self.dims, dim=1)
        present = torch.stack([content.square().sum(dim=1) > 0 for content in inputs], dim=1)
        there = (present * self.shares).sum(dim=1, keepdim=True).clamp_min(1e-12)
        strength = torch.where(self.spread > 0, 1.0 / there, torch.ones_like(there))
        return [
            self.shares[m] * strength * (kernel_matrix("rbf", content, parts[m], self.scales[m]) @ self.dual)
            for m, content in enumerate(inputs)
        ]

    @torch.no_grad()
    def fit(
        self, inputs: Sequence[Tensor], factors: Tensor, weights: Tensor, seed: int, score: Score | None
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

        Returns
        -------
        KernelChoice
        """
        queue = torch.from_numpy(np.random.default_rng(seed).permutation(len(factors)))
        queue = queue[torch.stack([c[queue].square().sum(dim=1) for c in inputs]).sum(dim=0) > 0]
        if score is None:
            scouts = queue[:_SCOUTS]
            choice = _least_error([content[scouts] for content in inputs], factors[scouts] * weights)
            self._solve(inputs, factors, queue[: len(self.landmarks)], choice)
            return choice
        return self._best_score(inputs, factors, queue, score)

    def _best_score(
        self, inputs: Sequence[Tensor], factors: Tensor, queue: Tensor, score: Score
    ) -> KernelChoice:
        """Try shares and bandwidths on scouts; penalties and what missing means with all landmarks."""
        equal = tuple(share_grid(len(inputs))[0].tolist())
        best = KernelChoice(equal, _GAMMAS[0], _PENALTIES[0])
        scouts, chosen = queue[:_SCOUTS], queue[: len(self.landmarks)]
        stages = [
            ([replace(best, shares=tuple(s.tolist())) for s in share_grid(len(inputs))], scouts),
            ([replace(best, gamma=gamma) for gamma in _GAMMAS], scouts),
            ([replace(best, penalty=penalty) for penalty in _PENALTIES], chosen),
            ([best, replace(best, spread=False)], chosen),
        ]
        for stage, (options, landmarks) in enumerate(stages):
            found = -math.inf
            winner = best
            for option in options:
                tried = _merged(best, option, stage)
                self._solve(inputs, factors, landmarks, tried)
                value = score()
                if value > found:
                    found, winner = value, tried
            best = winner
        self._solve(inputs, factors, chosen, best)
        return best

    def _solve(self, inputs: Sequence[Tensor], factors: Tensor, chosen: Tensor, choice: KernelChoice) -> None:
        """Set the buffers: the regression under a choice, carried by some of the training items."""
        self.spread.fill_(float(choice.spread))
        before, self._solved = self._solved, (choice, chosen)
        if before is not None and chosen is before[1] and choice == replace(before[0], spread=choice.spread):
            return  # What missing means does not change the solution.
        landmarks = [content[chosen] for content in inputs]
        self.shares.copy_(torch.tensor(choice.shares))
        self.scales.copy_(_scales(landmarks, choice.gamma))
        kernel = self._sum(landmarks, landmarks).double()
        if len(chosen) == len(factors) or len(chosen) < len(self.landmarks):
            # Exact on the landmarks: all training items, or the scouts alone.
            system, target = kernel, factors[chosen].double()
            system.diagonal().add_(choice.penalty)
        else:
            # Subset of regressors: all training items are fitted, the landmarks carry the kernel.
            system = choice.penalty * kernel
            target = torch.zeros(len(kernel), factors.shape[1], dtype=torch.float64)
            for first in range(0, len(factors), _BLOCK):
                rows = slice(first, first + _BLOCK)
                block = self._sum([content[rows] for content in inputs], landmarks)
                system += (block.T @ block).double()
                target += (block.T @ factors[rows]).double()
        # Identical items make the system singular; a trace of ridge makes it solvable and changes nothing.
        system.diagonal().add_(1e-6 * float(system.diagonal().mean()) + 1e-12)
        dual = torch.cholesky_solve(target, torch.linalg.cholesky(system)).float()
        self.landmarks.zero_()
        self.dual.zero_()
        self.landmarks[: len(chosen)] = torch.cat(landmarks, dim=1)
        self.dual[: len(chosen)] = dual

    def _sum(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        """Return the kernel of all modalities together."""
        total = left[0].new_zeros(len(left[0]), len(right[0]))
        for m, (a, b) in enumerate(zip(left, right, strict=True)):
            total += self.shares[m] * kernel_matrix("rbf", a, b, self.scales[m])
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
    """Leave-one-out error of the best penalty: residual i over ``1 - H_ii`` with ``H = K (K + p I)^-1``."""
    scales = _scales(inputs, gamma)
    kernel = torch.zeros(len(targets), len(targets), dtype=torch.float64)
    for share, content, scale in zip(shares, inputs, scales, strict=True):
        kernel += share * kernel_matrix("rbf", content, content, scale).double()
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0.0)
    target = targets.double()
    rotated, squares = vectors.T @ target, vectors.square()
    tried = []
    for penalty in _PENALTIES:
        kept = values / (values + penalty)
        residual = target - vectors @ (kept.unsqueeze(1) * rotated)
        left_out = residual / (1.0 - squares @ kept).clamp_min(1e-6).unsqueeze(1)
        tried.append((float(left_out.square().sum()), KernelChoice(shares, gamma, penalty)))
    return min(tried, key=lambda pair: pair[0])


def _scales(inputs: Sequence[Tensor], gamma: float) -> Tensor:
    """Scale of each modality's kernel, from the distances between the items that have the modality."""
    distances = [mean_squared_distance(content[content.square().sum(dim=1) > 0]) for content in inputs]
    return torch.tensor([gamma if math.isnan(d) else gamma / max(d, 1e-6) for d in distances])
