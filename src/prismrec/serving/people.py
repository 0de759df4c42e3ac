"""What is known of people: histories of the training, and events that came since."""

import bisect
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    def beginning_with(self, beginning: str) -> Iterator[str]:
        """Yield ids that begin so, ascending."""
        for place in range(bisect.bisect_left(self.names, beginning), len(self.names)):
            if not self.names[place].startswith(beginning):
                return
            yield self.names[place]


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
