"""Damaged content: noise, swapped items, missing modalities, each with a control.

A damage is an `ItemFeatures` that alters what it reads from another one. Nothing is copied: an item's damage
follows from the seed and its code, whichever block it is read in, so that memory does not grow with the
features. With one seed, a larger damage is the smaller one and more of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.base.errors import InputError
from prismrec.base.files import digest
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.layers.nearest import NearestItems

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

_BLOCK = 4096
_NEIGHBOURS = 10
# No item has this code: its stream of random numbers is that of the direction which all items share.
_SHARED = (1 << 63) - 1


class DamagedFeatures(ItemFeatures):
    """Features that come out otherwise than they were stored.

    Parameters
    ----------
    base
        The features as they are.
    present
        Which content there is after the damage, shape ``(items, modalities)``.
    mark
        What was done, for the digest.
    """

    def __init__(self, base: ItemFeatures, present: Mask, mark: str) -> None:
        # Not super().__init__: it would look for rows in the stores, which `base` has done.
        self.base = base
        self.stores, self.names, self.dims = base.stores, base.names, base.dims
        self.n_items = base.n_items
        self.present = present
        self.mark = mark

    @property
    def content_hash(self) -> str:
        """Digest of the content and of what was done to it."""
        return digest(self.base.content_hash.encode(), self.mark.encode())

    def gather(self, codes: Codes) -> tuple[list[Floats], Mask]:
        """Return the damaged vectors of some items, as `ItemFeatures.gather` returns sound ones."""
        vectors = self._altered(codes)
        present = self.present[codes]
        for place, found in enumerate(vectors):
            found[~present[:, place]] = 0.0
        return vectors, present

    def _altered(self, codes: Codes) -> list[Floats]:
        """Return vectors that the caller may write into; rows of missing content mean nothing."""
        raise NotImplementedError


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each dimension over the training items that have the modality.

    Parameters
    ----------
    means, deviations
        One array a modality, shape ``(dim,)``.
    """

    means: tuple[Floats, ...]
    deviations: tuple[Floats, ...]

    @staticmethod
    def of(features: ItemFeatures, warm: Codes) -> "Statistics":
        """Take them over the training items, in blocks."""
        counts = np.maximum(features.present[warm].sum(axis=0), 1)
        sums = [np.zeros(dim) for dim in features.dims]
        for vectors, _ in _blocks(features, warm):
            for place, found in enumerate(vectors):
                sums[place] += found.sum(axis=0, dtype=np.float64)
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        squares = [np.zeros(dim) for dim in features.dims]
        for vectors, present in _blocks(features, warm):
            for place, found in enumerate(vectors):
                away = (found - means[place]) * present[:, place : place + 1]
                squares[place] += (away * away).sum(axis=0)
        deviations = [np.sqrt(total / count) for total, count in zip(squares, counts, strict=True)]
        return Statistics(
            tuple(mean.astype(np.float32) for mean in means),
            tuple(deviation.astype(np.float32) for deviation in deviations),
        )


