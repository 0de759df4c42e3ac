"""What the lists are like apart from their accuracy: coverage, inequality, novelty, diversity."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.evaluation.result import Beyond

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]
Content = Mapping[str, tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]]

# 16 million numbers: 64 MiB of gathered item contents at a time.
_BLOCK = 1 << 24


def beyond_accuracy(
    lists: Counts, candidates: Counts, train_counts: Counts, content: Content | None = None
) -> Beyond:
    """Describe the lists that users are shown.

    Parameters
    ----------
    lists
        Positions among the candidates, best first, -1 where a list is shorter; shape ``(users, k)``.
    candidates
        Codes of the candidates, shape ``(c,)``.
    train_counts
        Number of training interactions of every item of the catalogue, shape ``(items,)``.
    content
        For each modality the candidates' vectors, L2-normalised, shape ``(c, d)``, and which candidates have
        it, shape ``(c,)``.

    Returns
    -------
    Beyond

    Raises
    ------
    InputError
        If no list holds an item, or shapes do not fit.
    """
    shown = lists[lists >= 0]
    if shown.size == 0:
        raise InputError("No list holds an item.")
    if int(shown.max()) >= len(candidates):
        raise InputError(f"A list holds position {int(shown.max())} of {len(candidates):,} candidates.")
    exposure = np.bincount(shown, minlength=len(candidates))
    counts = train_counts[candidates].astype(np.float64)
    return Beyond(
        k=lists.shape[1],
        coverage=float((exposure > 0).mean()),
        gini=gini(exposure),
        novelty=float(self_information(train_counts)[candidates][shown].mean()),
        popularity=float(counts[shown].mean()),
        diversity=diversity(lists, content) if content else None,
    )


def gini(exposure: Counts) -> float:
    """Return the Gini coefficient of how often each candidate is shown: 0 all alike, (c - 1) / c one only.

    Half the mean absolute difference between two candidates, relative to the mean.
    """
    ordered = np.sort(exposure).astype(np.float64)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def self_information(train_counts: Counts) -> Values:
    """Return how surprising each item is, in bits: -log2 of its share of the training interactions.

    One interaction is added to each item (Laplace), so that cold items have a finite value, the largest.
    Shape ``(items,)``.
    """
    smoothed = train_counts.astype(np.float64) + 1.0
    return np.asarray(-np.log2(smoothed / smoothed.sum()))


def diversity(lists: Counts, content: Content) -> float | None:
    """Return 1 - the mean cosine between the contents of two items of a list, averaged over lists.

    The cosine of two items is the mean over the modalities that both have; pairs without any are left out,
    and so are lists without such a pair.

    Parameters
    ----------
    lists, content
        As in `beyond_accuracy`.

    Returns
    -------
    diversity
        0 (all alike) to 2, about 1 for unrelated items; None if there is no pair to compare.
    """
    k = lists.shape[1]
    width = max(vectors.shape[1] for vectors, _ in content.values()) + len(content) * k
    height = max(1, _BLOCK // (k * width))
    found = [
        _block_diversity(lists[first : first + height], content) for first in range(0, len(lists), height)
    ]
    values = np.concatenate(found) if found else np.empty(0)
    return float(values.mean()) if len(values) else None


def _block_diversity(lists: Counts, content: Content) -> Values:
    k = lists.shape[1]
    cosines = np.zeros((len(lists), k, k))
    shared = np.zeros((len(lists), k, k))
    for vectors, present in content.values():
        gathered = np.asarray(vectors[lists], dtype=np.float32)
        has = present[lists] & (lists >= 0)
        both = has[:, :, None] & has[:, None, :]
        cosines += np.where(both, gathered @ gathered.transpose(0, 2, 1), 0.0)
        shared += both
    upper = np.triu(np.ones((k, k), dtype=np.bool_), 1)
    mean = np.divide(cosines, shared, out=np.zeros_like(cosines), where=shared > 0)
    pairs = ((shared > 0) & upper).sum(axis=(1, 2))
    totals = (mean * upper).sum(axis=(1, 2))
    return np.asarray(1.0 - totals[pairs > 0] / pairs[pairs > 0])
