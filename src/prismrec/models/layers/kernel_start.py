"""Where a model begins: users as singular vectors, items as a kernel regression from their content."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from prismrec.models.batches import ItemBatch, TrainingData
from prismrec.models.layers.kernel_map import KernelChoice, KernelMap
from prismrec.models.layers.svd import svd_factors

_BLOCK = 4096
_FEW = 64

Score = Callable[[], float]


@dataclass(frozen=True)
class Started:
    """What was chosen: the regression's settings, and how many leading factors were kept."""

    choice: KernelChoice
    rank: int

    def described(self, modalities: Sequence[str]) -> dict[str, float]:
        """Return it as numbers by name, for the log."""
        shares = {f"share {n}": float(v) for n, v in zip(modalities, self.choice.shares, strict=True)}
        settings = {
            "gamma": self.choice.gamma,
            "penalty": self.choice.penalty,
            "spread": float(self.choice.spread),
        }
        return {**shares, **settings, "rank": float(self.rank)}


class KernelStart(nn.Module):
    """A regression from content to the singular vectors of the training matrix, one addend a modality.

    Parameters
    ----------
    dims
        Sizes of the modalities' vectors.
    dim
        Size d of user and item vectors.
    landmarks
        At most so many training items carry the kernel.
    """

    def __init__(self, dims: Sequence[int], dim: int, landmarks: int) -> None:
        super().__init__()
        self.map = KernelMap(dims, dim, landmarks)
        self._known: Tensor | None = None
        self._is_known = torch.zeros(0, dtype=torch.bool)

    @torch.no_grad()
    def fit(
        self,
        data: TrainingData,
        contents: Sequence[Tensor],
        users: Tensor,
        scale: float,
        score: Score | None,
        spread: bool | None = None,
    ) -> Started:
        """Factorise the training matrix, regress its items' factors on content, and set the users.

        Parameters
        ----------
        data
            The training data.
        contents
            Unit vectors of the items ``data.warm``, one tensor a modality.
        users
            The table of users, shape ``(users, d)``; written.
        scale
            Factor of the users' vectors.
        score
            Validation of the model that holds all this, as it stands; None: leave-one-out chooses.
        spread
            What a missing modality means (`KernelChoice`); None: validation chooses.
        """
        place = np.searchsorted(data.warm, data.pairs.items)
        shape = (data.inputs.n_users, len(data.warm))
        matrix = csr_matrix((np.ones(len(place), dtype=np.float32), (data.pairs.users, place)), shape)
        left, right = svd_factors(matrix, users.shape[1], data.seed)
        rank = left.shape[1]
        # Items' factors of unit mean square, so that weights of losses and rates mean the same everywhere.
        size = right.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
        factors = torch.zeros(len(right), users.shape[1])
        factors[:, :rank] = right / size
        users.zero_()
        users[:, :rank] = left * size * scale
        singular = torch.zeros(users.shape[1])
        singular[:rank] = left.square().sum(dim=0).sqrt()
        choice = self.map.fit(contents, factors, singular, data.seed, score, spread)
        kept = rank if score is None else self._best_rank(users, rank, score)
        self._remember(data, contents, users.shape[1])
        return Started(choice, kept)

    def forward(self, items: ItemBatch, contents: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return each modality's addend, shape ``(n, d)`` each.

        Parameters
        ----------
        items
            Of the batch.
        contents
            Their unit vectors, zeros where content is missing.
        """
        if self.training and self._known is not None and bool(self._is_known[items.codes.cpu()].all()):
            # Training items come again in every batch, and their addends do not change.
            return self._known.to(items.codes.device)[items.codes].unbind(dim=1)
        addends: list[Tensor] = self.map(contents)
        return addends

    def _best_rank(self, users: Tensor, rank: int, score: Score) -> int:
        """Keep as many leading factors as validate best; the others stay 0 until they are trained."""
        all_users, dual = users.clone(), self.map.dual.clone()
        tried = []
        for kept in [rank, *(r for r in (_FEW,) if r < rank)]:
            users[:, kept:] = 0.0
            self.map.dual[:, kept:] = 0.0
            tried.append((score(), kept))
        best = max(tried)[1]
        users.copy_(all_users)
        self.map.dual.copy_(dual)
        users[:, best:] = 0.0
        self.map.dual[:, best:] = 0.0
        return best

    def _remember(self, data: TrainingData, contents: Sequence[Tensor], dim: int) -> None:
        known = torch.zeros(data.inputs.n_items, len(contents), dim)
        codes = torch.from_numpy(data.warm.astype(np.int64))
        for first in range(0, len(codes), _BLOCK):
            rows = slice(first, first + _BLOCK)
            known[codes[rows]] = torch.stack(self.map([content[rows] for content in contents]), dim=1)
        self._known = known
        self._is_known = torch.zeros(data.inputs.n_items, dtype=torch.bool)
        self._is_known[codes] = True
