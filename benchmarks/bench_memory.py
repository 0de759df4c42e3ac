"""Peak memory: MAMEX on a million items of 1,024 numbers each, trained and ranked for 2,000 users.

    python benchmarks/bench_memory.py [--threads N] [--quick] [--folder FOLDER]

The content is a store of float16 on the disk (2 GB, in a temporary folder, deleted at the end); 200,000 users
have 2 million pairs. A process of its own trains an epoch (preset ``paper``, vectors of 64, large batches),
computes all items' vectors, and ranks all of them for 2,000 users. Counted is all that is resident at the
worst moment, mapped pages of the store included, without the users' table. The kernel drops such pages when
others need the memory, so what the process holds for itself is given as well.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, Size, generated_pairs, options, report, set_threads

GOAL_GIB = 4.0
FULL = Size("a million items", 200_000, 1_000_000, 2_000_000)
QUICK = Size("quick", 2_000, 10_000, 20_000)
WIDTH = 1024
_BLOCK = 65_536


def write_shop(folder: Path, size: Size) -> None:
    """Write a feature store and pairs; no more than a block of vectors is in memory."""
    from prismrec.features.store import FeatureStore

    rng = np.random.default_rng(0)
    ids = tuple(f"item-{code}" for code in range(size.items))
    raw = np.lib.format.open_memmap(
        folder / "raw.npy", mode="w+", dtype=np.float16, shape=(size.items, WIDTH)
    )
    centres = rng.standard_normal((100, WIDTH), dtype=np.float32)
    noise = rng.standard_normal((_BLOCK, WIDTH), dtype=np.float32)
    for start in range(0, size.items, _BLOCK):
        block = centres[rng.integers(0, 100, min(_BLOCK, size.items - start))]
        raw[start : start + len(block)] = block + np.roll(noise, start // _BLOCK + 1, axis=1)[: len(block)]
    FeatureStore("content", raw, ids, ("",) * size.items, {"name": "generated"}).write(folder / "content")
    del raw
    (folder / "raw.npy").unlink()
    pairs = generated_pairs(size)
    np.save(folder / "users.npy", pairs.users)
    np.save(folder / "items.npy", pairs.items)
    (folder / "size.json").write_text(json.dumps({"users": size.users, "items": size.items}))


def status(key: str) -> float:
    """Return a figure of this process's memory in GiB, as Linux calls it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 2**20


class Watch:
    """Looks at this process's memory every few milliseconds (Linux)."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self._most: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work; keep its seconds and the most that was resident, in GiB."""
        self._most = {}
        began = time.perf_counter()
        result = work()
        self._note()
        self.stages[name] = {**self._most, "seconds": round(time.perf_counter() - began, 1)}
        return result

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self._note()

    def _note(self) -> None:
        for key, name in (("VmRSS", "resident"), ("RssAnon", "own")):
            self._most[name] = max(self._most.get(name, 0.0), status(key))


def measured(folder: Path, threads: int) -> dict[str, Any]:
    """Train and rank; return the most memory of each stage."""
    watch = Watch()

    def load() -> Any:
        import torch

        from prismrec.data.interactions import Pairs
        from prismrec.features.store import FeatureStore, ItemFeatures
        from prismrec.models.batches import Modality, ModelInputs, TrainingData
        from prismrec.models.mamex import MAMEXConfig

        set_threads(threads)
        size = json.loads((folder / "size.json").read_text())
        store = FeatureStore.read(folder / "content")
        inputs = ModelInputs(size["users"], size["items"], (Modality("content", store.dim),))
        pairs = Pairs(np.load(folder / "users.npy"), np.load(folder / "items.npy"))
        features = ItemFeatures([store], store.ids)
        warm = np.unique(pairs.items)
        preset = MAMEXConfig.presets()["paper"]
        torch.manual_seed(0)
        model = preset.model.model_copy(update={"dim": 64}).build(inputs)
        plan = preset.training.model_copy(update={"epochs": 1, "batch_size": 8192})
        return model, TrainingData(pairs, inputs, features, warm, 0), plan

    model, data, plan = watch.stage("open", load)

    def train() -> None:
        from prismrec.training.loop import fit

        fit(model, data, plan, seed=0)

    watch.stage("train", train)

    def vectors() -> Any:
        from prismrec.recommender.vectors import compute_catalog

        return compute_catalog(model.eval(), data.features, np.arange(data.inputs.n_items)).vectors

    items = watch.stage("vectors of all items", vectors)

    def rank() -> Any:
        from prismrec.base.exact import ItemMatrix
        from prismrec.evaluation.ranking import Rows, rank_positives

        chosen = data.pairs.take(data.pairs.users < 2_000)
        users = model.users.detach().numpy()[:2_000]
        positives = Rows.of(chosen.users, chosen.items, len(users))
        return rank_positives(users, ItemMatrix.of(items), positives)

    ranks = watch.stage("rank for 2,000 users", rank)
    watch.stop()
    # Not getrusage: there a process begins with the most that the one had which started it.
    peak = status("VmHWM")
    table = model.users.numel() * 4 / 2**30
    return {"peak": peak, "users": table, "ranks": len(ranks.ranks), "stages": watch.stages}


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(measured(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folder", type=Path, help="where there are 5 GB; a temporary folder is made there")
    more, sys.argv[1:] = parser.parse_known_args()
    args = options(__doc__)
    size = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory(dir=more.folder) as home:
        write_shop(Path(home), size)
        command = [sys.executable, __file__, "child", home, str(args.threads)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    peak = found["peak"] - found["users"]
    shown = "; ".join(
        f"{name} {stage['resident']:.2f} GiB, own {stage['own']:.2f}, {stage['seconds']} s"
        for name, stage in found["stages"].items()
    )
    name = (
        f"memory of MAMEX with {size.items:,} items x {WIDTH:,}, {size.users:,} users, {size.pairs:,} pairs"
    )
    detail = (
        f"peak resident {peak:.2f} GiB without the users' table ({found['users']:.2f}); by stage: {shown}"
    )
    print(detail)
    report("bench_memory.py", [Row(name, "4 GiB", GOAL_GIB, peak, 1.0, detail, "GiB")], args)


if __name__ == "__main__":
    main()
