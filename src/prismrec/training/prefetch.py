"""Batches prepared ahead, while the step before them is taken."""

import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TypeVar

Thing = TypeVar("Thing")
_WAIT = 0.1


def ahead(things: Iterable[Thing], count: int = 2) -> Generator[Thing, None, None]:
    """Yield things in their order, up to `count` of them made in advance by another thread.

    Reading vectors from a memory map waits for the disk, and gathering them leaves the interpreter free; both
    then happen beside the step. Closing the generator ends the thread. An error in making a thing is raised
    where it would have been yielded.

    Parameters
    ----------
    things
        Made one after the other, by one thread.
    count
        At most so many wait; 0: none is made in advance.
    """
    if count == 0:
        yield from things
        return
    waiting: Queue[tuple[Thing] | BaseException | None] = Queue(count)
    closed = threading.Event()

    def put(entry: tuple[Thing] | BaseException | None) -> None:
        while not closed.is_set():
            with suppress(Full):
                waiting.put(entry, timeout=_WAIT)
                return

    def make() -> None:
        try:
            for thing in things:
                put((thing,))
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="prismrec-batches", daemon=True)
    thread.start()
    try:
        while True:
            entry = waiting.get()
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        closed.set()
        while thread.is_alive():
            with suppress(Empty):
                waiting.get_nowait()
            thread.join(_WAIT / 10)
