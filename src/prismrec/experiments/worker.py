"""A process that makes runs and searches, one after the other: ``python -m prismrec.experiments.worker``.

It reads tasks from standard input and answers on standard output, one JSON object a line. It is a process of
its own, started by name rather than forked, so that it has its own number of threads, a crash takes one run
and not the bench, and a script that starts a bench needs no guard around its main part.
"""

import fcntl
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from prismrec.base.errors import PrismError


def main() -> None:
    """Work until standard input ends."""
    answers = _own_output()
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    # In a thread of its own: the end of the input is the end of the bench, in the midst of a run too.
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    work = Work(lambda answer: print(json.dumps(answer), file=answers, flush=True))
    while True:
        work.do(json.loads(tasks.get()))


def _own_output() -> IO[str]:
    """Keep standard output for answers: whatever a library prints goes to the log."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _listen(tasks: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)


class Work:
    """Makes tasks; the data set of the last one stays open.

    Parameters
    ----------
    answer
        Takes what is answered, JSON-able; the last answer to a task has the event "done" or "failed".
    """

    def __init__(self, answer: Callable[[dict[str, Any]], None]) -> None:
        self._answer = answer
        self._opened: tuple[str, str, Any] | None = None

    def do(self, task: dict[str, Any]) -> None:
        """Make a run or a search, and answer; an error is an answer too."""
        began = time.perf_counter()
        try:
            answer = self._search(task) if task["do"] == "search" else self._run(task)
        except MemoryError:
            answer = {
                "event": "failed",
                "kind": "MemoryError",
                "problem": "The memory is used up.",
                "trace": "",
            }
        except Exception as error:
            problem = error.problem if isinstance(error, PrismError) else f"{type(error).__name__}: {error}"
            hint = getattr(error, "hint", None)
            answer = {
                "event": "failed",
                "kind": type(error).__name__,
                "problem": f"{problem} {hint}" if hint else problem,
                "trace": traceback.format_exc(),
            }
        self._answer({**answer, "seconds": time.perf_counter() - began})

    def _run(self, task: dict[str, Any]) -> dict[str, Any]:
        from prismrec.experiments.measure import run_once
        from prismrec.experiments.plan import RunSpec
        from prismrec.experiments.results import write_result

        spec = RunSpec.model_validate(task["spec"])
        note, users = run_once(
            spec,
            self._dataset(spec.data.path, spec.data.content),
            threads=task["threads"],
            device=task["device"],
            guard=locked,
        )
        write_result(Path(task["out"]), note, users)
        return {"event": "done"}

    def _search(self, task: dict[str, Any]) -> dict[str, Any]:
        from prismrec.experiments.measure import validated
        from prismrec.experiments.plan import SearchSpec
        from prismrec.experiments.search import search

        spec = SearchSpec.model_validate(task["spec"])
        dataset = self._dataset(spec.start.data.path, spec.start.data.content)
        search(
            spec,
            dataset,
            Path(task["out"]),
            lambda trial: self._answer({"event": "trial", "seconds": trial.seconds}),
            partial(validated, device=task["device"]),
        )
        return {"event": "done"}

    def _dataset(self, path: str, content: str) -> Any:
        from prismrec.data.dataset import Dataset

        if self._opened is None or self._opened[:2] != (path, content):
            self._opened = (path, content, Dataset.read(path))
        return self._opened[2]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder's ledgers: each opening of a test part must be counted."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
