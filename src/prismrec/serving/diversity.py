"""Lists whose items are less alike."""

import numpy as np
import numpy.typing as npt

from prismrec.serving.products import unit_vectors

Floats = npt.NDArray[np.float32]


def pool_size(k: int) -> int:
    """Return how many of the best items a list of k is chosen from: five times as many, at most 400 more."""
    return k + min(4 * k, 400)


def diversified(scores: Floats, vectors: Floats, k: int, diversity: float) -> list[int]:
    """Choose items by maximal marginal relevance.

    One after the other the item i is chosen for which

        (1 - diversity) * relevance(i) - diversity * max over chosen j of cos(i, j)

    is greatest, the earlier one of equals; the relevance is the score, moved and scaled to 0..1 over the
    pool. Nothing is chosen yet: the best comes first.

    Parameters
    ----------
    scores
        Of the pool, best first, shape ``(n,)``.
    vectors
        Of the pool, shape ``(n, d)``.
    k
        How many to choose, at most n are.
    diversity
        0: the k best as they are; 1: the relevance counts for the first alone.

    Returns
    -------
    list of int
        Places in the pool, in the order of the list; each once.

    References
    ----------
    Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries, SIGIR 1998. The scaling is ours: a model's scores have no unit, a cosine has.
    """
    k = min(k, len(scores))
    if diversity == 0.0 or k == 0:
        return list(range(k))
    exact = scores.astype(np.float64)
    span = exact.max() - exact.min()
    relevance = (exact - exact.min()) / span if span > 0 else np.ones(len(exact))
    unit = unit_vectors(vectors)
    chosen = [0]
    left = np.ones(len(exact), dtype=np.bool_)
    likeness = np.full(len(exact), -np.inf)
    while len(chosen) < k:
        left[chosen[-1]] = False
        likeness = np.maximum(likeness, unit @ unit[chosen[-1]])
        value = np.where(left, (1 - diversity) * relevance - diversity * likeness, -np.inf)
        chosen.append(int(value.argmax()))
    return chosen
