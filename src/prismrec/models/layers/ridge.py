"""Ridge regression with many targets, for several penalties at the price of one."""

import torch
from torch import Tensor

_BLOCK = 8192


class Ridge:
    """Least squares from rows of features to rows of targets, with a penalty on the coefficients.

    Minimises ``|T - F B - 1 b'|^2 + penalty |B|^2``; b is not penalised, and is 0 without `intercept`. The
    products of the features with themselves are taken once, in double precision.

    Parameters
    ----------
    features
        F, shape ``(n, p)``.
    intercept
        Whether there is b.
    """

    def __init__(self, features: Tensor, intercept: bool) -> None:
        self._features = features
        self._mean = torch.zeros(features.shape[1], dtype=torch.float64)
        if intercept and len(features):
            self._mean = features.mean(dim=0, dtype=torch.float64)
        self._intercept = intercept
        self._gram = self._product(features)

    def solve(self, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Return B, shape ``(p, d)``, and b, shape ``(d,)``, in single precision.

        Parameters
        ----------
        targets
            T, shape ``(n, d)``.
        penalty
            Above 0.
        """
        offset = torch.zeros(targets.shape[1], dtype=torch.float64)
        if self._intercept and len(targets):
            offset = targets.mean(dim=0, dtype=torch.float64)
        penalised = self._gram.clone()
        penalised.diagonal().add_(penalty)
        # F is centred in both products, so T need not be.
        coefficients = torch.cholesky_solve(self._product(targets), torch.linalg.cholesky(penalised))
        return coefficients.float(), (offset - self._mean @ coefficients).float()

    def _product(self, other: Tensor) -> Tensor:
        """Centred features times `other`, block by block."""
        total = torch.zeros(self._features.shape[1], other.shape[1], dtype=torch.float64)
        for start in range(0, len(self._features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            total += (self._features[rows].double() - self._mean).T @ other[rows].double()
        return total
