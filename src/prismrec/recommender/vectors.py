"""Item vectors of a catalogue, and what the model attended to when it made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.base.files import digest
from prismrec.models.base import ItemBatch, Model

# Items that go through the model at a time: bounds the memory of the projection.
_BLOCK = 4096


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items and how they came about.

    Parameters
    ----------
    vectors
        Shape ``(n, d)``, float32.
    present
        Which content each item has, bool, shape ``(n, modalities)``.
    weights
        Modality weights, shape ``(n, modalities)``; None where the model has none.
    experts
        Expert weights, shape ``(n, modalities, experts)``; None where the model has none.
    """

    vectors: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32] | None = None
    experts: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def replaced(self, rows: npt.NDArray[np.integer[Any]], new: "ItemVectors") -> "ItemVectors":
        """Return a copy in which some rows are those of `new`; rows from ``len(self)`` on are appended."""
        size = max(len(self), int(rows.max(initial=-1)) + 1)
        return ItemVectors(
            _scattered(self.vectors, rows, new.vectors, size),
            _scattered(self.present, rows, new.present, size),
            None
            if self.weights is None or new.weights is None
            else _scattered(self.weights, rows, new.weights, size),
            None
            if self.experts is None or new.experts is None
            else _scattered(self.experts, rows, new.experts, size),
        )


def _scattered(old: npt.NDArray[Any], rows: npt.NDArray[Any], new: npt.NDArray[Any], size: int) -> Any:
    grown = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
    grown[: len(old)] = old
    grown[rows] = new
    return grown


def average_for_unknown(
    users: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return user vectors in which users without training interactions have the mean of the others'.

    Parameters
    ----------
    users
        Shape ``(u, d)``.
    known
        Who has training interactions, shape ``(u,)``.
    """
    if known.all() or not known.any():
        return users
    filled = users.copy()
    filled[~known] = users[known].mean(axis=0)
    return filled


def vector_digest(vector: npt.NDArray[np.floating[Any]]) -> str:
    """Return the digest of a vector of one's own, whatever precision it is stored in."""
    return digest(np.asarray(vector, dtype=np.float32).tobytes())


@torch.no_grad()
def compute(
    model: Model,
    codes: npt.NDArray[np.integer[Any]],
    vectors: Sequence[npt.NDArray[np.float32]],
    present: npt.NDArray[np.bool_],
) -> ItemVectors:
    """Send items through a model.

    Parameters
    ----------
    model
        In evaluation mode, on the CPU.
    codes
        Codes in the training vocabulary, -1 for later items, shape ``(n,)``.
    vectors, present
        Their content, as `ItemFeatures.gather` gives it.

    Returns
    -------
    ItemVectors
        Of the same items.
    """
    blocks = []
    for first in range(0, max(1, len(codes)), _BLOCK):
        chosen = slice(first, first + _BLOCK)
        batch = ItemBatch(
            torch.from_numpy(codes[chosen].astype(np.int64)),
            tuple(torch.from_numpy(np.ascontiguousarray(v[chosen])) for v in vectors),
            torch.from_numpy(np.ascontiguousarray(present[chosen])),
        )
        explanation = model.explain(batch)
        blocks.append(
            (
                model.item_vectors(batch).float().numpy(),
                None if explanation is None else explanation.modality_weights.float().numpy(),
                None if explanation is None else explanation.expert_weights.float().numpy(),
            )
        )
    found, weights, experts = zip(*blocks, strict=True)
    explained = weights[0] is not None
    return ItemVectors(
        np.concatenate(found),
        present,
        np.concatenate(weights) if explained else None,
        np.concatenate(experts) if explained else None,
    )
