"""Batches of an epoch: triplets over unique items, or whole users against all training items."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.models.base import Batch, ItemBatch, TrainingData, TripletBatch, UserBatch
from prismrec.models.plan import TrainingPlan
from prismrec.training.negatives import draw_negatives


class Batches:
    """Gives the batches of any epoch; an epoch's batches depend on the seed and its number alone.

    Parameters
    ----------
    data
        The training data.
    plan
        Sampling, batch size, negatives.
    seed
        Of the run.
    whole_catalog
        Whether triplet batches hold every item (transductive terms).
    """

    def __init__(self, data: TrainingData, plan: TrainingPlan, seed: int, whole_catalog: bool) -> None:
        self._data = data
        self._plan = plan
        self._seed = seed
        self._starts, self._touched = data.pairs.by_user(data.inputs.n_users)
        self._active = np.flatnonzero(np.diff(self._starts)).astype(np.int32)
        self._fixed = self._fixed_items(whole_catalog)

    def __len__(self) -> int:
        n = len(self._active) if self._plan.sampling == "users" else len(self._data.pairs)
        return math.ceil(n / self._plan.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the CPU."""
        rng = np.random.default_rng((self._seed, number))
        return self._user_batches(rng) if self._plan.sampling == "users" else self._triplets(rng)

    def _fixed_items(self, whole_catalog: bool) -> ItemBatch | None:
        """Items that are in every batch, gathered once."""
        if self._plan.sampling == "users":
            return self.items(self._data.warm)
        if whole_catalog:
            return self.items(np.arange(self._data.inputs.n_items))
        return None

    def items(self, codes: npt.NDArray[np.integer[Any]]) -> ItemBatch:
        """Return the content of items by code."""
        vectors, present = self._data.features.gather(codes)
        return ItemBatch(
            torch.from_numpy(codes.astype(np.int64)),
            tuple(torch.from_numpy(v) for v in vectors),
            torch.from_numpy(present),
        )

    def _triplets(self, rng: np.random.Generator) -> Iterator[TripletBatch]:
        pairs = self._data.pairs
        order = rng.permutation(len(pairs))
        warm = self._plan.negative_items == "warm"
        pool = self._data.warm if warm else np.arange(self._data.inputs.n_items, dtype=np.int32)
        users, positives = pairs.users[order], pairs.items[order]
        negatives = draw_negatives(
            users,
            self._starts,
            self._touched,
            pool,
            count=self._plan.negatives,
            seed=int(rng.integers(1 << 63)),
        )
        for first in range(0, len(order), self._plan.batch_size):
            chosen = slice(first, first + self._plan.batch_size)
            yield self._triplet_batch(users[chosen], positives[chosen], negatives[chosen])

    def _triplet_batch(
        self, users: npt.NDArray[np.int32], positives: npt.NDArray[np.int32], negatives: npt.NDArray[np.int32]
    ) -> TripletBatch:
        if self._fixed is not None:
            items = self._fixed
            rows: npt.NDArray[Any] = np.concatenate((positives[:, None], negatives), axis=1)
        else:
            together = np.concatenate((positives[:, None], negatives), axis=1)
            unique, inverse = np.unique(together, return_inverse=True)
            items = self.items(unique)
            rows = inverse.reshape(together.shape)
        places = torch.from_numpy(rows.astype(np.int64))
        return TripletBatch(torch.from_numpy(users.astype(np.int64)), items, places[:, 0], places[:, 1:])

    def _user_batches(self, rng: np.random.Generator) -> Iterator[UserBatch]:
        assert self._fixed is not None
        row_of_item = np.full(self._data.inputs.n_items, -1, dtype=np.int64)
        row_of_item[self._data.warm] = np.arange(len(self._data.warm))
        order = rng.permutation(self._active)
        for first in range(0, len(order), self._plan.batch_size):
            users = order[first : first + self._plan.batch_size]
            sizes = self._starts[users + 1] - self._starts[users]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            items = self._touched[np.repeat(self._starts[users], sizes) + within]
            yield UserBatch(
                torch.from_numpy(users.astype(np.int64)),
                self._fixed,
                torch.from_numpy(np.repeat(np.arange(len(users)), sizes)),
                torch.from_numpy(row_of_item[items]),
            )
