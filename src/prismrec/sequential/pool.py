"""Items that a question may show, and draws from those that a user has never touched.

A released code of the method drew negatives from a range of ids, so that a title "[unknown 17]" gave the
answer away. Here an item without a title of its own is never shown, and two items of one title are never told
apart: whatever is called like something that the user has touched counts as touched.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.vocabulary import Vocabulary

_ROUNDS = 8

Ints = npt.NDArray[np.int64]


def keyed(seed: int, *key: str | int) -> np.random.Generator:
    """Return a generator that depends on a seed and a key alone, not on what else is drawn."""
    state = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(state, "big"))


@dataclass(frozen=True)
class ItemPool:
    """The items that have a title, and what each user has touched.

    Make it with `of`.

    Parameters
    ----------
    users
        All users of the log.
    titles
        Number of each item's title, shape ``(n_items,)``: the same for items that are called alike (letter
        case and spaces do not matter), -1 for an item without a title.
    codes
        The items that have one, ascending.
    upto
        Running sums of the weights of `codes` in a draw, same shape.
    starts, touched
        ``touched[starts[u]:starts[u + 1]]`` are the numbers of the titles that user ``u`` has touched.
    """

    users: Vocabulary
    titles: Ints
    codes: Ints
    upto: npt.NDArray[np.float64]
    starts: Ints
    touched: Ints

    @staticmethod
    def of(dataset: Dataset) -> "ItemPool":
        """Return the pool of a data set, all items alike likely.

        Touched is whatever stands in the log in any part, also what was rated too low to be a positive.

        Raises
        ------
        InputError
            If no item has a title.
        """
        titles = _title_numbers(dataset.catalog)
        codes = np.flatnonzero(titles >= 0)
        users, items = dataset.users, dataset.items
        pairs = dataset.interactions.coded(users, items).select("user", "item").unique().sort("user", "item")
        starts = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(pairs["user"].to_numpy(), minlength=len(users)), out=starts[1:])
        touched = titles[pairs["item"].to_numpy()]
        return ItemPool(users, titles, codes, np.arange(1.0, len(codes) + 1), starts, touched)

    def by_popularity(self, counts: npt.NDArray[np.int64]) -> "ItemPool":
        """Return the pool with items drawn as often as they occur; what never occurs counts as once.

        Parameters
        ----------
        counts
            Occurrences of each item, shape ``(n_items,)``.
        """
        return dataclasses.replace(self, upto=np.cumsum(np.maximum(counts[self.codes], 1).astype(np.float64)))

    def taken(self, user: str) -> frozenset[int]:
        """Return the numbers of the titles that a user has touched in any part.

        Raises
        ------
        InputError
            If the user is unknown.
        """
        code = self.users.code(user)
        return frozenset(self.touched[self.starts[code] : self.starts[code + 1]].tolist())

    def free(self, codes: Iterable[int], avoid: Collection[int]) -> list[int]:
        """Return those items that have a title not to be avoided, the first of each title, in their order.

        Parameters
        ----------
        codes
            Item codes; negative ones are gaps.
        avoid
            Numbers of titles.
        """
        found: dict[int, int] = {}
        for code in codes:
            title = int(self.titles[code]) if code >= 0 else -1
            if title >= 0 and title not in avoid:
                found.setdefault(title, int(code))
        return list(found.values())

    def rest(self, avoid: Collection[int]) -> list[int]:
        """Return all items of the pool that have a title not to be avoided, one a title, ascending."""
        _, first = np.unique(self.titles[self.codes], return_index=True)
        codes = self.codes[np.sort(first)]
        left: list[int] = codes[~np.isin(self.titles[codes], list(avoid))].tolist()
        return left

    def draw(self, random: np.random.Generator, count: int, avoid: Collection[int]) -> list[int]:
        """Draw items of different titles, one after another by their weights.

        Parameters
        ----------
        random
            Of the draw.
        count
            How many.
        avoid
            Numbers of titles that are not to be drawn.

        Returns
        -------
        list of int
            Item codes; fewer than `count` where no more are left.
        """
        found: list[int] = []
        for _ in range(_ROUNDS):
            marks = random.random(count + 2) * self.upto[-1]
            places = np.minimum(np.searchsorted(self.upto, marks, side="right"), len(self.codes) - 1)
            found = self.free([*found, *self.codes[places].tolist()], avoid)
            if len(found) >= count:
                return found[:count]
        # Few items are left for this user: the rest is put into a random order by weight as a whole
        # (the smallest of exponential times), which is the same draw without waiting for luck.
        weights = np.diff(self.upto, prepend=0.0)
        queue = self.codes[np.argsort(random.exponential(size=len(weights)) / weights, kind="stable")]
        return self.free([*found, *queue.tolist()], avoid)[:count]


def _title_numbers(catalog: Catalog) -> Ints:
    """Return the number of each item's title, -1 where `Catalog.titles` would show the id for want of one."""
    column = "title" if "title" in catalog.items.columns else next(iter(catalog.text_columns), None)
    shown = [] if column is None else Catalog(catalog.items, (column,)).texts()
    numbers: dict[str, int] = {}
    titles = np.full(len(catalog), -1, dtype=np.int64)
    for code, text in enumerate(shown):
        if text:
            titles[code] = numbers.setdefault(" ".join(text.split()).casefold(), len(numbers))
    if not numbers:
        raise InputError(
            "No item of the catalogue has a title, and a language model knows items by their titles.",
            "Give the items a column 'title', or name the column that holds it among the text columns.",
        )
    return titles
