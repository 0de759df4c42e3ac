"""Who reads and encodes the contents of an extraction: this process, or others.

`prismrec.features.extract` decides what is to be encoded and keeps what comes of it; an engine only does it,
so that the store does not depend on the engine.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from prismrec.base.files import digest
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder, Vectors

Part = Sequence[tuple[str, str]]
"""Contents to be encoded: the digest of each, and an item that has it."""

EncodedPart = tuple[Part, Vectors, Sequence[str | None]]
"""A part with its vectors ``(len(part), dim)`` and problems, as `Encoder.encode` gives them."""


class Work(Protocol):
    """One extraction."""

    def digests(self) -> Iterator[tuple[str, str]]:
        """Yield each item of the contents with the digest of its content, in any order."""

    def encoded(self, parts: Iterable[Part]) -> Iterator[EncodedPart]:
        """Yield each part encoded, in any order."""


class Engine(Protocol):
    """Does extractions."""

    @property
    def part_size(self) -> int:
        """Contents between two points from which a killed extraction resumes."""

    def work(self, contents: Contents, encoder: Encoder[Any], key: str) -> AbstractContextManager[Work]:
        """Begin an extraction.

        Parameters
        ----------
        contents
            What may have to be encoded.
        encoder
            Fitted.
        key
            Digest of the encoder, part of each content's digest.
        """


@dataclass(frozen=True)
class _Here:
    contents: Contents
    encoder: Encoder[Any]
    key: str

    def digests(self) -> Iterator[tuple[str, str]]:
        for item in self.contents.ids:
            yield item, content_digest(self.key, self.contents.read(item))

    def encoded(self, parts: Iterable[Part]) -> Iterator[EncodedPart]:
        for part in parts:
            vectors, problems = self.encoder.encode([self.contents.read(item) for _, item in part])
            yield part, vectors, problems


@dataclass(frozen=True)
class LocalEngine:
    """Everything in this process, one part after the other.

    Parameters
    ----------
    part_size
        Contents between two points from which a killed extraction resumes.
    """

    part_size: int = 512

    def work(self, contents: Contents, encoder: Encoder[Any], key: str) -> AbstractContextManager[Work]:
        """Begin an extraction."""
        return nullcontext(_Here(contents, encoder, key))


def content_digest(key: str, content: str | bytes) -> str:
    """Return the digest of a content together with its encoder's."""
    return digest(key.encode(), content.encode() if isinstance(content, str) else content)
