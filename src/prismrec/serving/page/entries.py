"""What the form for a new item asks for, and the values that what is typed stands for.

A form sends text alone, while the service takes a number as a number and a list as a list. What a column
holds is seen from the items that are there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prismrec.serving.page import shown
from prismrec.serving.types import Item

_TRUE, _FALSE = ("yes", "true", "1"), ("no", "false", "0")


class Kind(StrEnum):
    """What a value is."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    TRUTH = "yes or no"


@dataclass(frozen=True)
class Field:
    """A column that is asked for.

    Parameters
    ----------
    name
        The column.
    kind
        What it holds; of a list, what its entries are.
    many
        Whether it holds lists.
    example
        A value of an item that is there, as it would be typed; empty if none has one.
    """

    name: str
    kind: Kind = Kind.TEXT
    many: bool = False
    example: str = ""

    @property
    def label(self) -> str:
        """What the form calls it."""
        return self.name.replace("_", " ").capitalize()

    @property
    def expects(self) -> str:
        """What is to be typed, in words; empty where anything may be."""
        if self.many:
            entries = "" if self.kind is Kind.TEXT else f" (each {self.kind})"
            return f"several with commas between them{entries}, e.g. {self.example}"
        return "" if self.kind is Kind.TEXT else f"{self.kind}, e.g. {self.example}"

    def read(self, text: str) -> object:
        """Return the value that a text stands for.

        Raises
        ------
        ValueError
            If it stands for none.
        """
        if self.many:
            return [_value(part.strip(), self.kind) for part in text.split(",") if part.strip()]
        return _value(text, self.kind)


def field_of(name: str, items: Sequence[Item]) -> Field:
    """Return how a column is asked for, as items hold it; as text where none of them has a value."""
    for item in items:
        found = item.attributes.get(name)
        many = isinstance(found, list | tuple)
        first = next(iter(found), None) if isinstance(found, list | tuple) else found
        if first is not None:
            return Field(name, _kind(first), many, shown.value(found))
    return Field(name)


def _kind(value: object) -> Kind:
    if isinstance(value, bool):
        return Kind.TRUTH
    if isinstance(value, int):
        return Kind.WHOLE
    return Kind.NUMBER if isinstance(value, float) else Kind.TEXT


def _value(text: str, kind: Kind) -> object:
    if kind is Kind.WHOLE:
        return int(text)
    if kind is Kind.NUMBER:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    if kind is Kind.TRUTH:
        if text.casefold() not in (*_TRUE, *_FALSE):
            raise ValueError(text)
        return text.casefold() in _TRUE
    return text
