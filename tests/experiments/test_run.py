import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prismrec.base.errors import InputError, StorageError
from prismrec.data.dataset import Dataset
from prismrec.experiments.expand import make_plan
from prismrec.experiments.pool import Pool, Task
from prismrec.experiments.recipe import parse_bench
from prismrec.experiments.results import path_of, read_note, read_users
from prismrec.experiments.run import run_bench, threads_for
from prismrec.experiments.state import MARK, Bench

MODELS = ({"name": "random"}, {"name": "content-profile"})


class Said:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str, total: int | None) -> Any:
        from prismrec.base.progress import SILENT

        return SILENT.task(name, total)

    def say(self, text: str) -> None:
        self.lines.append(text)


def figures(bench: Bench) -> dict[str, pl.DataFrame]:
    return {n.key: read_users(bench.out, n.key) for s in bench.states for n in s.notes.values()}


def same(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame]) -> bool:
    return a.keys() == b.keys() and all(a[key].equals(b[key]) for key in a)


def test_one_and_two_processes_find_the_same_and_what_is_there_is_not_made_again(
    plan, tmp_path: Path
) -> None:
    models = (
        *MODELS,
        {"name": "mamex", "preset": "paper", "set": {"dim": 4}, "training": {"epochs": 1, "batch_size": 512}},
    )
    first, second = (Bench.open(plan(*models), tmp_path / name) for name in ("one", "two"))
    run_bench(first, jobs=1, threads=1)
    run_bench(second, jobs=2, threads=1)
    assert len(figures(first)) == 6
    assert same(figures(first), figures(second))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one" / "results").iterdir()}
    again, said = Bench.open(plan(*models), tmp_path / "one"), Said()
    assert again.cost(1, 1).cached == 6
    run_bench(again, jobs=1, threads=1, progress=said)
    assert said.lines == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one" / "results").iterdir()} == before
    view = pl.read_parquet(tmp_path / "one" / "runs.parquet")
    assert view["status"].unique().to_list() == ["done"]
    assert view.group_by("label", "seed").len().height == 6


RECIPE = """
[bench]
name = "killed"
seeds = 3
ks = [5, 10]
[[data]]
name = "shop"
split = {valid = 0.15, test = 0.15}
[[model]]
name = "random"
[[model]]
name = "content-profile"
"""


