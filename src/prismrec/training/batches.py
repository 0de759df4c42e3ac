"""Batches of an epoch: triplets over unique items, or whole users against all training items."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.data.interactions import Pairs
from prismrec.models.batches import Batch, ItemBatch, TrainingData, TripletBatch, UserBatch
from prismrec.models.plan import TrainingPlan
from prismrec.models.team import ALONE, Team
from prismrec.training.negatives import Negatives, popularity_weights


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
    targets
        Pairs that triplets are made of; None: the training pairs.
    team
        Processes among which each batch of triplets is divided, every so many pairs to each; one that is
        smaller than the team is given to all of them whole.
    """

    def __init__(
        self,
        data: TrainingData,
        plan: TrainingPlan,
        seed: int,
        whole_catalog: bool,
        targets: Pairs | None = None,
        team: Team = ALONE,
    ) -> None:
        self._data = data
        self._pairs = data.pairs if targets is None else targets
        self._plan = plan
        self._seed = seed
        self._team = team
        self._starts, self._touched = data.pairs.by_user(data.inputs.n_users)
        self._active = np.flatnonzero(np.diff(self._starts)).astype(np.int32)
        self._fixed = self._fixed_items(whole_catalog)
        self._negatives = self._sampler() if plan.sampling == "triplets" else None
        self._places = np.empty(data.inputs.n_items, dtype=np.int64)

    def __len__(self) -> int:
        n = len(self._active) if self._plan.sampling == "users" else len(self._pairs)
        return math.ceil(n / self._plan.batch_size)

    @property
    def divided(self) -> bool:
        """Whether batches hold some of their pairs alone."""
        return self._team.size > 1

    def weight(self, place: int) -> float:
        """Return what a batch's mean counts for, so that the mean over the processes is the whole batch's.

        Parameters
        ----------
        place
            Of the batch in its epoch, from 0.
        """
        if not self.divided:
            return 1.0
        n = self._size(place)
        return 1.0 if n < self._team.size else self._own(n) * self._team.size / n

    def _size(self, place: int) -> int:
        """Pairs of a batch, those of all processes."""
        return min(self._plan.batch_size, len(self._pairs) - place * self._plan.batch_size)

    def _own(self, n: int) -> int:
        """Pairs that this process is given of a batch of n."""
        return n if n < self._team.size else len(range(self._team.rank, n, self._team.size))

    def _own_places(self) -> npt.NDArray[np.int64]:
        """Positions in the epoch of the pairs that this process is given."""
        place = np.arange(len(self._pairs), dtype=np.int64)
        size = self._plan.batch_size
        last = len(place) - len(place) % size
        mine = place % size % self._team.size == self._team.rank
        if len(place) - last < self._team.size:
            mine[last:] = True
        return np.flatnonzero(mine)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the CPU."""
        if self._plan.sampling == "users":
            return self._user_batches(np.random.default_rng((self._seed, number)))
        return self._triplets(number)

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

    def triplets(
        self, number: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return an epoch's users, positives and negatives, in their order: what `epoch` makes batches of.

        Parameters
        ----------
        number
            Of the epoch.

        Returns
        -------
        tuple
            Codes, int32: users and positives, shape ``(pairs,)`` each, and negatives, shape
            ``(pairs, negatives)``. Every so many of them, by the plan's batch size, are a batch. Where
            batches are divided, the pairs of this process alone.
        """
        assert self._negatives is not None
        rng = np.random.default_rng((self._seed, number))
        pairs, plan = self._pairs, self._plan
        order = self._by_item(rng) if plan.grouping == "items" else rng.permutation(len(pairs))
        seed = int(rng.integers(1 << 63))
        own = self._own_places() if self.divided else None
        if plan.negative_sampling == "in-batch":
            users, positives = pairs.users[order], pairs.items[order]
            negatives = self._negatives.draw_in_batch(
                users, positives, batch_size=plan.batch_size, count=plan.negatives, seed=seed
            )
            return (
                (users, positives, negatives) if own is None else (users[own], positives[own], negatives[own])
            )
        if own is not None:
            order = order[own]
        users, positives = pairs.users[order], pairs.items[order]
        return users, positives, self._negatives.draw(users, count=plan.negatives, seed=seed, places=own)

    def _sampler(self) -> Negatives:
        warm = self._plan.negative_items == "warm"
        pool = self._data.warm if warm else np.arange(self._data.inputs.n_items, dtype=np.int32)
        weights = None
        if self._plan.negative_sampling == "popularity":
            weights = popularity_weights(self._data.pairs.items, pool, self._plan.popularity_power)
        return Negatives(self._starts, self._touched, pool, weights)

    def _by_item(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Order of the pairs: items at random, each item's pairs at random one after the other."""
        place = rng.permutation(self._data.inputs.n_items)
        mixed = rng.permutation(len(self._pairs))
        return mixed[np.argsort(place[self._pairs.items[mixed]], kind="stable")]

    def _triplets(self, number: int) -> Iterator[TripletBatch]:
        users, positives, negatives = self.triplets(number)
        first = 0
        for place in range(len(self)):
            chosen = slice(first, first + self._own(self._size(place)))
            first = chosen.stop
            yield self._triplet_batch(users[chosen], positives[chosen], negatives[chosen])

    def _triplet_batch(
        self, users: npt.NDArray[np.int32], positives: npt.NDArray[np.int32], negatives: npt.NDArray[np.int32]
    ) -> TripletBatch:
        if self._fixed is not None:
            items = self._fixed
            rows: npt.NDArray[Any] = np.concatenate((positives[:, None], negatives), axis=1)
        else:
            together = np.concatenate((positives[:, None], negatives), axis=1)
            unique, rows = self._unique(together)
            items = self.items(unique)
        places = torch.from_numpy(rows.astype(np.int64))
        return TripletBatch(torch.from_numpy(users.astype(np.int64)), items, places[:, 0], places[:, 1:])

    def _unique(self, codes: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """`np.unique` with the inverse, which a table of places gives faster than another sort."""
        ascending = np.sort(codes, axis=None)
        unique = ascending[np.concatenate(([True], ascending[1:] != ascending[:-1]))]
        self._places[unique] = np.arange(len(unique))
        return unique, self._places[codes]

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
