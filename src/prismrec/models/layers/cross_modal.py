"""What an item would look, read or sound like, told from its other modalities."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

_BLOCK = 8192
_JUDGES = 4096
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

Contents = Callable[[npt.NDArray[np.int32]], tuple[Sequence[Tensor], Tensor]]


class CrossModal(nn.Module):
    """A ridge regression from each modality to each other one; a missing vector is the mean of what they say.

    A predicted vector is brought to unit length, as the vectors that it stands beside are. A modality that
    tells nothing of another one predicts noise: such regressions are left out, and the gap stays a gap.

    Parameters
    ----------
    dims
        Size of each modality's vectors.
    least
        Least mean cosine, on training items that were left out, of a regression that counts.
    """

    def __init__(self, dims: Sequence[int], least: float = 0.1) -> None:
        super().__init__()
        self.dims, self.least = list(dims), least
        for source, target in self._pairs():
            self.register_buffer(f"map_{source}_{target}", torch.zeros(dims[source], dims[target]))

    @torch.no_grad()
    def fit(self, contents: Contents, warm: npt.NDArray[np.int32]) -> list[float]:
        """Fit all regressions on the training items that have both modalities.

        The penalty, times the mean square of the source's columns, is the one of five with the highest mean
        cosine on training items that were left out of its fit (every n-th, 4,096 at most); then all count.

        Parameters
        ----------
        contents
            Gives unit vectors (0 where missing), shape ``(n, dim)`` each, and presence, shape
            ``(n, modalities)``, of items by code.
        warm
            Codes of the training items.

        Returns
        -------
        list of float
            For each modality the mean cosine of its predictions on left-out items, over the regressions that
            count; 0 without any.
        """
        every = max(5, -(-len(warm) // _JUDGES))
        judges = np.zeros(len(warm), dtype=np.bool_)
        judges[::every] = True
        held, held_present = contents(warm[judges])
        found: list[list[float]] = [[] for _ in self.dims]
        for source, target in self._pairs():
            gram, product, count = self._moments(source, target, contents, warm[~judges])
            both = held_present[:, source] & held_present[:, target]
            if count == 0 or not both.any():
                continue
            x, y = held[source][both].double(), held[target][both].double()
            scores = [
                float(functional.cosine_similarity(x @ _solved(gram, product, penalty), y, dim=1).mean())
                for penalty in _PENALTIES
            ]
            best = int(np.argmax(scores))
            if scores[best] < self.least:
                continue
            found[target].append(scores[best])
            whole = _solved(gram + x.T @ x, product + x.T @ y, _PENALTIES[best])
            self._map(source, target).copy_(whole)
        return [float(np.mean(cosines)) if cosines else 0.0 for cosines in found]

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> tuple[list[Tensor], Tensor]:
        """Fill the gaps of items that have any content.

        Parameters
        ----------
        inputs
            Unit vectors, 0 where missing, shape ``(n, dim)`` each.
        present
            Bool, shape ``(n, modalities)``.

        Returns
        -------
        list of Tensor
            The vectors, with predictions in the gaps.
        Tensor
            What there is now, bool, shape ``(n, modalities)``.
        """
        if bool(present.all()):
            return list(inputs), present
        filled, there = [], []
        for target, own in enumerate(inputs):
            told = torch.zeros_like(own)
            for source in range(len(inputs)):
                if source != target:
                    # Missing sources are 0 and say nothing.
                    told = told + inputs[source] @ self._map(source, target).to(own.dtype)
            others = (present.sum(dim=1, keepdim=True) - present[:, target : target + 1].long()).clamp_min(1)
            told = told / others
            known = told.any(dim=1) | present[:, target]
            gap = ~present[:, target : target + 1] & known.unsqueeze(1)
            filled.append(torch.where(gap, functional.normalize(told, dim=1), own))
            there.append(known)
        return filled, torch.stack(there, dim=1)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return itertools.permutations(range(len(self.dims)), 2)

    def _map(self, source: int, target: int) -> Tensor:
        return self.get_buffer(f"map_{source}_{target}")

    def _moments(
        self, source: int, target: int, contents: Contents, codes: npt.NDArray[np.int32]
    ) -> tuple[Tensor, Tensor, int]:
        gram = torch.zeros(self.dims[source], self.dims[source], dtype=torch.float64)
        product = torch.zeros(self.dims[source], self.dims[target], dtype=torch.float64)
        count = 0
        for first in range(0, len(codes), _BLOCK):
            vectors, present = contents(codes[first : first + _BLOCK])
            both = present[:, source] & present[:, target]
            x, y = vectors[source][both].double(), vectors[target][both].double()
            gram += x.T @ x
            product += x.T @ y
            count += len(x)
        return gram, product, count


def _solved(gram: Tensor, product: Tensor, penalty: float) -> Tensor:
    ridge = penalty * gram.diagonal().mean().clamp_min(1e-12)
    solved: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), product)
    return solved
