"""How hard a preference pair is, by how much the neighbourhoods of its items differ (HaRS, offline part).

Y. Wang et al., Hardness-Aware and Noise-Regularized Preference Optimization for Multimodal Sequential
Recommendation (SIGIR 2026, arXiv 2511.18740), equations (5) and (6). What happens in training, (7) to (12),
is in `prismrec.sequential.losses`.

As published, a larger distance, which is an easier pair, gets the larger weight. At temperature 1 the weights
hardly differ at all: cosines between 0.6 and 0.95 cannot move them by more than 3 %, and measured ones stay
within 0.995 and 1.010. `direction` and `temperature` change the one and the other; `spread` shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress
from prismrec.features.neighbours import nearest_neighbours
from prismrec.features.store import FeatureStore

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

Direction = Literal["as_published", "harder_is_heavier"]
"""Which pairs weigh more: those of a large distance, or those of a small one."""

_INERT = 0.02
_BLOCK = 8192


@dataclass(frozen=True)
class Spread:
    """How far weights lie apart.

    Parameters
    ----------
    low, mean, high
        Smallest, mean and largest.
    """

    low: float
    mean: float
    high: float

    @property
    def inert(self) -> bool:
        """Whether smallest and largest are less than 0.02 apart: training hardly notices them."""
        return self.high - self.low < _INERT


def neighbour_similarities(
    vectors: npt.NDArray[np.floating[Any]],
    present: npt.NDArray[np.bool_],
    k: int = 10,
    *,
    progress: Progress = SILENT,
) -> Floats:
    """Find each item's cosines with its k nearest other items, exactly and without a matrix of all items.

    Parameters
    ----------
    vectors
        One per item in the order of codes, shape ``(n, d)``. Rows of items without a vector are not read.
    present
        Whether an item has a vector, shape ``(n,)``.
    k
        Number of neighbours.
    progress
        Where to report to.

    Returns
    -------
    ndarray
        Shape ``(n, k)``, float32, each row descending. Zeros for an item without a vector or with one of
        zeros; where there are fewer than k others, zeros fill the end of the row.

    Raises
    ------
    InputError
        If the shapes do not fit, k is below 1, or a vector is not finite.
    """
    if vectors.ndim != 2 or present.shape != vectors.shape[:1]:
        raise InputError(
            f"Vectors of shape {vectors.shape} do not fit {present.shape} marks of who has one.",
            "Both need one row per item.",
        )
    names = [str(code) for code in range(len(vectors))]
    rows = np.flatnonzero(present)
    known = tuple(names[row] for row in rows)
    store = FeatureStore("hardness", vectors[rows].astype(np.float32), known, ("",) * len(known), {})
    return nearest_neighbours(store, names, k, progress=progress).weights


def hardness(
    similarities: Floats,
    chosen: Sequence[tuple[int, ...]],
    rejected: Sequence[tuple[tuple[int, ...], ...]],
    temperature: float = 1.0,
) -> Doubles:
    """Distance between the neighbourhoods of what was chosen and what was rejected, equation (5).

    ``delta = |softmax(s_w / tau) - softmax(s_l / tau)|``, Euclidean, s an item's similarities in descending
    order; for answers of several items the mean over the pairs of items at the same place. A small distance
    is a hard pair. It is at most ``sqrt(1 - 1 / k)`` where rows descend. An item without neighbours is taken
    as one whose neighbours are all equally near.

    Parameters
    ----------
    similarities
        What `neighbour_similarities` returns, shape ``(n, k)``.
    chosen
        Items of each pair's chosen answer, by code: p tuples of t items.
    rejected
        Items of its K rejected answers: p tuples of K tuples of t items.
    temperature
        tau; below 1 it draws the distances apart.

    Returns
    -------
    ndarray
        Shape ``(p, K)``, at least 0.

    Raises
    ------
    InputError
        If the temperature is not positive, pairs have no items or not equally many, or a code is unknown.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"A temperature of {temperature} is of no use.", "Give a positive number.")
    first, second = _codes(chosen, rejected, len(similarities))
    profiles = _softmax(similarities.astype(np.float64) / temperature)
    delta = np.empty(second.shape[:2])
    for start in range(0, len(first), _BLOCK):
        part = slice(start, start + _BLOCK)
        gaps = profiles[first[part], None] - profiles[second[part]].transpose(0, 2, 1, 3)
        delta[part] = np.sqrt((gaps * gaps).sum(axis=3)).mean(axis=1)
    return delta


