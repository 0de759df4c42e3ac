"""Lists, reasons and fans, of one state."""

from collections.abc import Callable, Mapping, Sequence
from heapq import nsmallest

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.serving.diversity import diversified, pool_size
from prismrec.serving.index import Found
from prismrec.serving.persons import Person
from prismrec.serving.products import unit_vectors
from prismrec.serving.state import State
from prismrec.serving.types import Fan, Ranked, Reason, Wish

Floats = npt.NDArray[np.float32]

MOST = 1000
_BECAUSE = 3
_CHOSEN = 2


def require_number(k: int) -> None:
    """Check the length of a list.

    Raises
    ------
    InputError
        If it is not 1 to 1,000.
    """
    if not 1 <= k <= MOST:
        raise InputError(f"k = {k} is not between 1 and {MOST:,}.", "Ask for a list of another length.")


def require_wish(wish: Wish) -> None:
    """Check what is wished for.

    Raises
    ------
    InputError
        If a field is out of its bounds.
    """
    require_number(wish.k)
    if not 0.0 <= wish.diversity <= 1.0:
        raise InputError(
            f"diversity = {wish.diversity} is not between 0 and 1.", "0 leaves lists as they are."
        )
    if wish.choose not in ("all", "new", "warm"):
        raise InputError(f"choose = {wish.choose!r} is not known.", "Known: all, new, warm.")


def best(state: State, person: Person, wish: Wish, depth: int) -> Found:
    """Return rows and scores for a person; unless they are to be diverse, at least `depth` if there are."""
    allowed = state.allowed(wish.choose, wish.where)
    excluded = state.items.rows(person.taken) if wish.exclude_seen else ()
    wanted = pool_size(wish.k) if wish.diversity else max(wish.k, depth)
    return _chosen(state, state.top(person.vector, wanted, allowed, excluded), wish)


def similar_to(state: State, row: int, wish: Wish) -> Found:
    """Return rows most like one, and their cosines.

    Raises
    ------
    InputError
        If the row is not ranked.
    """
    require_ranked(state, row)
    wanted = pool_size(wish.k) if wish.diversity else wish.k
    return _chosen(state, state.similar(row, wanted, state.allowed(wish.choose, wish.where)), wish)


def _chosen(state: State, found: Found, wish: Wish) -> Found:
    if not wish.diversity:
        return found
    rows, scores = found
    places = diversified(scores, state.items.vectors(rows), wish.k, wish.diversity)
    return rows[places], scores[places]


def require_ranked(state: State, row: int) -> None:
    """Check that an item has a vector that means something.

    Raises
    ------
    InputError
        If it has not.
    """
    if not state.items.ranked[row]:
        raise InputError(
            f"Item {state.items.id(row)!r} has no vector: it has no content that was encoded.",
            "Hand it in again with a text or a picture that the model knows.",
        )


def listed(state: State, found: Found, taken: Sequence[str], *, explain: bool) -> tuple[Ranked, ...]:
    """Return places of a list, ranks from 1, with reasons if asked for."""
    liked = _liked(state, taken) if explain else np.empty(0, dtype=np.int64)
    return tuple(
        Ranked(rank, state.item(row), score, reason(state, row, liked) if explain else None)
        for rank, (row, score) in enumerate(zip(found[0].tolist(), found[1].tolist(), strict=True), 1)
    )


def explained(state: State, person: Person, item_id: str) -> Ranked:
    """Return an item's place among all ranked items for a person, with the reason.

    Raises
    ------
    UnknownItem
        If it is not here.
    InputError
        If it is not ranked.
    """
    row = state.row(item_id)
    require_ranked(state, row)
    rank = state.items.rank(person.vector, row)
    score = float(np.float32(state.items.score(person.vector, row)))
    return Ranked(rank, state.item(row), score, reason(state, row, _liked(state, person.taken)))


def _liked(state: State, taken: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows of what somebody took, as far as their vectors mean something."""
    rows = state.items.rows(taken)
    return rows[state.items.ranked[rows]]


def reason(state: State, row: int, liked: npt.NDArray[np.int64]) -> Reason:
    """Return why an item is recommended to somebody who took those of some rows."""
    known, names = state.items.note(row), state.loaded.run.modalities
    weights: dict[str, float | None] = {}
    experts: dict[str, tuple[float, ...]] = {}
    for place, name in enumerate(names):
        if known.weights is not None:
            weights[name] = float(known.weights[place]) if known.present[place] else None
        if known.experts is not None and known.present[place]:
            experts[name] = tuple(known.experts[place].tolist())
    others = liked[liked != row]
    cosines = (
        unit_vectors(state.items.vectors(others)) @ unit_vectors(state.items.vectors(np.array([row])))[0]
    )
    first = np.argsort(-cosines, kind="stable")[:_BECAUSE].tolist()
    because = tuple((state.items.id(int(others[place])), float(cosines[place])) for place in first)
    return Reason(weights, experts, because)


def fans(
    state: State, item_id: str, k: int, active: Mapping[str, Person], person: Callable[[str], Person]
) -> tuple[Fan, ...]:
    """Return the users in whose lists an item stands highest, those who took it left out.

    Ranks of all users would take a product of all users with all items. So users are chosen by how far the
    item stands above what they give to items as a rule (`People.standings`), twice as many as are asked for,
    and of these the ranks are exact.

    Parameters
    ----------
    state
        The state.
    item_id
        The item.
    k
        How many users.
    active
        Users who have events.
    person
        Gives any other user.

    Raises
    ------
    UnknownItem
        If the item is not here.
    InputError
        If it is not ranked.
    """
    row = state.row(item_id)
    require_ranked(state, row)
    people, vector = state.loaded.people, state.items.vector(row)
    standings = people.standings(vector)
    standings[people.trained.rows([*active, *people.takers(item_id)])] = -np.inf
    best = np.argsort(-standings, kind="stable")[: _CHOSEN * k]
    found = [
        (people.trained.id(row), float(standings[row]))
        for row in best.tolist()
        if np.isfinite(standings[row])
    ]
    found += [
        (name, people.standing(one.vector, vector))
        for name, one in active.items()
        if item_id not in one.taken and not one.fallback
    ]
    chosen = []
    for name, _ in nsmallest(_CHOSEN * k, found, key=lambda pair: (-pair[1], pair[0])):
        one = active[name] if name in active else person(name)
        rank = state.items.rank(one.vector, row, state.items.rows(one.taken))
        chosen.append(Fan(name, rank, float(np.float32(state.items.score(one.vector, row)))))
    return tuple(sorted(chosen, key=lambda fan: (fan.rank, -fan.score, fan.user_id))[:k])
