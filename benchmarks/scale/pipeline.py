"""From files to recommendations at growing sizes: time and peak memory of every stage, as it is typed.

    python benchmarks/scale/pipeline.py [--most 1e7] [--folder FOLDER] [--threads 2]

For n = 10^4, 3 * 10^4, 10^5 and so on: n interactions of n / 20 users with n / 10 items, each item with a
vector of 1,024 numbers in float16 (2 GB at 10^7). `prismrec ingest`, `encode --vectors`, `train` (MAMEX with
preset paper, one epoch) and `recommend` (2,000 users) run one after the other, each a process of its own.
What is finished is kept in ``results/pipeline.json``; ``--again`` measures it anew. `plan.py` makes a model
of growth of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from prismrec.base.machine import machine

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
WIDTH = 1024
ASKED = 2_000
GOAL_GIB = 6.0
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
_BLOCK = 65_536
_TOPICS = 64
_TRAIN = [
    "--model",
    "mamex",
    "--preset",
    "paper",
    "--set",
    "dim=64",
    "--set",
    "training.epochs=1",
    "--set",
    "training.batch_size=8192",
]


@dataclass(frozen=True)
class Stage:
    """What a stage took.

    Parameters
    ----------
    interactions
        Of the whole.
    name
        Of the stage.
    seconds
        From start to end of its process.
    resident
        The most memory that was resident, mapped files included, in GiB.
    own
        The same without mapped files, which the system may drop.
    written
        Bytes that it left.
    """

    interactions: int
    name: str
    seconds: float
    resident: float
    own: float
    written: int


def write_files(folder: Path, n: int) -> None:
    """Write interactions, a catalogue and vectors: people mostly take items of their own topic."""
    rng = np.random.default_rng(n)
    n_users, n_items = max(20, n // 20), max(100, n // 10)
    topic = rng.integers(0, _TOPICS, n_items)
    order = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[order], np.arange(_TOPICS + 1))
    users = rng.integers(0, n_users, n)
    tastes = rng.integers(0, _TOPICS, n_users)[users]
    # Squared: some items are taken far more often than others.
    widths = starts[tastes + 1] - starts[tastes]
    own = order[starts[tastes] + (rng.random(n) ** 2 * widths).astype(np.int64)]
    items = np.where(rng.random(n) < 0.8, own, rng.integers(0, n_items, n))
    folder.mkdir(parents=True)
    log = pl.DataFrame({"user": users, "item": items, "timestamp": rng.integers(1.5e9, 1.7e9, n)})
    named = log.select(
        pl.format("u{}", "user").alias("user_id"), pl.format("i{}", "item").alias("item_id"), "timestamp"
    )
    named.write_parquet(folder / "interactions.parquet")
    ids = [f"i{code}" for code in range(n_items)]
    pl.DataFrame({"item_id": ids, "title": [f"thing {t}" for t in topic.tolist()]}).write_parquet(
        folder / "items.parquet"
    )
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    shape = (n_items, WIDTH)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float16, shape=shape)
    centres = rng.standard_normal((_TOPICS, WIDTH), dtype=np.float32)
    for first in range(0, n_items, _BLOCK):
        here = topic[first : first + _BLOCK]
        noise = rng.standard_normal((len(here), WIDTH), dtype=np.float32)
        vectors[first : first + len(here)] = centres[here] + noise
    vectors.flush()


def watched(words: list[str], threads: int) -> tuple[float, float, float]:
    """Run a command; return its seconds and the most memory in GiB, with and without mapped files."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    environment["POLARS_MAX_THREADS"] = str(threads)
    command = [sys.executable, "-c", "from prismrec.cli import main; main()", *words, "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    most = {"VmRSS": 0.0, "RssAnon": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            lines = dict(line.split(":", 1) for line in text.splitlines())
            for key, before in most.items():
                if key in lines:
                    most[key] = max(before, int(lines[key].split()[0]) / 2**20)

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}")
    return seconds, most["VmRSS"], most["RssAnon"]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measured(folder: Path | None, n: int, threads: int) -> list[Stage]:
    """Go through all stages at a size, in a temporary folder in another."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir=folder) as home:
        return _measured(Path(home), n, threads)


def _measured(home: Path, n: int, threads: int) -> list[Stage]:
    files, shop, run, lists = home / "files", home / "shop", home / "run", home / "lists.parquet"
    write_files(files, n)
    log, items = files / "interactions.parquet", files / "items.parquet"
    asked = [f"u{code}" for code in range(min(ASKED, max(20, n // 20)))]
    (files / "asked.txt").write_text("\n".join(asked) + "\n")
    vectors = f"content={files / 'vectors.npy'}:{files / 'ids.txt'}"
    commands = {
        "ingest": (["ingest", "--interactions", log, "--items", items, "--out", shop], shop),
        "encode": (
            ["encode", shop, "--text", "none", "--vectors", vectors, "--dtype", "float16"],
            shop / "features",
        ),
        "train": (["train", shop, *_TRAIN, "--out", run], run),
        "recommend": (["recommend", run, "--users", files / "asked.txt", "-k", "10", "--out", lists], lists),
    }
    found = []
    for name, (words, left) in commands.items():
        seconds, resident, own = watched([str(word) for word in words], threads)
        found.append(Stage(n, name, round(seconds, 2), round(resident, 3), round(own, 3), size_of(left)))
        print(found[-1])
    return found


def main() -> None:
    """Measure the sizes that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--most", type=float, default=1e7, help="interactions of the largest size")
    parser.add_argument("--folder", type=Path, help="where there are 12 GB; a temporary one is made there")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    args = parser.parse_args()
    there = json.loads(RESULTS.read_text()) if RESULTS.exists() and not args.again else {"stages": []}
    stages = [Stage(**row) for row in there["stages"]]
    # What is compiled at first use, for each machine once, is no stage's.
    if any(n <= args.most and n not in {stage.interactions for stage in stages} for n in SIZES):
        measured(args.folder, SIZES[0], args.threads)
    for n in SIZES:
        if n > args.most or any(stage.interactions == n for stage in stages):
            continue
        stages += measured(args.folder, n, args.threads)
        document = {
            "command": "python benchmarks/scale/pipeline.py",
            "threads": args.threads,
            "machine": machine(),
            "stages": [asdict(stage) for stage in stages],
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    worst = max(stages, key=lambda stage: stage.resident)
    print(f"most: {worst.resident:.2f} GiB in {worst.name} of {worst.interactions:,} (goal {GOAL_GIB:g} GiB)")


if __name__ == "__main__":
    main()
