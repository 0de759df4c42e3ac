"""From runs to a table: means over seeds, intervals, comparisons, and what they amount to in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from prismrec.evaluation.metrics import Metric, metric_name
from prismrec.evaluation.significance import seed_interval
from prismrec.experiments.compare import BySeed, Measured, Versus, compare_table, over_seeds
from prismrec.experiments.notes import Line, notes_of
from prismrec.experiments.results import read_users
from prismrec.experiments.state import Bench, RowState

_SHOWN = (Metric.NDCG, Metric.RECALL)


@dataclass(frozen=True)
class Table:
    """A table: one data set, one set of candidates.

    Parameters
    ----------
    data, candidates
        Of what.
    metric
        What rows are compared by.
    metrics
        Columns.
    lines
        In the order of the recipe.
    baseline
        Label of the named baseline.
    notes
        What a reader must know, sentence by sentence.
    """

    data: str
    candidates: str
    metric: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    baseline: str | None
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its heading."""
        return f"{self.data}, candidates: {self.candidates}"


def make_tables(bench: Bench) -> list[Table]:
    """Return a table for each data set and each set of candidates, as far as runs are finished."""
    tables = []
    for data in bench.plan.data:
        states = [state for state in bench.states if state.row.data.name == data]
        if not any(state.notes for state in states):
            continue
        frames = {
            (place, seed): read_users(bench.out, note.key)
            for place, state in enumerate(states)
            for seed, note in state.notes.items()
        }
        for mode in states[0].row.candidates:
            tables.append(_table(bench, data, str(mode), states, frames))
    return tables


def _table(
    bench: Bench,
    data: str,
    mode: str,
    states: Sequence[RowState],
    frames: Mapping[tuple[int, int], pl.DataFrame],
) -> Table:
    section = bench.plan.bench
    metrics = _columns(section.metric, section.lengths)
    values: dict[str, dict[str, BySeed]] = {}
    for place, state in enumerate(states):
        if state.notes:
            values[state.row.label] = {
                metric: {
                    seed: measured(frames[place, seed], "test", mode, metric) for seed in sorted(state.notes)
                }
                for metric in metrics
            }
    means = {label: over_seeds(found[section.metric]).mean for label, found in values.items()}
    oracles = {state.row.label for state in states if state.row.model.oracle}
    most = max((len(state.notes) for state in states), default=0)
    # A row that lacks seeds may owe its mean to the seeds that it has.
    whole = [s.row.label for s in states if len(s.notes) == most and s.row.label not in oracles]
    best = max(whole, key=lambda label: means[label], default=None)
    baseline = section.baseline if section.baseline in values else None
    pairs = _pairs(
        [label for label in values if label not in oracles], best, baseline, values, section.metric
    )
    found = compare_table({label: v[section.metric] for label, v in values.items()}, pairs)
    if best is not None and baseline is not None and (baseline, best) in found:
        found[best, baseline] = found[baseline, best].turned(baseline)
    lines = tuple(
        _line(state, place, frames, values, mode, section.metric, found, best, baseline)
        for place, state in enumerate(states)
    )
    notes = notes_of(bench, states, mode, lines, best, baseline, len(pairs))
    return Table(data, mode, section.metric, metrics, lines, baseline, tuple(notes))


def measured(frame: pl.DataFrame, part: str, mode: str, metric: str) -> Measured:
    """Take one metric out of a run's figures."""
    some = frame.filter((pl.col("part") == part) & (pl.col("candidates") == mode)).sort("user")
    return Measured(some["user"].to_numpy(), some[metric].to_numpy().astype(np.float64))


def _columns(metric: str, ks: Sequence[int]) -> tuple[str, ...]:
    names = [metric_name(kind, k) for kind in _SHOWN for k in ks]
    return tuple(dict.fromkeys([metric, *names]))


def _pairs(
    labels: Sequence[str],
    best: str | None,
    baseline: str | None,
    values: Mapping[str, Mapping[str, BySeed]],
    metric: str,
) -> list[tuple[str, str]]:
    """Every row against the best and against the baseline; the two of them only once."""
    pairs: dict[tuple[str, str], None] = {}
    for other in (best, baseline):
        for label in labels:
            if other is None or label == other or (other, label) in pairs:
                continue
            if any(seed in values[other][metric] for seed in values[label][metric]):
                pairs[label, other] = None
    return list(pairs)


def _line(
    state: RowState,
    place: int,
    frames: Mapping[tuple[int, int], pl.DataFrame],
    values: Mapping[str, Mapping[str, BySeed]],
    mode: str,
    metric: str,
    found: Mapping[tuple[str, str], Versus],
    best: str | None,
    baseline: str | None,
) -> Line:
    label, seeds = state.row.label, sorted(state.notes)
    valid = [float(measured(frames[place, seed], "valid", mode, metric).values.mean()) for seed in seeds]
    problem = next(iter(state.failures.values()), None)
    return Line(
        label=label,
        figures={name: over_seeds(one) for name, one in values.get(label, {}).items()},
        valid=seed_interval(valid) if valid else None,
        seconds=float(np.mean([state.notes[seed].seconds["train"] for seed in seeds])) if seeds else None,
        seeds=len(seeds),
        versus_best=found.get((label, best)) if best is not None else None,
        versus_baseline=found.get((label, baseline)) if baseline is not None else None,
        best=label == best,
        oracle=state.row.model.oracle,
        chosen=state.chosen,
        problem=problem,
    )
