"""Choosing a setting by validation."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def best_of(values: Sequence[T], apply: Callable[[T], None], score: Callable[[], float]) -> T:
    """Apply each value, keep the one that scores best, and leave it applied.

    Parameters
    ----------
    values
        The default first. A single value is applied without being scored.
    apply
        Puts the model under a value.
    score
        Higher is better. Where it gives NaN (nothing to validate on) a value never replaces the first.

    Returns
    -------
    The best value; of equal ones the earliest.
    """
    best, highest = values[0], -math.inf
    for value in values:
        apply(value)
        found = score() if len(values) > 1 else 0.0
        if found > highest:
            best, highest = value, found
    if best is not values[-1]:
        apply(best)
    return best
