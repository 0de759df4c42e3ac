"""The one protocol that every encoder follows: content in, one vector of fixed size out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

ContentT = TypeVar("ContentT", str, bytes)
"""A text, or the encoded bytes of a picture or a sound."""

Vectors = npt.NDArray[np.float32]


class UndecodableError(ValueError):
    """A single piece of content cannot be decoded; the message says why. The item goes on without it."""


class Encoder(ABC, Generic[ContentT]):
    """Turns content of one kind into vectors.

    An encoder is a function of its settings, of its learnt state (if it has one) and of the content, and of
    nothing else: the same content gives the same vector, whatever else is in the batch.
    """

    kind: ClassVar[str]
    """What it reads: ``"text"``, ``"image"`` or ``"audio"``."""

    needs_fit: ClassVar[bool] = False
    """Whether `fit` must see contents of the catalogue before `encode`."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size of a vector. Known after `fit` where the encoder needs it."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return what identifies it, JSON-able: ``name``, ``revision``, all that changes a vector."""

    def fit(self, contents: Sequence[ContentT]) -> None:
        """Learn the encoder's state from contents (no interaction is ever seen). Most have none."""

    @abstractmethod
    def encode(self, contents: Sequence[ContentT]) -> tuple[Vectors, list[str | None]]:
        """Encode a batch.

        Parameters
        ----------
        contents
            Texts or encoded bytes.

        Returns
        -------
        vectors
            Shape ``(len(contents), dim)``, float32, finite; zeros where a problem is named.
        problems
            For each content None, or why it cannot be encoded (undecodable picture, say).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write `spec` and the learnt state into a folder, without code and without pickles."""
