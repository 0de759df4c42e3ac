"""Our figures beside those that a paper prints, and why they are not measured alike."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from prismrec.base.errors import ConfigError
from prismrec.base.files import write_text
from prismrec.experiments.notes import Line
from prismrec.experiments.plan import BenchPlan
from prismrec.experiments.render import figure, plain
from prismrec.experiments.tables import Table

_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


@dataclass(frozen=True)
class Published:
    """What a paper prints for a model on a data set."""

    data: str
    model: str
    printed: str
    figures: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Source:
    """A paper's table.

    Parameters
    ----------
    name
        What to call it on the command line.
    title
        Which table of which paper.
    rows
        Its figures.
    protocol
        What is known of how they were measured.
    candidates
        Which of ours comes nearest to what was ranked.
    """

    name: str
    title: str
    rows: tuple[Published, ...]
    protocol: tuple[str, ...]
    candidates: str


_MAMEX = (
    "The paper does not say which items are ranked; its released code ranks the cold items of validation and "
    "test together ('as_released' here), so that each part's positives compete with the other's.",
    "The paper prints one figure a model and names no seed, no interval and no test; the released code runs "
    "one seed (2025). Gaps of a few percent between its rows may be the luck of a division.",
    "The division of items into 8:1:1 is not published; ours is drawn by our seeds: other items are cold.",
    "The paper's grids (experts, top k, lambda) do not say which values were chosen for which data set, nor "
    "that baselines had an equal budget.",
    "Content vectors: the paper's come from CLIP. Other encoders give other figures.",
    "Released training draws cold items as negatives and sees cold items' content in its balance and "
    "alignment terms; of our presets 'as_released' does so too, the others do not.",
)


_MMREC = (
    "The toolkit chooses each model's settings by recall@20 on the test part; ours are chosen on validation. "
    "Published figures are optimistic by as much as that finds.",
    "One run each, with no interval; second runs on the same page differ by up to 0.0025 in recall@20.",
    "The toolkit does not mask validation items when it tests, and averages over users with targets; 'warm' "
    "here ranks the training items.",
    "The split is random for each user, nominally 8:1:1, and comes with the .inter files (kind 'given').",
    "Figures marked as read by eye were taken from pictures of tables.",
)
_TABLES = {
    "mamex-table1": ("Table 1 of the MAMEX paper (arXiv 2508.08042)", _MAMEX, "as_released"),
    "mmrec": ("MMRec's page of evaluations, and tables of later papers in its protocol", _MMREC, "warm"),
}


def published_figures(name: str) -> Source:
    """Return the figures of a paper's table.

    Raises
    ------
    ConfigError
        If there is no such table.
    """
    if name not in _TABLES:
        raise ConfigError(f"There are no published figures {name!r}.", f"There are: {', '.join(_TABLES)}.")
    text = files("prismrec.experiments").joinpath("published", f"{name}.csv").read_text(encoding="utf-8")
    rows = tuple(
        Published(
            row["dataset"],
            row["model"],
            row["printed"],
            {metric: float(row[metric]) for metric in _METRICS},
            row["source"],
        )
        for row in csv.DictReader(io.StringIO(text))
    )
    title, protocol, candidates = _TABLES[name]
    return Source(name, title, rows, protocol, candidates)


@dataclass(frozen=True)
class Beside:
    """Published figures beside ours.

    Parameters
    ----------
    source
        What is published.
    title, header, rows, notes
        The table, and what a reader must know.
    """

    source: Source
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def write(self, folder: Path) -> dict[str, str]:
        """Write it as Markdown."""
        lines = [f"# {plain(self.title)}", "", "| " + " | ".join(self.header) + " |"]
        lines.append("|---|---|" + "---:|" * (len(self.header) - 2))
        lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in self.rows]
        lines += ["", *(f"- {plain(note)}" for note in self.notes)]
        path = folder / f"against-{self.source.name}.md"
        write_text(path, "\n".join(lines) + "\n")
        return {path.name: str(path)}

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "source": self.source.title,
            "rows": [dict(zip(self.header, row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
        }


def set_beside(source: Source, tables: Sequence[Table], plan: BenchPlan) -> Beside:
    """Set our figures beside the published ones, data set by data set and model by model.

    Ours are those of the candidates that come nearest to the paper's, where the bench has them. A data set is
    the paper's if it is called so; one of another name is not set beside it.
    """
    model_of = {(row.data.name, row.label): row.model.name for row in plan.rows}
    ours: dict[tuple[str, str], list[tuple[str, Line]]] = {}
    for table in _nearest(tables, source.candidates):
        for line in table.lines:
            if line.seeds:
                key = (table.data, model_of[table.data, line.label])
                ours.setdefault(key, []).append((table.candidates, line))
    rows = []
    for paper in source.rows:
        rows.append(
            (paper.data, paper.printed, "paper", *(f"{paper.figures[metric]:.4f}" for metric in _METRICS))
        )
        for candidates, line in ours.get((paper.data, paper.model), []):
            rows.append((paper.data, line.label, f"here, {candidates}", *(_cell(line, m) for m in _METRICS)))
    return Beside(
        source,
        f"Beside {source.title}",
        ("data", "model", "measured", *_METRICS),
        tuple(rows),
        (*_gaps(source, tables, ours), *source.protocol),
    )


def _nearest(tables: Sequence[Table], wanted: str) -> list[Table]:
    """For each data set the table with the wanted candidates, else its first."""
    chosen: dict[str, Table] = {}
    for table in tables:
        if table.data not in chosen or table.candidates == wanted:
            chosen[table.data] = table
    return list(chosen.values())


def _cell(line: Line, metric: str) -> str:
    return figure(line.figures[metric]) if metric in line.figures else "–"  # noqa: RUF001


def _gaps(
    source: Source, tables: Sequence[Table], ours: Mapping[tuple[str, str], Sequence[tuple[str, Line]]]
) -> list[str]:
    theirs = list(dict.fromkeys(row.data for row in source.rows))
    common = [data for data in theirs if any(table.data == data for table in tables)]
    notes = []
    if not common:
        notes.append(
            f"None of this bench's data sets is one of the paper's ({', '.join(theirs)}): nothing of ours "
            "can stand beside its figures. Figures on different data say nothing about each other."
        )
    elif len(common) < len(theirs):
        notes.append(f"Not run here: {', '.join(data for data in theirs if data not in common)}.")
    other = sorted({c for found in ours.values() for c, _ in found if c != source.candidates})
    if common and other:
        notes.append(
            f"Ours are measured with the candidates {', '.join(other)}; add '{source.candidates}' to the "
            "recipe's candidates to come nearer to the released code."
        )
    return notes
