"""Where wrong answers are looked for: by a model's scores, next to an item, and among items of its kind."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.sequential.examples import Example

_FIRST_LOOK = 8

Codes = npt.NDArray[np.integer[Any]]
Scores = npt.NDArray[np.floating[Any]]


def ranked_wrong(examples: Sequence[Example], scores: Sequence[Scores]) -> Callable[[int], list[int]]:
    """Return a function from an example's number to its candidates, best scored first, ties by their place.

    Raises
    ------
    InputError
        If there are not scores for each example; the function: not one number for each candidate.
    """
    if len(scores) != len(examples):
        raise InputError(
            f"There are scores for {len(scores):,} examples, and {len(examples):,} examples.",
            "Score the examples that the pairs are made of.",
        )

    def ranked(number: int) -> list[int]:
        candidates, own = examples[number].candidates, np.asarray(scores[number])
        if own.shape != (len(candidates),) or np.isnan(own).any():
            raise InputError(
                f"The scores of example {number} have the shape {own.shape}, "
                f"{int(np.isnan(own).sum())} of them no numbers.",
                f"Expected is one number for each of its {len(candidates)} candidates.",
            )
        return [candidates[place] for place in np.argsort(-own, kind="stable").tolist()]

    return ranked


def checked_neighbours(neighbours: Codes, n_items: int) -> Codes:
    """Return neighbours as they are.

    Raises
    ------
    InputError
        If they are not one row of item codes (-1: none) for each item.
    """
    found = np.asarray(neighbours)
    if found.ndim != 2 or len(found) != n_items or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"The neighbours are an array of shape {found.shape} and type {found.dtype}.",
            f"Expected are item codes (integers), one row for each of {n_items:,} items.",
        )
    if found.size and (found.min() < -1 or found.max() >= n_items):
        raise InputError(
            f"The neighbours have item codes from {found.min()} to {found.max()}.",
            f"The catalogue has the codes 0 to {n_items - 1}; -1 stands for none.",
        )
    return found


class Alike:
    """Items that share a value of an attribute, or of a list one element.

    Parameters
    ----------
    dataset
        With the catalogue.
    attribute
        Of strings, numbers, truth values, or lists of these.

    Raises
    ------
    InputError
        If there is no such attribute, or no item has a value of it.
    """

    def __init__(self, dataset: Dataset, attribute: str) -> None:
        items = dataset.catalog.items
        if attribute not in dataset.catalog.attributes:
            raise InputError(
                f"The catalogue has no attribute {attribute!r}.",
                f"It has: {', '.join(dataset.catalog.attributes) or 'none'}.",
            )
        values = items[attribute].to_list()
        self._values = [_elements(value) for value in values]
        members: dict[object, list[int]] = {}
        for code, own in enumerate(self._values):
            for value in own:
                members.setdefault(value, []).append(code)
        if not members:
            raise InputError(f"The attribute {attribute!r} has no value for any item.", "Choose another.")
        self._members = {value: np.array(codes, dtype=np.int64) for value, codes in members.items()}

    def stream(self, code: int, random: np.random.Generator) -> Iterator[int]:
        """Give items that share a value with one, each once, in random order."""
        groups = [self._members[value] for value in self._values[code]]
        if not groups:
            return
        together = np.unique(np.concatenate(groups))
        # Genres are large and few of them are needed: the whole is put into an order only if a few do not do.
        early = random.choice(len(together), size=min(_FIRST_LOOK, len(together)), replace=False)
        yield from together[early].tolist()
        yield from random.permutation(np.delete(together, early)).tolist()


def _elements(value: object) -> list[object]:
    many = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(one for one in many if one is not None and one != ""))
