"""Ids of the outside world against row numbers inside."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError

UNKNOWN = -1


class Vocabulary:
    """An immutable, ordered set of ids; the code of an id is its position.

    Parameters
    ----------
    ids
        Ids in their order. Every one is a non-empty string and stands once.
    kind
        What the ids name ("user", "item"), for messages.

    Raises
    ------
    InputError
        If an id stands twice.
    """

    def __init__(self, ids: Iterable[str], kind: str = "id") -> None:
        self.ids: tuple[str, ...] = tuple(ids)
        self.kind = kind
        if len(self._codes) != len(self.ids):
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise InputError(f"The {kind} id {twice!r} stands twice.", "Ids must be unique.")

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.ids)}

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.ids[:3])) + (", ..." if len(self.ids) > 3 else "")
        return f"Vocabulary({len(self):,} {self.kind} ids: {shown})"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self._codes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    __hash__ = None  # type: ignore[assignment]

    def code(self, name: str) -> int:
        """Return the code of an id.

        Raises
        ------
        InputError
            If the id is not in the vocabulary; the message shows ids that look alike.
        """
        try:
            return self._codes[name]
        except KeyError:
            raise InputError(f"There is no {self.kind} {name!r}.", self._near(name)) from None

    def codes(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the codes of ids, shape ``(len(names),)``, with `UNKNOWN` for those that are not here."""
        get = self._codes.get
        return np.fromiter((get(name, UNKNOWN) for name in names), dtype=np.int32, count=len(names))

    def names(self, codes: npt.ArrayLike) -> list[str]:
        """Return the ids of codes."""
        return [self.ids[code] for code in np.asarray(codes).ravel().tolist()]

    def extended(self, names: Iterable[str]) -> "Vocabulary":
        """Return a vocabulary with the ids that are new appended; codes of the old ones stay."""
        return Vocabulary(self.ids + tuple(n for n in names if n not in self._codes), self.kind)

    def _near(self, name: str) -> str:
        import difflib

        # Only a bounded sample is searched: the message must not take longer than the work.
        near = difflib.get_close_matches(name, self.ids[:20_000], n=3, cutoff=0.6)
        if near:
            return f"Ids that look alike: {', '.join(map(repr, near))}."
        shown = ", ".join(map(repr, self.ids[:3]))
        return f"There are {len(self.ids):,} {self.kind} ids, the first: {shown}." if self.ids else ""
