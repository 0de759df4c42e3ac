"""A trained run that answers, takes new items and events while it runs, and gives way to another run.

A request reads one `State`, from beginning to end; writers make another and put it in its place. New items
are encoded, then kept by the store, then published: what is published is on disk, and what could not be kept
is not published.

Somebody who has events is served by the vector that `Recommender.fold_in` makes of the training history and
the events together, each item once, where it came last; without events by the trained vector.
"""

import threading
import time
from collections.abc import Callable, Sequence
from heapq import merge, nsmallest
from itertools import islice

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.media import Media
from prismrec.recommender.recommender import Recommender
from prismrec.serving import answers
from prismrec.serving.engine import ABSENT
from prismrec.serving.index import Found, IndexPlan, ItemIndex
from prismrec.serving.indexing import Indexing
from prismrec.serving.intake import Problem, as_catalog, encode, stored
from prismrec.serving.opening import opened
from prismrec.serving.people import Events, dated
from prismrec.serving.persons import Person, Persons, nameless
from prismrec.serving.second_stage import Rerank, SecondStage
from prismrec.serving.state import State
from prismrec.serving.storage import MemoryStore, Store, StoredItem
from prismrec.serving.types import Answer, Drawn, Event, Fan, Health, Item, NewItem, PutReport, Ranked, Wish

__all__ = ["MemoryStore", "RunService", "Store", "StoredItem"]


