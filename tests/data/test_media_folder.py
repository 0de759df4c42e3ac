import os
from pathlib import Path

import pytest

from prismrec.base.errors import InputError
from prismrec.data import media_folder
from prismrec.data.media_folder import FolderIndex, files_by_id, is_url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pics"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


def found(folder: Path, *ids: str) -> tuple[dict[str, str], list[tuple[str, str, str | None]]]:
    refused: list[tuple[str, str, str | None]] = []
    paths = files_by_id(FolderIndex(folder, "image"), ids, lambda *case: refused.append(case))
    return {name: path.relative_to(folder).as_posix() for name, path in paths.items()}, refused


@pytest.mark.parametrize(
    ("item_id", "file"),
    [
        ("7", "7.jpg"),
        ("7", "7.JPEG"),
        ("v1.2", "v1.2.png"),
        ("7.jpg", "7.jpg"),
        ("a b", "a b.png"),
        ("a b", "a%20b.png"),
        ("🎬", "🎬.webp"),
        ("🎬", "%F0%9F%8E%AC.webp"),
        ("a/b", "a%2Fb.png"),
        ("sub/7", "sub/7.gif"),
        ("50%", "50%.png"),
        ("..", "...jpg"),
    ],
)
def test_names_of_files(folder: Path, item_id: str, file: str) -> None:
    (folder / file).write_bytes(b"x")
    assert found(folder, item_id, "other") == ({item_id: file}, [])


def test_other_files_do_not_count(folder: Path) -> None:
    (folder / "7.txt").touch()
    (folder / "7.wav").touch()
    (folder / "8").touch()
    (folder / "9.jpg").mkdir()
    os.mkfifo(folder / "10.jpg")
    assert found(folder, "7", "8", "9", "10") == ({}, [])
    assert len(FolderIndex(folder, "audio")) == 1


def test_second_file_of_an_item_is_listed(folder: Path) -> None:
    (folder / "7.png").touch()
    (folder / "7.jpg").touch()
    assert found(folder, "7") == (
        {"7": "7.jpg"},
        [("7", "a second file of the item; 7.jpg is used", "7.png")],
    )


@pytest.mark.parametrize("item_id", ["../secret", "sub/../../secret", "/etc/passwd", "a\0/b", "x" * 5000])
def test_ids_cannot_leave_the_folder(folder: Path, item_id: str) -> None:
    assert found(folder, item_id, folder.parent.as_posix() + "/secret") == ({}, [])


def test_links_that_leave_the_folder_are_refused(folder: Path) -> None:
    (folder / "7.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "8.jpg").write_bytes(b"x")
    (folder / "9.jpg").symlink_to(folder / "8.jpg")
    assert found(folder, "7", "9") == (
        {"9": "9.jpg"},
        [("7", "the path leads outside the folder", "7.jpg")],
    )


def test_a_folder_reached_by_a_link_is_fine(folder: Path, tmp_path: Path) -> None:
    (folder / "7.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(folder)
    assert found(tmp_path / "link", "7") == ({"7": "7.jpg"}, [])


def test_paths_below_the_folder(folder: Path) -> None:
    (folder / "sub" / "a.any").write_bytes(b"x")
    index = FolderIndex(folder, "image")
    assert index.inside("sub/a.any") == folder / "sub" / "a.any"
    assert index.inside("./sub//a.any") == folder / "sub" / "a.any"
    outside = "the path leads outside the folder"
    for path in ("../secret.jpg", "/etc/passwd", "sub/../../secret.jpg", "a\0b"):
        assert index.inside(path) == outside
    assert index.inside("sub/b.jpg") == "there is no such file"
    assert index.inside("sub") == "there is no such file"
    assert "path cannot be read" in str(index.inside("x" * 5000))


def test_a_file_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_folder, "MAX_FILE_BYTES", 1 << 20)
    with (folder / "7.jpg").open("wb") as file:
        file.truncate((1 << 20) + 1)
    assert found(folder, "7") == ({}, [("7", "the file is larger than 1 MiB", "7.jpg")])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        FolderIndex(tmp_path / "nowhere", "image")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://a/b.jpg", True),
        ("FTP://a", True),
        ("data:image/png;base64,x", True),
        ("a/b.jpg", False),
        ("poster:1.jpg", False),
        ("//host/x", False),
    ],
)
def test_is_url(text: str, url: bool) -> None:
    assert is_url(text) is url
