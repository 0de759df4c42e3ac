"""How far a bench has come: its rows, their searches and runs, and what is left."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError
from prismrec.base.files import write_json
from prismrec.experiments.cost import Cost, Piece, Timings, piece_of, whole_seconds
from prismrec.experiments.plan import BenchPlan, Row, RunSpec, SearchSpec
from prismrec.experiments.results import RESULTS, RunNote, read_failure, read_note, write_view
from prismrec.experiments.search import SearchNote, read_search, require_optuna

MARK = "bench.json"


@dataclass
class RowState:
    """A row, and how far it has come.

    Parameters
    ----------
    row
        The row.
    search
        What chooses its settings; None: nothing does.
    found
        The search as it stands.
    runs
        By seed; empty as long as the search is not finished.
    notes
        Finished runs by seed.
    failures
        Why runs failed, by seed.
    """

    row: Row
    search: SearchSpec | None
    found: SearchNote | None
    runs: dict[int, RunSpec] = field(default_factory=dict)
    notes: dict[int, RunNote] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def trials_left(self) -> int:
        """Trials that the search still needs."""
        if self.search is None or self.found is None:
            return 0
        return self.search.trials - len(self.found.counted(self.search.trials))

    @property
    def chosen(self) -> dict[str, Any]:
        """What the search chose."""
        best = None if self.search is None or self.found is None else self.found.best(self.search.trials)
        return {} if best is None else best.settings

    def settle(self, seeds: Sequence[int]) -> None:
        """Lay down the runs, once the settings are known."""
        if self.trials_left == 0 and (self.search is None or self.found is None or self._any_trial()):
            self.runs = {seed: self.row.run(seed, self.chosen) for seed in seeds}

    def _any_trial(self) -> bool:
        return (
            self.search is not None
            and self.found is not None
            and (self.found.best(self.search.trials) is not None)
        )


@dataclass
class Bench:
    """A bench in its folder.

    Parameters
    ----------
    plan
        What it consists of.
    out
        Its folder.
    states
        Its rows, in order.
    """

    plan: BenchPlan
    out: Path
    states: list[RowState]

    @staticmethod
    def open(plan: BenchPlan, out: Path) -> "Bench":
        """See how far a bench has come.

        Raises
        ------
        InputError
            If the folder holds something else.
        MissingExtraError
            If something is to be searched and Optuna is not there.
        """
        out = Path(out)
        _require_home(out)
        states = []
        for row in plan.rows:
            search = row.search()
            if search is not None:
                require_optuna()
            state = RowState(row, search, None if search is None else read_search(out, search))
            state.settle(plan.bench.seeds)
            for seed, spec in state.runs.items():
                note = read_note(out, spec.key)
                if note is not None:
                    state.notes[seed] = note
                elif (problem := read_failure(out, spec.key)) is not None:
                    state.failures[seed] = problem
            states.append(state)
        return Bench(plan, out, states)

    def cost(self, jobs: int, threads: int) -> Cost:
        """Say what there is to do."""
        seconds, unknown = self.timings().total(self.pieces())
        return Cost(
            runs=len(self.states) * len(self.plan.bench.seeds),
            cached=sum(len(state.notes) for state in self.states),
            failed_before=sum(len(state.failures) for state in self.states),
            trials=sum(state.trials_left for state in self.states),
            seconds=seconds,
            unknown=unknown,
            jobs=jobs,
            threads=threads,
        )

    def timings(self) -> Timings:
        """Return what earlier runs and trials took."""
        timings = Timings()
        for state in self.states:
            for note in state.notes.values():
                timings.saw(piece_of(state.row.label, note.spec), whole_seconds(note))
            if state.search is not None and state.found is not None:
                for trial in state.found.trials:
                    if trial.seconds > 0:
                        timings.saw(piece_of(state.row.label, state.search.start), trial.seconds)
        return timings

    def pieces(self) -> list[Piece]:
        """Return what is to be done."""
        pieces = []
        for state in self.states:
            start = state.row.run(self.plan.bench.seeds[0], {})
            if state.trials_left:
                pieces.append(piece_of(state.row.label, start, state.trials_left))
            runs = len(self.plan.bench.seeds) - len(state.notes)
            if runs:
                pieces.append(piece_of(state.row.label, start, runs))
        return pieces

    def finish(self) -> None:
        """Write the view of all runs and what the bench is."""
        rows, notes, failures = [], {}, {}
        for state in self.states:
            for seed in self.plan.bench.seeds:
                spec = state.runs.get(seed) or state.row.run(seed, {})
                rows.append((state.row.label, spec))
                if seed in state.notes:
                    notes[spec.key] = state.notes[seed]
                elif seed in state.failures:
                    failures[spec.key] = state.failures[seed]
        write_view(self.out, rows, notes, failures)
        self.write_mark()

    def write_mark(self) -> None:
        """Write what the bench is, so that its folder is known for one."""
        write_json(self.out / MARK, self._mark())

    def _mark(self) -> dict[str, Any]:
        return {
            "format": "prismrec-bench",
            "bench": self.plan.bench.model_dump(mode="json"),
            "rows": [
                {
                    "data": state.row.data.name,
                    "label": state.row.label,
                    "chosen": state.chosen,
                    "runs": {str(seed): spec.key for seed, spec in state.runs.items()},
                }
                for state in self.states
            ],
        }

    def failures(self) -> list[dict[str, Any]]:
        """Return what failed, and why."""
        return [
            {"data": state.row.data.name, "row": state.row.label, "seed": seed, "problem": problem}
            for state in self.states
            for seed, problem in state.failures.items()
        ]


def _require_home(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file.", "Name a folder for the bench.")
    if not (out / MARK).exists() and not (out / RESULTS).exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and no bench.", "Choose a new folder.")
    if (out / MARK).exists():
        try:
            known = json.loads((out / MARK).read_text(encoding="utf-8")).get("format") == "prismrec-bench"
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise InputError(f"{out / MARK}: is not of a bench.", "Choose a new folder.")
