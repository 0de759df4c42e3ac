"""Content as the closed-form models see it: one vector an item from all its modalities."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.features.store import ItemFeatures
from prismrec.models.batches import ItemBatch, Modality

_BLOCK = 8192
# Below this a centred vector is rounding error, and normalising it would blow that up to content.
_NO_DIRECTION = 1e-5


class Content(nn.Module):
    """Centres, normalises, weighs and concatenates an item's modalities.

    Each modality's vectors are normalised, centred on the mean of the training items that have the modality,
    and normalised again. The dot product of two items with all modalities is then the mean of the modalities'
    cosines, weighted by `shares`. A missing modality adds nothing, and the weights of those that are there
    are scaled up to add up to 1; an item without content is the zero vector.

    Parameters
    ----------
    modalities
        In the order of `ItemBatch`.
    """

    centre: Tensor
    shares: Tensor

    def __init__(self, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.dims = [modality.dim for modality in modalities]
        self.register_buffer("centre", torch.zeros(sum(self.dims)))
        self.register_buffer("shares", torch.full((len(self.dims),), 1.0 / max(1, len(self.dims))))

    @property
    def dim(self) -> int:
        """Size of an item's vector."""
        return sum(self.dims)

    def fit(self, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take the mean of each modality over the training items that have it."""
        sums = torch.zeros(self.dim, dtype=torch.float64)
        counts = torch.zeros(len(self.dims), dtype=torch.float64)
        for start in range(0, len(warm), _BLOCK):
            items = item_batch(features, warm[start : start + _BLOCK])
            units = [functional.normalize(vectors, dim=1) for vectors in items.vectors]
            sums += _masked(units, items.present).sum(dim=0, dtype=torch.float64)
            counts += items.present.sum(dim=0)
        self.centre = (sums / self._spread(counts.clamp_min(1.0))).to(torch.float32)

    def parts(self, items: ItemBatch) -> Tensor:
        """Return the modalities' centred unit vectors side by side, unweighted, shape ``(n, dim)``."""
        units = []
        for vectors, centre in zip(items.vectors, torch.split(self.centre, self.dims), strict=True):
            centred = functional.normalize(vectors, dim=1) - centre
            units.append(functional.normalize(centred, dim=1, eps=_NO_DIRECTION))
        return _masked(units, items.present)

    def weigh(self, parts: Tensor, present: Tensor) -> Tensor:
        """Weigh what `parts` returned by the shares of the modalities that are present."""
        shares = self.shares * present
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return parts * self._spread(shares.sqrt())

    def forward(self, items: ItemBatch) -> Tensor:
        """Return the items' vectors, shape ``(n, dim)``."""
        return self.weigh(self.parts(items), items.present)

    def _spread(self, by_modality: Tensor) -> Tensor:
        """Repeat each modality's number along its columns."""
        dims = torch.tensor(self.dims, device=by_modality.device)
        return torch.repeat_interleave(by_modality, dims, dim=-1)


class ContentTable:
    """The parts of the training items, computed once and weighed anew for each choice of shares.

    Parameters
    ----------
    content
        Fitted.
    features
        Features of all items.
    warm
        Codes of the training items.
    """

    def __init__(self, content: Content, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        self._content = content
        self._parts = torch.zeros(len(warm), content.dim)
        self.present = torch.from_numpy(features.present[warm])
        for start in range(0, len(warm), _BLOCK):
            items = item_batch(features, warm[start : start + _BLOCK])
            self._parts[start : start + _BLOCK] = content.parts(items)

    def weighed(self) -> Tensor:
        """Return the training items' vectors under the shares as they are now, shape ``(warm, dim)``."""
        weighed = torch.empty_like(self._parts)
        for start in range(0, len(weighed), _BLOCK):
            rows = slice(start, start + _BLOCK)
            weighed[rows] = self._content.weigh(self._parts[rows], self.present[rows])
        return weighed


def item_batch(features: ItemFeatures, codes: npt.NDArray[np.integer[Any]]) -> ItemBatch:
    """Return items of the catalogue with their content."""
    vectors, present = features.gather(codes)
    tensors = tuple(torch.from_numpy(array) for array in vectors)
    return ItemBatch(torch.from_numpy(codes.astype(np.int64)), tensors, torch.from_numpy(present))


def share_grid(modalities: int) -> list[Tensor]:
    """Return shares of the modalities to choose from by validation, equal ones first.

    Five for two modalities, ten for three, the equal ones alone for any other number. None is 0, so that an
    item with a single modality, whichever it is, keeps a vector.
    """
    steps = {2: 4, 3: 3}.get(modalities, 0)
    equal = [1.0 / modalities] * modalities
    grid = [equal]
    for counts in itertools.product(range(steps + 1), repeat=modalities):
        if steps and sum(counts) == steps and len(set(counts)) > 1:
            grid.append([0.9 * count / steps + 0.1 / modalities for count in counts])
    return [torch.tensor(shares) for shares in grid]


def _masked(units: Sequence[Tensor], present: Tensor) -> Tensor:
    # torch.where and not a product: whatever stands under a missing modality must not come through.
    kept = [torch.where(present[:, m : m + 1], unit, 0.0) for m, unit in enumerate(units)]
    return torch.cat(kept, dim=1)
