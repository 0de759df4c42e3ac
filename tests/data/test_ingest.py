import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.errors import DamagedError, InputError, StorageError
from prismrec.data import ingest as module
from prismrec.data.columns import ColumnMapping
from prismrec.data.dataset import Dataset
from prismrec.data.ingest import IngestOptions, ingest
from prismrec.data.interactions import Interactions
from prismrec.data.readers import Table, open_table
from prismrec.data.splits import ItemColdStart


def picture(shade: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("L", (3, 3), shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Five items, of which one is new and one has a broken picture; a log with every kind of flaw."""
    items = pl.DataFrame(
        {
            "item_id": ["a", "b", "c/🎬", "new", "a", "bare"],
            "title": ["Alpha", "Beta", None, "Nu", "Other", None],
            "year": [1999, 2000, None, 2020, 1999, None],
            "image": [picture(1), b"fake", picture(3), None, picture(5), None],
        }
    )
    log = pl.DataFrame(
        {
            "user": ["u", "u", "u", "v", "v", "w", "w", None, "w"],
            "item": ["a", "b", "a", "a", "c/🎬", "zzz", "bare", "a", "a"],
            "rating": [5.0, 3.0, 5.0, 4.0, 1.0, 5.0, 2.0, 5.0, float("nan")],
            "timestamp": [10.0, 20.0, 10.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
        }
    )
    items.write_parquet(tmp_path / "items.parquet")
    log.write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet", tmp_path / "items.parquet"


def refused(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "refused.jsonl").read_text("utf-8").splitlines()]


def test_what_is_written_and_reported(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shop"
    report = ingest(*files, out, options=IngestOptions(min_rating=3))
    dataset = Dataset.read(out)
    assert dataset.interactions.frame.rows() == [
        ("u", "a", 5.0, 10.0),
        ("u", "b", 3.0, 20.0),
        ("v", "a", 4.0, 5.0),
        ("v", "c/🎬", 1.0, 6.0),
        ("w", "bare", 2.0, 8.0),
    ]
    assert list(dataset.items) == ["a", "b", "c/🎬", "new", "bare"]
    assert dataset.catalog.texts() == ["Alpha", "Beta", None, "Nu", None]
    assert dataset.min_rating == 3
    media = dataset.catalog.media["image"]
    assert {name: media.read(name) for name in media.ids} == {"a": picture(1), "c/🎬": picture(3)}
    cases = {(Path(r["source"]).name, r["row"], r["field"], r["reason"]) for r in refused(out)}
    fake = next(case for case in cases if case[2] == "image")
    assert cases == {
        ("items.parquet", 4, "item_id", "duplicate, with other values"),
        ("items.parquet", 1, "image", fake[3]),
        ("log.parquet", 2, "item_id", "duplicate"),
        ("log.parquet", 5, "item_id", "unknown item"),
        ("log.parquet", 7, "user_id", "missing"),
        ("log.parquet", 8, "rating", "not a finite number"),
    }
    assert report.model_dump(mode="json") == json.loads((out / "report.json").read_text("utf-8"))
    assert report.model_dump(
        include={
            "users",
            "items",
            "interactions",
            "positives",
            "new_items",
            "duplicate_items",
            "unknown_items",
        }
    ) == {
        "users": 3,
        "items": 5,
        "interactions": 5,
        "positives": 3,
        "new_items": 1,
        "duplicate_items": 1,
        "unknown_items": 1,
    }
    assert report.without.model_dump() == {"text": 2, "image": 3, "audio": None, "anything": 1}
    assert (report.users_below_threshold, report.items_below_threshold) == (3, 2)
    # Three positives among 3 users and the 4 items that were met; of the two liked items one has 2, one 1.
    assert report.density == pytest.approx(3 / 12)
    assert report.gini == pytest.approx(1 / 6)
    assert report.unusable == {"image": 1}
    assert report.content_hash == dataset.content_hash
    assert sum(report.refused.values()) == 6


def test_summary_names_what_matters(files: tuple[Path, Path], tmp_path: Path) -> None:
    report = ingest(*files, tmp_path / "shop", options=IngestOptions(min_rating=3))
    text = "\n".join(report.lines())
    for part in (
        "3 users, 5 items, 5 interactions",
        "3 positive pairs (rated 3 or more)",
        "1 items are new",
        "2 without text, 3 without picture, 1 without any content",
        "1 x rating: not a finite number",
        "Text of an item: title",
    ):
        assert part in text
    assert report.times is not None


def test_ingesting_again_replaces(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shop"
    first = ingest(*files, out)
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (out / "splits").mkdir()
    (out / "splits" / "ledger.json").write_text("{}")
    assert ingest(*files, out) == first
    after = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert after.pop("ledger.json") == b"{}"
    assert after == before
    ingest(*files, out, options=IngestOptions(mapping=ColumnMapping(image="")))
    assert Dataset.read(out).catalog.media == {}
    assert not (out / "media" / "image.parquet").exists()


def test_core_filter_is_a_step_of_the_manifest(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shop"
    report = ingest(*files, out, options=IngestOptions(min_rating=3, min_item_interactions=2))
    assert report.core_filter == {"users": 0, "items": 2, "interactions_removed": 3}
    assert (report.users, report.interactions, report.positives) == (2, 2, 2)
    assert report.positive_rule == "rated 3 or more"
    # Content of items that are filtered out is not even looked at.
    assert report.unusable == {"image": 0}
    assert list(Dataset.read(out).items) == ["a", "new"]
    assert json.loads((out / "dataset.json").read_text())["notes"]["core_filter"] == report.core_filter


def test_a_foreign_folder_is_left_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"not a data set and holds other things, e\.g\. 'letter\.txt'"):
        ingest(*files, out)
    assert [p.name for p in out.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match="is a file"):
        ingest(*files, out / "letter.txt")


def test_an_error_leaves_the_old_data_set_and_no_litter(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shop"
    ingest(*files, out)
    before = Dataset.read(out).content_hash

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prismrec.data.media.pq.ParquetWriter.write_table", full)
    for folder in (out, tmp_path / "fresh"):
        with pytest.raises(StorageError, match="the disk is full"):
            ingest(*files, folder, options=IngestOptions(min_rating=3))
    assert Dataset.read(out).content_hash == before
    assert not list(out.glob("*.partial"))
    assert not (tmp_path / "fresh").exists()


def test_leftovers_of_a_killed_ingest_do_not_hinder(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shop"
    (out / ".ingest.partial" / "media").mkdir(parents=True)
    (out / ".ingest.partial" / "items.parquet").write_text("half")
    (out / "interactions.parquet.0a1b.partial").write_text("half")
    ingest(*files, out)
    assert len(Dataset.read(out).items) == 5
    assert not (out / ".ingest.partial").exists()


def test_a_cut_between_the_moves_is_seen(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shop"
    ingest(*files, out)
    pl.read_parquet(files[0]).with_columns(rating=2.0).write_parquet(files[0])
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == out / "items.parquet":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        ingest(*files, out)
    monkeypatch.undo()
    with pytest.raises(DamagedError, match="Run ingest again"):
        Dataset.read(out)
    ingest(*files, out)
    assert Dataset.read(out).interactions.frame["rating"].unique().to_list() == [2.0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(files: tuple[Path, Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(StorageError, match="permission denied"):
        ingest(*files, locked / "shop")


def test_disk_that_refuses(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only"):
        ingest(*files, tmp_path / "shop")


def test_threshold_without_ratings(tmp_path: Path, files: tuple[Path, Path]) -> None:
    (tmp_path / "log.csv").write_text("user,item\nu,a\n")
    with pytest.raises(InputError, match="min_rating is 4, and no column holds ratings"):
        ingest(tmp_path / "log.csv", files[1], tmp_path / "shop", options=IngestOptions(min_rating=4))
    assert not (tmp_path / "shop").exists()


def test_item_column_of_one_file_only(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,bought\n1,007\n1,08\n")
    (tmp_path / "items.csv").write_text("sku,name\n007,Bond\n08,Eight\n")
    options = IngestOptions(mapping=ColumnMapping(item="bought"))
    report = ingest(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "shop", options=options)
    assert report.columns == {"interactions": {"user": "user", "item": "bought"}, "items": {"item": "sku"}}
    assert list(Dataset.read(tmp_path / "shop").items) == ["007", "08"]
    wrong = IngestOptions(mapping=ColumnMapping(item="typo"))
    with pytest.raises(InputError, match=r"Neither .* has a column 'typo'"):
        ingest(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "shop", options=wrong)


def test_look_alike_ids_are_reported(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\nu,a\nu ,a\nu, b\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n b,B\nb,C\n")
    report = ingest(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "shop")
    assert report.look_alike_ids == {"user": ["'u' / 'u '"], "item": ["' b' / 'b'"]}


def test_order_of_the_files_rows_decides_and_nothing_else(tmp_path: Path) -> None:
    """Refused and kept rows together are all rows of the log, each once."""
    rng = np.random.default_rng(0)
    n = 5000
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 50, n).astype(str),
            "item_id": rng.integers(0, 40, n).astype(str),
            "timestamp": rng.choice([1.0, 2.0, float("nan")], n),
        }
    )
    log.write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"item_id": [str(i) for i in range(30)]}).write_parquet(tmp_path / "items.parquet")
    out = tmp_path / "shop"
    report = ingest(tmp_path / "log.parquet", tmp_path / "items.parquet", out)
    rows = [r["row"] for r in refused(out)]
    assert len(set(rows)) == len(rows) == n - report.interactions
    kept = log.with_row_index().filter(~pl.col("index").is_in(rows)).drop("index")
    assert Dataset.read(out).interactions.frame.equals(kept)
    seen: set[tuple[object, ...]] = set()
    for row in log.rows():
        if row[2] == row[2] and int(row[1]) < 30:
            seen.add(row)
    assert set(kept.rows()) == seen
    assert kept.height == len(seen)


@pytest.mark.movielens
@pytest.mark.parametrize("name", ["movielens-small"])
def test_movielens(name: str, tmp_path: Path) -> None:
    root = Path(os.environ.get("PRISMREC_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is not there")
    items = pl.read_parquet(root / name / "items.parquet").drop("image")
    items.write_parquet(tmp_path / "items.parquet")
    options = IngestOptions(min_rating=4)
    report = ingest(
        root / name / "interactions.parquet", tmp_path / "items.parquet", tmp_path / "out", options=options
    )
    assert (report.users, report.items, report.interactions, report.new_items) == (610, 9742, 100_836, 18)
    assert (report.refused, report.text_columns) == ({}, ["title", "genres", "description"])
    assert report.times is not None
    assert str(report.times.first_date).startswith("1996")
    assert Dataset.read(tmp_path / "out").catalog.items.schema["year"] == pl.Int32


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_log_is_never_in_memory_whole(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be larger than memory: from the file to the parts of a split it is read piece by piece."""
    rows = np.random.default_rng(0).integers(0, 20, (600, 2))
    log = pl.DataFrame(
        {
            "user": [f"u{user}" for user in rows[:, 0]],
            "item": [f"i{item}" for item in rows[:, 1]],
            "rating": (rows.sum(1) % 5).astype(float),
            "timestamp": np.arange(600) // 2,
        }
    )
    path, items = tmp_path / f"log{suffix}", tmp_path / "items.csv"
    {".parquet": log.write_parquet, ".csv": log.write_csv, ".jsonl": log.write_ndjson}[suffix](path)
    pl.DataFrame({"item": [f"i{item}" for item in range(19)], "title": "thing"}).write_csv(items)
    options = IngestOptions(min_rating=2, min_user_interactions=8)

    def must_not(self: Interactions) -> pl.DataFrame:
        raise AssertionError("the whole log was read")

    sizes = []

    def batches(table: Table, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        for start in range(0, 600, 100):
            sizes.append(rows)
            yield whole[start : start + 100].select(columns)

    whole = open_table(path).read()
    monkeypatch.setattr(Interactions, "frame", property(must_not))
    monkeypatch.setattr(type(open_table(path)), "batches", batches)
    monkeypatch.setattr("prismrec.data.interactions.BATCH", 50)
    report = ingest(path, items, tmp_path / "shop", options=options)
    split = Dataset.read(tmp_path / "shop").split(ItemColdStart(valid=0.2, test=0.2))
    assert len(sizes) == 6
    assert report.unknown_items == 1
    assert report.interactions == len(split.dataset.interactions) < 600
    assert report.positives == len(split.pairs) > 100
