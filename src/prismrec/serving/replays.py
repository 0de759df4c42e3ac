"""Writes that are sent twice count once: answers remembered by ``Idempotency-Key``, in bounded memory.

Items need it least: to put or delete one twice is the same as once. Events do, as each counts. What is
remembered is gone with the process, and the oldest goes first when the memory is full.
"""

from collections import OrderedDict
from dataclasses import dataclass

from prismrec.serving.problems import RequestError

_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Made:
    """An answer.

    Parameters
    ----------
    status
        Of HTTP.
    body
        JSON.
    """

    status: int
    body: bytes


@dataclass(frozen=True)
class Mark:
    """A write that has a name.

    Parameters
    ----------
    who
        Name of the key; empty: none.
    name
        The ``Idempotency-Key``.
    digest
        Of method, path and body.
    """

    who: str
    name: str
    digest: str


class Replays:
    """Answers to writes; used from the event loop only, so it needs no lock.

    Parameters
    ----------
    at_most
        Answers to remember.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._bytes = 0
        self._made: OrderedDict[tuple[str, str], tuple[str, Made]] = OrderedDict()
        self._under_way: set[tuple[str, str]] = set()

    def begin(self, mark: Mark) -> Made | None:
        """Return the answer if the write was carried out before; otherwise it is under way from now on.

        Raises
        ------
        RequestError
            409 if it is under way, 422 if the name stood for another write.
        """
        key = (mark.who, mark.name)
        if key in self._under_way:
            raise RequestError(
                409, "under_way", "A write with this Idempotency-Key is under way.", "Try again in a moment.",
                {"Retry-After": "1"},
            )  # fmt: skip
        if key in self._made:
            digest, made = self._made[key]
            if digest != mark.digest:
                raise RequestError(
                    422,
                    "key_used",
                    "This Idempotency-Key was used for another write.",
                    "Draw a new one for each write, and keep it for its repetitions only.",
                )
            return made
        self._under_way.add(key)
        return None

    def end(self, mark: Mark, made: Made | None) -> None:
        """Remember the answer; None: the write failed, so that it may be tried again."""
        key = (mark.who, mark.name)
        self._under_way.discard(key)
        if made is None:
            return
        self._made[key] = (mark.digest, made)
        self._bytes += len(made.body)
        while len(self._made) > self._at_most or self._bytes > _BYTES:
            _, (_, oldest) = self._made.popitem(last=False)
            self._bytes -= len(oldest.body)
