import json
from pathlib import Path

import pytest

RECIPE = """
[bench]
name = "two"
seeds = 2
ks = [5, 10]
baseline = "random"
[[data]]
name = "shop"
split = {valid = 0.15, test = 0.15}
[[model]]
name = "random"
[[model]]
name = "content-profile"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_a_bench_from_recipe_to_tables(call, shop, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("bench", recipe, "--data", f"shop={shop.data}", "--out", out, "--threads", 1)
    dry = call(*words, "--dry-run")
    assert dry.code == 0
    assert "4 runs: 0 are there, 4 to do." in dry.stdout
    assert "unknown for 2 rows" in dry.stdout
    assert not (out / "results").exists()

    done = call(*words, "--json", "--against", "mamex-table1")
    assert done.code == 0, done.stderr
    document = done.document
    assert document["failures"] == []
    assert len(list((out / "results").glob("*.parquet"))) == 4
    (table,) = document["tables"]
    rows = {row["label"]: row for row in table["rows"]}
    assert rows["content-profile"]["best"]
    assert (
        rows["content-profile"]["figures"]["ndcg@10"]["mean"] > rows["random"]["figures"]["ndcg@10"]["mean"]
    )
    assert rows["random"]["versus_best"]["verdict"] == "worse"
    assert document["against"]["notes"]
    for path in document["files"].values():
        assert Path(path).exists()

    again = call(*words)
    assert again.code == 0
    assert "4 runs: 4 are there, 0 to do." in again.stderr
    assert "content-profile" in again.stdout
    assert "Worse than it: random." in again.stdout
    assert "tables.md" in again.stdout


def test_a_smaller_bench_of_the_same_recipe(call, shop, recipe: Path, tmp_path: Path) -> None:
    words = ("bench", recipe, "--data", f"shop={shop.data}", "--out", tmp_path / "out", "--dry-run")
    done = call(*words, "--seeds", 1, "--max-per-user", 3, "--json")
    assert done.code == 0, done.stderr
    assert done.document["cost"]["runs"] == 2
    # Not one of them stands for a run of the whole recipe.
    assert call(*words, "--seeds", 0).code == 2


def test_failed_runs_give_exit_code_1_and_are_named(
    call, shop, recipe: Path, tmp_path: Path, monkeypatch
) -> None:
    from prismrec.experiments.pool import Pool

    def broken(self, tasks):
        while tasks:
            yield (
                tasks.pop(0),
                {"event": "failed", "kind": "WorkerDied", "problem": "It died.", "seconds": 0.0},
            )

    monkeypatch.setattr(Pool, "work", broken)
    done = call("bench", recipe, "--data", f"shop={shop.data}", "--out", tmp_path / "out", "--json")
    assert done.code == 1
    document = json.loads(done.stdout)
    assert len(document["failures"]) == 4
    assert document["failures"][0]["problem"] == "It died."
    assert document["tables"] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--data", "shop"), 2, "NAME=FOLDER"),
        (("--data", "shoop=x"), 3, "'shop'"),
        ((), 3, "--data shop=FOLDER"),
        (("--data", "shop=nowhere"), 3, "nowhere"),
        (("--against", "table9"), 3, "mamex-table1"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_what_is_wrong_is_said(call, recipe: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = call("bench", recipe, *words)
    assert done.code == code
    assert said in done.stderr


def test_an_unknown_key_names_the_nearest(call, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.replace("baseline =", "basline ="))
    done = call("bench", tmp_path / "r.toml", "--json")
    assert done.code == 3
    assert "'baseline'" in done.document["error"]["hint"]
