"""Kill -9 at random moments: in extraction, in training, while items are added.

Half of the kills come from outside after a random time; half strike before a random change of the file
system, because that is where harm would be done and time alone seldom hits it. PRISMREC_KILLS sets how many
of each kind strike each job.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.store import FeatureStore
from prismrec.features.text import TfidfSvdEncoder
from prismrec.recommender.recommender import Recommender

KILLS = int(os.environ.get("PRISMREC_KILLS", "4"))
KILLED = -signal.SIGKILL
BATCH_SIZE = 8


class Worker:
    """The process of `killable.py`."""

    def __init__(self, data: Path) -> None:
        self.data = data
        # The default threading layer of Numba does not stand a fork.
        environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def run(
        self, job: str, home: Path, *, after: float | None = None, die_at: int | None = None
    ) -> dict[str, float]:
        """Do a job to its end, or kill it after some seconds or before some change of the file system."""
        order = {"job": job, "home": str(home), "data": str(self.data), "after": after, "die_at": die_at}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert answer["status"] in (0, KILLED)
        assert answer["status"] == 0 or after is not None or die_at is not None
        return answer

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        assert line, "the worker is gone"
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def worker(shop) -> Iterator[Worker]:
    worker = Worker(shop.path)
    yield worker
    worker.close()


def harass(
    worker: Worker,
    job: str,
    fresh: Callable[[], Path],
    check_state: Callable[[Path], None],
    check_end: Callable[[Path], None],
) -> int:
    """Kill a job again and again; return how often it was really killed."""
    random = np.random.default_rng(20)
    calm = fresh()
    undisturbed = worker.run(job, calm)
    check_end(calm)
    killed = 0
    for kind in ("time", "change"):
        for _ in range((KILLS + 1) // 2):
            home = fresh()
            for _ in range(2):
                if kind == "time":
                    answer = worker.run(job, home, after=random.uniform(0, undisturbed["seconds"]))
                else:
                    answer = worker.run(job, home, die_at=int(random.integers(1, undisturbed["changes"] + 1)))
                killed += answer["status"] == KILLED
                check_state(home)
            worker.run(job, home)
            check_end(home)
            shutil.rmtree(home)
    return killed


def numbered(start: Path | None, place: Path) -> Callable[[], Path]:
    """Return a function that makes a new copy of a start state, or a new place for nothing."""
    numbers = iter(range(1_000_000))

    def fresh() -> Path:
        home = place / f"home-{next(numbers)}"
        if start is not None:
            shutil.copytree(start, home)
        return home

    return fresh


def test_extraction(worker, shop, tmp_path, record_property):
    # An older store of texts stands there: it must stay whole until the new one is.
    start = tmp_path / "start"
    half = Catalog(shop.catalog.items[:100], shop.catalog.text_columns)
    old = extract(Contents.of(half, "text"), TfidfSvdEncoder(16), start / "text", name="text")
    fresh = numbered(start, tmp_path)
    calm = fresh()
    worker.run("extract", calm)
    new = {kind: FeatureStore.read(calm / kind) for kind in ("text", "image")}
    assert len(new["text"].ids) > 150
    assert len(new["image"].ids) > 150

    def check_state(home: Path) -> None:
        assert FeatureStore.read(home / "text").content_hash in (old.content_hash, new["text"].content_hash)
        try:
            images = FeatureStore.read(home / "image")
        except InputError:
            return
        assert images.content_hash == new["image"].content_hash

    def check_end(home: Path) -> None:
        for kind, expected in new.items():
            found = FeatureStore.read(home / kind)
            assert found.vectors.tobytes() == expected.vectors.tobytes()
            assert (found.ids, found.digests, found.problems) == (
                expected.ids, expected.digests, expected.problems
            )  # fmt: skip
            assert found.encoder == expected.encoder
            assert not list((home / kind).glob("parts-*"))

    killed = harass(worker, "extract", fresh, check_state, check_end)
    record_property("killed", killed)
    assert killed > 0


def test_training(worker, run, tmp_path, record_property):
    # An older run stands there: it stays until the new one takes its place.
    old = Recommender.load(run).recommend(k=5)
    fresh = numbered(run, tmp_path)
    calm = fresh()
    worker.run("train", calm)
    expected = Recommender.load(calm).recommend(k=5)
    assert not expected.equals(old)

    def check_state(home: Path) -> None:
        try:
            found = Recommender.load(home).recommend(k=5)
        except InputError:
            # Between the two: the checkpoint holds all that was trained.
            assert (home / "checkpoint.safetensors").exists()
            return
        assert found.equals(old) or found.equals(expected)

    def check_end(home: Path) -> None:
        for name in ("model.safetensors", "vectors.safetensors"):
            assert (home / name).read_bytes() == (calm / name).read_bytes()
        assert Recommender.load(home).recommend(k=5).equals(expected)
        assert not (home / "checkpoint.safetensors").exists()

    killed = harass(worker, "train", fresh, check_state, check_end)
    record_property("killed", killed)
    assert killed > 0


def test_adding_items(worker, run, tmp_path, record_property):
    fresh = numbered(run, tmp_path)
    calm = fresh()
    worker.run("add", calm)
    reference = Recommender.load(calm)
    assert len(reference.catalog) == 200 + 1 + 6 * (BATCH_SIZE - 1)
    expected = reference.recommend(k=200)
    rows = reference.item_ids.ids

    def check_state(home: Path) -> None:
        found = Recommender.load(home)
        n = len(found.catalog)
        assert n == 200 or (n - 201) % (BATCH_SIZE - 1) == 0  # whole batches
        assert found.item_ids.ids == rows[:n]
        known = [i for i in range(n) if rows[i] != "again/0"]  # which changes from batch to batch
        assert found.items.vectors[known].tobytes() == reference.items.vectors[known].tobytes()
        assert found.recommend(["stranger"], k=3, where=["item_id~/"] if n > 200 else []).height == 3

    def check_end(home: Path) -> None:
        found = Recommender.load(home)
        assert found.item_ids.ids == rows
        assert found.items.vectors.tobytes() == reference.items.vectors.tobytes()
        assert found.recommend(k=200).equals(expected)
        assert found.catalog.items.equals(reference.catalog.items)
        pictures = found.catalog.media["image"]
        for name in found.catalog.items.filter(pl.col("item_id").str.contains("/"))["item_id"]:
            assert pictures.read(name) == reference.catalog.media["image"].read(name)

    killed = harass(worker, "add", fresh, check_state, check_end)
    record_property("killed", killed)
    assert killed > 0
