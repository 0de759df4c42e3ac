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


def frobenius(*blocks: Tensor) -> Tensor:
    """Lengths of whole blocks of vectors, not squared, over the number of rows: the penalty of MMRec's codes.

    Its gradient has a constant length in total, which is why published weights of it go up to 2.

    Parameters
    ----------
    blocks
        Shape ``(b, d)`` each.

    Returns
    -------
    Tensor
        A scalar, ``sum |block|_F / b``; 0 without rows.
    """
    rows = max(1, len(blocks[0]))
    # A length of 0 has no derivative; torch gives its gradient as 0.
    return torch.stack([torch.linalg.vector_norm(block) for block in blocks]).sum() / rows


def half_squares(*blocks: Tensor, batch_size: int | None = None) -> Tensor:
    """Half the squared lengths of blocks of vectors over the number of rows, or over another number.

    Parameters
    ----------
    blocks
        Shape ``(b, d)`` each.
    batch_size
        What to divide by; None: b.

    Returns
    -------
    Tensor
        A scalar.
    """
    rows = max(1, len(blocks[0])) if batch_size is None else batch_size
    return torch.stack([block.square().sum() for block in blocks]).sum() / (2 * rows)


def info_nce(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """InfoNCE: ``-ln softmax`` of an anchor's cosine with its own other among those with all others.

    Parameters
    ----------
    anchors, others
        Shape ``(n, d)``, row by row two views of the same thing.
    temperature
        Divides the cosines.

    Returns
    -------
    Tensor
        Mean over the rows.
    """
    anchors = functional.normalize(anchors, dim=1) / temperature
    others = functional.normalize(others, dim=1)
    # Reading the diagonal of the product would cost another matrix of this size on the way back.
    return ((anchors @ others.T).logsumexp(dim=1) - (anchors * others).sum(dim=1)).mean()


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
