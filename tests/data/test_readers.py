import gzip
from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.readers import open_table, read_table

FRAME = pl.DataFrame({"a": ["x", "y", "z"], "n": [1, 2, 3]})


def test_parquet_keeps_types(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(FRAME)


def test_parts_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    FRAME[2:].write_parquet(tmp_path / "part-1.parquet")
    FRAME[:2].write_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "_SUCCESS").touch()
    table = open_table(tmp_path)
    assert table.read(["a"])["a"].to_list() == ["x", "y", "z"]
    first, second = str(tmp_path / "part-0.parquet"), str(tmp_path / "part-1.parquet")
    assert table.origins(pl.Series([2, 0, 1])).rows() == [(second, 0), (first, 0), (first, 1)]
    assert [table.origin(row) for row in (2, 0, 1)] == [(second, 0), (first, 0), (first, 1)]


def test_empty_parts_do_not_shift_rows(tmp_path: Path) -> None:
    for number, part in enumerate([FRAME.clear(), FRAME[:1], FRAME.clear(), FRAME[1:]]):
        part.write_parquet(tmp_path / f"{number}.parquet")
    table = open_table(tmp_path)
    assert [(Path(s).name, r) for s, r in table.origins(pl.Series([0, 1, 2])).rows()] == [
        ("1.parquet", 0),
        ("3.parquet", 0),
        ("3.parquet", 1),
    ]
    assert table.origin(1) == (str(tmp_path / "3.parquet"), 0)


def test_parts_with_other_columns_are_refused(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.rename({"n": "m"}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: has other columns than a\.parquet"):
        _ = open_table(tmp_path).schema


def test_parts_with_other_types_are_refused(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.with_columns(n=pl.lit([1])).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="different types"):
        open_table(tmp_path).read()


def test_parts_of_types_that_go_together_are_read_alike_in_pieces_and_whole(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.select("n", "a").cast({"n": pl.Float32}).write_parquet(tmp_path / "b.parquet")
    table = open_table(tmp_path)
    assert table.schema == {"a": pl.String, "n": pl.Float64}
    assert table.rows == 6
    assert table.read().equals(pl.concat([FRAME, FRAME]).cast({"n": pl.Float64}))
    pieces = list(table.batches(["n", "a"], 2))
    assert [piece.height for piece in pieces] == [2, 1, 2, 1]
    assert pl.concat(pieces).equals(table.read(["n", "a"]))


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_truncated_parquet(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "t.parquet"
    FRAME.write_parquet(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as Parquet") as caught:
        read_table(path)
    assert "copy it again" in str(caught.value)


def test_parquet_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.parquet.gz", "t.csv.zip"])
def test_unknown_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(InputError, match="unknown kind of table") as caught:
        open_table(tmp_path / name)
    assert ".parquet, .csv" in str(caught.value)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"no \.parquet file"):
        open_table(tmp_path)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl", "t.csv.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="the file is empty"):
        open_table(tmp_path / name)


def test_formats_agree(tmp_path: Path) -> None:
    texts = {
        "t.csv": "a,n\nx,1\ny,2\nz,3\n",
        "t.TSV": "a\tn\nx\t1\ny\t2\nz\t3\n",
        "t.jsonl": '{"a":"x","n":1}\n{"a":"y","n":2}\n{"a":"z","n":3}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with gzip.open(tmp_path / f"{name}.gz", "wt") as packed:
            packed.write(text)
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert read_table(path).cast({"n": pl.Int64}).equals(FRAME), path
