"""What strategies of steps gain, model by model, from the finished runs of a bench.

Each strategy is compared with plain training of the same model, seeds and users. Plain training with more
epochs is a row of its own, the control. p-values are adjusted by Holm over all comparisons of the study. It
opens nothing: `prismrec bench` has.

    prismrec bench recipes/bench/bsam-five-models.toml --data "movielens-small, 30 a user=FOLDER" --out OUT
    python benchmarks/strategy_study.py OUT
"""

import argparse
from pathlib import Path

import numpy as np

from prismrec.experiments.compare import BySeed, Versus, compare_table, over_seeds
from prismrec.experiments.results import RESULTS, RunNote, read_note, read_users
from prismrec.experiments.tables import measured

METRIC = "ndcg@10"
SHARE = 0.95
USUAL = ("R1", "gradient")
RHO = 0.03


def rows_of(out: Path) -> dict[str, dict[int, RunNote]]:
    """Return the finished runs of a bench by row and seed."""
    found = [read_note(out, path.stem) for path in sorted((out / RESULTS).glob("*.parquet"))]
    notes = [note for note in found if note is not None]
    least = min(note.spec.training["epochs"] for note in notes)
    rows: dict[str, dict[int, RunNote]] = {}
    for note in notes:
        strategy, epochs = note.spec.training["strategy"], note.spec.training["epochs"]
        kinds = [strategy[key] for key in ("reading", "direction") if strategy.get(key, "R1") not in USUAL]
        radius = [f"rho {strategy['rho']}"] if strategy.get("rho", RHO) != RHO else []
        step = " ".join([strategy["name"], *kinds, *radius])
        more = "" if epochs == least else f", {epochs} epochs"
        rows.setdefault(f"{note.spec.model}, {step}{more}", {})[note.spec.seed] = note
    return rows


def epochs_to(note: RunNote) -> int:
    """Return the first epoch with 95 % of the run's best validation."""
    curve = np.array([np.nan if value is None else value for value in note.curve])
    return 1 + int(np.flatnonzero(curve >= SHARE * np.nanmax(curve))[0])


def mean(values: list[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))


def lines(out: Path) -> list[str]:
    """Return the study as a table in Markdown."""
    rows = rows_of(out)
    figures: dict[str, BySeed] = {}
    validation: dict[str, float] = {}
    for label, notes in rows.items():
        frames = {seed: read_users(out, note.key) for seed, note in sorted(notes.items())}
        mode = next(iter(notes.values())).spec.candidates[0]
        figures[label] = {s: measured(frame, "test", str(mode), METRIC) for s, frame in frames.items()}
        validation[label] = mean([float(np.max([v or 0.0 for v in note.curve])) for note in notes.values()])
    pairs = [(label, plain) for label in rows if (plain := plain_of(label)) != label and plain in rows]
    versus = compare_table(figures, pairs)
    table = [
        "| model | step | seeds | test NDCG@10 | validation | against plain | s an epoch | epochs to 95 % |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for label in sorted(rows, key=lambda label: (label.partition(", ")[0], order(label))):
        notes = list(rows[label].values())
        model, _, step = label.partition(", ")
        interval = over_seeds(figures[label])
        half = "" if interval.high is None else f" ± {interval.high - interval.mean:.4f}"
        seconds = mean([note.seconds["train.step"] / max(1, note.epochs) for note in notes])
        table.append(
            f"| {model} | {step} | {len(notes)} | {interval.mean:.4f}{half} | {validation[label]:.4f} | "
            f"{said(versus.get((label, plain_of(label))), interval.mean)} | {seconds:.2f} | "
            f"{mean([epochs_to(note) for note in notes]):.1f} |"
        )
    return table


def plain_of(label: str) -> str:
    """Return the row that a row is compared with."""
    return f"{label.partition(', ')[0]}, plain"


def order(label: str) -> int:
    """Return the place of a strategy in the table."""
    names = ("plain", "sam", "mirror-gradient", "bsam", "bsam+")
    step, more, _ = label.partition(", ")[2].partition(", ")
    place = names.index(step) if step in names else len(names)
    return 2 * place + bool(more)


def said(versus: Versus | None, value: float) -> str:
    """Return a comparison in words."""
    if versus is None:
        return "-"
    gain = versus.difference.mean
    share = 100 * gain / max(value - gain, 1e-9)
    spread = versus.difference
    bounds = "" if spread.low is None else f" [{spread.low:+.4f}, {spread.high:+.4f}]"
    return f"{versus.verdict} {gain:+.4f}{bounds}, {share:+.1f} % (p {versus.p:.2g})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the bench")
    print("\n".join(lines(parser.parse_args().out)))


if __name__ == "__main__":
    main()
