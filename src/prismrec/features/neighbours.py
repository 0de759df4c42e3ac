"""The nearest neighbours of every item in one modality: an exact item graph.

The matrix of all items against all is never made (`prismrec.base.exact`).
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix, best
from prismrec.base.files import atomic_path, digest
from prismrec.base.progress import SILENT, Progress
from prismrec.features.store import MISSING, FeatureStore

FORMAT_VERSION = 1
_BLOCK = 8192
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Likeness(StrEnum):
    """How alike two items are: the cosine of the angle between their vectors, or their scalar product."""

    COSINE = "cosine"
    DOT = "dot"


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each item, nearest first.

    Parameters
    ----------
    indices
        Item codes, int32, shape ``(n, k)``; -1 where there are fewer than k.
    weights
        How alike they are, float32, shape ``(n, k)``; 0 at -1.
    """

    indices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def nearest_neighbours(
    store: FeatureStore,
    items: Sequence[str],
    k: int,
    *,
    likeness: Likeness | str = Likeness.COSINE,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Neighbours:
    """Find the k nearest neighbours of every item among all items.

    An item without a vector has no neighbours and is nobody's neighbour; so it is, for the cosine, with a
    vector of zeros, which has no direction. Nobody is their own neighbour. Among equally near ones the lower
    code comes first. The result does not depend on the machine (`prismrec.base.exact`).

    Memory: the vectors in float32, and in bfloat16 where the processor multiplies that.

    Parameters
    ----------
    store
        The modality's vectors; they are read in blocks.
    items
        Item ids in the order of their codes.
    k
        Number of neighbours.
    likeness
        "cosine" or "dot".
    cache
        Folder where the result is kept, named by the vectors' content, the items, k and the likeness. A
        damaged file there is made anew.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If k is below 1, there is no such likeness, or scalar products may overflow.
    StorageError
        If the result cannot be kept.
    """
    if k < 1:
        raise InputError(f"{k} neighbours cannot be looked for.", "Ask for at least one.")
    if likeness not in list(Likeness):
        raise InputError(f"There is no likeness {likeness!r}.", f"Choose one of: {', '.join(Likeness)}.")
    kind = Likeness(likeness)
    if cache is None:
        return _search(store, items, k, kind, progress)
    path = cache / f"neighbours-{_key(store, items, k, kind)}.npz"
    kept = _read(path, len(items), k)
    if kept is None:
        kept = _search(store, items, k, kind, progress)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, indices=kept.indices, weights=kept.weights)
    return kept


def _key(store: FeatureStore, items: Sequence[str], k: int, kind: Likeness) -> str:
    settings = f"{FORMAT_VERSION} {k} {kind}".encode()
    return digest(store.content_hash.encode(), "\n".join(items).encode(), settings)


def _read(path: Path, n: int, k: int) -> Neighbours | None:
    """Return what was kept; None where nothing was, or it is damaged. Zip members carry a checksum."""
    try:
        with np.load(path, allow_pickle=False) as file:
            indices, weights = file["indices"], file["weights"]
    except _BROKEN:
        return None
    fits = indices.shape == weights.shape == (n, k)
    typed = indices.dtype == np.int32 and weights.dtype == np.float32
    return Neighbours(indices, weights) if fits and typed else None


def _search(
    store: FeatureStore, items: Sequence[str], k: int, kind: Likeness, progress: Progress
) -> Neighbours:
    indices = np.full((len(items), k), -1, dtype=np.int32)
    weights = np.zeros((len(items), k), dtype=np.float32)
    codes, vectors = _vectors(store, items, kind)
    n = len(codes)
    with progress.task("neighbours", n) as task:
        if n > 1:
            matrix = ItemMatrix.of(vectors)
            wanted = min(k, n - 1)
            own = np.arange(n + 1)
            found, scores = best(vectors, matrix, wanted, own, own[:-1].astype(np.int32), task)
            indices[codes, :wanted] = codes[found]
            weights[codes, :wanted] = scores
    return Neighbours(indices, weights)


def _vectors(
    store: FeatureStore, items: Sequence[str], kind: Likeness
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Codes of the items that can have neighbours, and their vectors (of length 1 for the cosine)."""
    rows = store.rows(items)
    codes = np.flatnonzero(rows != MISSING).astype(np.int32)
    vectors = np.empty((len(codes), store.dim), dtype=np.float32)
    usable = np.ones(len(codes), dtype=np.bool_)
    for first in range(0, len(codes), _BLOCK):
        part = slice(first, first + _BLOCK)
        block = store.vectors[rows[codes[part]]].astype(np.float32)
        if kind is Likeness.COSINE:
            block, usable[part] = _unit(block)
        vectors[part] = block
    return (codes, vectors) if usable.all() else (codes[usable], vectors[usable])


def _unit(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Vectors of length 1, and which of them have a direction at all."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    usable = lengths > 0.0
    return (vectors / np.where(usable, lengths, 1.0)[:, None]).astype(np.float32), usable
