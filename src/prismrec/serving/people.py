"""What is known of people: histories of the training, and events that came since."""

import bisect
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from prismrec.base.errors import InputError
from prismrec.data.vocabulary import UNKNOWN
from prismrec.recommender.folding import fold
from prismrec.recommender.recommender import Recommender
from prismrec.serving.engine import Snapshot
from prismrec.serving.types import Event

Floats = npt.NDArray[np.float32]

_SAMPLE, _BLOCK = 512, 16_384


@dataclass(frozen=True, eq=False)
class People:
    """The users of a run.

    Made by `People.of`.

    Parameters
    ----------
    run
        The run.
    trained
        Users who have training interactions, with their vectors.
    names
        Their ids, ascending.
    starts, codes
        Training items of user u are ``codes[starts[u]:starts[u + 1]]``, oldest first where the log says when.
    warm
        Vectors of the items of the training, for models that fold in by a way of their own.
    place
        Which of them an item of the split is; -1: none.
    """

    run: Recommender
    trained: Snapshot[None]
    names: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    warm: Floats
    place: npt.NDArray[np.int64]

    @staticmethod
    def of(run: Recommender) -> "People":
        """Read a run."""
        split = run.split
        pairs, order = split.train, split.train_order
        moments = np.zeros(len(pairs)) if order is None else order
        starts = np.zeros(len(split.users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(pairs.users, minlength=len(split.users)), out=starts[1:])
        codes = pairs.items[np.lexsort((pairs.items, moments, pairs.users))]
        known = np.flatnonzero(np.diff(starts) > 0)
        names, every = split.users.names(known), np.ones(len(known), dtype=np.bool_)
        trained = Snapshot.of(names, run.users[known], every, ~every, [None] * len(known))
        warm = np.flatnonzero(split.warm_items)
        place = np.full(len(split.items), -1)
        place[warm] = np.arange(len(warm))
        return People(run, trained, tuple(sorted(names)), starts, codes, run.items.vectors[warm], place)

    def history(self, user: str) -> list[str]:
        """Return the items of a user's training interactions, oldest first."""
        code = int(self.run.split.users.codes([user])[0])
        if code == UNKNOWN:
            return []
        return self.run.split.items.names(self.codes[self.starts[code] : self.starts[code + 1]])

    def takers(self, item_id: str) -> list[str]:
        """Return the users who took an item in training."""
        code = int(self.run.split.items.codes([item_id])[0])
        if code == UNKNOWN:
            return []
        pairs = self.run.split.train
        return self.run.split.users.names(pairs.users[pairs.items == code])

    def fold_in(self, names: Sequence[str], vectors: Floats) -> Floats:
        """Return the vector of somebody who took some items, as `Recommender.fold_in` does.

        Parameters
        ----------
        names
            At least one, each ranked.
        vectors
            Their vectors.
        """
        codes = self.run.split.items.codes(names)
        places = np.where(codes == UNKNOWN, -1, self.place[codes]) if len(self.place) else codes
        own = self.run.model.fold_in(
            torch.from_numpy(vectors), torch.from_numpy(self.warm), torch.from_numpy(places.astype(np.int64))
        )
        return fold(self.run.folding, vectors) if own is None else own.numpy().astype(np.float32)

    @cached_property
    def sample(self) -> Floats:
        """Vectors of some of the run's items, shape ``(s, d)``; s is at most 512."""
        there = np.flatnonzero(self.run.items.vectors.any(axis=1))
        sample: Floats = self.run.items.vectors[np.random.default_rng(0).permutation(there)[:_SAMPLE]]
        return sample

    @cached_property
    def _usual(self) -> tuple[Floats, Floats]:
        """Mean and deviation of each trained user's scores of the sample."""
        found = [_mean_and_deviation(block @ self.sample.T) for block in self._blocks()]
        means, deviations = zip(*found, strict=True)
        return np.concatenate(means), np.concatenate(deviations)

    def standings(self, vector: Floats) -> Floats:
        """Return how far an item stands above what each trained user gives to items, in deviations.

        A score alone says little: who takes much has high scores for everything.

        Returns
        -------
        ndarray
            A number for each row of `trained`.
        """
        means, deviations = self._usual
        scores = np.concatenate([block @ vector for block in self._blocks()])
        return (scores - means) / deviations

    def standing(self, user: Floats, vector: Floats) -> float:
        """Return the same for somebody with a vector."""
        mean, deviation = _mean_and_deviation((self.sample @ user)[None, :])
        return float((user @ vector - mean[0]) / deviation[0])

    def _blocks(self) -> Iterator[Floats]:
        # At least one, so that nobody trained is an empty result and not an error.
        for first in range(0, max(1, self.trained.size), _BLOCK):
            yield self.trained.vectors(np.arange(first, min(first + _BLOCK, self.trained.size)))

    def beginning_with(self, beginning: str) -> Iterator[str]:
        """Yield ids that begin so, ascending."""
        for place in range(bisect.bisect_left(self.names, beginning), len(self.names)):
            if not self.names[place].startswith(beginning):
                return
            yield self.names[place]


def _mean_and_deviation(scores: Floats) -> tuple[Floats, Floats]:
    if scores.shape[1] == 0:
        return np.zeros(len(scores), dtype=np.float32), np.ones(len(scores), dtype=np.float32)
    return scores.mean(axis=1), np.maximum(scores.std(axis=1), 1e-9)


class Events:
    """Events by user, in memory. Safe to use from several threads.

    Parameters
    ----------
    recorded
        Those that are there from before.
    """

    def __init__(self, recorded: Sequence[Event]) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, tuple[Event, ...]] = {}
        self.add(recorded)

    def add(self, events: Sequence[Event]) -> None:
        """Take in events that have a timestamp."""
        fresh: dict[str, list[Event]] = {}
        for event in events:
            fresh.setdefault(event.user_id, []).append(event)
        with self._lock:
            for user, more in fresh.items():
                # A new tuple: whoever holds the old one reads on undisturbed.
                self._of[user] = tuple(sorted((*self._of.get(user, ()), *more), key=_moment))

    def of(self, user: str) -> tuple[Event, ...]:
        """Return a user's events, oldest first; empty for one not known."""
        return self._of.get(user, ())

    def users(self) -> list[str]:
        """Return the users who have events."""
        with self._lock:
            return list(self._of)


def _moment(event: Event) -> float:
    assert event.timestamp is not None
    return event.timestamp


def dated(events: Sequence[Event], now: float) -> list[Event]:
    """Return events with their time, `now` where they have none.

    Raises
    ------
    InputError
        If a user id is empty, or a timestamp is not a finite number.
    """
    for event in events:
        if not event.user_id:
            raise InputError("An event has an empty user_id.", "Name who took the item.")
        if event.timestamp is not None and not math.isfinite(event.timestamp):
            raise InputError(
                f"The timestamp {event.timestamp} of an event of {event.user_id!r} is no time.",
                "Give seconds since 1970, or nothing for now.",
            )
    return [
        event if event.timestamp is not None else Event(event.user_id, event.item_id, now) for event in events
    ]