class RunService:
    """Implements `prismrec.serving.types.Service` on a trained run.

    Parameters
    ----------
    run
        As `Recommender.load` gives it. It is not changed.
    store
        Keeps items and events. What it holds is taken in; what another bundle encoded is encoded again.
    version
        What the bundle is called in answers.
    pictures
        Of the run's items; None: those of the run's catalogue, if it has some.
    rerank
        A second stage for lists without diversity; None: there is none.
    rerank_seconds
        How long a request waits for it; then the first stage's order stays.
    rerank_depth
        How many of the best it is shown.
    index
        From which size on items are searched by an index; None: always exactly. A thread of its own builds
        it; until it is ready, search is exact.
    clock
        Gives seconds since 1970.

    Raises
    ------
    DamagedError
        If the store holds something else than it should.
    StorageError
        If the disk refuses.
    """

    def __init__(
        self,
        run: Recommender,
        store: Store,
        *,
        version: str,
        pictures: Media | None = None,
        rerank: Rerank | None = None,
        rerank_seconds: float = 0.5,
        rerank_depth: int = 20,
        index: IndexPlan | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._stage = None if rerank is None else SecondStage(rerank, rerank_seconds, rerank_depth)
        # Writers take turns; readers take what stands there.
        self._writing = threading.Lock()
        # Packed pictures are read one after the other: their reader keeps the last block.
        self._reading = threading.Lock()
        self._events = Events(store.read_events())
        self._persons = Persons(self._events)
        self._state, self.problems = opened(run, version, pictures, store)
        self._indexing = None if index is None else Indexing(index, lambda: self._state, self._take)
        self._look()

    def drawn(self) -> Drawn:
        """Return what a map is drawn from: the items that are ranked, in the order of the rows."""
        state = self._state
        modalities = state.loaded.run.modalities
        rows = np.flatnonzero(state.items.ranked)
        known = [state.items.note(row) for row in rows.tolist()]
        weights = np.full((len(rows), len(modalities)), np.nan, dtype=np.float32)
        for place, one in enumerate(known):
            if one.weights is not None:
                weights[place] = np.where(one.present, one.weights, np.nan)
        ids = tuple(one.item.item_id for one in known)
        return Drawn(ids, state.items.vectors(rows), modalities, weights)

    def attributes(self) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """Return the items' attributes, one row each, and which columns make up their text."""
        state = self._state
        return state.frame[np.flatnonzero(state.items.alive).tolist()], state.loaded.run.catalog.text_columns

    def close(self) -> None:
        """Stop the second stage and what builds the index, and remove the index; an answer is still given."""
        if self._stage is not None:
            self._stage.close()
        if self._indexing is not None:
            self._indexing.close()
        with self._writing:
            index, self._state = self._state.index, self._state.indexed(None)
        if index is not None:
            index.close()

    def recommend(self, user_id: str, wish: Wish) -> Answer:
        """Recommend to a user, by training history and recorded events; to one not known, the average.

        Raises
        ------
        InputError
            If the wish is out of bounds or a condition is wrong.
        """
        answers.require_wish(wish)
        state = self._state
        return self._answer(state, self._persons.known(state, user_id), wish)

    def recommend_liked(self, liked: Sequence[str], wish: Wish) -> Answer:
        """Recommend to somebody without a name who likes some items, oldest first.

        Raises
        ------
        UnknownItem
            If one of them is not here.
        InputError
            If none is given or ranked, the wish is out of bounds, or a condition is wrong.
        """
        answers.require_wish(wish)
        state = self._state
        for name in liked:
            state.row(name)
        if not liked:
            raise InputError("Name at least one item that the person likes.")
        person = nameless(state, liked)
        if person is None:
            raise InputError("None of the liked items has a vector: they have no content that was encoded.")
        return self._answer(state, person, wish)

    def similar(self, item_id: str, wish: Wish) -> Answer:
        """Return the items nearest to one (cosine).

        Raises
        ------
        UnknownItem
            If it is not here.
        InputError
            If it is not ranked, the wish is out of bounds, or a condition is wrong.
        """
        answers.require_wish(wish)
        state = self._state
        found = answers.similar_to(state, state.row(item_id), wish)
        return Answer(answers.listed(state, found, (), explain=wish.explain), state.loaded.version)

    def explain(self, user_id: str, item_id: str) -> Ranked:
        """Return an item's score for a user, its rank among all ranked items, and why.

        Raises
        ------
        UnknownItem
            If it is not here.
        InputError
            If it is not ranked.
        """
        state = self._state
        return answers.explained(state, self._persons.known(state, user_id), item_id)

    def fans(self, item_id: str, k: int) -> tuple[Fan, ...]:
        """Return the users in whose lists an item stands highest, those who took it left out.

        Raises
        ------
        UnknownItem
            If it is not here.
        InputError
            If it is not ranked, or k is not 1 to 1,000.
        """
        answers.require_number(k)
        state = self._state
        active = self._persons.active(state)
        return answers.fans(state, item_id, k, active, lambda name: self._persons.known(state, name))

    def record(self, events: Sequence[Event]) -> None:
        """Take in events, durably; they count from the next request on. All of them or none.

        Raises
        ------
        UnknownItem
            If an item is not here.
        InputError
            If a user id is empty or a timestamp is no time.
        StorageError
            If the disk refuses.
        """
        made = dated(events, self._clock())
        state = self._state
        for event in made:
            state.row(event.item_id)
        if made:
            self._store.record(made)
            self._events.add(made)

    def put(self, items: Sequence[NewItem]) -> PutReport:
        """Add or replace items, durably; they are recommendable when this returns.

        Raises
        ------
        InputError
            If an id is empty or stands twice.
        StorageError
            If the disk refuses; then nothing has changed.
        """
        with self._writing:
            state, run = self._state, self._state.loaded.run
            catalog, problems = as_catalog(run, items)
            if len(catalog) == 0:
                return PutReport((), (), (), (), tuple(problems))
            rows, report = encode(run, state.rows_of(catalog.vocabulary.ids), catalog)
            unchanged = set(report.unchanged)
            fresh = rows.take([place for place, name in enumerate(rows.ids) if name not in unchanged])
            if fresh.known:
                by_id = {item.item_id: item for item in items}
                self._store.put(stored(fresh, by_id, state.loaded.mark))
                self._state = state.put(fresh)
        self._look()
        without = tuple(one.item.item_id for one in rows.known if not one.item.ranked)
        return PutReport(
            report.added, report.updated, report.unchanged, without, (*problems, *report.problems)
        )

    def delete(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        """Remove items, durably; return those that were there.

        Raises
        ------
        StorageError
            If the disk refuses; then nothing has changed.
        """
        with self._writing:
            state = self._state
            there = [name for name in dict.fromkeys(item_ids) if state.items.row(name) != ABSENT]
            if there:
                self._store.delete(there)
                self._state = state.without(there)
        self._look()
        return tuple(there)

    def reload(self, run: Recommender, *, version: str, pictures: Media | None = None) -> tuple[Problem, ...]:
        """Put another run in the place of this one; requests in flight end on the old one.

        The store's items are encoded again by the new run first. Until that is done the old run answers, and
        items that are handed in or deleted wait.

        Returns
        -------
        tuple
            Items of the store that do not fit the new run, and contents that it cannot encode: item, field,
            reason.

        Raises
        ------
        DamagedError, StorageError
            As at the start; then the old run stays.
        """
        with self._writing:
            self._state, self.problems = opened(run, version, pictures, self._store)
        self._look()
        return self.problems

    def item(self, item_id: str) -> Item:
        """Return an item.

        Raises
        ------
        UnknownItem
            If it is not here.
        """
        state = self._state
        return state.item(state.row(item_id))

    def picture(self, item_id: str) -> bytes | None:
        """Return an item's encoded picture, None if it has none.

        Raises
        ------
        UnknownItem
            If the item is not here.
        InputError
            If the picture cannot be read any more.
        """
        state = self._state
        known = state.items.note(state.row(item_id))
        if not known.item.has_picture:
            return None
        if known.handed_in:
            return self._store.picture(item_id)
        if state.loaded.pictures is None:
            return None
        with self._reading:
            return state.loaded.pictures.read(item_id)

    def find_users(self, beginning: str, k: int) -> tuple[str, ...]:
        """Return ids that begin so, ascending, of users with training interactions or events.

        Raises
        ------
        InputError
            If k is not 1 to 1,000.
        """
        answers.require_number(k)
        people = self._state.loaded.people
        later = sorted(
            name
            for name in self._events.users()
            if name.startswith(beginning) and people.trained.row(name) == ABSENT
        )
        return tuple(islice(merge(people.beginning_with(beginning), later), k))

    def find_items(self, words: str, k: int) -> tuple[Item, ...]:
        """Return items whose title contains all the words, letter case aside, in the order of titles.

        Raises
        ------
        InputError
            If k is not 1 to 1,000.
        """
        answers.require_number(k)
        items, wanted = self._state.items, words.casefold().split()
        found = (
            known
            for known in map(items.note, items.alive.nonzero()[0].tolist())
            if all(word in known.folded_title for word in wanted)
        )
        first = nsmallest(k, found, key=lambda known: (known.folded_title, known.item.item_id))
        return tuple(known.item for known in first)

    def history(self, user_id: str) -> tuple[Item, ...]:
        """Return what a user took, recorded events included, oldest first; empty for one not known.

        Each item once, where it came last; items that were deleted are left out.
        """
        state = self._state
        rows = state.items.rows(self._persons.taken(state, user_id))
        return tuple(state.item(row) for row in rows.tolist())

    def health(self) -> Health:
        """Return how the service is."""
        state = self._state
        people = state.loaded.people
        index = None if state.index is None or state.index.broken else state.index
        later = sum(people.trained.row(name) == ABSENT for name in self._events.users())
        return Health(
            ready=True,
            model=state.loaded.run.manifest.model,
            version=state.loaded.version,
            items=int(state.items.alive.sum()),
            ranked=int(state.items.ranked.sum()),
            users=len(people.names) + later,
            search="exact" if index is None else "index",
            recall=1.0 if index is None else index.recall,
        )

    def _look(self) -> None:
        """See whether an index is to be built. Not while writing: what is built is taken in then."""
        if self._indexing is not None:
            self._indexing.look()

    def _take(self, index: ItemIndex) -> bool:
        """Search by an index from now on, if it covers the items that are here; return whether it does."""
        with self._writing:
            if not index.covers(self._state.items):
                return False
            self._state = self._state.indexed(index)
        return True

    def _answer(self, state: State, person: Person, wish: Wish) -> Answer:
        # A language model would undo what diversity does.
        stage = None if wish.diversity else self._stage
        rows, scores = answers.best(state, person, wish, 0 if stage is None else stage.depth)
        found, reranked = (rows, scores), False
        if stage is not None:
            found, reranked = _in_new_order(state, stage, person, found)
        found = found[0][: wish.k], found[1][: wish.k]
        items = answers.listed(state, found, person.taken, explain=wish.explain)
        return Answer(items, state.loaded.version, person.fallback, reranked)


def _in_new_order(state: State, stage: SecondStage, person: Person, found: Found) -> tuple[Found, bool]:
    rows, scores = found
    taken = [state.item(row) for row in state.items.rows(person.taken).tolist()]
    if not taken or len(rows) == 0:
        return found, False
    order = stage.order(taken, [state.item(row) for row in rows[: stage.depth].tolist()])
    if order is None:
        return found, False
    places = [*order, *range(len(order), len(rows))]
    return (rows[places], scores[places]), True
