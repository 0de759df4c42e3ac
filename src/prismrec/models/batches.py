"""What models are built for, trained on and asked about: sizes, batches, the training part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.features.store import ItemFeatures


@dataclass(frozen=True)
class Modality:
    """A modality as a model sees it: its name and the size of its vectors."""

    name: str
    dim: int


@dataclass(frozen=True)
class ModelInputs:
    """The sizes that a model is built for.

    Parameters
    ----------
    n_users, n_items
        Users and items of the training vocabulary.
    modalities
        In the order in which `ItemBatch` holds them.
    """

    n_users: int
    n_items: int
    modalities: tuple[Modality, ...]

    def require_content(self, model: str) -> None:
        """Check that there is any modality.

        Raises
        ------
        InputError
            If there is none.
        """
        if not self.modalities:
            raise InputError(f"{model} learns from content, and there are no features.", "Encode first.")


@dataclass(frozen=True)
class ItemBatch:
    """Some items: who they are and what is known of them.

    Parameters
    ----------
    codes
        Codes in the training vocabulary, int64, shape ``(n,)``; -1 for items that came later.
    vectors
        One tensor a modality, float32, shape ``(n, dim)``; rows of missing content are zero.
    present
        Which content exists, bool, shape ``(n, modalities)``.
    """

    codes: Tensor
    vectors: tuple[Tensor, ...]
    present: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> "ItemBatch":
        """Return a run of the items."""
        return ItemBatch(self.codes[rows], tuple(v[rows] for v in self.vectors), self.present[rows])

    def to(self, device: torch.device) -> "ItemBatch":
        """Return the batch on a device."""
        moved = tuple(v.to(device, non_blocking=True) for v in self.vectors)
        return ItemBatch(self.codes.to(device), moved, self.present.to(device))


@dataclass(frozen=True)
class TripletBatch:
    """Positive pairs and, for each, items that the user has not touched.

    Parameters
    ----------
    users
        User codes, shape ``(b,)``.
    items
        The unique items of the batch; all items of the catalogue where the model asks for them.
    positives
        Row in `items` of each pair's item, shape ``(b,)``.
    negatives
        Rows in `items`, shape ``(b, negatives)``.
    """

    users: Tensor
    items: ItemBatch
    positives: Tensor
    negatives: Tensor


@dataclass(frozen=True)
class UserBatch:
    """Whole users: all their training items against all the others.

    Parameters
    ----------
    users
        User codes, shape ``(b,)``.
    items
        Every item of the training part.
    rows, columns
        The positive pairs: position in `users` and row in `items`, shape ``(pairs,)``.
    """

    users: Tensor
    items: ItemBatch
    rows: Tensor
    columns: Tensor


Batch = TripletBatch | UserBatch


def part_of(batch: Batch, rows: slice) -> Batch:
    """Return some of a batch's pairs, or of its users with all their positives; all items stay.

    Parameters
    ----------
    batch
        Any.
    rows
        A run of the rows of ``batch.users``, with both ends given.
    """
    if isinstance(batch, TripletBatch):
        chosen = batch.users[rows], batch.positives[rows], batch.negatives[rows]
        return TripletBatch(chosen[0], batch.items, *chosen[1:])
    kept = (batch.rows >= rows.start) & (batch.rows < rows.stop)
    return UserBatch(batch.users[rows], batch.items, batch.rows[kept] - rows.start, batch.columns[kept])


@dataclass(frozen=True)
class TableEpoch:
    """An epoch of triplets for a model that takes all its steps in one go (`GradientModel.train_epoch`).

    Parameters
    ----------
    users, positives
        Codes, int32, shape ``(pairs,)`` each, in the epoch's order.
    negatives
        Item codes, int32, shape ``(pairs, negatives)``.
    batch_size
        Pairs a step; the last batch may be shorter.
    rates
        Learning rate of each batch.
    step
        Steps that were taken before.
    moments
        First and second moments of Adam of each of `GradientModel.row_tables`, by name; changed in place.
        Empty: the steps are those of plain SGD.
    """

    users: npt.NDArray[np.int32]
    positives: npt.NDArray[np.int32]
    negatives: npt.NDArray[np.int32]
    batch_size: int
    rates: npt.NDArray[np.float64]
    step: int
    moments: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingData:
    """What a closed-form model may learn from.

    Parameters
    ----------
    pairs
        The training pairs.
    inputs
        Sizes.
    features
        Features of all items, cold ones included; a model reads the rows of `warm` only.
    warm
        Codes of the training items, ascending.
    seed
        For whatever is random.
    order
        When each training pair happened first, as a timestamp or a position, shape ``(len(pairs),)``; None
        where the log has neither.
    """

    pairs: Pairs
    inputs: ModelInputs
    features: ItemFeatures
    warm: np.ndarray[Any, np.dtype[np.int32]]
    seed: int
    order: npt.NDArray[np.float64] | None = None
