"""`run_bench`: make what is not there yet, keep what is finished, go on after a kill."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismrec.base.errors import ConfigError, InputError, StorageError
from prismrec.base.files import storage_errors
from prismrec.base.progress import SILENT, Progress
from prismrec.experiments.cost import Timings, piece_of, time_left, whole_seconds
from prismrec.experiments.pool import Pool, Task, Workers
from prismrec.experiments.results import RunNote, read_note, write_failure
from prismrec.experiments.search import read_search
from prismrec.experiments.state import Bench, RowState
from prismrec.training.loop import require_device


def run_bench(
    bench: Bench,
    *,
    jobs: int = 1,
    threads: int = 1,
    device: str = "cpu",
    progress: Progress = SILENT,
    workers: Workers | None = None,
) -> None:
    """Make all that is missing.

    Runs go seed by seed, so that a bench that is stopped early has whole seeds. A run that fails is written
    down and the others go on. Finished runs are kept whatever happens; the same call goes on from there. With
    the same number of threads, results do not depend on the number of processes.

    Parameters
    ----------
    bench
        Opened; its states are brought up to date.
    jobs
        Processes.
    threads
        Threads of each.
    device
        Where models are trained; a result is known by its settings, wherever it was made.
    progress
        Where to report to.
    workers
        Who does it, `jobs` at a time with `threads` each, and knows the device; None: processes of this
        machine.

    Raises
    ------
    InputError
        If another process works in the folder, or there is no such device.
    StorageError
        If the disk refuses.
    """
    if workers is None:
        device = require_device(device)
        workers = Pool(jobs, threads, bench.out / "logs")
    with _only_one(bench.out):
        bench.write_mark()
        for state in bench.states:
            state.failures.clear()
        work = _Work(bench, threads, device, progress, bench.timings())
        work.begin()
        total = sum(s.trials_left for s in bench.states) + sum(
            len(bench.plan.bench.seeds) - len(s.notes) for s in bench.states
        )
        with progress.task(bench.plan.bench.name, total) as bar, closing(workers.work(work.tasks)) as answers:
            for task, answer in answers:
                state, seed = task.about
                steps = work.take(state, seed, answer)
                bar.advance(steps, time_left(work.timings, bench.pieces(), jobs))
        bench.finish()


@dataclass
class _Work:
    """What is to be done, and what comes of it.

    Parameters
    ----------
    bench, threads, device, progress
        See `run_bench`.
    timings
        What was seen so far.
    tasks
        Not handed out yet.
    scheduled
        Keys of runs that became tasks: two rows may come to the same run, which is made once.
    """

    bench: Bench
    threads: int
    device: str
    progress: Progress
    timings: Timings
    tasks: list[Task] = field(default_factory=list)
    scheduled: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """List searches first, because runs wait for them; then runs, seed by seed."""
        for state in self.bench.states:
            if state.search is not None and not state.runs:
                spec = state.search.model_dump(mode="json")
                self.tasks.append(self._task("search", spec, state, None))
        for seed in self.bench.plan.bench.seeds:
            for state in self.bench.states:
                if seed in state.runs and seed not in state.notes:
                    self._add_run(state, seed)

    def take(self, state: RowState, seed: int | None, answer: dict[str, Any]) -> int:
        """Take an answer in; return how many steps of the bar it is worth.

        Raises
        ------
        StorageError
            If the disk refused: then no other run can be kept either.
        """
        if answer["event"] == "failed" and answer["kind"] == "StorageError":
            raise StorageError(answer["problem"])
        return self._take_search(state, answer) if seed is None else self._take_run(state, seed, answer)

    def _task(self, what: str, spec: dict[str, Any], state: RowState, seed: int | None) -> Task:
        message = {
            "do": what,
            "spec": spec,
            "out": str(self.bench.out.absolute()),
            "threads": self.threads,
            "device": self.device,
        }
        return Task(message, (state, seed))

    def _add_run(self, state: RowState, seed: int) -> None:
        spec = state.runs[seed]
        if spec.key not in self.scheduled:
            self.scheduled.add(spec.key)
            self.tasks.append(self._task("run", spec.model_dump(mode="json"), state, seed))

    def _take_run(self, state: RowState, seed: int, answer: dict[str, Any]) -> int:
        name, spec = f"{_name(state)}, seed {seed}", state.runs[seed]
        note = read_note(self.bench.out, spec.key) if answer["event"] == "done" else None
        own = [(s, at) for s in self.bench.states for at, run in s.runs.items() if run.key == spec.key]
        if note is None:
            problem = answer.get("problem", "Its result cannot be read back.")
            kind, trace = answer.get("kind", "Unreadable"), answer.get("trace", "")
            write_failure(self.bench.out, spec, kind, problem, trace)
            for other, at in own:
                other.failures[at] = problem
            self.progress.say(f"failed: {name}: {problem}")
            return len(own)
        for other, at in own:
            other.notes[at] = note
        self.timings.saw(piece_of(state.row.label, spec), whole_seconds(note))
        self.progress.say(f"{name}: {_figure(self.bench, note)}, {answer['seconds']:.1f} s")
        return len(own)

    def _take_search(self, state: RowState, answer: dict[str, Any]) -> int:
        assert state.search is not None
        seeds, before = self.bench.plan.bench.seeds, state.trials_left
        state.found = read_search(self.bench.out, state.search)
        if answer["event"] == "trial":
            if answer["seconds"] > 0:
                self.timings.saw(piece_of(state.row.label, state.search.start), answer["seconds"])
            return before - state.trials_left
        if answer["event"] == "done":
            state.settle(seeds)
        best = state.found.best(state.search.trials)
        if not state.runs or best is None:
            problem = answer.get("problem", "It left no settings.")
            state.failures.update(dict.fromkeys(seeds, f"Its search failed: {problem}"))
            self.progress.say(f"failed: search of {_name(state)}: {problem}")
            return before + len(seeds)
        said = ", ".join(f"{name} = {_short(value)}" for name, value in best.settings.items())
        self.progress.say(
            f"{_name(state)}: {state.search.metric} {best.value:.4f} on validation with "
            f"{said or 'its own settings'}"
        )
        there = 0
        for seed in seeds:
            note = read_note(self.bench.out, state.runs[seed].key)
            if note is None:
                self._add_run(state, seed)
            else:
                state.notes[seed] = note
                there += 1
        return before - state.trials_left + there


def _name(state: RowState) -> str:
    return f"{state.row.label} on {state.row.data.name}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(bench: Bench, note: RunNote) -> str:
    metric = bench.plan.bench.metric
    part = next(p for p in note.parts if p.part == "test")
    return f"{metric} {part.metrics[metric].mean:.4f} ({part.candidates}, test)"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Return how many threads each of so many processes may have.

    Raises
    ------
    ConfigError
        If there is less than one process.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: at least one process has to work.")
    return max(1, cores() // jobs)


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another process works on this bench.", "Wait for it, or choose another --out."
            ) from None
        yield
