from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.id_files import read_ids


def test_one_id_a_line_kept_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes("\ufeffa/b\n 7 \n\n☕\r\n".encode())
    assert read_ids(tmp_path / "ids.txt", "user_id") == ["a/b", " 7 ", "☕"]


def test_a_column_of_a_table_numbers_as_the_catalogue_reads_them(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [3, 1], "other": ["x", "y"]}).write_parquet(tmp_path / "u.parquet")
    assert read_ids(tmp_path / "u.parquet", "user_id") == ["3", "1"]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    pl.DataFrame({"user_id": ["a", None]}).write_parquet(tmp_path / "hole.parquet")
    for name, said in (
        ("empty.txt", "no id"),
        ("latin.txt", "UTF-8"),
        ("none.txt", "no such file"),
        ("none.parquet", "no such file"),
        ("hole.parquet", "row 1"),
    ):
        with pytest.raises(InputError, match=said):
            read_ids(tmp_path / name, "user_id")
    with pytest.raises(InputError, match="no column 'item_id'"):
        read_ids(tmp_path / "hole.parquet", "item_id")
