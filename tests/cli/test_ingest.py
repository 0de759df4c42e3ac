from pathlib import Path

import polars as pl
import pytest


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    log = pl.DataFrame(
        {
            "customer": ["a", "a", "b", "b", "c"],
            "movie": ["1", "2", "1", "9", "2"],
            "stars": [5, 2, 4, 5, 1],
        }
    )
    items = pl.DataFrame({"movie": ["1", "2", "3"], "title": ["One", "Two", "Three"], "year": [1, 2, 3]})
    log.write_csv(tmp_path / "log.csv")
    items.write_csv(tmp_path / "items.csv")
    return tmp_path / "log.csv", tmp_path / "items.csv"


def test_columns_ratings_and_refusals_are_reported(call, files: tuple[Path, Path], tmp_path: Path) -> None:
    log, items = files
    words = ("ingest", "--interactions", log, "--items", items, "--out", tmp_path / "shop")
    words += ("--column", "user=customer", "--column", "item=movie", "--column", "rating=stars")
    done = call(*words, "--min-rating", "4", "--text", "title, year", "--json")
    assert done.code == 0, done.stderr
    report = done.document
    assert (report["users"], report["items"], report["interactions"], report["positives"]) == (3, 3, 4, 2)
    assert report["unknown_item_interactions"] == 1
    assert report["text_columns"] == ["title", "year"]
    assert report["columns"]["interactions"]["user"] == "customer"

    shown = call(*words)
    assert shown.code == 0
    assert "3 users, 3 items, 4 interactions" in shown.stdout


def test_missing_column_names_the_file_and_what_to_say(
    call, files: tuple[Path, Path], tmp_path: Path
) -> None:
    log, items = files
    done = call("ingest", "--interactions", log, "--items", items, "--out", tmp_path / "shop", "--json")
    error = done.document["error"]
    assert done.code == error["exit_code"] == 3
    assert "--column" in error["hint"]
    assert not (tmp_path / "shop").exists()


def test_a_negative_threshold_is_a_usage_error(call, files: tuple[Path, Path], tmp_path: Path) -> None:
    log, items = files
    done = call(
        "ingest",
        "--interactions",
        log,
        "--items",
        items,
        "--out",
        tmp_path / "s",
        "--min-user-interactions",
        -1,
    )
    assert done.code == 2


def test_what_is_missing_is_said(call) -> None:
    done = call("ingest")
    assert done.code == 2
    assert "--interactions" in done.stderr
