import shutil
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture
def run(shop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.run, tmp_path / "run"))


def test_new_items_are_recommendable_at_once_and_twice_adds_nothing(call, shop, run: Path) -> None:
    drawn = shop.drawn
    new = set(pl.read_parquet(drawn.arriving)["item_id"])
    words = ("add-items", run, drawn.arriving, "--images", drawn.images, "--audio", drawn.audio)
    first = call(*words, "--json")
    assert first.code == 0, first.stderr
    assert set(first.document["added"]) == new
    assert first.document["items"] == 200

    again = call(*words, "--json").document
    assert (again["added"], again["updated"]) == ([], [])
    assert set(again["unchanged"]) == new
    assert "6 unchanged" in call(*words).stdout

    where = ("--where", f"released>={drawn.arrival}", "-k", 20, "--json")
    (found,) = call("recommend", run, "--user", drawn.customer, *where).document["users"]
    without = set(first.document["without_content"])
    assert {row["item_id"] for row in found["items"]} == new - without
    assert all(row["new"] for row in found["items"])


def test_rows_that_cannot_be_used_are_listed(call, run: Path, tmp_path: Path) -> None:
    rows = pl.DataFrame({"item_id": ["x1", None, "x1"], "title": ["A wooden chair", "B", "C"]})
    rows.write_parquet(tmp_path / "new.parquet")
    done = call("add-items", run, tmp_path / "new.parquet", "--json")
    assert done.code == 0, done.stderr
    assert done.document["added"] == ["x1"]
    assert [(r["row"], r["field"]) for r in done.document["refused"]] == [(1, "item_id"), (2, "item_id")]


def test_a_file_that_is_no_table(call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.parquet").write_bytes(b"PAR1 and no more")
    assert call("add-items", run, tmp_path / "new.parquet").code == 3
