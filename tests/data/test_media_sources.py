import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.media import MemoryMedia
from prismrec.data.media_folder import FolderIndex
from prismrec.data.media_sources import CheckedMedia, ColumnMedia, FirstMedia, UrlMedia

N = 150


@pytest.fixture(scope="module")
def column(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[int]]:
    """Two parts of several row groups; every seventh cell is empty."""
    folder = tmp_path_factory.mktemp("column")
    cells = [None if i % 7 == 0 else f"content {i}".encode() for i in range(N)]
    frame = pl.DataFrame({"image": cells})
    parts = [folder / "a.parquet", folder / "b.parquet"]
    frame[:97].write_parquet(parts[0], row_group_size=40)
    frame[97:].write_parquet(parts[1], row_group_size=40)
    return parts, [97, N - 97]


def expected(row: int) -> bytes | None:
    return None if row % 7 == 0 else f"content {row}".encode()


@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.integers(0, N - 1), max_size=30))
def test_cells_in_any_order(column: tuple[list[Path], list[int]], order: list[int]) -> None:
    media = ColumnMedia(*column, "image", {str(i): i for i in range(N)})
    assert [media.read(str(row)) for row in order] == [expected(row) for row in order]


def test_cells_in_the_order_of_the_rows(column: tuple[list[Path], list[int]]) -> None:
    rows = {f"id{i}": i for i in range(0, N, 2)}
    media = ColumnMedia(*column, "image", rows)
    assert [media.read(name) for name in media.ids] == [expected(row) for row in rows.values()]
    assert media.read("other") is None


def test_embedded_structures(tmp_path: Path) -> None:
    cells = [
        {"bytes": b"one", "path": "ignored.jpg"},
        {"bytes": None, "path": "two.jpg"},
        {"bytes": None, "path": "../two.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    pl.DataFrame({"image": cells}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "two.jpg").write_bytes(b"two")
    rows = {str(i): i for i in range(5)}
    index = FolderIndex(tmp_path / "pics", "image")
    media = ColumnMedia([tmp_path / "t.parquet"], [5], "image", rows, index)
    assert [media.read(i) for i in "0134"] == [b"one", b"two", None, None]
    with pytest.raises(InputError, match="outside the folder"):
        media.read("2")
    with pytest.raises(InputError, match="no folder was given"):
        ColumnMedia([tmp_path / "t.parquet"], [5], "image", rows).read("1")


def test_a_damaged_page_is_an_error_for_its_items(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"image": [bytes([i]) * 5000 for i in range(40)]}).write_parquet(
        path, row_group_size=20, compression="zstd"
    )
    damaged = bytearray(path.read_bytes())
    damaged[4:60] = b"\xff" * 56
    path.write_bytes(damaged)
    media = ColumnMedia([path], [40], "image", {str(i): i for i in range(40)})
    with pytest.raises(InputError, match=r"t\.parquet: the column 'image' cannot be read"):
        media.read("3")
    assert media.read("25") == bytes([25]) * 5000


def test_urls_are_fetched_ahead_within_bounds() -> None:
    lock = threading.Lock()
    started: list[str] = []

    def fetch(url: str) -> bytes:
        with lock:
            started.append(url)
        if url == "u3":
            raise InputError("gone")
        return url.encode()

    media = UrlMedia({str(i): f"u{i}" for i in range(20)}, fetch, workers=2)
    assert media.read("0") == b"u0"
    # One is done, and at most twice the threads wait behind it.
    assert len(started) <= 5
    for i in range(1, 20):
        if i == 3:
            with pytest.raises(InputError, match="gone"):
                media.read("3")
        else:
            assert media.read(str(i)) == f"u{i}".encode()
    assert sorted(started) == sorted(f"u{i}" for i in range(20))
    assert media.read("x") is None


def test_urls_that_are_skipped_do_not_stop_fetching_ahead() -> None:
    main = threading.current_thread()
    by_main: list[str] = []

    def fetch(url: str) -> bytes:
        if threading.current_thread() is main:
            by_main.append(url)
        return url.encode()

    media = UrlMedia({str(i): f"u{i}" for i in range(90)}, fetch, workers=2)
    assert [media.read(str(i)) for i in range(0, 90, 9)] == [f"u{i}".encode() for i in range(0, 90, 9)]
    assert by_main == []


def test_urls_may_be_read_out_of_order_and_again() -> None:
    media = UrlMedia({"a": "1", "b": "2"}, str.encode, workers=1)
    assert [media.read(name) for name in "bbaa"] == [b"2", b"2", b"1", b"1"]


class Broken(MemoryMedia):
    def read(self, item_id: str) -> bytes | None:
        raise InputError("broken", "hint")


def test_first_source_with_content_wins() -> None:
    media = FirstMedia([MemoryMedia({"a": b"1"}), Broken({"b": b""}), MemoryMedia({"a": b"2", "b": b"3"})])
    assert list(media.ids) == ["a", "b"]
    assert (media.read("a"), media.read("b")) == (b"1", b"3")
    with pytest.raises(InputError, match="broken"):
        media.read("c")


def test_checked_media_leave_out_and_tell() -> None:
    told: list[tuple[str, str, str | None]] = []
    source = FirstMedia([MemoryMedia({"good": b"1", "bad": b"", "none": b"x"})])
    media = CheckedMedia(source, lambda c: None if c else "empty", lambda *case: told.append(case))
    assert (media.read("good"), media.read("bad"), media.read("other")) == (b"1", None, None)
    broken = CheckedMedia(Broken({"a": b"1"}), lambda _: None, lambda *case: told.append(case))
    assert broken.read("a") is None
    assert told == [("bad", "empty", None), ("a", "broken", None)]
