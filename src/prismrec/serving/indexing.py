"""The thread that builds a service's index while the service answers."""

import logging
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np

from prismrec.base.errors import PrismError
from prismrec.serving.index import IndexPlan, ItemIndex, Stopped, sampled
from prismrec.serving.state import State

_LOG = logging.getLogger(__name__)

# When so large a share has come since, all of which is looked at in each search, the index is built anew.
_GROWTH = 0.1


class Indexing:
    """Builds the index of what is served, one at a time, in a thread that lives as long as there is work.

    Parameters
    ----------
    plan
        When an index is wanted, and how good.
    current
        Gives what is served now.
    publish
        Puts an index into use; returns whether it covers what is served by then, else another one is built.
    """

    def __init__(
        self, plan: IndexPlan, current: Callable[[], State], publish: Callable[[ItemIndex], bool]
    ) -> None:
        self._plan = plan
        self._current = current
        self._publish = publish
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Of the last attempt, whether or not it went well: one that failed is not made again at each write.
        self._rows = 0
        self._lineage: Callable[[], object | None] = lambda: None

    def look(self) -> None:
        """See whether an index is wanted, and start building it; returns at once."""
        with self._lock:
            if self._thread is None and self._wanted(self._current()):
                self._thread = threading.Thread(target=self._work, name="prismrec-index")
                self._thread.start()

    def close(self) -> None:
        """Build nothing more; return when the thread has ended. A step of LanceDB is waited for."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _wanted(self, state: State) -> bool:
        items = state.items
        if self._stop.is_set() or int(np.count_nonzero(items.ranked)) < self._plan.start:
            return False
        return items.lineage is not self._lineage() or items.size - self._rows > _GROWTH * self._rows

    def _work(self) -> None:
        while True:
            with self._lock:
                # Read under the lock: whoever looks in vain from here on finds the thread at work on it.
                state = self._current()
                if not self._wanted(state):
                    self._thread = None
                    return
                self._rows, self._lineage = state.items.size, weakref.ref(state.items.lineage)
            self._build(state)

    def _build(self, state: State) -> None:
        began = time.perf_counter()
        trained = state.loaded.people.trained
        users = trained.vectors(sampled(trained.size, self._plan.samples))
        try:
            index = ItemIndex.of(state.items, users, self._plan, self._stop)
        except Stopped:
            return
        except Exception as error:
            # Whatever it is: the service answers without, and shows it.
            problem = error.problem if isinstance(error, PrismError) else str(error)
            fields = {"failed": type(error).__name__, "problem": problem, "rows": state.items.size}
            _LOG.error("index", extra={"fields": fields})
            return
        if self._stop.is_set() or not self._publish(index):
            index.close()
            return
        found = {
            "rows": index.rows,
            "recall": round(index.recall, 4),
            "probes": index.by_vector.probes,
            "probes_similar": index.by_unit.probes,
            "parts": index.by_vector.parts,
            "seconds": round(time.perf_counter() - began, 2),
        }
        _LOG.info("index", extra={"fields": found})
