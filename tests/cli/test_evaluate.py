import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(shop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.run, tmp_path / "run"))


def test_metrics_are_written_and_printed(call, run: Path) -> None:
    done = call("evaluate", run, "-k", "3,5", "--no-report", "--json")
    assert done.code == 0, done.stderr
    metrics = done.document["metrics"]
    assert set(metrics) == {"test", "valid"}
    assert set(metrics["test"]) == {"strict", "as_released", "all_items"}
    value = metrics["test"]["strict"]["ndcg@3"]
    assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert not (run / "report.html").exists()
    assert "report.html" not in done.document["files"]

    shown = call("evaluate", run, "-k", "3", "--part", "valid", "--candidates", "strict", "--no-report")
    assert "valid" in shown.stdout
    assert "all_items" not in shown.stdout
    assert (
        f"{json.loads((run / 'metrics.json').read_text())['valid']['strict']['ndcg@3']['mean']:.4f}"
        in shown.stdout
    )


def test_a_device_that_is_not_there(call, run: Path) -> None:
    done = call("evaluate", run, "--part", "valid", "--device", "tpu", "--json")
    assert done.code == 3
    assert "no device 'tpu'" in done.document["error"]["problem"]
    shown = call("evaluate", run, "--part", "valid", "-k", "3", "--device", "cpu", "--no-report", "--json")
    assert shown.code == 0, shown.stderr


def test_the_report_is_a_page(call, run: Path) -> None:
    done = call("evaluate", run, "-k", "3", "--part", "valid", "--examples", 1, "--json")
    assert done.code == 0, done.stderr
    page = Path(done.document["files"]["report.html"]).read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")


def test_k_beyond_the_candidates(call, run: Path) -> None:
    done = call("evaluate", run, "-k", "10000", "--json")
    assert done.code == 3
    assert "10000" in done.document["error"]["problem"]
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize("k", ["ten", "0", "3,,5", ""])
def test_k_that_is_no_length_is_a_usage_error(call, run: Path, k: str) -> None:
    assert call("evaluate", run, "-k", k).code == 2


@pytest.mark.parametrize("words", [("--part", "tset"), ("--candidates", "strickt")])
def test_parts_and_candidates_that_do_not_exist(call, run: Path, words: tuple[str, str]) -> None:
    done = call("evaluate", run, "-k", 3, *words, "--json")
    assert done.code == 3
    assert words[1] in done.document["error"]["problem"]


def test_no_run(call, tmp_path: Path) -> None:
    done = call("evaluate", tmp_path / "none")
    assert done.code == 3
    assert "prismrec train" in done.stderr


def test_a_damaged_run_is_5(call, run: Path) -> None:
    (run / "vectors.safetensors").write_bytes(b"x")
    assert call("evaluate", run).code == 5
