"""Loss terms that several models share."""

import torch
from torch import Tensor
from torch.nn import functional


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking, ``-ln sigmoid(s_i - s_j)`` for each pair (Rendle et al., UAI 2009).

    Parameters
    ----------
    positive
        Scores of the positives, shape ``(b, 1)``.
    negative
        Scores of the negatives, shape ``(b, n)``.

    Returns
    -------
    Tensor
        Shape ``(b, n)``.
    """
    return functional.softplus(negative - positive)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q) = sum p ln(p / q)`` of two distributions, shape ``(k,)`` each; 0 ln 0 is 0.

    Where p is positive and q is 0 the divergence is infinite; q is bounded away from 0 at 1e-12 so that the
    gradient stays finite.
    """
    ratio = torch.log(p.clamp_min(1e-12)) - torch.log(q.clamp_min(1e-12))
    return (p * ratio).sum()


def softmax_cross_entropy(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``-ln softmax`` of each positive entry, the softmax over the whole row.

    Parameters
    ----------
    logits
        Shape ``(b, n)``.
    rows, columns
        Positions of the positives, shape ``(p,)``.

    Returns
    -------
    Tensor
        Shape ``(p,)``.
    """
    return logits.logsumexp(dim=1)[rows] - logits[rows, columns]
