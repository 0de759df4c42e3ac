"""What the scripts of this folder share: data at published sizes, paired timings, and one table.

A speed is a ratio within one run: ours and theirs are timed in turn (A B A B ...), because a machine's speed
drifts, and the median of each is compared. `report` merges what a script measured into
``results/latest.json``, and ``table.py`` prints that as a table.
"""

import os

# Before any library makes its threads: those that wait for work by spinning slow each other down, ten times
# and more where another process is at work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.machine import machine
from prismrec.data.interactions import Pairs

LATEST = Path(__file__).parent / "results" / "latest.json"
_PEERS = ("faiss-cpu", "hnswlib", "implicit", "lenskit", "ranx", "numba", "scipy")


@dataclass(frozen=True)
class Size:
    """A published data set's size; `pairs` are the training pairs (8 of 10)."""

    name: str
    users: int
    items: int
    pairs: int


BABY = Size("Baby", 19_445, 7_050, 118_551)
CLOTHING = Size("Clothing", 39_387, 23_033, 197_338)
SPORTS = Size("Sports", 35_598, 18_357, 218_409)
ELECTRONICS = Size("Electronics", 192_403, 63_001, 1_254_441)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name
        What was measured.
    against
        What it is compared with, and what the goal counts.
    ours, theirs
        Median seconds, or another figure that `unit` names; None: not measured.
    goal
        Least ratio that was aimed at; None: a figure for information.
    detail
        What bounds it, and the conditions.
    unit
        "s" where the figures are times (the ratio is theirs / ours); otherwise the ratio is ours / theirs.
    """

    name: str
    against: str
    ours: float | None
    theirs: float | None
    goal: float | None
    detail: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs / self.ours if self.unit == "s" else self.ours / self.theirs


def generated_pairs(size: Size, seed: int = 0) -> Pairs:
    """Draw unique pairs with long-tailed popularity and activity (Zipf-like, as on Amazon).

    Every user has at least one pair.
    """
    rng = np.random.default_rng(seed)
    activity = 1.0 / (np.arange(size.users) + 10.0) ** 0.6
    popularity = 1.0 / (np.arange(size.items) + 10.0) ** 0.8
    rng.shuffle(activity)
    rng.shuffle(popularity)
    users = np.concatenate(
        (np.arange(size.users), rng.choice(size.users, size.pairs * 2, p=_share(activity)))
    )
    items = rng.choice(size.items, len(users), p=_share(popularity))
    keys = users.astype(np.int64) * size.items + items
    _, first = np.unique(keys, return_index=True)
    kept = np.sort(first)[: size.pairs]
    return Pairs(users[kept].astype(np.int32), items[kept].astype(np.int32))


def generated_vectors(rows: int, dim: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draw clustered vectors: a centre of a hundred, and noise around it."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((100, dim), dtype=np.float32)
    noise = rng.standard_normal((rows, dim), dtype=np.float32)
    return centres[rng.integers(0, 100, rows)] + 0.7 * noise


def in_turn(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """Return the median seconds of each side; they run in turn, after one run of each that is not counted."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(repeats):
        for place, side in enumerate(sides):
            began = time.perf_counter()
            side()
            times[place].append(time.perf_counter() - began)
    return [statistics.median(some) for some in times]


def options(about: str | None, names: Sequence[str] = ()) -> argparse.Namespace:
    """Read the command line that all scripts share, and set the number of threads.

    Where a script measures several things, `names` are those that ``--only`` may choose from.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs; writes nothing"
    )
    if names:
        parser.add_argument("--only", nargs="+", choices=names, default=list(names), help="measure these")
    args = parser.parse_args()
    set_threads(args.threads)
    return args


def set_threads(threads: int) -> None:
    """Give torch, numba and BLAS the same number of threads."""
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    threadpool_limits(threads)


def report(script: str, rows: list[Row], args: argparse.Namespace, needs: str = "") -> None:
    """Print rows, and put them into ``results/latest.json`` in the place of this script's earlier ones.

    Where nothing was measured at all (data or a peer is missing) the earlier ones stay.

    Parameters
    ----------
    script
        Its file's name.
    rows
        What it measured.
    args
        Its options.
    needs
        Options beyond those that all scripts share, for the command that is recorded.
    """
    show(rows)
    record(script, rows, args, needs)


def show(rows: list[Row]) -> None:
    """Print rows."""
    for row in rows:
        ratio = "not measured" if row.ratio is None else f"{row.ratio:.2f} x"
        figures = f"{row.ours} / {row.theirs} {row.unit}"
        print(f"{row.name:58} {ratio:>12}  goal {row.goal}  {row.against}  [{figures}]", flush=True)


def record(script: str, rows: list[Row], args: argparse.Namespace, needs: str = "") -> None:
    """Put rows into ``results/latest.json`` in the place of the script's earlier ones; see `report`.

    `needs` holds options that chose some of the script's rows; empty: all of them were measured.
    """
    if args.quick or all(row.ratio is None for row in rows):
        return
    again = {row.name for row in rows}
    # A part of a script's rows leaves its others as they were, each with the command that measured it.
    kept = [e for e in read() if e["script"] != script or (needs and e["name"] not in again)]
    conditions = {
        "script": script,
        "command": " ".join(
            f"python benchmarks/{script} {needs} --threads {args.threads} --repeats {args.repeats}".split()
        ),
        "threads": args.threads,
        "machine": {**machine(), "peers": {p: v for p in _PEERS if (v := _version(p)) is not None}},
        "date": time.strftime("%Y-%m-%d"),
    }
    for row in rows:
        met = None if row.goal is None or row.ratio is None else row.ratio >= row.goal
        kept.append({**asdict(row), "ratio": row.ratio, "met": met, **conditions})
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(kept, indent=1) + "\n")


def read() -> list[dict[str, Any]]:
    """Return what the last runs measured."""
    return json.loads(LATEST.read_text()) if LATEST.exists() else []


def _share(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return weights / weights.sum()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
