"""A model of growth from the measured sizes, and what it says of 100 million items and a billion users.

    python benchmarks/scale/plan.py [--plot growth.png]

Each stage's time is modelled as a start plus a rate times the number of interactions (items and users grow
with them), fitted to ``results/pipeline.json`` by relative error; the goal is to be within 30 % of every
measured size. What the sizes up to a million alone would have foretold stands beside it. The rates give core
hours and bytes for a world that no machine of ours can hold; nothing of that world is measured.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
FITTED_TO = 1_000_000
GOAL = 0.3
STAGES = ("ingest", "encode", "train", "recommend")


@dataclass(frozen=True)
class World:
    """What is planned for. The prices and bytes are assumptions, to be replaced by your own.

    Parameters
    ----------
    items, users, interactions
        Numbers.
    width
        Numbers of an item's content.
    dim
        Of a vector.
    batch
        Pairs of a step.
    machines
        That train together.
    core_hour
        Price in dollars.
    picture_bytes
        Of a picture.
    pictures_a_second
        Of the offline descriptors on one core: 9,517 posters of movielens-small took 18.4 s
        (``prismrec encode --text none``, one thread). A pretrained encoder was not measured.
    """

    items: float = 1e8
    users: float = 1e9
    interactions: float = 5e10
    width: int = 1024
    dim: int = 64
    batch: float = 2**20
    machines: int = 64
    core_hour: float = 0.04
    picture_bytes: float = 1e5
    pictures_a_second: float = 9517 / 18.4


@dataclass(frozen=True)
class Growth:
    """A stage's time: ``start + rate * interactions`` seconds on the threads of the measurement."""

    name: str
    start: float
    rate: float

    def seconds(self, n: float) -> float:
        """Return the time at a size."""
        return self.start + self.rate * n


def fitted(name: str, points: list[tuple[int, float]], most: float = math.inf) -> Growth:
    """Fit a stage to the sizes up to one: least squares of relative errors, both parts at least 0."""
    used = [(n, s) for n, s in points if n <= most]
    matrix = np.array([[1.0 / s, n / s] for n, s in used])
    (start, rate), _ = nnls(matrix, np.ones(len(used)))
    return Growth(name, float(start), float(rate))


def checked(growths: list[Growth], stages: list[dict[str, Any]]) -> list[str]:
    """Return the table of what was measured and what the model says."""
    lines = [
        "| stage | interactions | seconds | the model | off by | foretold from a million | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for growth in growths:
        rows = [row for row in stages if row["name"] == growth.name]
        small = fitted(growth.name, _points(rows), FITTED_TO)
        for row in rows:
            n, seconds = row["interactions"], row["seconds"]
            off = growth.seconds(n) / seconds - 1
            said = f"{off:+.0%}" if abs(off) <= GOAL else f"**{off:+.0%}**"
            foretold = f"{small.seconds(n) / seconds - 1:+.0%}" if n > FITTED_TO else ""
            model = f"{growth.seconds(n):.1f}"
            memory = f"{row['resident']:.2f} GiB"
            lines.append(
                f"| {growth.name} | {n:,} | {seconds:.1f} | {model} | {said} | {foretold} | {memory} |"
            )
    return lines


def _points(rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(row["interactions"], row["seconds"]) for row in rows]


def planned(growths: list[Growth], world: World, threads: int) -> list[str]:
    """Return the table of the world's stages."""
    rate = {growth.name: growth.rate * threads / 3600 for growth in growths}
    # The measured world has ten interactions an item; encode and recommend grow with items.
    of_items = world.items * 10
    table = 4 * world.users * world.dim
    touched = min(world.batch, world.users) * world.dim * 4
    asked = world.users / 2_000
    vectors = 4 * world.items * world.dim
    rows: list[tuple[str, float | None, float, float]] = [
        ("interactions as codes", None, world.interactions * 8, 0.0),
        ("ingest", rate["ingest"] * world.interactions, 0.0, world.interactions * 40),
        (
            "pictures, offline descriptors",
            world.items / world.pictures_a_second / 3600,
            world.items * world.picture_bytes,
            world.items * world.picture_bytes,
        ),
        ("content taken over, float16", rate["encode"] * of_items, world.items * world.width * 2, 0.0),
        ("users' table with two moments", None, 3 * table, 0.0),
        # Of each step the touched rows, there and back.
        (
            "an epoch of training",
            rate["train"] * world.interactions,
            0.0,
            world.interactions / world.batch * 2 * touched,
        ),
        ("vectors of all items", None, vectors, vectors * world.machines),
        ("lists for everyone, exact", rate["recommend"] * of_items * asked, world.users * 10 * 12, 0.0),
    ]
    lines = ["| | core hours | dollars | bytes kept | bytes moved |", "|---|---:|---:|---:|---:|"]
    for name, hours, kept, moved in rows:
        shown = " | " if hours is None else f"{hours:,.0f} | {hours * world.core_hour:,.0f}"
        lines.append(f"| {name} | {shown} | {_bytes(kept)} | {_bytes(moved)} |")
    return lines


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000:
            return f"{n:.3g} {unit}" if n else ""
        n /= 1000
    return f"{n:.3g} PB"


def plot(growths: list[Growth], measured: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw time against size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for colour, growth in zip(("#1f6f78", "#c2571a", "#6b4c9a", "#4a7a2c"), growths, strict=True):
        ns, seconds = zip(*measured[growth.name], strict=True)
        axes.plot(ns, seconds, "o", color=colour, label=growth.name)
        line = np.geomspace(ns[0], ns[-1], 50)
        axes.plot(line, [growth.seconds(n) for n in line], "-", color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="interactions", ylabel="seconds")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw the growth into this file")
    args = parser.parse_args()
    document = json.loads(RESULTS.read_text())
    stages = document["stages"]
    measured = {name: _points([row for row in stages if row["name"] == name]) for name in STAGES}
    growths = [fitted(name, measured[name]) for name in STAGES]
    print("\n".join(checked(growths, stages)), end="\n\n")
    print("\n".join(planned(growths, World(), document["threads"])))
    if args.plot is not None:
        plot(growths, measured, args.plot)


if __name__ == "__main__":
    main()