def hardness_weights(delta: Doubles, direction: Direction = "as_published") -> Floats:
    """Weight of each pair from all pairs' distances, equation (6): 1 at the mean distance.

    ``as_published``: ``lambda = sigmoid(delta) / sigmoid(mean delta)``, the mean over the whole training set.
    ``harder_is_heavier`` (ours) is its reflection ``sigmoid(-delta) / sigmoid(-mean delta)``: a smaller
    distance, a larger weight.

    Parameters
    ----------
    delta
        Of all training pairs, shape ``(p, K)``.
    direction
        See above.

    Returns
    -------
    ndarray
        Shape of `delta`, float32, positive.

    Raises
    ------
    InputError
        If there is no pair, a distance is negative or not finite, or there is no such direction.
    """
    if delta.size == 0 or not np.isfinite(delta).all() or (delta < 0).any():
        raise InputError(
            "Weights need the distances of at least one pair, none of them negative, NaN or infinite.",
            "Pass what hardness() returns for the whole training set.",
        )
    match direction:
        case "as_published":
            sign = 1.0
        case "harder_is_heavier":
            sign = -1.0
        case _:
            raise InputError(
                f"There is no direction {direction!r}.", "Choose 'as_published' or 'harder_is_heavier'."
            )
    # sigmoid(a) / sigmoid(b), a distance being far too small to overflow.
    weights: Doubles = (1.0 + np.exp(-sign * delta.mean())) / (1.0 + np.exp(-sign * delta))
    return weights.astype(np.float32)


def spread(weights: npt.NDArray[np.floating[Any]]) -> Spread:
    """Smallest, mean and largest weight, for the log.

    Raises
    ------
    InputError
        If there is none.
    """
    if weights.size == 0:
        raise InputError("There is no spread of no weights.")
    return Spread(float(weights.min()), float(weights.mean(dtype=np.float64)), float(weights.max()))


def _codes(
    chosen: Sequence[tuple[int, ...]], rejected: Sequence[tuple[tuple[int, ...], ...]], n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Codes as arrays of shape ``(p, t)`` and ``(p, K, t)``, or an error that names the first pair amiss."""
    if len(chosen) != len(rejected):
        raise InputError(
            f"{len(chosen)} chosen answers do not fit {len(rejected)} rows of rejected ones.",
            "Pass one row per pair.",
        )
    items, answers = (len(chosen[0]), len(rejected[0])) if len(chosen) else (1, 1)
    for pair, (best, others) in enumerate(zip(chosen, rejected, strict=True)):
        if not best or not others:
            raise InputError(
                f"Pair {pair} names no items, so it has no hardness.",
                "Where the answer is Yes or No, pass the item taken and one not taken; or switch hars off.",
            )
        sizes = [len(other) for other in others]
        if len(best) != items or sizes != [items] * answers:
            raise InputError(
                f"Pair {pair}: {len(best)} items chosen, rejected answers of {sizes} items.",
                f"Pair 0 has {items} items an answer and {answers} rejected answers; all need the same.",
            )
        if min(best) < 0 or max(best) >= n or any(min(o) < 0 or max(o) >= n for o in others):
            raise InputError(
                f"Pair {pair} holds a code that is no item's.", f"Codes are numbers from 0 to {n - 1}."
            )
    first = np.array(chosen, dtype=np.int64).reshape(len(chosen), items)
    return first, np.array(rejected, dtype=np.int64).reshape(len(chosen), answers, items)


def _softmax(values: Doubles) -> Doubles:
    # Not shifted, small temperatures would overflow.
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Doubles = powers / powers.sum(axis=1, keepdims=True)
    return shares
