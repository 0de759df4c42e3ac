"""A second stage that puts the best of a list in its own order, if it is done in time."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl

from prismrec.data.media import MemoryMedia
from prismrec.serving.types import Item

if TYPE_CHECKING:
    from prismrec.sequential.rerank import Reranker

Rerank = Callable[[Sequence[Item], Sequence[Item]], Sequence[str]]
"""From what a person took, oldest first, and a list, best first, to the list's item ids in another order."""

_LOG = logging.getLogger(__name__)


class SecondStage:
    """Asks for another order, and goes on without it when that takes too long.

    One list is worked on at a time. A list that is late is finished all the same, as a thread cannot be
    stopped; what waits behind it is given up in time, too.

    Parameters
    ----------
    rerank
        The second stage. What it raises is logged, and the list stays as it was.
    seconds
        How long a request waits for it.
    depth
        How many of the best it is shown.
    """

    def __init__(self, rerank: Rerank, seconds: float, depth: int) -> None:
        self.depth = depth
        self._rerank = rerank
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="second-stage")

    def order(self, taken: Sequence[Item], found: Sequence[Item]) -> list[int] | None:
        """Return the new order of a list as places in it; None where there is none in time."""
        names = [item.item_id for item in found]
        try:
            future: Future[Sequence[str]] = self._pool.submit(self._rerank, taken, found)
        except RuntimeError:
            # Closed: the last requests are answered without.
            return None
        try:
            answer = list(future.result(timeout=self._seconds))
        except TimeoutError:
            future.cancel()
            _LOG.warning("The second stage was not done within %g s.", self._seconds)
            return None
        except Exception:
            _LOG.exception("The second stage failed; the list is in the order of the first.")
            return None
        if sorted(answer) != sorted(names):
            _LOG.error("The second stage returned other items than it was given: %s.", answer)
            return None
        places = {name: place for place, name in enumerate(names)}
        return [places[name] for name in answer]

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def by_language_model(reranker: "Reranker", picture: Callable[[str], bytes | None]) -> Rerank:
    """Return a second stage that asks a tuned language model.

    Parameters
    ----------
    reranker
        The model.
    picture
        Gives an item's encoded picture.
    """
    from prismrec.sequential.writer import Shelf

    def rerank(taken: Sequence[Item], found: Sequence[Item]) -> list[str]:
        shown = {item.item_id: item for item in (*taken, *found)}
        known = set(reranker.writer.shelf.ids)
        fresh = [item for name, item in shown.items() if name not in known]
        pictures = {i.item_id: p for i in fresh if i.has_picture and (p := picture(i.item_id)) is not None}
        shelf = Shelf([i.item_id for i in fresh], [_title(i) for i in fresh], MemoryMedia(pictures))
        lists = pl.DataFrame(
            {
                "user_id": pl.Series([None] * len(found), dtype=pl.String),
                "rank": range(1, len(found) + 1),
                "item_id": [item.item_id for item in found],
                "score": [0.0] * len(found),
            }
        )
        again = reranker.rerank(lists, {None: [item.item_id for item in taken]}, new=shelf)
        return again["item_id"].to_list()

    return rerank


def _title(item: Item) -> str:
    """Return what a prompt calls an item: nothing rather than its id, as `shelf_of` has it."""
    if "title" not in item.attributes:
        return item.title
    title = item.attributes["title"]
    return "" if title is None else str(title)