@pytest.fixture(scope="module")
def whole(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """Return what the recipe comes to when nothing ends it."""
    assert shop.path is not None
    recipe = parse_bench(tomllib.loads(RECIPE), "recipe")
    bench = Bench.open(make_plan(recipe, {"shop": shop.path}), tmp_path_factory.mktemp("whole"))
    run_bench(bench, threads=1)
    return figures(bench)


def start(shop: Dataset, home: Path) -> "subprocess.Popen[str]":
    (home / "recipe.toml").write_text(RECIPE)
    words = [
        "bench",
        "recipe.toml",
        "--data",
        f"shop={shop.path}",
        "--out",
        "out",
        "--threads",
        "1",
        "--json",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "prismrec", *words],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Any, process: "subprocess.Popen[str]") -> None:
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc to see the workers end")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_bench_that_is_ended_between_runs_goes_on_to_the_same(
    shop: Dataset, whole: dict[str, pl.DataFrame], tmp_path: Path, plan, how: signal.Signals
) -> None:
    process = start(shop, tmp_path)
    results = tmp_path / "out" / "results"
    wait_for(lambda: results.exists() and len(list(results.glob("*.parquet"))) >= 2, process)
    workers = children(process.pid)
    assert len(workers) == 1
    os.kill(process.pid, how)
    out, _ = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert json.loads(out)["error"]["kind"] == "Interrupted"
    deadline = time.monotonic() + 20
    while alive(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(workers[0])
    kept = {path.name for path in results.glob("*.parquet")}
    assert 2 <= len(kept) < 6

    went_on = start(shop, tmp_path)
    out, errors = went_on.communicate()
    assert went_on.returncode == 0, errors
    document = json.loads(out)
    assert document["cost"]["cached"] == len(kept)

    reopened = Bench.open(plan(*MODELS, bench={"name": "killed", "seeds": 3}), tmp_path / "out")
    assert len(figures(reopened)) == 6
    assert same(figures(reopened), whole)


def test_a_run_that_fails_is_written_down_and_the_others_go_on(plan, tmp_path: Path) -> None:
    torn = {"name": "content-profile", "label": "torn", "modalities": ["text"]}
    made = plan({"name": "random"}, torn, bench={"seeds": 1})
    # The features go between planning and running, for one of the rows only.
    broken = made.rows[1].model.model_copy(update={"modalities": ("gone",)})
    rows = (made.rows[0], type(made.rows[1])(**{**vars(made.rows[1]), "model": broken}))
    bench, said = Bench.open(type(made)(made.bench, rows), tmp_path / "out"), Said()
    run_bench(bench, threads=1, progress=said)
    assert list(bench.states[0].notes) == [0]
    (failure,) = bench.failures()
    assert (failure["row"], failure["seed"]) == ("torn", 0)
    assert "gone" in failure["problem"]
    key = bench.states[1].runs[0].key
    written = json.loads((tmp_path / "out" / "results" / f"{key}.failed.json").read_text())
    assert "Traceback" in written["trace"]
    assert any(line.startswith("failed: torn") for line in said.lines)
    view = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert view.filter(pl.col("status") == "failed")["error"].to_list() == [failure["problem"]]
    # It is tried again.
    again = Bench.open(type(made)(made.bench, rows), tmp_path / "out")
    assert again.cost(1, 1).failed_before == 1
    assert again.cost(1, 1).runs - again.cost(1, 1).cached == 1


def openings(shop: Dataset) -> int:
    assert shop.path is not None
    ledgers = (shop.path / "splits").glob("*.json")
    return sum(len(json.loads(path.read_text())["openings"]) for path in ledgers)


def test_settings_are_searched_on_the_first_seed_and_used_for_all(
    plan, shop: Dataset, tmp_path: Path
) -> None:
    before = openings(shop)
    model = {
        "name": "mamex",
        "preset": "paper",
        "set": {"dim": 4},
        "training": {"epochs": 1, "batch_size": 512},
        "search": {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
    }
    made = plan(model, {"name": "random"}, bench={"budget": 3})
    bench, said = Bench.open(made, tmp_path / "out"), Said()
    assert bench.cost(1, 1).trials == 3
    run_bench(bench, threads=1, progress=said)
    searched, plain = bench.states
    trials = searched.found.counted(3)
    best = max(trials, key=lambda trial: trial.value)
    rate = best.settings.get("training.learning_rate", 0.001)
    assert [spec.training["learning_rate"] for spec in searched.runs.values()] == [rate, rate]
    # The figure of the search is that of the run: the same training, the same part.
    valid = next(p for p in searched.notes[0].parts if p.part == "valid")
    assert valid.metrics["ndcg@10"].mean == pytest.approx(best.value, abs=1e-6)
    assert plain.search is None
    # A search opens no test part: each run of the two rows and two seeds opened its own once.
    assert openings(shop) == before + 4
    assert Bench.open(made, tmp_path / "out").cost(1, 1).trials == 0


def test_two_rows_that_come_to_one_run_share_it(plan, tmp_path: Path) -> None:
    models = ({"name": "random"}, {"name": "random", "label": "again"})
    bench, said = Bench.open(plan(*models, bench={"seeds": 1}), tmp_path / "out"), Said()
    run_bench(bench, threads=1, progress=said)
    assert len(said.lines) == 1
    assert len(list((tmp_path / "out" / "results").iterdir())) == 1
    assert bench.states[0].notes == bench.states[1].notes


def test_a_broken_result_is_made_again(plan, tmp_path: Path) -> None:
    made = plan({"name": "random"}, bench={"seeds": 1})
    bench = Bench.open(made, tmp_path / "out")
    run_bench(bench, threads=1)
    key = bench.states[0].runs[0].key
    good = read_users(bench.out, key)
    path_of(bench.out, key).write_bytes(path_of(bench.out, key).read_bytes()[:200])
    assert read_note(bench.out, key) is None
    again = Bench.open(made, tmp_path / "out")
    run_bench(again, threads=1)
    assert read_users(again.out, key).equals(good)


def test_a_process_that_dies_takes_one_run_with_it(plan, tmp_path: Path) -> None:
    tasks = [Task({"do": "run", "spec": None}, "bad"), Task({"do": "run"}, "worse")]
    answers = [(task.about, answer["event"]) for task, answer in Pool(1, 1, tmp_path).work(tasks)]
    assert answers == [("bad", "failed"), ("worse", "failed")]


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    pool = Pool(1, 1, tmp_path / "logs")
    tasks = [Task({"do": "run", "spec": None}, n) for n in range(3)]
    seen = []
    for task, answer in pool.work(tasks):
        seen.append((task.about, answer["kind"]))
        if task.about == 0:
            pool._workers[0].process.kill()
    assert [about for about, _ in seen] == [0, 1, 2]
    assert seen[1][1] == "WorkerDied"
    assert seen[2][1] != "WorkerDied"


def test_a_full_disk_ends_the_bench(plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Pool, tasks: list[Task]) -> Any:
        yield tasks[0], {"event": "failed", "kind": "StorageError", "problem": "full", "seconds": 0.0}

    monkeypatch.setattr(Pool, "work", full)
    with pytest.raises(StorageError, match="full"):
        run_bench(Bench.open(plan(), tmp_path / "out"), threads=1)


def test_a_folder_of_something_else_is_left_alone(plan, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="not empty"):
        Bench.open(plan(), tmp_path)
    (tmp_path / MARK).write_text("[]")
    with pytest.raises(InputError, match="not of a bench"):
        Bench.open(plan(), tmp_path)


def test_only_one_process_works_in_a_folder(plan, tmp_path: Path) -> None:
    import fcntl

    bench = Bench.open(plan(), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            run_bench(bench, threads=1)


def test_threads_share_the_cores() -> None:
    assert threads_for(1) >= threads_for(2) >= 1
    assert threads_for(10_000) == 1