class Noise(DamagedFeatures):
    """Gaussian noise of `sigma` times each dimension's standard deviation.

    Its control moves every item as far as the noise would, and all of them in one random direction: what
    differs between items stays nearly as it was.

    Parameters
    ----------
    base
        Sound features.
    statistics
        Of the same.
    sigma
        Size, in standard deviations.
    modalities
        Places of the modalities that are damaged.
    seed
        Of the noise, at least 0.
    shared
        The control.
    """

    def __init__(
        self,
        base: ItemFeatures,
        statistics: Statistics,
        sigma: float,
        modalities: Sequence[int],
        seed: int,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__(base, base.present, f"noise {sigma} {list(modalities)} {seed} {shared}")
        self._deviations, self._sigma, self._seed = statistics.deviations, sigma, seed
        self._modalities = tuple(modalities)
        self._directions = {place: _unit(self._drawn(place, _SHARED)) for place in modalities if shared}

    def _altered(self, codes: Codes) -> list[Floats]:
        vectors, present = self.base.gather(codes)
        for place in self._modalities:
            for row in np.flatnonzero(present[:, place]):
                noise = self._drawn(place, int(codes[row]))
                if place in self._directions:
                    noise = np.linalg.norm(noise) * self._directions[place]
                vectors[place][row] += self._sigma * noise
        return vectors

    def _drawn(self, place: int, code: int) -> Floats:
        bits = np.random.Philox(key=[self._seed, place], counter=[0, 0, 0, code])
        deviations = self._deviations[place]
        return np.random.Generator(bits).standard_normal(len(deviations), dtype=np.float32) * deviations


class Swapped(DamagedFeatures):
    """Some items that have each other's content, whole: no item of them keeps its own.

    Its control takes the content of the same items away (`without`): wrong content does harm beyond what
    missing content does by the difference of the two.

    Parameters
    ----------
    base
        Sound features.
    share
        Of the items with any content, 0 to 1.
    seed
        Of the choice and the exchange, at least 0.
    """

    def __init__(self, base: ItemFeatures, share: float, seed: int) -> None:
        self.chosen = chosen_items(np.asarray(base.present.any(axis=1)), share, seed)
        self._source = np.arange(base.n_items)
        # The chosen stand in random order: each takes the content of the one before. A larger share changes
        # only from whom the first one takes it.
        self._source[self.chosen] = np.roll(self.chosen, 1)
        super().__init__(base, base.present[self._source], f"swapped {share} {seed}")

    def without(self) -> "Missing":
        """Return the control: the same items, without any content."""
        hidden = np.zeros_like(self.base.present)
        hidden[self.chosen] = True
        return Missing(self.base, hidden)

    def _altered(self, codes: Codes) -> list[Floats]:
        return self.base.gather(self._source[codes])[0]


class Filling(StrEnum):
    """What stands where a modality is missing.

    ``masked``: nothing, and the model is told. The others are not told: ``zero``, the ``mean`` of the
    training items, or the mean of the ``neighbours``: the 10 training items that have the modality and are
    the most like the item in its other modalities (the mean where there is no such one).
    """

    MASKED = "masked"
    ZERO = "zero"
    MEAN = "mean"
    NEIGHBOURS = "neighbours"


class Missing(DamagedFeatures):
    """Content that is not there any more.

    Parameters
    ----------
    base
        Sound features.
    hidden
        What is taken away, bool, shape ``(items, modalities)``.
    filling
        What is put in its place.
    statistics
        Of the sound features; needed for all fillings but "masked" and "zero".
    warm
        Codes of the training items; needed for "neighbours", which then takes one hidden modality only.

    Raises
    ------
    InputError
        If something that the filling needs was not given.
    """

    def __init__(
        self,
        base: ItemFeatures,
        hidden: Mask,
        filling: Filling = Filling.MASKED,
        statistics: Statistics | None = None,
        warm: Codes | None = None,
    ) -> None:
        hidden = hidden & base.present
        present = base.present & ~hidden if filling is Filling.MASKED else base.present
        super().__init__(base, present, f"missing {filling} {digest(hidden.tobytes())}")
        self.hidden, self._filling = hidden, filling
        self._means: tuple[Floats, ...] = tuple(np.zeros(dim, dtype=np.float32) for dim in base.dims)
        if filling in (Filling.MEAN, Filling.NEIGHBOURS):
            if statistics is None:
                raise InputError(f"Filling in {filling!s} needs the statistics of the features.")
            self._means = statistics.means
        if filling is Filling.NEIGHBOURS:
            if warm is None:
                raise InputError("Filling in neighbours needs the training items.")
            self._place, self._donors, self._found = _donors(base, hidden, self._means, warm)

    def _altered(self, codes: Codes) -> list[Floats]:
        vectors = self.base.gather(codes)[0]
        for place, found in enumerate(vectors):
            found[self.hidden[codes, place]] = self._means[place]
        if self._filling is Filling.NEIGHBOURS:
            for row in np.flatnonzero(self.hidden[codes, self._place]):
                item = codes[row]
                donors = self._donors[item, self._found[item]]
                if len(donors):
                    vectors[self._place][row] = self.base.gather(donors)[0][self._place].mean(axis=0)
        return vectors


class Shifted(DamagedFeatures):
    """Vectors moved by given ones.

    Parameters
    ----------
    base
        Sound features.
    codes
        Items that are moved.
    shifts
        One array a modality, shape ``(len(codes), dim)``.
    mark
        What they are.
    """

    def __init__(self, base: ItemFeatures, codes: Codes, shifts: Sequence[Floats], mark: str) -> None:
        super().__init__(base, base.present, f"shifted {mark}")
        self._shifts = tuple(shifts)
        self._place = np.full(base.n_items, -1, dtype=np.int64)
        self._place[codes] = np.arange(len(codes))

    def _altered(self, codes: Codes) -> list[Floats]:
        vectors = self.base.gather(codes)[0]
        places = self._place[codes]
        moved = places >= 0
        for found, shift in zip(vectors, self._shifts, strict=True):
            found[moved] += shift[places[moved]]
        return vectors


def chosen_items(eligible: Mask, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Draw a share of the items that come into question, in random order; a larger share goes on from it.

    Raises
    ------
    InputError
        If the share is not between 0 and 1.
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"A share of {share} of the items is not between 0 and 1.")
    codes = np.random.default_rng(seed).permutation(np.flatnonzero(eligible))
    return codes[: round(share * len(codes))]


def hidden_modality(features: ItemFeatures, place: int, share: float, seed: int) -> Mask:
    """Return what to hide so that a share of the items that have a modality lack it."""
    hidden = np.zeros_like(features.present)
    hidden[chosen_items(features.present[:, place], share, seed), place] = True
    return hidden


def as_stores(features: ItemFeatures, ids: Sequence[str]) -> list[FeatureStore]:
    """Write features out as stores in memory, for training; here memory does grow with them.

    Parameters
    ----------
    features
        Of any kind.
    ids
        Item ids in the order of their codes.
    """
    stores = []
    for place, (name, sound) in enumerate(zip(features.names, features.stores, strict=True)):
        codes = np.flatnonzero(features.present[:, place])
        blocks = [vectors[place] for vectors, _ in _blocks(features, codes)]
        held = np.concatenate(blocks) if blocks else np.zeros((0, sound.dim), dtype=np.float32)
        names = tuple(ids[code] for code in codes.tolist())
        stores.append(FeatureStore(name, held, names, ("",) * len(names), dict(sound.encoder)))
    return stores


def _blocks(features: ItemFeatures, codes: Codes) -> Any:
    for first in range(0, len(codes), _BLOCK):
        yield features.gather(codes[first : first + _BLOCK])


def _donors(
    base: ItemFeatures, hidden: Mask, means: Sequence[Floats], warm: Codes
) -> tuple[int, npt.NDArray[np.int64], Mask]:
    """Return the hidden modality, each item's nearest training items that have it, and which are any."""
    places = np.flatnonzero(hidden.any(axis=0))
    if len(places) > 1:
        raise InputError("Neighbours can stand for one missing modality at a time.")
    place = int(places[0]) if len(places) else 0
    others = [m for m in range(len(base.names)) if m != place]
    asked = np.flatnonzero(hidden[:, place])
    donors = np.zeros((base.n_items, _NEIGHBOURS), dtype=np.int64)
    found = np.zeros((base.n_items, _NEIGHBOURS), dtype=np.bool_)
    among = np.zeros(base.n_items, dtype=np.bool_)
    among[warm] = True
    among &= base.present[:, place] & ~hidden[:, place]
    if others and len(asked) and among.any():
        table = np.concatenate(
            [_directions(base, m, means[m]) for m in others], axis=1, dtype=np.float32
        ) / np.float32(np.sqrt(len(others)))
        nearest, cosines = NearestItems()(
            torch.from_numpy(table[asked]), torch.from_numpy(table), torch.from_numpy(among), _NEIGHBOURS
        )
        width = nearest.shape[1]
        donors[asked, :width] = nearest.numpy()
        found[asked, :width] = cosines.numpy() > 0
    return place, donors, found


def _directions(base: ItemFeatures, place: int, mean: Floats) -> Floats:
    """Centred vectors of unit length of all items; 0 where there is none."""
    units = np.zeros((base.n_items, base.dims[place]), dtype=np.float32)
    for first in range(0, base.n_items, _BLOCK):
        codes = np.arange(first, min(first + _BLOCK, base.n_items))
        vectors, present = base.gather(codes)
        units[codes] = _unit((vectors[place] - mean) * present[:, place : place + 1])
    return units


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
