import json
from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError, StorageError
from prismrec.recommender.write_lists import write_lists

FRAME = pl.DataFrame(
    {
        "user_id": ["a,b", None],
        "rank": [1, 1],
        "weights": [{"image": 0.25, "text": None}, {"image": None, "text": 1.0}],
        "because": [["ü", "y"], []],
    }
)


def test_parquet_and_json_lines_keep_structure(tmp_path: Path) -> None:
    write_lists(FRAME, tmp_path / "r.parquet")
    assert pl.read_parquet(tmp_path / "r.parquet").equals(FRAME)
    write_lists(FRAME, tmp_path / "r.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == FRAME.to_dicts()


def test_csv_holds_structure_as_json(tmp_path: Path) -> None:
    write_lists(FRAME, tmp_path / "r.CSV")
    read = pl.read_csv(tmp_path / "r.CSV")
    assert read["user_id"].to_list() == ["a,b", None]
    assert [json.loads(cell) for cell in read["because"]] == [["ü", "y"], []]
    assert [json.loads(cell) for cell in read["weights"]] == FRAME["weights"].to_list()


def test_another_extension_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown kind"):
        write_lists(FRAME, tmp_path / "r.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_lists(FRAME, tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_how_the_rows_came_together_does_not_show_in_the_file(tmp_path: Path) -> None:
    rows = pl.DataFrame({"rank": range(600_000)})
    parts = pl.concat([rows[start : start + 81_920] for start in range(0, rows.height, 81_920)])
    assert parts.n_chunks() > 1
    write_lists(rows, tmp_path / "whole.parquet")
    write_lists(parts, tmp_path / "parts.parquet")
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "parts.parquet").read_bytes()
