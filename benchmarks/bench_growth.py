"""How time grows with the data: training epochs, negatives, and full ranking, at 1, 2, 4 and 8 times a size.

    python benchmarks/bench_growth.py [--threads N] [--repeats N] [--quick]

One axis grows at a time, the others stay. For each, the exponent e of ``time = c * size^e`` is fitted by
least squares in logarithms, and the row says how much better than linear 8 times the data is handled:
8 / 8^e. The fastest of some runs counts, because what else the machine does only adds. The epochs are those
of MAMEX, preset ``paper``. Draws ``results/growth.png``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness import Row, Size, generated_pairs, generated_vectors, options, report

from prismrec.base.exact import ItemMatrix
from prismrec.data.interactions import Pairs
from prismrec.evaluation.ranking import Rows, rank_positives
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.batches import Modality, ModelInputs, TrainingData
from prismrec.models.mamex import MAMEXConfig
from prismrec.training.loop import fit
from prismrec.training.negatives import Negatives

TIMES = (1, 2, 4, 8)
_LEAST_SECONDS = 1.0
PLOT = Path(__file__).parent / "results" / "growth.png"
LABELS = {"pairs": "interactions", "items": "items", "dim": "size of vectors", "users": "users"}


@dataclass(frozen=True)
class Shape:
    """What is grown."""

    users: int
    items: int
    pairs: int
    dim: int


@dataclass(frozen=True)
class Stage:
    """A part of the work: what it may grow along, and how its seconds are measured."""

    name: str
    axes: tuple[str, ...]
    seconds: Callable[[Shape, int], float]


def pairs_of(shape: Shape) -> Pairs:
    """Draw exactly as many pairs as the shape says."""
    pairs = generated_pairs(Size("", shape.users, shape.items, shape.pairs))
    if len(pairs) != shape.pairs:
        raise SystemExit(f"{shape} has no room for so many different pairs: {len(pairs):,}.")
    return pairs


def epoch_seconds(shape: Shape, repeats: int) -> float:
    """Return the seconds of an epoch of MAMEX: the fastest of those after the first."""
    pairs = pairs_of(shape)
    ids = tuple(map(str, range(shape.items)))
    stores = [
        FeatureStore(name, generated_vectors(shape.items, shape.dim, seed), ids, ("",) * shape.items, {})
        for seed, name in enumerate(("image", "text"))
    ]
    modalities = tuple(Modality(store.name, store.dim) for store in stores)
    inputs = ModelInputs(shape.users, shape.items, modalities)
    data = TrainingData(pairs, inputs, ItemFeatures(stores, ids), np.unique(pairs.items), 0)
    preset = MAMEXConfig.presets()["paper"]
    torch.manual_seed(0)
    model = preset.model.build(inputs)
    history = fit(model, data, preset.training.model_copy(update={"epochs": repeats + 1}), seed=0)
    return min(epoch.seconds for epoch in history.epochs[1:])


def negative_seconds(shape: Shape, repeats: int) -> float:
    """Return the seconds of drawing 4 negatives for each pair, what is prepared once included."""
    pairs = pairs_of(shape)
    starts, touched = pairs.by_user(shape.users)
    pool = np.arange(shape.items, dtype=np.int32)

    def work() -> None:
        Negatives(starts, touched, pool).draw(pairs.users, count=4, seed=0)

    return _fastest(work, repeats)


def ranking_seconds(shape: Shape, repeats: int) -> float:
    """Return the seconds of ranking every user's positives among all items, training items masked."""
    pairs = pairs_of(shape)
    held_out = np.random.default_rng(1).random(len(pairs)) < 0.2
    some = [Rows.of(pairs.users[kept], pairs.items[kept], shape.users) for kept in (held_out, ~held_out)]
    users, items = (generated_vectors(n, shape.dim, n) for n in (shape.users, shape.items))
    ties = np.arange(shape.items, dtype=np.int32)

    def work() -> None:
        rank_positives(users, ItemMatrix.of(items, ties), *some)

    return _fastest(work, repeats)


def _fastest(work: Callable[[], None], repeats: int) -> float:
    work()
    times: list[float] = []
    # Short work is disturbed most, and can be repeated most.
    while len(times) < repeats or sum(times) < _LEAST_SECONDS:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


# About half of Amazon Baby, the smallest of the published sizes.
SMALLEST = Shape(10_000, 4_000, 60_000, 64)
STAGES = [
    Stage("MAMEX epoch", ("pairs", "items", "dim", "users"), epoch_seconds),
    Stage("negatives", ("pairs", "items", "users"), negative_seconds),
    Stage("full ranking", ("pairs", "items", "dim", "users"), ranking_seconds),
]


def grown(shape: Shape, axis: str, times: int) -> Shape:
    """Return the shape with one axis so many times as long."""
    return replace(shape, **{axis: getattr(shape, axis) * times})


def exponent(seconds: list[float]) -> float:
    """Fit ``seconds = c * times^e``; return e."""
    return float(np.polyfit(np.log(TIMES), np.log(seconds), 1)[0])


def row(stage: Stage, axis: str, smallest: Shape, seconds: list[float]) -> Row:
    """Return the table's row of one stage and axis."""
    e = exponent(seconds)
    measured = ", ".join(f"{s:.3f}" for s in seconds)
    return Row(
        f"growth of {stage.name} with {LABELS[axis]}",
        "linear growth over 8 times the size",
        8 / 8**e,
        1.0,
        0.9,
        f"exponent {e:.2f}; seconds at 1, 2, 4, 8 times: {measured}; smallest: {smallest}",
        "x",
    )


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw how many times as long it takes, one panel a stage, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {"pairs": ("C0", "o"), "items": ("C1", "s"), "dim": ("C2", "D"), "users": ("C3", "^")}
    figure, panels = plt.subplots(
        1, len(found), figsize=(4.2 * len(found), 4.2), sharey=True, layout="constrained"
    )
    for panel, (name, axes) in zip(panels, found.items(), strict=True):
        panel.plot(TIMES, TIMES, color="grey", linestyle="--", label="linear")
        for axis, seconds in axes.items():
            colour, marker = styles[axis]
            label = f"{LABELS[axis]}: exponent {exponent(seconds):.2f}"
            relative = [s / seconds[0] for s in seconds]
            panel.plot(TIMES, relative, color=colour, marker=marker, markersize=5, label=label)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(TIMES, [f"{t} x" for t in TIMES])
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g} x")
        panel.set_xlabel("size, relative to the smallest")
        panel.set_title(f"{name} ({next(iter(axes.values()))[0]:.3f} s at 1 x)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left")
    panels[0].set_ylabel("time, relative to the smallest")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    args = options(__doc__)
    smallest = Shape(200, 300, 1_000, 16) if args.quick else SMALLEST
    rows = []
    found: dict[str, dict[str, list[float]]] = {}
    for stage in STAGES:
        found[stage.name] = {}
        stage.seconds(smallest, 1)  # Compiles what has to be compiled.
        base = stage.seconds(smallest, args.repeats)
        for axis in stage.axes:
            seconds = [base, *(stage.seconds(grown(smallest, axis, t), args.repeats) for t in TIMES[1:])]
            found[stage.name][axis] = seconds
            rows.append(row(stage, axis, smallest, seconds))
            print(rows[-1].name, rows[-1].detail, flush=True)
    if not args.quick:
        draw(found, PLOT)
    report("bench_growth.py", rows, args)


if __name__ == "__main__":
    main()
