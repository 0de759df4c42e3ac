"""What a report may show beside the numbers: training, weights, experts, and some people's lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError

Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data.

    Parameters
    ----------
    epoch
        Its number, from 1.
    seconds
        What it took.
    losses
        Mean of each loss term, by name.
    validation
        Metrics on the validation part, by name; empty where none was computed.
    """

    epoch: int
    seconds: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModalityWeights:
    """How much each modality says in an item's vector.

    Parameters
    ----------
    names
        The modalities.
    weights
        Shape ``(items, len(names))``, 0 to 1, NaN where an item lacks the modality.
    categories
        Categories of each item; an item counts in each of its own. None: items have no categories.

    Raises
    ------
    InputError
        If shapes do not fit.
    """

    names: Sequence[str]
    weights: Matrix
    categories: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[1] != len(self.names):
            raise InputError(f"Weights of {len(self.names)} modalities have the shape {self.weights.shape}.")
        if self.categories is not None and len(self.categories) != len(self.weights):
            raise InputError(
                f"{len(self.weights):,} items have {len(self.categories):,} lists of categories."
            )


@dataclass(frozen=True)
class ExpertLoad:
    """How the work is shared among the experts of each modality.

    Parameters
    ----------
    names
        The modalities.
    load
        Mean routing weight of each expert, shape ``(len(names), experts)``; a row sums to 1.

    Raises
    ------
    InputError
        If shapes do not fit.
    """

    names: Sequence[str]
    load: Matrix

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.load.shape[0] != len(self.names):
            raise InputError(f"The load of {len(self.names)} modalities has the shape {self.load.shape}.")


@dataclass(frozen=True)
class ItemCard:
    """An item as people see it.

    Parameters
    ----------
    title
        What it is called.
    picture
        An encoded picture (PNG, JPEG, WebP ...); None, or one that cannot be decoded, gives a placeholder.
    detail
        A second line: genre, year, price.
    hit
        Whether the user really liked it (recommendations only).
    weights
        How much each modality says in its vector, by name; empty: not shown.
    because
        Titles of the user's most similar items.
    """

    title: str
    picture: bytes | None = None
    detail: str = ""
    hit: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    because: Sequence[str] = ()


@dataclass(frozen=True)
class UserExample:
    """One user's history beside what is recommended.

    Parameters
    ----------
    name
        What to call the user.
    history
        Items from training, the most telling first; the report shows all that are given.
    recommendations
        Best first.
    history_size
        Number of training interactions, if more than are shown.
    """

    name: str
    history: Sequence[ItemCard]
    recommendations: Sequence[ItemCard]
    history_size: int | None = None
