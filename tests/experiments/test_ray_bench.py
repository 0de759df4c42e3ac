import os
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from prismrec.base.errors import InputError
from prismrec.base.ray_session import ray_cluster
from prismrec.experiments import ray_bench
from prismrec.experiments.pool import Task
from prismrec.experiments.ray_bench import RayPool
from prismrec.experiments.results import read_users
from prismrec.experiments.run import run_bench
from prismrec.experiments.state import MARK, Bench

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

MODELS = (
    {"name": "random"},
    {
        "name": "bpr-mf",
        "set": {"dim": 4},
        "training": {"epochs": 1, "batch_size": 512},
        "search": {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
    },
)
SIZE = {"name": "ray", "budget": 2, "seeds": 1}


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name, total):
        from prismrec.base.progress import SILENT

        return SILENT.task(name, total)

    def say(self, text: str) -> None:
        self.lines.append(text)


class Dying(ray_bench._Tools):
    """Is killed in the midst of the first task that it is given, and of no later one."""

    def do(self, message):
        mark = Path(message["out"]).parent / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(message)


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(workers=2) as connected:
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield connected


def figures(bench: Bench):
    return {n.key: read_users(bench.out, n.key) for s in bench.states for n in s.notes.values()}


def test_results_are_those_of_processes_also_when_a_worker_is_killed(
    plan, cluster, tmp_path: Path, monkeypatch
) -> None:
    here, there = (Bench.open(plan(*MODELS, bench=SIZE), tmp_path / name) for name in ("here", "there"))
    run_bench(here, jobs=1, threads=1)
    monkeypatch.setattr(ray_bench, "_Tools", Dying)
    # One worker: it starts sooner than two.
    pool = RayPool.of(replace(cluster, workers=1), 1, "auto")
    run_bench(there, jobs=1, threads=1, workers=pool)
    assert (tmp_path / "died").exists()
    assert there.failures() == []
    ours, theirs = figures(here), figures(there)
    assert len(ours) == 2
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equals(theirs[key]) for key in ours)
    assert [s.found for s in there.states if s.search] != [None]

    again, said = Bench.open(plan(*MODELS, bench=SIZE), tmp_path / "there"), Said()
    assert again.cost(1, 1).cached == 2
    run_bench(again, threads=1, progress=said, workers=pool)
    assert said.lines == []


def test_a_machine_that_does_not_see_the_bench_is_an_error(cluster, tmp_path: Path) -> None:
    pool = RayPool.of(replace(cluster, workers=1), 1, "cpu")
    with pytest.raises(InputError, match=MARK):
        list(pool.work([Task({"do": "run", "out": str(tmp_path / "elsewhere")}, None)]))


def test_how_many_fit(cluster) -> None:
    free = replace(cluster, cpus=8, smallest=4, workers=None, gpus=0)
    assert (RayPool.of(free, None, "auto").jobs, RayPool.of(free, None, "auto").threads) == (8, 1)
    assert RayPool.of(free, 4, "cpu").jobs == 2
    assert RayPool.of(replace(free, workers=1), None, "cpu").threads == 4
    on_gpus = RayPool.of(replace(free, gpus=2), None, "auto")
    assert (on_gpus.jobs, on_gpus.device, on_gpus.threads) == (2, "cuda", 4)
