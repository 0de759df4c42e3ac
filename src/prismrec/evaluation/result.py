"""What an evaluation gives: numbers with their intervals, for people and for programs."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Frozen):
    """A mean and its 95 % interval; the bounds are None where one value alone says nothing of its spread."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


class SliceRow(_Frozen):
    """Metrics on some of the users, or on some of the positives (see `prismrec.evaluation.slices`)."""

    kind: str = Field(description="What divides, e.g. 'training interactions of the user'.")
    value: str = Field(description="Which of them, e.g. '1-4'.")
    users: int = Field(description="Users with a positive in the slice.")
    positives: int = Field(description="Positives in the slice.")
    metrics: dict[str, Interval] = Field(description="By name, e.g. 'ndcg@10'; empty without a user.")


class Beyond(_Frozen):
    """What lists of K items are like apart from their accuracy (see `prismrec.evaluation.beyond`)."""

    k: int = Field(description="Length of the lists.")
    coverage: float = Field(description="Share of the candidates that stands in at least one list, 0 to 1.")
    gini: float = Field(
        description="Inequality of how often candidates are shown: 0 all alike, near 1 a few."
    )
    novelty: float = Field(description="Mean self-information of the items shown, in bits.")
    popularity: float = Field(description="Mean number of training interactions of the items shown.")
    diversity: float | None = Field(
        None, description="1 - mean cosine between the contents of a list's items; None without contents."
    )


class PartResult(_Frozen):
    """The evaluation of one part with one set of candidates."""

    part: str = Field(description="'valid' or 'test'.")
    candidates: str = Field(description="Which items are ranked: 'strict', 'as_released', ...")
    n_candidates: int
    users_counted: int = Field(description="Users with a positive among the candidates; means are over them.")
    users_without_history: int = Field(0, description="Those of them without any training interaction.")
    n_positives: int
    metrics: dict[str, Interval] = Field(description="By name, e.g. 'ndcg@10'.")
    random_floor: dict[str, float] = Field(
        default_factory=dict, description="What a random ranking reaches on average, by name."
    )
    slices: list[SliceRow] = Field(default_factory=list)
    beyond: Beyond | None = None
    seconds: float = Field(0.0, description="What the evaluation took.")


class EvaluationResult(_Frozen):
    """What one run reaches."""

    run: str = Field(description="Name of the run.")
    model: str
    config: dict[str, Any] = Field(default_factory=dict, description="The model's settings.")
    dataset: str
    split: dict[str, Any] = Field(default_factory=dict, description="The plan of the split.")
    parts: list[PartResult]
    notes: list[str] = Field(default_factory=list, description="What a reader must know.")
    test_openings_before: int | None = Field(
        None, description="How often this split's test part had been opened before; None: it was not opened."
    )

    def __str__(self) -> str:
        return "\n".join(self.table_lines())

    def metrics_json(self) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
        """Return the numbers alone: ``{part: {candidates: {"ndcg@10": {"mean", "low", "high"}}}}``."""
        found: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
        for part in self.parts:
            rows = {name: interval.model_dump() for name, interval in part.metrics.items()}
            found.setdefault(part.part, {})[part.candidates] = rows
        return found

    def table_lines(self) -> list[str]:
        """Return lines for a terminal: for each part a heading, a table and what it is counted over."""
        lines = [f"{self.model} on {self.dataset} (run {self.run})"]
        for part in self.parts:
            lines += ["", _heading(part), *_aligned(_cells(part)), _counted(part)]
        return lines + self._remarks()

    def markdown(self) -> str:
        """Return the same as GitHub-flavoured Markdown."""
        lines = [f"## {_plain(self.model)} on {_plain(self.dataset)} (run {_plain(self.run)})"]
        for part in self.parts:
            head, *rows = _cells(part)
            table = ["| " + " | ".join(row) + " |" for row in rows]
            lines += ["", f"### {_heading(part)}", "", "| " + " | ".join(head) + " |", "|---|---:|---:|---:|"]
            lines += [*table, "", _counted(part)]
        lines += [f"{line}\n" if line else line for line in map(_plain, self._remarks())]
        return "\n".join(lines).rstrip() + "\n"

    def _remarks(self) -> list[str]:
        remarks = list(self.notes)
        if self.test_openings_before is not None:
            remarks.append(openings_sentence(self.test_openings_before))
        return ["", *remarks] if remarks else []


def openings_sentence(before: int) -> str:
    """Say how often the test part had been opened before: the more often, the less its numbers prove."""
    times = {0: "had not been opened", 1: "had been opened once"}.get(
        before, f"had been opened {before} times"
    )
    return f"The test part of this split {times} before."


def _heading(part: PartResult) -> str:
    return f"{part.part}, candidates: {part.candidates} ({part.n_candidates:,} items)"


def _counted(part: PartResult) -> str:
    text = f"Means over {part.users_counted:,} users with {part.n_positives:,} positives"
    if part.users_without_history:
        text += f", {part.users_without_history:,} of them without history"
    return f"{text}; 95 % intervals over users."


def _cells(part: PartResult) -> list[tuple[str, str, str, str]]:
    rows = [("metric", "mean", "95 % interval", "random")]
    for name, interval in part.metrics.items():
        spread = "" if interval.low is None else f"{interval.low:.4f} to {interval.high:.4f}"
        floor = part.random_floor.get(name)
        rows.append((name, f"{interval.mean:.4f}", spread, "" if floor is None else f"{floor:.4f}"))
    return rows


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _plain(text: str) -> str:
    """Keep a name from breaking the document: one line, no markup."""
    flat = " ".join(text.split())
    for sign in "\\`*_<>|#[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
