"""What evaluating a language model gives: figures beside their floors, comparisons, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path, storage_errors, write_json, write_text
from prismrec.evaluation.result import openings_sentence
from prismrec.sequential.against import Against, compare
from prismrec.sequential.examples import Example
from prismrec.sequential.measures import Measured, random_expectation

RANDOM = "random (expected)"


@dataclass
class Costs:
    """What the answers took, counted while they are made.

    Parameters
    ----------
    requests
        Questions that were put to the model.
    seconds
        Wall time of all of them.
    candidates, candidate_tokens
        Candidates that were scored, and the tokens of their titles.
    prompt_tokens, longest_prompt
        Tokens of all prompts, pictures among them, and of the longest.
    shortened_prompts
        Prompts that lost part of the history because they were too long.
    unreadable_pictures
        Pictures that could not be read, each time that they were shown.
    unparsable_answers
        Answers that named nothing that was asked for; each is a miss.
    """

    requests: int = 0
    seconds: float = 0.0
    candidates: int = 0
    candidate_tokens: int = 0
    prompt_tokens: int = 0
    longest_prompt: int = 0
    shortened_prompts: int = 0
    unreadable_pictures: int = 0
    unparsable_answers: int = 0

    @property
    def seconds_per_request(self) -> float:
        """Mean wall time of a question, in seconds; 0 without any."""
        return self.seconds / self.requests if self.requests else 0.0

    @property
    def tokens_per_candidate(self) -> float:
        """Mean number of tokens of a candidate; 0 without any."""
        return self.candidate_tokens / self.candidates if self.candidates else 0.0

    @property
    def tokens_per_prompt(self) -> float:
        """Mean number of tokens of a prompt; 0 without any."""
        return self.prompt_tokens / self.requests if self.requests else 0.0

    def lines(self) -> list[str]:
        """Return what to show, one sentence a line."""
        return [
            f"{self.requests:,} requests, {self.seconds_per_request:.3f} s each.",
            f"{self.tokens_per_prompt:,.1f} tokens a prompt, {self.longest_prompt:,} the longest; "
            f"{self.tokens_per_candidate:.1f} tokens a candidate.",
            f"Shortened prompts: {self.shortened_prompts:,}; unreadable pictures: "
            f"{self.unreadable_pictures:,}; unparsable answers: {self.unparsable_answers:,}.",
        ]


@dataclass(frozen=True, eq=False)
class SequentialResult:
    """What a model reaches on one part; made by `judge`.

    Parameters
    ----------
    settings
        How the answers came about, JSON-able.
    part
        Which users' items were held out: "valid" or "test".
    ours
        The model.
    popularity
        The same questions by popularity.
    random
        What random scores reach on average, by metric.
    others
        Further ways of scoring: the first stage, SASRec, the model before preference optimisation.
    against
        The model against each of them.
    costs
        What the model's answers took.
    notes
        What a reader must know.
    test_openings_before
        How often this split's test part had been opened before; None: it was not opened.
    """

    settings: Mapping[str, Any]
    part: str
    ours: Measured
    popularity: Measured
    random: Mapping[str, float]
    others: tuple[Measured, ...]
    against: tuple[Against, ...]
    costs: Costs
    notes: tuple[str, ...] = ()
    test_openings_before: int | None = None

    @property
    def measured(self) -> tuple[Measured, ...]:
        """All ways of scoring, baselines first."""
        return (self.popularity, *self.others, self.ours)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the users' own figures, for programs."""
        return {
            "task": str(self.ours.task),
            "part": self.part,
            "settings": dict(self.settings),
            "examples": self.ours.examples,
            "users": self.ours.users,
            "random": dict(self.random),
            "measured": [_json(one) for one in self.measured],
            "against": [
                {"ours": self.ours.name, "other": one.name, "metric": one.metric}
                | one.comparison.model_dump()
                | {"verdict": one.verdict}
                for one in self.against
            ],
            "costs": asdict(self.costs)
            | {
                "seconds_per_request": self.costs.seconds_per_request,
                "tokens_per_candidate": self.costs.tokens_per_candidate,
                "tokens_per_prompt": self.costs.tokens_per_prompt,
            },
            "notes": list(self.notes),
            "test_openings_before": self.test_openings_before,
        }

    def to_markdown(self) -> str:
        """Return tables for people, as GitHub-flavoured Markdown: random and popularity come first."""
        ours = self.ours
        names = list(ours.metrics)
        rows = [[RANDOM, *(f"{self.random[name]:.4f}" for name in names)]]
        rows += [[_plain(one.name), *(str(one.metrics[name]) for name in names)] for one in self.measured]
        lines = [f"## {_plain(ours.name)}: {ours.task}, {_plain(self.part)}", ""]
        lines += [*_table(["", *names], rows), ""]
        lines += [f"{ours.examples:,} questions about {ours.users:,} users; 95 % intervals over users.", ""]
        lines += _table(
            [f"{_plain(ours.name)} against", "metric", "difference", "p (Holm)", "Cohen's d", "verdict"],
            [_against_cells(one) for one in self.against],
        )
        lines += ["", "A difference that the tests and the interval do not all bear out is called a tie.", ""]
        lines += [f"- {line}" for line in (*self.costs.lines(), *self._misses(), *map(_plain, self.notes))]
        if self.test_openings_before is not None:
            lines.append(f"- {openings_sentence(self.test_openings_before)}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``sequential.json``, ``sequential.md`` and each user's figures, ``sequential.parquet``.

        Raises
        ------
        StorageError
            If the disk refuses.
        """
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        by_user = [one.per_user.select(pl.lit(one.name).alias("name"), pl.all()) for one in self.measured]
        with atomic_path(folder / "sequential.parquet") as partial:
            pl.concat(by_user).write_parquet(partial)
        write_text(folder / "sequential.md", self.to_markdown())
        write_json(folder / "sequential.json", self.to_json())

    def _misses(self) -> list[str]:
        lines = [
            f"Questions without a usable answer by {_plain(one.name)}, counted as misses: {one.unanswered:,}."
            for one in self.measured
            if one.unanswered
        ]
        if self.ours.not_found:
            lines.append(
                "Questions whose positive is not among the candidates, counted as misses for all: "
                f"{self.ours.not_found:,}."
            )
        return lines


def judge(
    examples: Sequence[Example],
    ours: Measured,
    popularity: Measured,
    others: Sequence[Measured] = (),
    *,
    part: str,
    costs: Costs,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    test_openings_before: int | None = None,
    seed: int = 0,
) -> SequentialResult:
    """Put a model's figures beside what they must be held against, and test the differences.

    Parameters
    ----------
    examples
        The questions that all were measured on.
    ours, popularity, others
        The model and what it is compared with.
    part, costs, settings, notes, test_openings_before
        See `SequentialResult`.
    seed
        Of the tests.

    Raises
    ------
    InputError
        If they were measured on other questions, or by other metrics.
    """
    for one in (popularity, *others):
        if one.task is not ours.task or list(one.metrics) != list(ours.metrics):
            raise InputError(
                f"{one.name!r} was measured by {', '.join(one.metrics)} ({one.task}), and {ours.name!r} by "
                f"{', '.join(ours.metrics)} ({ours.task}).",
                "Measure all of them on the same examples with the same lengths of lists.",
            )
    if len(examples) != ours.examples:
        raise InputError(f"{ours.name!r} was measured on {ours.examples:,} of {len(examples):,} questions.")
    ks = [int(name.partition("@")[2]) for name in ours.metrics if name.startswith("ndcg@")]
    return SequentialResult(
        settings=settings,
        part=part,
        ours=ours,
        popularity=popularity,
        random=random_expectation(ours.task, examples, ks or None),
        others=tuple(others),
        against=tuple(compare(ours, [popularity, *others], seed=seed)),
        costs=costs,
        notes=tuple(notes),
        test_openings_before=test_openings_before,
    )


def _json(one: Measured) -> dict[str, Any]:
    return {
        "name": one.name,
        "unanswered": one.unanswered,
        "not_found": one.not_found,
        "metrics": {name: interval.model_dump() for name, interval in one.metrics.items()},
    }


def _against_cells(one: Against) -> list[str]:
    d = one.comparison.cohen_d
    effect = "" if d is None else f"{d:.2f}"
    return [_plain(one.name), one.metric, str(one.comparison.difference), f"{one.p:.2g}", effect, one.verdict]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]]


def _plain(text: str) -> str:
    """Keep a name from breaking the document: one line, no markup."""
    flat = " ".join(text.split())
    for sign in "\\`*_<>|#[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
