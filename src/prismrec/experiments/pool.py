"""Worker processes: tasks out, answers in; a process that dies takes its task with it and nothing else."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prismrec.base.files import storage_errors
from prismrec.base.threads import VARIABLES

_PATIENCE = 5.0


@dataclass(eq=False)
class Task:
    """Something to do.

    Parameters
    ----------
    message
        What the worker is told, JSON-able.
    about
        Whatever the caller knows it by.
    """

    message: dict[str, Any]
    about: Any


class Workers(Protocol):
    """Who does tasks."""

    def work(self, tasks: list[Task]) -> Generator[tuple[Task, dict[str, Any]], None, None]:
        """Do tasks and yield what is answered, with its task, as it comes in.

        The last answer of a task has the event "done" or "failed". Tasks that are appended to the list
        meanwhile are done too.
        """


@dataclass(eq=False)
class _Worker:
    process: "subprocess.Popen[str]"
    task: Task | None = None
    number: int = 0


@dataclass
class Pool:
    """Some workers.

    Parameters
    ----------
    jobs
        How many.
    threads
        Threads of each.
    logs
        Folder for what they print.
    """

    jobs: int
    threads: int
    logs: Path
    _workers: list[_Worker] = field(default_factory=list)
    _inbox: "queue.SimpleQueue[tuple[_Worker, str | None]]" = field(default_factory=queue.SimpleQueue)

    def work(self, tasks: list[Task]) -> Generator[tuple[Task, dict[str, Any]], None, None]:
        """Do tasks; see `Workers.work`."""
        try:
            while tasks or any(worker.task for worker in self._workers):
                self._hand_out(tasks)
                worker, line = self._inbox.get()
                if line is None:
                    self._workers.remove(worker)
                    if worker.task is not None:
                        yield worker.task, self._obituary(worker)
                    continue
                answer = json.loads(line)
                task = worker.task
                assert task is not None
                if answer["event"] in ("done", "failed"):
                    worker.task = None
                yield task, answer
        finally:
            self._close()

    def _hand_out(self, tasks: list[Task]) -> None:
        while tasks:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) >= self.jobs:
                    return
                idle = self._start()
            idle.task = tasks.pop(0)
            assert idle.process.stdin is not None
            try:
                idle.process.stdin.write(json.dumps(idle.task.message) + "\n")
                idle.process.stdin.flush()
            except BrokenPipeError:
                # It has died; its reader will tell.
                return

    def _start(self) -> _Worker:
        taken = {worker.number for worker in self._workers}
        number = next(n for n in range(self.jobs) if n not in taken)
        log = self.logs / f"worker-{number}.log"
        with storage_errors(log):
            self.logs.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "prismrec.experiments.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                    env={
                        **os.environ,
                        **dict.fromkeys(VARIABLES, str(self.threads)),
                        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
                    },
                    # Ctrl-C is for the bench, which then ends its workers.
                    start_new_session=True,
                )
        worker = _Worker(process, number=number)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        self._workers.append(worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self._inbox.put((worker, line))
        self._inbox.put((worker, None))

    def _obituary(self, worker: _Worker) -> dict[str, Any]:
        code = worker.process.wait()
        how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        why = " (9: often the system, because the memory was used up)" if code == -9 else ""
        log = self.logs / f"worker-{worker.number}.log"
        return {
            "event": "failed",
            "kind": "WorkerDied",
            "problem": f"The process that made it {how}{why}; see {log}.",
            "trace": "",
            "seconds": 0.0,
        }

    def _close(self) -> None:
        """End all workers; a run that is under way is lost, and made again next time."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            if worker.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    worker.process.stdin.close()
        self._workers.clear()
