from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.base.progress import Silent
from prismrec.data.columns import ColumnMapping
from prismrec.data.read_log import LoadedLog, load_log
from prismrec.data.readers import open_table
from prismrec.data.report import Refusals

Refused = list[tuple[object, ...]]


def load(
    tmp_path: Path,
    frame: pl.DataFrame | str,
    known: Sequence[str] = ("a", "b"),
    rows: int = 1000,
    **given: str,
) -> tuple[LoadedLog, Refused]:
    if isinstance(frame, str):
        path = tmp_path / "log.csv"
        path.write_text(frame)
    else:
        path = tmp_path / "log.parquet"
        frame.write_parquet(path)
    refusals = Refusals()
    # The rows of a log are read when they are asked for, and must not be those of a later one.
    folder = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}"
    columns = ColumnMapping(**given)
    loaded = load_log(open_table(path), columns, pl.Series(known), refusals, folder, rows=rows)
    listed = refusals.frame()
    assert set(listed["source"]) <= {str(path)}
    return loaded, listed.select("row", "user_id", "item_id", "field", "reason", "value").rows()


def test_types_and_order_of_rows(tmp_path: Path) -> None:
    loaded, refused = load(tmp_path, "userId,movieId,stars,ts,note\n02,b,4,2020-01-01,x\n01,a,3.5,86400,y\n")
    assert loaded.interactions.frame.equals(
        pl.DataFrame(
            {
                "user_id": ["02", "01"],
                "item_id": ["b", "a"],
                "rating": [4.0, 3.5],
                "timestamp": [1577836800.0, 86400.0],
            }
        )
    )
    assert (refused, loaded.left_out, loaded.rows_read) == ([], ["note"], 2)


def test_each_row_is_refused_for_its_first_reason(tmp_path: Path) -> None:
    text = """user_id,item_id,rating,weight,timestamp,position
u,a,1,1,1,1
,a,1,1,1,1
 ,a,1,1,1,1
u,,1,1,1,1
u,a,nan,1,1,1
u,a,five,x,1,1
u,a,1,inf,1,1
u,a,1,1,soon,1
u,a,1,1,,1
u,a,1,1,1,first
u,z,1,1,1,1
u,b,1,1,1,1
"""
    loaded, refused = load(tmp_path, text)
    assert loaded.interactions.frame.select("user_id", "item_id").rows() == [("u", "a"), ("u", "b")]
    assert sorted(refused, key=lambda row: int(str(row[0]))) == [
        (1, None, "a", "user_id", "missing", ""),
        (2, None, "a", "user_id", "missing", " "),
        (3, "u", None, "item_id", "missing", ""),
        (4, "u", "a", "rating", "not a finite number", "nan"),
        (5, "u", "a", "rating", "not a number", "five"),
        (6, "u", "a", "weight", "not a finite number", "inf"),
        (7, "u", "a", "timestamp", "neither a number nor an ISO 8601 time", "soon"),
        (8, "u", "a", "timestamp", "missing", ""),
        (9, "u", "a", "position", "not a number", "first"),
        (10, "u", "z", "item_id", "unknown item", None),
    ]
    assert (loaded.unknown, loaded.unknown_items) == (1, 1)


def test_duplicates_keep_the_first(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 2],
            "item_id": ["a", "a", "a", "a", "a"],
            "rating": [5.0, 5.0, 4.0, 5.0, 5.0],
            "timestamp": [7, 7, 7, 8, 7],
        }
    )
    loaded, refused = load(tmp_path, frame)
    assert loaded.interactions.frame.rows() == [("1", "a", 5, 7), ("1", "a", 5, 8), ("2", "a", 5, 7)]
    assert refused == [
        (1, "1", "a", "item_id", "duplicate", None),
        (2, "1", "a", "item_id", "duplicate, with other values", None),
    ]
    assert loaded.duplicates == 2


def test_without_time_user_and_item_make_a_duplicate(tmp_path: Path) -> None:
    loaded, refused = load(tmp_path, "user,item\nu,a\nu,b\nu,a\n")
    assert loaded.interactions.frame.rows() == [("u", "a"), ("u", "b")]
    assert refused == [(2, "u", "a", "item_id", "duplicate", None)]
    loaded, refused = load(tmp_path, "user,item,position\nu,a,0\nu,b,1\nu,a,2\n")
    assert (len(loaded.interactions), refused) == (3, [])


