import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from prismrec.cli import robustness
from prismrec.cli.verbs import Verbs


@pytest.fixture(scope="module")
def damage():
    """Call the verb, in an application of its own."""
    app = typer.Typer(cls=Verbs)
    app.callback()(lambda: None)
    robustness.add_to(app)

    def run(*words):
        done = CliRunner().invoke(app, ["robustness", *map(str, words)], prog_name="prismrec")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def run(shop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.run, tmp_path / "run"))


def test_files_are_written_and_named(damage, run, tmp_path) -> None:
    out = tmp_path / "out"
    words = (run, "--protocol", "swap", "--protocol", "degree", "--repeats", 1, "--metric", "ndcg@5")
    done = damage(*words, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["files"]) == {"robustness.json", "robustness.md", "robustness.html"}
    assert json.loads((out / "robustness.json").read_text()) == document["result"]
    assert [chart["protocol"] for chart in document["result"]["charts"]] == ["swap", "degree"]
    assert (out / "robustness.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert not (run / "robustness.json").exists()

    shown = damage(*words, "--quiet")
    assert shown.exit_code == 0, shown.stderr
    assert (run / "robustness.md").exists()
    points = document["result"]["charts"][0]["curves"][0]["points"]
    for text in ("Swapped content", "(control)", "50 %", f"{points[-1]['value']['mean']:.4f}"):
        assert text in shown.stdout


def test_why_there_is_no_curve(damage, run) -> None:
    done = damage(run, "--protocol", "flatness", "--metric", "ndcg@5", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert "not trained by gradient steps" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--protocol", "nois"), "nois"),
        (("--protocol", "splits"), "--retrain"),
        (("--part", "tset"), "tset"),
        (("--metric", "ndcg@9999"), "9999"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_bad_input_is_3(damage, run, words, told) -> None:
    done = damage(run, *words, "--json")
    assert done.exit_code == 3
    error = json.loads(done.stdout)["error"]
    assert told in f"{error['problem']} {error['hint']}"
    assert not (run / "robustness.json").exists()


def test_no_run(damage, tmp_path) -> None:
    assert damage(tmp_path / "none").exit_code == 3
    assert damage(tmp_path, "--repeats", 0).exit_code == 2
