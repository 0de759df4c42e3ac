"""Users' histories, cut into questions whose answer is known.

``split="users"`` follows Y. Wang et al. (SIGIR 2026, arXiv 2511.18740): one question a user, from the last
interactions, and users divided at random. The default, ``split="last"``, asks of every user what came last.
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.first_stage import FirstStageLists, first_lists, reranked
from prismrec.sequential.pool import ItemPool, keyed
from prismrec.sequential.popularity import popularity
from prismrec.sequential.prepare import PrepareConfig

PART_NAMES = ("train", "valid", "test")

# All items beside each positive: above this the lists alone would fill the memory.
_MOST_CANDIDATES = 50_000_000


@dataclass(frozen=True)
class Sequence:
    """What a user took.

    Parameters
    ----------
    user
        The user's id.
    items
        Item codes, oldest first, each once (where it was taken first).
    """

    user: str
    items: tuple[int, ...]


@dataclass(frozen=True)
class Dropped:
    """Something that was left out.

    Parameters
    ----------
    reason
        What, and why.
    count
        How many.
    """

    reason: str
    count: int


@dataclass(frozen=True)
class Examples:
    """The questions of each part.

    Parameters
    ----------
    train, valid, test
        By user in the order of `Dataset.users`, a user's latest first.
    dropped
        What was left out, and how much of it.
    """

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    dropped: tuple[Dropped, ...]


def sequences(dataset: Dataset) -> list[Sequence]:
    """Return what each user took, in order.

    What has the same time is ordered by item code: a rule that says nothing, but the same on every machine.

    Returns
    -------
    list of Sequence
        In the order of `Dataset.users`, those without a positive interaction left out.

    Raises
    ------
    InputError
        If the interactions have neither timestamp nor position, or one lacks it.
    """
    pairs, order = dataset.positives()
    if order is None:
        raise InputError(
            "Histories need an order, and the interactions have neither 'timestamp' nor 'position'.",
            "Map a column to 'timestamp' or 'position' at ingest.",
        )
    lacking = np.flatnonzero(~np.isfinite(order))
    if len(lacking):
        user, item = dataset.users.ids[pairs.users[lacking[0]]], dataset.items.ids[pairs.items[lacking[0]]]
        raise InputError(
            f"{len(lacking):,} interactions have no {dataset.interactions.order_column}, "
            f"e.g. of user {user!r} with item {item!r}.",
            "Fill it in, or leave those interactions out.",
        )
    sorting = np.lexsort((pairs.items, order, pairs.users))
    users, items = pairs.users[sorting], pairs.items[sorting]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    return [
        Sequence(dataset.users.ids[users[start]], tuple(some.tolist()))
        for start, some in zip(starts.tolist(), np.split(items, starts[1:]), strict=False)
    ]


def make_examples(
    dataset: Dataset, config: PrepareConfig, first_stage: FirstStageLists | None = None
) -> Examples:
    """Cut the log into training, validation and test examples.

    With ``split="last"`` a user's last positives test, those before them validate, and each training window
    ends before the validation positives. A history that is shorter than asked for is shown as it is, if one
    item of it is left. With ``split="users"`` each user is in one part.

    A negative is never an item that the user touched at any time, before or after: a later positive shown as
    wrong would be wrong. So that a training example shows an item as not taken tells that it is not among the
    user's later ones either. Nothing can be gained from this at test time, as test candidates are chosen by
    the same rule, unless a model keeps book of each user's negatives. Interactions with an item that has no
    title are left out: it could not be asked for, and would stand out among candidates that have one.

    Draws are keyed by seed, part, user and place in the user's sequence, so that more users do not alter
    anybody's uniform negatives or the order of the candidates. Three things depend on who else is there: the
    shares of ``split="users"`` and the halves of ``binary``, which are exact and so move at their border, and
    popularity.

    Parameters
    ----------
    dataset
        With an order and with titles.
    config
        What to make.
    first_stage
        For ``rerank`` and for nothing else. What the user touched, the positive aside, is taken from the
        lists before they are cut to length, so give longer ones than are asked for.

    Raises
    ------
    InputError
        If there is no order, no title, nothing left to train on, or a first stage is missing or does not fit.
    """
    if (first_stage is not None) != (config.task is Task.RERANK):
        raise InputError(
            f"The task is {config.task.value!r}, and a first stage was "
            f"{'given' if first_stage is not None else 'not given'}.",
            "Give a first stage for 'rerank', and for no other task.",
        )
    pool, tally = ItemPool.of(dataset), Counter[str]()
    windows = _windows(dataset, pool, config, tally)
    if config.negative_source == "popularity":
        known = [Example(w.user, w.history, w.positives) for w in windows["train"]]
        pool = pool.by_popularity(popularity(known, len(dataset.items)))
    asked = dict.fromkeys(window.user for part in PART_NAMES for window in windows[part])
    lists = first_lists(dataset, list(asked), first_stage) if first_stage is not None else {}
    if config.n_negatives is None and not lists:
        _check_size(sum(map(len, windows.values())), len(pool.codes))
    made = {part: _ask(windows[part], pool, config, lists, tally) for part in PART_NAMES}
    if not made["train"]:
        raise InputError(
            f"There is no training example: {_told(tally) or 'the log is empty'}.",
            f"A user needs {config.min_interactions} interactions (min_interactions)"
            + (f" and {3 * config.n_positives + 1} for one example of each part." * (config.split == "last")),
        )
    dropped = tuple(Dropped(reason, count) for reason, count in tally.items())
    return Examples(made["train"], made["valid"], made["test"], dropped)


@dataclass(frozen=True)
class _Window:
    part: str
    user: str
    end: int
    history: tuple[int, ...]
    positives: tuple[int, ...]


def _windows(
    dataset: Dataset, pool: ItemPool, config: PrepareConfig, tally: Counter[str]
) -> dict[str, list[_Window]]:
    kept = []
    for one in sequences(dataset):
        items = tuple(code for code in one.items if pool.titles[code] >= 0)
        _count(tally, "interactions with an item that has no title", len(one.items) - len(items))
        if len(items) >= config.min_interactions:
            kept.append(Sequence(one.user, items))
    few = f"users with fewer than {config.min_interactions} interactions"
    _count(tally, few, len(dataset.users) - len(kept))
    part_of = _divided(kept, config) if config.split == "users" else {}
    windows: dict[str, list[_Window]] = {name: [] for name in PART_NAMES}
    for one in kept:
        cuts = [(part_of[one.user], len(one.items))] if part_of else list(_ends(one, config, tally))
        for part, end in cuts:
            first = end - config.n_positives
            history = one.items[max(0, first - config.shown) : max(0, first)]
            if history:
                # The latest first, which is the one that counts.
                positives = one.items[first:end][::-1]
                windows[part].append(_Window(part, one.user, end, history, positives))
            else:
                _count(tally, f"{part} examples of users with nothing before the positives", 1)
    return windows


def _ends(one: Sequence, config: PrepareConfig, tally: Counter[str]) -> Iterator[tuple[str, int]]:
    """Part and end of each window of a user, latest first, for split='last'."""
    n, length = config.n_positives, len(one.items)
    yield "test", length
    yield "valid", length - n
    last = length - 2 * n
    # A window needs one item before its positives.
    possible = max(0, last - n)
    wanted = min(possible, config.windows) if config.windows else possible
    _count(tally, "training windows beyond the latest of a user ('windows')", possible - wanted)
    if not possible:
        _count(tally, "train examples of users with nothing before the positives", 1)
    for end in range(last, last - wanted, -1):
        yield "train", end


def _divided(kept: Many[Sequence], config: PrepareConfig) -> dict[str, str]:
    """Part of each user; exact shares, and few users change theirs when others come."""
    queue = sorted((keyed(config.seed, "part", one.user).random(), one.user) for one in kept)
    n_test, n_valid = round(config.test * len(queue)), round(config.valid * len(queue))
    parts = ["test"] * n_test + ["valid"] * n_valid + ["train"] * (len(queue) - n_test - n_valid)
    return {user: part for (_, user), part in zip(queue, parts, strict=True)}


def _ask(
    windows: Many[_Window],
    pool: ItemPool,
    config: PrepareConfig,
    lists: dict[str, list[int]],
    tally: Counter[str],
) -> list[Example]:
    if config.task is Task.BINARY:
        return _ask_binary(windows, pool, config, tally)
    examples = []
    for window in windows:
        random = keyed(config.seed, "draw", window.part, window.user, window.end)
        if config.task is Task.RERANK:
            candidates = reranked(
                window.user,
                window.positives[0],
                lists[window.user],
                pool,
                config.n_negatives,
                must_hold=window.part == "train",
            )
        else:
            avoid = pool.taken(window.user)
            wanted = config.n_negatives
            negatives = pool.rest(avoid) if wanted is None else pool.draw(random, wanted, avoid)
            if not negatives or (wanted is not None and len(negatives) < wanted):
                _count(tally, _too_few(window, wanted), 1)
                continue
            candidates = [*window.positives, *negatives]
        # Shuffled, so that the place of a candidate says nothing.
        shuffled = tuple(candidates[place] for place in random.permutation(len(candidates)).tolist())
        examples.append(Example(window.user, window.history, window.positives, shuffled))
    return examples


def _ask_binary(
    windows: Many[_Window], pool: ItemPool, config: PrepareConfig, tally: Counter[str]
) -> list[Example]:
    wanted = config.n_negatives
    assert wanted is not None
    asked: list[tuple[_Window, list[int]]] = []
    for window in windows:
        random = keyed(config.seed, "draw", window.part, window.user, window.end)
        # One more than is listed, whatever the label, so that the label decides on nothing else.
        drawn = pool.draw(random, wanted + 1, pool.taken(window.user))
        if len(drawn) <= wanted:
            _count(tally, _too_few(window, wanted + 1), 1)
            continue
        asked.append((window, drawn))
    noise = [keyed(config.seed, "label", w.part, w.user, w.end).random() for w, _ in asked]
    half = set(np.argsort(noise, kind="stable")[: (len(asked) + 1) // 2].tolist())
    return [
        Example(
            window.user,
            window.history,
            window.positives if place in half else (drawn[-1],),
            listed=tuple(drawn[:-1]),
            label=place in half,
        )
        for place, (window, drawn) in enumerate(asked)
    ]


def _too_few(window: _Window, wanted: int | None) -> str:
    return f"{window.part} examples of users with fewer than {wanted or 1} untouched items to draw from"


def _check_size(examples: int, items: int) -> None:
    if examples * items > _MOST_CANDIDATES:
        raise InputError(
            f"All {items:,} items as candidates of {examples:,} examples do not fit into memory.",
            f"Set 'negatives' to a number, or keep examples times items below {_MOST_CANDIDATES:,}.",
        )


def _count(tally: Counter[str], reason: str, count: int) -> None:
    if count:
        tally[reason] += count


def _told(tally: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in tally.items())
