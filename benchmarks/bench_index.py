"""Search by the index against exact search, as the service does them: milliseconds a query, and recall.

    OMP_NUM_THREADS=1 python benchmarks/bench_index.py [--items 100000 300000] [--dim 64] [--queries 200]

Vectors are made up to resemble a trained model's: items lie in clusters and have long-tailed lengths, a user
likes several clusters. One query at a time, all on one thread, LanceDB's included; exact search and the index
are asked in turn. The lists of which the recall is measured here are others than those by which the index
chose how many of its parts it looks into.
"""

import os

# Before LanceDB makes its threads.
os.environ.setdefault("LANCE_CPU_THREADS", "1")
os.environ.setdefault("LANCEDB_LOG", "error")

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness import set_threads

from prismrec.base.machine import machine
from prismrec.serving.engine import Mask, Snapshot
from prismrec.serving.index import Found, IndexPlan, ItemIndex

RESULTS = Path(__file__).parent / "results" / "index.json"
CLUSTERS = 500
Floats = npt.NDArray[np.float32]


def made(items: int, users: int, dim: int) -> tuple[Snapshot[None], Floats]:
    """Make up items and users."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, dim), dtype=np.float32)
    sizes = 1.0 / (np.arange(CLUSTERS) + 10.0)
    vectors = centres[rng.choice(CLUSTERS, items, p=sizes / sizes.sum())]
    vectors += 0.7 * rng.standard_normal((items, dim), dtype=np.float32)
    vectors *= rng.lognormal(0.0, 0.4, (items, 1)).astype(np.float32)
    tastes = centres[rng.choice(CLUSTERS, (users, 3), p=sizes / sizes.sum())].sum(axis=1)
    likes = (tastes + rng.standard_normal((users, dim), dtype=np.float32)).astype(np.float32)
    every = np.ones(items, dtype=np.bool_)
    names = [f"i{number}" for number in range(items)]
    return Snapshot.of(names, vectors, every, ~every, [None] * items), likes


def compared(
    exact: Callable[[int], Found], index: Callable[[int], Found | None], queries: Sequence[int]
) -> dict[str, float]:
    """Ask both in turn; what the index leaves to exact search is counted and timed as the service does it."""
    times: tuple[list[float], list[float]] = [], []
    shares, left = [], 0
    for query in queries:
        began = time.perf_counter()
        best = exact(query)
        middle = time.perf_counter()
        found = index(query)
        if found is None:
            left += 1
            found = exact(query)
        end = time.perf_counter()
        times[0].append(middle - began)
        times[1].append(end - middle)
        shares.append(float((found[1] >= best[1][-1]).mean()))
    return {
        "exact in ms": round(statistics.median(times[0]) * 1000, 2),
        "index in ms": round(statistics.median(times[1]) * 1000, 2),
        "recall": round(statistics.mean(shares), 4),
        "left to exact search": left,
    }


def measured(items: int, dim: int, queries: int) -> list[dict[str, object]]:
    """Build an index and compare."""
    plan = IndexPlan(start=1)
    shot, users = made(items, plan.samples + queries, dim)
    began = time.perf_counter()
    index = ItemIndex.of(shot, users[: plan.samples], plan)
    seconds = round(time.perf_counter() - began, 1)
    asked = users[plan.samples :]
    likes = np.random.default_rng(2).choice(items, queries, replace=False).tolist()
    fifth = np.random.default_rng(3).random(items) < 0.2

    def top(k: int, allowed: Mask | None = None) -> dict[str, float]:
        return compared(
            lambda place: shot.top(asked[place], k, allowed),
            lambda place: index.top(shot, asked[place], k, allowed),
            range(queries),
        )

    found = {
        "best 10": top(10),
        "best 50": top(50),
        "best 50, a fifth allowed": top(50, fifth),
        "best 1000": top(1000),
        "similar 50": compared(
            lambda place: shot.similar(likes[place], 50),
            lambda place: index.similar(shot, likes[place], 50),
            range(queries),
        ),
    }
    parts = f"{index.by_vector.probes} and {index.by_unit.probes} of {index.by_vector.parts}"
    index.close()
    about = {"items": items, "dim": dim, "parts looked into": parts, "built in s": seconds}
    return [{**about, "lists": name, **figures} for name, figures in found.items()]


def resident() -> float:
    """Most memory that this process had, in MiB; NaN where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    set_threads(1)
    rows = []
    for items in arguments.items:
        rows += measured(items, arguments.dim, arguments.queries)
    columns = [name for name in rows[0] if name != "dim"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in columns) + " |")
    found = {
        "command": shlex.join(["python", "benchmarks/bench_index.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "memory in MiB": round(resident()),
        "figures": rows,
        "machine": machine(),
    }
    print(f"at most {found['memory in MiB']} MiB")
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    RESULTS.write_text(json.dumps([*known, found], indent=1) + "\n")


if __name__ == "__main__":
    main()