def test_unknown_item_that_differs_in_spaces_is_told_apart(tmp_path: Path) -> None:
    _, refused = load(tmp_path, "user,item\nu,a\nu, b\nu,c\n")
    assert [(row[0], row[4]) for row in refused] == [
        (1, "unknown item; the catalogue has it with other surrounding spaces"),
        (2, "unknown item"),
    ]


def test_rows_are_those_of_the_part(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    frame = pl.DataFrame({"user": ["u", "v", None], "item": ["a", "?", "a"]})
    frame[:1].write_parquet(folder / "0.parquet")
    frame[1:].write_parquet(folder / "1.parquet")
    refusals = Refusals()
    load_log(open_table(folder), ColumnMapping(), pl.Series(["a"]), refusals, tmp_path / "rows")
    assert sorted(refusals.frame().select("source", "row", "reason").rows()) == [
        (str(folder / "1.parquet"), 0, "unknown item"),
        (str(folder / "1.parquet"), 1, "missing"),
    ]


def test_ids_of_another_kind_altogether(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its items is in the catalogue, e\.g\. '1'") as caught:
        load(tmp_path, "user,item\nu,1\n")
    assert "'a'" in str(caught.value)


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 2 rows can be used \(2 x rating: not a number\)"):
        load(tmp_path, "user,item,rating\nu,a,x\nu,b,y\n")
    with pytest.raises(InputError, match="a header and no rows"):
        load(tmp_path, "user,item\n")


def test_a_column_of_a_type_that_cannot_be_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"], "item": ["a"], "stars": [["5"]]})
    with pytest.raises(InputError, match=r"the column 'stars' is List\(String\) and holds no numbers"):
        load(tmp_path, frame, rating="stars")
    with pytest.raises(InputError, match=r"the column 'user' is Boolean and can hold no ids"):
        load(tmp_path, frame.with_columns(user=True))


def test_pieces_give_what_the_whole_gives(tmp_path: Path) -> None:
    """Ids that are refused, unknown or repeated stand in other pieces than what they are compared with."""
    numbers = np.random.default_rng(0).integers(0, 9, (200, 3))
    frame = pl.DataFrame(
        {
            "user": [f"u{user}" if user else None for user, _, _ in numbers],
            "item": [f"{item}" for _, item, _ in numbers],
            "rating": [float(value) for _, _, value in numbers],
        }
    )
    known = [str(item) for item in range(7)]
    (tmp_path / "whole").mkdir()
    whole, refused = load(tmp_path / "whole", frame, known)
    for rows in (1, 7, 199):
        (tmp_path / str(rows)).mkdir()
        loaded, listed = load(tmp_path / str(rows), frame, known, rows)
        assert loaded.interactions.frame.equals(whole.interactions.frame)
        assert sorted(map(str, listed)) == sorted(map(str, refused))
        for name in ("rows_read", "duplicates", "unknown", "unknown_items"):
            assert getattr(loaded, name) == getattr(whole, name)
    assert whole.rows_read == 200
    assert whole.duplicates > 50
    assert whole.unknown_items == 2


class Told(Silent):
    """Adds up what is told."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.rows = 0

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator["Told"]:
        self.totals.append(total)
        yield self

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.rows += steps


def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"] * 5, "item": ["a"] * 5, "position": range(5)})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    told = Told()
    for name in ("log.parquet", "log.csv"):
        table, folder = open_table(tmp_path / name), tmp_path / f"rows of {name}"
        load_log(table, ColumnMapping(), pl.Series(["a"]), Refusals(), folder, rows=2, progress=told)
    # Nobody knows how long a text is before it is read.
    assert (told.totals, told.rows) == ([5, None], 10)


def test_a_log_of_which_one_piece_holds_nothing(tmp_path: Path) -> None:
    loaded, refused = load(tmp_path, "user,item\n,a\n,b\nu,z\nu,a\n", rows=2)
    assert loaded.interactions.frame.rows() == [("u", "a")]
    assert [row[0] for row in refused] == [0, 1, 2]
