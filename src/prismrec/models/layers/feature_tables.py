"""The training items' content as tables that a graph model reads whole, constant or trained."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.features.store import ItemFeatures
from prismrec.models.batches import ItemBatch, Modality
from prismrec.models.layers.content import item_batch

_BLOCK = 8192


class FeatureTables(nn.Module):
    """A table a modality, with a row for each item of the vocabulary.

    A training item's row is its vector, or the mean of the training items that have the modality where it
    has none, as the published codes fill gaps. Rows of all other items are 0 and mean nothing: what is known
    of a cold or later item comes with the batch (`of`).

    In training other values may lie over the tables (`overlay`); they are not saved with the model.

    Parameters
    ----------
    modalities
        In the order of `ItemBatch`.
    n_items
        Items of the vocabulary.
    trained
        Whether the tables are parameters, which start at the content; otherwise they stay.
    normalise
        Whether vectors are brought to unit length first.
    """

    warm: Tensor

    def __init__(
        self, modalities: Sequence[Modality], n_items: int, *, trained: bool, normalise: bool
    ) -> None:
        super().__init__()
        self.trained = trained
        self.normalise = normalise
        self.dims = [modality.dim for modality in modalities]
        self.register_buffer("warm", torch.zeros(n_items, dtype=torch.bool))
        for place, dim in enumerate(self.dims):
            self.register_buffer(f"mean_{place}", torch.zeros(dim))
            table = torch.zeros(n_items, dim)
            if trained:
                self.register_parameter(f"table_{place}", nn.Parameter(table))
            else:
                self.register_buffer(f"table_{place}", table)
            self.register_buffer(f"overlay_{place}", None, persistent=False)

    @property
    def tables(self) -> list[Tensor]:
        """The tables, shape ``(n_items, dim)`` each; in training with what lies over them."""
        found = []
        for place in range(len(self.dims)):
            table, above = getattr(self, f"table_{place}"), getattr(self, f"overlay_{place}")
            if not self.training or above is None:
                found.append(table)
            else:
                found.append(table + above if self.trained else above)
        return found

    @property
    def means(self) -> list[Tensor]:
        """What stands for missing content, shape ``(dim,)`` each."""
        return [getattr(self, f"mean_{place}") for place in range(len(self.dims))]

    def overlay(self, above: Sequence[Tensor]) -> None:
        """Read other values in training until `restore`; evaluation and the saved tables stay as they are.

        Parameters
        ----------
        above
            Shape ``(n_items, dim)`` each, on the tables' device. They are read in place of constant tables,
            and added to trained ones, whose gradient stays that of what is read.
        """
        for place, values in enumerate(above):
            setattr(self, f"overlay_{place}", values)

    def restore(self) -> None:
        """Drop what `overlay` laid over the tables."""
        for place in range(len(self.dims)):
            setattr(self, f"overlay_{place}", None)

    @torch.no_grad()
    def fit(self, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take over the training items' content; rows of `warm` are read only."""
        self.restore()
        codes = torch.from_numpy(warm.astype(np.int64))
        self.warm.zero_()
        self.warm[codes.to(self.warm.device)] = True
        sums = [torch.zeros(dim, dtype=torch.float64) for dim in self.dims]
        counts = torch.zeros(len(self.dims))
        for first in range(0, len(warm), _BLOCK):
            items = item_batch(features, warm[first : first + _BLOCK])
            counts += items.present.sum(dim=0)
            for place, vectors in enumerate(self._scaled(items)):
                there = items.present[:, place : place + 1]
                sums[place] += torch.where(there, vectors, 0.0).sum(dim=0, dtype=torch.float64)
        for mean, total, count in zip(self.means, sums, counts, strict=True):
            mean.copy_(total / count.clamp_min(1.0))
        for table in self.tables:
            table.zero_()
        for first in range(0, len(warm), _BLOCK):
            rows = codes[first : first + _BLOCK].to(self.warm.device)
            filled = self.filled(item_batch(features, warm[first : first + _BLOCK]).to(self.warm.device))
            for table, vectors in zip(self.tables, filled, strict=True):
                table[rows] = vectors

    def marks(self, items: ItemBatch) -> Tensor:
        """Return which items of a batch are training items, bool, shape ``(n,)``."""
        return self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)

    def filled(self, items: ItemBatch) -> list[Tensor]:
        """Return the batch's own vectors, with the mean where there is no content, ``(n, dim)`` each."""
        kept = []
        for vectors, mean, there in zip(self._scaled(items), self.means, items.present.T, strict=True):
            kept.append(torch.where(there.unsqueeze(1), vectors, mean))
        return kept

    def of(self, items: ItemBatch) -> list[Tensor]:
        """Return rows of the tables for training items and `filled` for the others, ``(n, dim)`` each."""
        warm = self.marks(items).unsqueeze(1)
        rows = items.codes.clamp_min(0)
        pairs = zip(self.tables, self.filled(items), strict=True)
        return [torch.where(warm, functional.embedding(rows, table), own) for table, own in pairs]

    def _scaled(self, items: ItemBatch) -> list[Tensor]:
        if not self.normalise:
            return list(items.vectors)
        return [functional.normalize(vectors, dim=1) for vectors in items.vectors]
