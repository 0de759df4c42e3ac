"""Item vectors of a catalogue, and what the model attended to when it made them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.base.files import digest
from prismrec.features.store import ItemFeatures
from prismrec.models.base import Model
from prismrec.models.batches import ItemBatch

_Content = tuple[Sequence[npt.NDArray[np.float32]], npt.NDArray[np.bool_]]

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
    return _computed(model, codes, lambda rows: ([v[rows] for v in vectors], present[rows]), True)


def compute_catalog(
    model: Model, features: ItemFeatures, codes: npt.NDArray[np.integer[Any]], *, explained: bool = True
) -> ItemVectors:
    """Send items of the catalogue through a model; their content is read block by block.

    Parameters
    ----------
    model
        In evaluation mode, on the CPU.
    features
        Of the catalogue.
    codes
        Codes of the items, shape ``(n,)``.
    explained
        Whether to ask the model what it attends to. It goes through the content once more for that.

    Returns
    -------
    ItemVectors
        Of the same items.
    """
    found = _computed(model, codes, lambda rows: features.gather(codes[rows]), explained)
    for store in features.stores:
        store.forget()
    return found


@torch.no_grad()
def _computed(
    model: Model, codes: npt.NDArray[np.integer[Any]], content: Callable[[slice], _Content], explained: bool
) -> ItemVectors:
    found: npt.NDArray[np.float32] | None = None
    present: npt.NDArray[np.bool_] | None = None
    weights: npt.NDArray[np.float32] | None = None
    experts: npt.NDArray[np.float32] | None = None
    for first in range(0, max(1, len(codes)), _BLOCK):
        rows = slice(first, first + _BLOCK)
        vectors, there = content(rows)
        batch = ItemBatch(
            torch.from_numpy(codes[rows].astype(np.int64)),
            tuple(torch.from_numpy(np.ascontiguousarray(v)) for v in vectors),
            torch.from_numpy(np.ascontiguousarray(there)),
        )
        explanation = model.explain(batch) if explained else None
        found = _put(found, rows, model.item_vectors(batch).float().numpy(), len(codes))
        present = _put(present, rows, there, len(codes))
        if explanation is not None:
            weights = _put(weights, rows, explanation.modality_weights.float().numpy(), len(codes))
            experts = _put(experts, rows, explanation.expert_weights.float().numpy(), len(codes))
    assert found is not None
    assert present is not None
    return ItemVectors(found, present, weights, experts)


def _put(whole: npt.NDArray[Any] | None, rows: slice, block: npt.NDArray[Any], size: int) -> Any:
    """Write a block into the whole, which the first block makes: what `np.concatenate` does in half."""
    if whole is None:
        whole = np.empty((size, *block.shape[1:]), dtype=block.dtype)
    whole[rows] = block
    return whole
