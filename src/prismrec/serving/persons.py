"""Whom a list is for: what somebody took, and the vector that stands for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.serving.engine import ABSENT
from prismrec.serving.people import Events
from prismrec.serving.state import State

_MOST_FOLDED = 100_000


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody to recommend to.

    Parameters
    ----------
    taken
        Item ids, oldest first, each once, where it came last; some may not be here any more.
    vector
        Shape ``(d,)``.
    fallback
        Whether it is the average person's.
    """

    taken: tuple[str, ...]
    vector: npt.NDArray[np.float32]
    fallback: bool


class Persons:
    """Finds the vectors of users, and keeps those that took computing. Safe to use from several threads.

    Parameters
    ----------
    events
        What users took since the training.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._folded: dict[str, tuple[object, bytes, npt.NDArray[np.float32]]] = {}

    def taken(self, state: State, user: str) -> tuple[str, ...]:
        """Return what a user took, oldest first, each item once, where it came last."""
        return _once([*state.loaded.people.history(user), *(e.item_id for e in self._events.of(user))])

    def known(self, state: State, user: str) -> Person:
        """Return a user.

        By the training history and the events together, folded in; without events by the trained vector;
        without either by the average.
        """
        taken = self.taken(state, user)
        vector = self._of_events(state, user, taken) if self._events.of(user) else None
        if vector is not None:
            return Person(taken, vector, False)
        trained = state.loaded.people.trained
        row = trained.row(user)
        if row == ABSENT:
            return Person(taken, state.loaded.run.average_user, True)
        return Person(taken, trained.vector(row), False)

    def active(self, state: State) -> dict[str, Person]:
        """Return the users who have events."""
        return {name: self.known(state, name) for name in self._events.users()}

    def _of_events(self, state: State, user: str, taken: tuple[str, ...]) -> npt.NDArray[np.float32] | None:
        rows = _ranked(state, taken)
        # Rows hold the same for ever, so that the same ones give the same vector.
        key, kept = rows.tobytes(), self._folded.get(user)
        if kept is not None and kept[0] is state.items.lineage and kept[1] == key:
            return kept[2]
        vector = _folded(state, rows)
        if vector is not None:
            if len(self._folded) >= _MOST_FOLDED:
                self._folded.clear()
            self._folded[user] = (state.items.lineage, key, vector)
        return vector


def nameless(state: State, liked: Sequence[str]) -> Person | None:
    """Return somebody who likes some items, oldest first; None if none of them is ranked."""
    taken = _once(liked)
    vector = _folded(state, _ranked(state, taken))
    return None if vector is None else Person(taken, vector, False)


def _once(taken: Sequence[str]) -> tuple[str, ...]:
    return tuple(reversed(dict.fromkeys(reversed(taken))))


def _ranked(state: State, taken: Sequence[str]) -> npt.NDArray[np.int64]:
    rows = state.items.rows(taken)
    return rows[state.items.ranked[rows]]


def _folded(state: State, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
    if len(rows) == 0:
        return None
    names = [state.items.id(row) for row in rows.tolist()]
    return state.loaded.people.fold_in(names, state.items.vectors(rows))
