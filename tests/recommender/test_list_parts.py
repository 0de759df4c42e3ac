from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.base.files import PARTIAL
from prismrec.recommender.list_parts import MANIFEST, is_folder, write_parts

USERS = [f"u{n}" for n in range(7)]


class Lists:
    """Gives two rows a user, and remembers who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, users) -> pl.DataFrame:
        self.asked += users
        rows = [(user, rank, f"i{rank}") for user in users for rank in (1, 2)]
        return pl.DataFrame(rows, schema=["user_id", "rank", "item_id"], orient="row")


def test_parts_together_are_the_whole(tmp_path: Path) -> None:
    written = write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=3)
    assert (written.rows, written.parts, written.kept) == (14, 3, 0)
    names = sorted(path.name for path in (tmp_path / "lists").iterdir())
    assert names == [MANIFEST, "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert pl.read_parquet(tmp_path / "lists" / "*.parquet").equals(Lists()(USERS))


def test_a_killed_call_goes_on(tmp_path: Path) -> None:
    lists = Lists()

    def dies(users):
        if "u3" in users:
            raise KeyboardInterrupt
        return lists(users)

    with pytest.raises(KeyboardInterrupt):
        write_parts(tmp_path / "lists", USERS, dies, "a", part_size=3)
    assert lists.asked == USERS[:3]
    (tmp_path / "lists" / f"part-00001.parquet.12345678{PARTIAL}").write_text("half")
    written = write_parts(tmp_path / "lists", USERS, lists, "a", part_size=3)
    assert (written.rows, written.kept) == (14, 1)
    assert lists.asked == USERS
    assert pl.read_parquet(tmp_path / "lists" / "*.parquet").equals(Lists()(USERS))


def test_other_lists_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=3)
    with pytest.raises(InputError, match="other lists"):
        write_parts(tmp_path / "lists", USERS, Lists(), "b", part_size=3)
    with pytest.raises(InputError, match="other lists"):
        write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_parts(tmp_path / "mine", USERS, Lists(), "a")
    with pytest.raises(InputError, match="is a file"):
        write_parts(tmp_path / "mine" / "notes.txt", USERS, Lists(), "a")
    assert is_folder(tmp_path / "lists")
    assert is_folder(tmp_path / "new")
    assert not is_folder(tmp_path / "lists.parquet")
