"""What strategies of steps gain, model by model, from the finished runs of a bench.

Each strategy is compared with plain training of the same model, seeds and users. Plain training with more
epochs is a row of its own, the control. p-values are adjusted by Holm over all comparisons of the study. It
opens nothing: `prismrec bench` has.

    prismrec bench recipes/bench/bsam-five-models.toml --data "movielens-small, 30 a user=FOLDER" --out OUT
    python benchmarks/strategy_study.py OUT
"""

import argparse
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Study:
    """Finished runs by row and seed, what they measured, and each row against plain training of its model."""

    rows: dict[str, dict[int, RunNote]]
    figures: dict[str, BySeed]
    validation: dict[str, float]
    versus: dict[tuple[str, str], Versus]

    @property
    def labels(self) -> list[str]:
        """The rows, model by model."""
        return sorted(self.rows, key=lambda label: (label.partition(", ")[0], order(label)))

    def against_plain(self, label: str) -> Versus | None:
        """Return what a row gains over plain training."""
        return self.versus.get((label, plain_of(label)))


def studied(out: Path) -> Study:
    """Read and compare the finished runs of a bench."""
    rows = rows_of(out)
    figures: dict[str, BySeed] = {}
    validation: dict[str, float] = {}
    for label, notes in rows.items():
        frames = {seed: read_users(out, note.key) for seed, note in sorted(notes.items())}
        mode = next(iter(notes.values())).spec.candidates[0]
        figures[label] = {s: measured(frame, "test", str(mode), METRIC) for s, frame in frames.items()}
        validation[label] = mean([float(np.max([v or 0.0 for v in note.curve])) for note in notes.values()])
    pairs = [(label, plain) for label in rows if (plain := plain_of(label)) != label and plain in rows]
    return Study(rows, figures, validation, compare_table(figures, pairs))


def lines(study: Study) -> list[str]:
    """Return the study as a table in Markdown."""
    table = [
        "| model | step | seeds | test NDCG@10 | validation | against plain | s an epoch | epochs to 95 % |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for label in study.labels:
        notes = list(study.rows[label].values())
        model, _, step = label.partition(", ")
        interval = over_seeds(study.figures[label])
        half = "" if interval.high is None else f" ± {interval.high - interval.mean:.4f}"
        seconds = mean([note.seconds["train.step"] / max(1, note.epochs) for note in notes])
        best = study.validation[label]
        table.append(
            f"| {model} | {step} | {len(notes)} | {interval.mean:.4f}{half} | {best:.4f} | "
            f"{said(study.against_plain(label), interval.mean)} | {seconds:.2f} | "
            f"{mean([epochs_to(note) for note in notes]):.1f} |"
        )
    return table


def plot(study: Study, path: Path) -> None:
    """Draw what each strategy gains over plain training of its model, with the interval over seeds."""
    from matplotlib.figure import Figure

    shown = [label for label in study.labels if study.against_plain(label) is not None]
    models = list(dict.fromkeys(label.partition(", ")[0] for label in shown))
    steps = sorted({label.partition(", ")[2] for label in shown}, key=lambda step: order(f"x, {step}"))
    figure = Figure(figsize=(7.5, 0.22 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = {}
    for label in shown:
        model, _, step = label.partition(", ")
        place = models.index(model) * (len(steps) + 1.5) + steps.index(step)
        versus = study.against_plain(label)
        assert versus is not None
        plain = over_seeds(study.figures[plain_of(label)]).mean
        low, high = versus.difference.low, versus.difference.high
        gain = 100 * versus.difference.mean / plain
        error = (
            None if low is None or high is None else [[gain - 100 * low / plain], [100 * high / plain - gain]]
        )
        colour = {"better": "#1a7f4b", "worse": "#b3401f"}.get(str(versus.verdict), "#6b7280")
        axes.errorbar([gain], [place], xerr=error, fmt="o", color=colour, markersize=4, capsize=2)
        places[place] = f"{model}, {step}"
    axes.set_yticks(list(places), list(places.values()), fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color="#9ca3af", linewidth=0.8)
    axes.set_xlabel("NDCG@10 against plain training of the same model, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


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
    """Print the table, and draw it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the bench")
    parser.add_argument("--plot", type=Path, help="also draw the gains into this file")
    args = parser.parse_args()
    study = studied(args.out)
    print("\n".join(lines(study)))
    if args.plot is not None:
        plot(study, args.plot)


if __name__ == "__main__":
    main()
