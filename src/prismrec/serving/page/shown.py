"""Turns what the service says into what the templates show: words, rounded numbers, widths of bars."""

from collections.abc import Sequence
from dataclasses import dataclass

from prismrec.base.errors import InputError
from prismrec.serving.types import Answer, Item, Ranked, Reason, Service

_LEAST = 0.5
"""Share in percent that an expert must have to be named."""
_SHOWN = 60


@dataclass(frozen=True)
class Weight:
    """How much a modality counts.

    Parameters
    ----------
    name
        The modality.
    colour
        Number of its colour.
    percent
        Its weight; None where the item has no such content.
    start
        Where it starts in a bar of all weights, in percent of their sum.
    share
        How much of that bar it takes, in percent.
    experts
        What its experts count, in words; empty without experts.
    """

    name: str
    colour: int
    percent: float | None
    start: float
    share: float
    experts: str


@dataclass(frozen=True)
class Near:
    """An item that resembles another one, with the cosine."""

    item: Item
    cosine: str


@dataclass(frozen=True)
class Card:
    """An item in a list.

    Parameters
    ----------
    item, rank
        Which, and where.
    score
        Rounded.
    weights, because
        Why; empty where it was not asked for or is not known.
    also
        Its rank in the list beside this one; None where it is not there.
    """

    item: Item
    rank: int
    score: str
    weights: tuple[Weight, ...] = ()
    because: tuple[Near, ...] = ()
    also: int | None = None


def cards(service: Service, answer: Answer, beside: Answer | None = None) -> list[Card]:
    """Return the cards of a list.

    Parameters
    ----------
    service
        Knows the items that a reason names.
    answer
        The list.
    beside
        The list to compare it with.
    """
    there = {} if beside is None else {ranked.item.item_id: ranked.rank for ranked in beside.items}
    return [card(service, ranked, there.get(ranked.item.item_id)) for ranked in answer.items]


def card(service: Service, ranked: Ranked, also: int | None = None) -> Card:
    """Return the card of one place of a list."""
    reason = ranked.reason
    return Card(
        ranked.item,
        ranked.rank,
        number(ranked.score),
        () if reason is None else weights(reason),
        () if reason is None else tuple(Near(known(service, i), f"{c:.2f}") for i, c in reason.because),
        also,
    )


def known(service: Service, item_id: str) -> Item:
    """Return an item; where it is gone, one that has nothing but its id."""
    try:
        return service.item(item_id)
    except InputError:
        return Item(item_id, item_id, {}, has_picture=False, new=False, ranked=False)


def weights(reason: Reason) -> tuple[Weight, ...]:
    """Return how much each modality counts, in the model's order."""
    total = sum(max(weight or 0.0, 0.0) for weight in reason.weights.values())
    found, start = [], 0.0
    for colour, (name, weight) in enumerate(reason.weights.items()):
        share = 100 * max(weight or 0.0, 0.0) / total if total else 0.0
        percent = None if weight is None else 100 * weight
        words = _experts(reason.experts.get(name, ()))
        found.append(Weight(name, colour % 10, percent, round(start, 2), round(share, 2), words))
        start += share
    return tuple(found)


def number(value: float) -> str:
    """Write a score: three digits that count."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def title(item: Item) -> str:
    """Return an item's title; its id where it has none."""
    return item.title.strip() or item.item_id


def value(found: object) -> str:
    """Write an attribute."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:.6g}"
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        return ", ".join(str(part) for part in found)
    return str(found)


def cut(text: str) -> str:
    """Return the beginning of a text that somebody typed, to be named in a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _experts(shares: Sequence[float]) -> str:
    named = [
        f"{place + 1}: {100 * share:.0f} %" for place, share in enumerate(shares) if 100 * share >= _LEAST
    ]
    return ", ".join(named)
