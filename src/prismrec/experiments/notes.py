"""A row of a table, and what a table amounts to in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prismrec.evaluation.result import Interval, PartResult
from prismrec.evaluation.significance import ALPHA
from prismrec.experiments.compare import LEAST_SEEDS, Versus
from prismrec.experiments.state import Bench, RowState


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Parameters
    ----------
    label
        What it is called.
    figures
        Mean over seeds with its interval over seeds, by metric, on the test part.
    valid
        The table's metric on the validation part.
    seconds
        Mean wall time of a training.
    seeds
        Seeds that it finished.
    versus_best, versus_baseline
        Comparisons; None for the row itself, for an oracle, or without a baseline.
    best, oracle
        Whether it is that.
    chosen
        What a search chose.
    problem
        Why seeds are missing.
    """

    label: str
    figures: Mapping[str, Interval]
    valid: Interval | None
    seconds: float | None
    seeds: int
    versus_best: Versus | None
    versus_baseline: Versus | None
    best: bool
    oracle: bool
    chosen: Mapping[str, object]
    problem: str | None


def part_of(state: RowState, seed: int, part: str, mode: str) -> PartResult:
    """Return a run's figures of a part with some candidates."""
    return next(p for p in state.notes[seed].parts if (p.part, p.candidates) == (part, mode))


def notes_of(
    bench: Bench,
    states: Sequence[RowState],
    mode: str,
    lines: Sequence[Line],
    best: str | None,
    baseline: str | None,
    comparisons: int,
) -> list[str]:
    """Return what a reader must know of a table, sentence by sentence.

    Parameters
    ----------
    bench
        Of which.
    states
        The rows of the table's data.
    mode
        Its candidates.
    lines
        Its rows as they are shown.
    best, baseline
        Labels of what rows are compared with.
    comparisons
        How many.
    """
    section = bench.plan.bench
    notes = [_sizes(bench, states, mode)]
    if best is not None:
        others = [line for line in lines if line.versus_best is not None]
        ties = [
            f"{x.label} ({x.versus_best.why})"
            for x in others
            if x.versus_best is not None and x.versus_best.verdict == "tie"
        ]
        worse = [x.label for x in others if x.versus_best is not None and x.versus_best.verdict == "worse"]
        notes.append(f"Highest mean of {section.metric}: {best}.")
        if ties:
            notes.append(f"Ties with it, so that none of them can be called better: {'; '.join(ties)}.")
        if worse:
            notes.append(f"Worse than it: {', '.join(worse)}.")
    if baseline is not None and baseline != best:
        notes.append(_against_baseline(lines, baseline))
    if comparisons:
        notes.append(
            "Comparisons are paired by user, a user's differences averaged over seeds first; Wilcoxon's "
            "signed-rank test and the randomisation test, both adjusted by Holm over the "
            f"{comparisons} comparisons of this table at {ALPHA:g}. p is the larger of the two, d the mean "
            "difference in its standard deviations over users."
        )
    if len(section.seeds) == 1:
        notes.append("A single seed: nothing here says how much another division or start would change.")
    elif len(section.seeds) < LEAST_SEEDS:
        notes.append(
            "Two seeds give no usable interval: comparisons rest on users alone, and say nothing of how much "
            "another division or start would change."
        )
    elif len(section.seeds) < 5:
        notes.append("Fewer than 5 seeds: intervals over seeds are wide, and claims weak.")
    notes += _remarks(bench, states, lines)
    return notes


def _sizes(bench: Bench, states: Sequence[RowState], mode: str) -> str:
    parts = [part_of(state, seed, "test", mode) for state in states for seed in state.notes]
    users, items = _range([p.users_counted for p in parts]), _range([p.n_candidates for p in parts])
    positives = _range([p.n_positives for p in parts])
    seeds = len({seed for state in states for seed in state.notes})
    spread = "± is half the 95 % interval over seeds (Student's t)" if seeds > 1 else "without an interval"
    return (
        f"Test part, opened once a run: means over {seeds} seed{'s' if seeds > 1 else ''} of means over "
        f"{users} users with {positives} positives among {items} candidates; {spread}."
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _against_baseline(lines: Sequence[Line], baseline: str) -> str:
    said = []
    groups = {"better": "better", "tie": "tied", "worse": "worse"}
    for verdict, word in groups.items():
        names = [
            line.label
            for line in lines
            if line.versus_baseline is not None and line.versus_baseline.verdict == verdict
        ]
        if names:
            said.append(f"{word}: {', '.join(names)}")
    return f"Against the baseline {baseline} – {'; '.join(said)}."  # noqa: RUF001


def _remarks(bench: Bench, states: Sequence[RowState], lines: Sequence[Line]) -> list[str]:
    section, first = bench.plan.bench, states[0].row
    notes = []
    oracles = [line.label for line in lines if line.oracle]
    if oracles:
        notes.append(
            f"{', '.join(oracles)}: knows how popular items are in the part itself. It is a mark to look at, "
            "not a method, and takes no part in comparisons."
        )
    if any(state.search is not None for state in states):
        notes.append(
            f"Settings of {', '.join(s.row.label for s in states if s.search is not None)} were chosen by "
            f"{section.budget} trials each (the first is the row as written) by {section.metric} on the "
            f"validation part of seed {section.seeds[0]} and used for all seeds; other rows are as written."
        )
    if section.users is not None:
        notes.append(
            f"At most {section.users:,} users were measured, drawn by the seed, the same for every row."
        )
    if first.data.users is not None:
        notes.append(
            f"The data are those of at most {first.data.users:,} users, drawn by the seed; other users "
            "take part in nothing."
        )
    if first.data.max_per_user is not None:
        notes.append(
            f"Training keeps at most {first.data.max_per_user} positives of a user, drawn by the seed; "
            "validation and test are whole."
        )
    if first.data.missing:
        rule = ", an item that would lose all keeps one" if first.data.keep_one else ""
        notes.append(
            f"{100 * first.data.missing:.0f} % of the items that have a modality lost it, drawn for each "
            f"modality by the seed{rule}."
        )
    if "seed" in first.split or len({n.split_hash for s in states for n in s.notes.values()}) == 1 < len(
        section.seeds
    ):
        notes.append("The division is the same for all seeds: they differ in initial weights and draws only.")
    notes += [
        f"{line.label}: {line.seeds} of {len(section.seeds)} seeds finished. {line.problem or ''}".strip()
        for line in lines
        if line.seeds < len(section.seeds)
    ]
    if len({note.device for state in states for note in state.notes.values()}) > 1:
        notes.append("Some runs were trained on another device than others.")
    if len({note.source for state in states for note in state.notes.values()}) > 1:
        notes.append(
            "Runs were made by different states of the code of one version; make them anew to be sure."
        )
    return notes
