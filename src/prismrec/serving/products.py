"""Rough and canonical products of one vector with many, for `prismrec.serving.engine`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base import exact_kernels as kernels
from prismrec.base.errors import InputError
from prismrec.base.lanes import LANES

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

SHORTEST = 1e-12
"""What a shorter vector is divided by instead of its length."""

DIVERGED = "If they come from training, it has diverged: lower the learning rate or clip gradients."


def unit_vectors(vectors: Floats) -> Floats:
    """Return vectors divided by their lengths, as `Recommender.similar` does it."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, SHORTEST)
    return unit


def may_be_among(rough: npt.NDArray[Any], k: int, error: float) -> Places:
    """Places of the scores that may be among the k highest if each is off by at most `error`."""
    if k < 1 or len(rough) <= k:
        return np.arange(len(rough) if k > 0 else 0)
    # k rows are at least kth - error; whoever is among the best is so, too, and looks at most `error` less.
    kth = float(np.partition(rough, len(rough) - k)[len(rough) - k])
    return np.flatnonzero(rough.astype(np.float64) >= kth - 2 * error)


def pairs(user: Floats, items: Floats, rows: Places) -> Doubles:
    """Canonical scores of some rows of a matrix with one query, shape ``(1, d)``."""
    starts = np.array([0, len(rows)], dtype=np.int64)
    scores: Doubles = kernels.pair_scores(user.astype(np.float64), items, starts, rows.astype(np.int32))
    return scores


def padded(vectors: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return vectors with zeros up to a multiple of the lanes, as the canonical product wants them."""
    n, dim = vectors.shape
    if dim % LANES == 0:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    wide = np.zeros((n, -(-dim // LANES) * LANES), dtype=np.float32)
    wide[:, :dim] = vectors
    return wide


def lengths(vectors: Floats, ids: Sequence[str]) -> Doubles:
    """Return the lengths of padded vectors.

    Raises
    ------
    InputError
        If a number is not finite; it names the id.
    """
    found: Doubles = kernels.norms(vectors)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise InputError(f"The vector of {ids[bad[0]]!r} holds NaN or infinite numbers.", DIVERGED)
    return found
