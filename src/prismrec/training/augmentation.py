"""Disturbed copies of content and graph for training: hidden modalities, noise, mixtures, missing edges.

Modality dropout hides whole modalities, as M. Volkovs, G. Yu, T. Poutanen (DropoutNet, NIPS 2017) hide
preferences. Mixtures are those of H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz (mixup, ICLR 2018), of
content alone: who touched an item stays. Edge dropout is that of J. Wu, X. Wang, F. Feng, X. He, L. Chen,
J. Lian, X. Xie (SGL, SIGIR 2021), once an epoch and without a second view.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.files import digest
from prismrec.features.store import ItemFeatures
from prismrec.models.augmentation_plan import Augmentation
from prismrec.models.base import Model
from prismrec.models.batches import Batch, ItemBatch, TrainingData
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import PairGraph

_BLOCK = 8192


class Augmenter:
    """Changes what a model is trained on; what it draws depends on the seed, the epoch and the batch alone.

    Its generators are its own, so that with or without it everything else is drawn as ever. They run on the
    CPU, so that a GPU sees the same.

    Parameters
    ----------
    settings
        What is changed, and how much.
    data
        The training data. Other items' content enters neither noise nor mixtures.
    seed
        Of the run.
    """

    def __init__(self, settings: Augmentation, data: TrainingData, seed: int) -> None:
        self.settings = settings
        self._data = data
        self._seed = seed
        self._warm = torch.zeros(data.inputs.n_items, dtype=torch.bool)
        self._warm[torch.from_numpy(data.warm.astype(np.int64))] = True

    def batch(self, batch: Batch, epoch: int, place: int) -> Batch:
        """Return a batch whose items have disturbed content; the one that is given stays as it is.

        Parameters
        ----------
        batch
            On any device.
        epoch, place
            Number of the epoch, and of the batch in it.
        """
        if not self.settings.changes_content:
            return batch
        return replace(batch, items=self._changed(batch.items, self._generator("batch", epoch, place)))

    @torch.no_grad()
    def start_epoch(self, model: nn.Module, epoch: int) -> None:
        """Disturb the tables and graphs that a model reads whole, until `end_epoch`.

        Those are `FeatureTables` and `PairGraph`, wherever in the model they are. Constant tables all
        see the same hidden modalities, noise and mixtures, trained ones noise alone; graphs with the same
        edges lose the same. To be called after the model's own `start_epoch`, which may draw the edges that
        are thinned here.

        Parameters
        ----------
        model
            Prepared, and on its device.
        epoch
            Number of the epoch.
        """
        for module in model.modules():
            if isinstance(module, FeatureTables):
                self._disturb(module, epoch)
            elif isinstance(module, PairGraph) and self.settings.edge_dropout > 0:
                module.thin(self.settings.edge_dropout, self._generator("edges", epoch))

    def end_epoch(self, model: nn.Module) -> None:
        """Put the true tables and graphs back, and free the memory of the others.

        Whatever a model's own `start_epoch` computes from them then does not depend on the epoch before, so
        that a resumed run goes the same way.
        """
        for module in model.modules():
            if isinstance(module, FeatureTables | PairGraph):
                module.restore()

    def idle(self, model: Model) -> list[str]:
        """Return the names of settings that are on and cannot change anything in a model, for the log.

        Not all are found: whether a model reads the content of a batch is not known.
        """
        settings, idle = self.settings, []
        useless = not model.config.uses_content
        single = len(self._data.inputs.modalities) < 2
        if settings.modality_dropout > 0 and (useless or single):
            idle.append("modality_dropout")
        if settings.feature_noise > 0 and useless:
            idle.append("feature_noise")
        if settings.edge_dropout > 0 and not any(isinstance(m, PairGraph) for m in model.modules()):
            idle.append("edge_dropout")
        if settings.modality_mixup > 0 and useless:
            idle.append("modality_mixup")
        return idle

    @cached_property
    def spreads(self) -> list[Tensor]:
        """Deviation of each dimension over the training items that have the modality, ``(dim,)`` each."""
        return deviations(self._data.features, self._data.warm, normalise=False)

    @cached_property
    def unit_spreads(self) -> list[Tensor]:
        """The same of vectors that were brought to unit length."""
        return deviations(self._data.features, self._data.warm, normalise=True)

    def _generator(self, what: str, *numbers: int) -> np.random.Generator:
        parts = [what, *(str(number) for number in (self._seed, *numbers))]
        return np.random.default_rng(int(digest(*(part.encode() for part in parts))[:16], 16))

    def _disturb(self, tables: FeatureTables, epoch: int) -> None:
        generator = self._generator("tables", epoch)
        if not tables.trained and self.settings.changes_content:
            tables.overlay(self._copies(tables, generator))
        elif tables.trained and self.settings.feature_noise > 0:
            tables.overlay(self._table_noise(tables, generator))

    def _copies(self, tables: FeatureTables, generator: np.random.Generator) -> list[Tensor]:
        """Fill tables anew from disturbed content."""
        copies = [torch.zeros_like(table) for table in tables.tables]
        # In blocks that are drawn, so that partners in mixtures are, and memory holds few vectors at a time.
        order = generator.permutation(self._data.warm)
        for first in range(0, len(order), _BLOCK):
            items = item_batch(self._data.features, np.sort(order[first : first + _BLOCK]))
            filled = tables.filled(self._changed(items, generator).to(tables.warm.device))
            rows = items.codes.to(tables.warm.device)
            for copy, vectors in zip(copies, filled, strict=True):
                copy[rows] = vectors
        return copies

    def _table_noise(self, tables: FeatureTables, generator: np.random.Generator) -> list[Tensor]:
        """Draw noise for the rows of training items that have the modality, 0 for all others."""
        codes = torch.from_numpy(self._data.warm.astype(np.int64))
        present = torch.from_numpy(self._data.features.present[self._data.warm])
        spreads = self.unit_spreads if tables.normalise else self.spreads
        noise = []
        for place, (table, spread) in enumerate(zip(tables.tables, spreads, strict=True)):
            drawn = torch.zeros(table.shape)
            rows = codes[present[:, place]]
            drawn[rows] = self._noise((len(rows), len(spread)), spread, generator)
            noise.append(drawn.to(table.device, table.dtype))
        return noise

    def _changed(self, items: ItemBatch, generator: np.random.Generator) -> ItemBatch:
        """Mix, add noise and hide, in this order: mixing noise would weaken it."""
        settings, device = self.settings, items.present.device
        vectors, present = list(items.vectors), items.present
        if settings.modality_mixup > 0:
            known = self._warm.to(device)[items.codes.clamp_min(0)] & (items.codes >= 0)
            for place, own in enumerate(vectors):
                there = present[:, place]
                vectors[place] = self._mixed(own, there, known & there, generator)
        if settings.feature_noise > 0:
            for place, own in enumerate(vectors):
                noise = self._noise(own.shape, self.spreads[place], generator).to(device, own.dtype)
                vectors[place] = torch.where(present[:, place : place + 1], own + noise, own)
        if settings.modality_dropout > 0:
            draws = torch.from_numpy(generator.random(present.shape, dtype=np.float32)).to(device)
            present = kept_modalities(present, draws, settings.modality_dropout)
            for place, own in enumerate(vectors):
                hidden = items.present[:, place] & ~present[:, place]
                vectors[place] = own.masked_fill(hidden.unsqueeze(1), 0.0)
        return ItemBatch(items.codes, tuple(vectors), present)

    def _mixed(self, own: Tensor, there: Tensor, known: Tensor, generator: np.random.Generator) -> Tensor:
        """Mix the vectors of items that have the modality with those of training items that have it.

        Parameters
        ----------
        own
            Shape ``(n, dim)``.
        there, known
            Which items have the modality, and which of them are training items, bool, shape ``(n,)``.
        generator
            For partners and shares.
        """
        alpha = self.settings.modality_mixup
        draws = torch.from_numpy(generator.random(len(own), dtype=np.float32)).to(own.device)
        shares = torch.from_numpy(generator.beta(alpha, alpha, len(own))).to(own.device, own.dtype)
        # An item stays more itself than its partner, whose users are not its own.
        shares = torch.maximum(shares, 1.0 - shares).unsqueeze(1)
        pool = torch.nonzero(known)[:, 0]
        # A training item is not its own partner: it has one to choose from less, and skips itself.
        ranks = known.long().cumsum(0) - 1
        others = len(pool) - known.long()
        chosen = torch.minimum((draws * others).long(), others - 1)
        chosen = chosen + (known & (chosen >= ranks)).long()
        mixes = there & (others > 0)
        if not bool(mixes.any()):
            return own
        partners = own[pool[chosen.clamp(0, len(pool) - 1)]]
        return torch.where(mixes.unsqueeze(1), shares * own + (1.0 - shares) * partners, own)

    def _noise(self, shape: tuple[int, ...], spread: Tensor, generator: np.random.Generator) -> Tensor:
        drawn = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        return drawn.mul_(self.settings.feature_noise * spread)


def kept_modalities(present: Tensor, draws: Tensor, rate: float) -> Tensor:
    """Return which modalities of each item stay when each is hidden with a probability, but never the last.

    Where the draws would hide all, the largest stays, which is any of them with the same probability.

    Parameters
    ----------
    present
        Which there are, bool, shape ``(n, modalities)``.
    draws
        From 0 to 1, of the same shape.
    rate
        The probability.

    Returns
    -------
    Tensor
        Bool, shape ``(n, modalities)``.
    """
    if present.shape[1] == 0:
        return present
    draws = draws.masked_fill(~present, -1.0)
    largest = draws == draws.max(dim=1, keepdim=True).values
    return present & ((draws >= rate) | largest)


def deviations(features: ItemFeatures, warm: npt.NDArray[np.int32], *, normalise: bool) -> list[Tensor]:
    """Return the deviation of each dimension over the training items that have the modality.

    Parameters
    ----------
    features
        Of all items; rows of `warm` are read only.
    warm
        Codes of the training items.
    normalise
        Whether vectors are brought to unit length first.

    Returns
    -------
    list of Tensor
        Float32, shape ``(dim,)`` each; 0 where no item has the modality.
    """
    counts = features.present[warm].sum(axis=0).clip(1)
    means = [torch.zeros(dim, dtype=torch.float64) for dim in features.dims]
    squares = [torch.zeros(dim, dtype=torch.float64) for dim in features.dims]
    # Twice over the data: the difference of two large sums would lose a small deviation.
    for totals, centred in ((means, False), (squares, True)):
        for first in range(0, len(warm), _BLOCK):
            items = item_batch(features, warm[first : first + _BLOCK])
            for place, vectors in enumerate(items.vectors):
                own = vectors[items.present[:, place]].double()
                own = functional.normalize(own, dim=1) if normalise else own
                totals[place] += (own - means[place]).square().sum(dim=0) if centred else own.sum(dim=0)
        for total, count in zip(totals, counts, strict=True):
            total.div_(int(count))
    return [square.sqrt().float() for square in squares]
