"""What the service says and is told; no HTTP in it.

`Service` is what the API and the page stand on. `prismrec.serving.service` implements it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Choice = Literal["all", "new", "warm"]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class NewItem:
    """An item that is handed in.

    Parameters
    ----------
    item_id
        Its id. An item of that id that is there is replaced.
    attributes
        By column of the catalogue: title, texts, price and so on; columns that are left out are null.
    picture
        Encoded picture; None: it has none.
    """

    item_id: str
    attributes: Mapping[str, Any]
    picture: bytes | None = None


@dataclass(frozen=True)
class Item:
    """An item as the service knows it.

    Parameters
    ----------
    item_id, title
        What it is called.
    attributes
        By column.
    has_picture
        Whether there is a picture to show.
    new
        Whether nobody had touched it when the model was trained.
    ranked
        Whether it can be recommended: it has content that the model knows.
    """

    item_id: str
    title: str
    attributes: Mapping[str, Any]
    has_picture: bool
    new: bool
    ranked: bool


@dataclass(frozen=True)
class Reason:
    """Why an item is recommended.

    Parameters
    ----------
    weights
        How much each modality counts for it; None where it has no such content. Empty: the model has none.
    experts
        By modality, how much each expert counts. Empty: the model has none.
    because
        Items that the person took and that are most like it, best first, with the cosine.
    """

    weights: Mapping[str, float | None] = field(default_factory=dict)
    experts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    because: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Ranked:
    """One place of a list.

    Parameters
    ----------
    rank
        From 1.
    item
        The item.
    score
        The model's; for similar items the cosine.
    reason
        Where it was asked for.
    """

    rank: int
    item: Item
    score: float
    reason: Reason | None = None


@dataclass(frozen=True)
class Answer:
    """A list.

    Parameters
    ----------
    items
        Best first.
    model
        Version of the bundle that answered.
    fallback
        Whether nothing was known of the person, so that the list is for the average one.
    reranked
        Whether a language model put it in order.
    """

    items: tuple[Ranked, ...]
    model: str
    fallback: bool = False
    reranked: bool = False


@dataclass(frozen=True)
class Wish:
    """What kind of list is wanted.

    Parameters
    ----------
    k
        Its length, 1 to 1,000.
    where
        Conditions on attributes (`prismrec.recommender.filters`).
    choose
        All items, only new ones, only others.
    exclude_seen
        Leave out what the person took.
    explain
        With reasons.
    diversity
        0: the best items; up to 1: the more, the less alike (maximal marginal relevance over the best).
    """

    k: int = 10
    where: tuple[str, ...] = ()
    choose: Choice = "all"
    exclude_seen: bool = True
    explain: bool = False
    diversity: float = 0.0


@dataclass(frozen=True)
class Event:
    """Somebody took an item.

    Parameters
    ----------
    user_id, item_id
        Who and what.
    timestamp
        Seconds since 1970; None: now.
    """

    user_id: str
    item_id: str
    timestamp: float | None = None


@dataclass(frozen=True)
class PutReport:
    """What became of items that were handed in: ids.

    Parameters
    ----------
    added, updated, unchanged
        Acknowledged: they are on disk.
    without_content
        Those of them that cannot be recommended, as they have no content that the model knows, or as the
        model knows no item that came after its training.
    problems
        Item id, field, reason.
    """

    added: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    without_content: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Fan:
    """Somebody to whom a new item would be recommended.

    Parameters
    ----------
    user_id
        Who.
    rank
        Place of the item in that person's list.
    score
        The model's.
    """

    user_id: str
    rank: int
    score: float


@dataclass(frozen=True)
class Health:
    """How the service is.

    Parameters
    ----------
    ready
        Whether it answers.
    model, version
        Name of the model, version of the bundle.
    items, ranked, users
        Numbers.
    search
        ``"exact"``, or ``"index"`` with its recall measured.
    recall
        Of the index against exact search; 1 for exact search.
    """

    ready: bool
    model: str
    version: str
    items: int
    ranked: int
    users: int
    search: str
    recall: float


@dataclass(frozen=True)
class Drawn:
    """What a map is drawn from, all of one moment.

    Parameters
    ----------
    ids
        Items.
    vectors
        A row for each item, finite: ``(items, size)``.
    modalities
        Names; empty where the model knows of none.
    weights
        How much each modality counts for each item, ``(items, modalities)``; NaN where it is missing or the
        model has no weights.
    """

    ids: Sequence[str]
    vectors: Floats
    modalities: Sequence[str]
    weights: Floats


class Drawable(Protocol):
    """Gives what a map is drawn from. Safe to call from several threads."""

    def drawn(self) -> Drawn:
        """Return the items that have vectors, in one answer: an item may be replaced between two."""


class Service(Protocol):
    """A trained run that answers. Safe to call from several threads.

    Errors are `prismrec.base.errors.InputError` (the caller's) or `StorageError` (the disk's). An unknown
    item is `UnknownItem`.
    """

    def recommend(self, user_id: str, wish: Wish) -> Answer:
        """Recommend to a user, by training history and recorded events; to one not known, the average."""

    def recommend_liked(self, liked: Sequence[str], wish: Wish) -> Answer:
        """Recommend to somebody without a name who likes some items, oldest first."""

    def similar(self, item_id: str, wish: Wish) -> Answer:
        """Return the items nearest to one (cosine)."""

    def explain(self, user_id: str, item_id: str) -> Ranked:
        """Return an item's score for a user, its rank among all, and why."""

    def fans(self, item_id: str, k: int) -> tuple[Fan, ...]:
        """Return the users in whose lists an item stands highest."""

    def record(self, events: Sequence[Event]) -> None:
        """Take in events, durably; they count from the next request on."""

    def put(self, items: Sequence[NewItem]) -> PutReport:
        """Add or replace items, durably; they are recommendable when this returns."""

    def delete(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        """Remove items, durably; return those that were there."""

    def item(self, item_id: str) -> Item:
        """Return an item."""

    def picture(self, item_id: str) -> bytes | None:
        """Return an item's encoded picture."""

    def find_users(self, beginning: str, k: int) -> tuple[str, ...]:
        """Return user ids that begin so, ascending."""

    def find_items(self, words: str, k: int) -> tuple[Item, ...]:
        """Return items whose title has all the words or parts of words, letter case aside."""

    def history(self, user_id: str) -> tuple[Item, ...]:
        """Return what a user took, recorded events included, oldest first; empty for one not known."""

    def health(self) -> Health:
        """Return how the service is."""
