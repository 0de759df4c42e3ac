from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import PARTIAL
from prismrec.recommender.list_parts import MANIFEST, asked_for, is_folder, write_parts

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


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=3)
    part = tmp_path / "lists" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"part-00001\.parquet"):
        write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=3)
    part.unlink()
    assert write_parts(tmp_path / "lists", USERS, Lists(), "a", part_size=3).kept == 2
    with pytest.raises(InputError, match="No user"):
        write_parts(tmp_path / "none", [], Lists(), "a")
    assert not (tmp_path / "none").exists()


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


def test_lists_depend_on_items_that_came_later_and_on_what_is_said_of_them(recommender, new_items) -> None:
    users, wanted = ["u"], {"k": 3}
    before = asked_for(recommender, users, wanted)
    assert asked_for(recommender, users, wanted) == before
    assert asked_for(recommender, users, {"k": 4}) != before
    assert asked_for(recommender, ["v"], wanted) != before
    recommender.add_items(new_items(item_id=["later"], title=["A red mug"]))
    after = asked_for(recommender, users, wanted)
    assert after != before
    # A condition may look at any attribute, though no vector changes.
    column = next(c for c, t in recommender.catalog.items.schema.items() if t == pl.Float64)
    recommender.add_items(new_items(item_id=["later"], title=["A red mug"], **{column: [7.0]}))
    assert asked_for(recommender, users, wanted) != after
