import pickle

import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog_media import lies_outside
from prismrec.data.object_media import ObjectMedia

IDS = ["a", "b/c", "d.1", "e"]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "pictures"
    home.mkdir()
    for name in ("a.png", "b%2Fc.JPG", "d.1.webp", "stranger.png", "a.txt"):
        (home / name).write_bytes(name.encode())
    return home


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_belong_to_the_items_that_they_are_named_for(folder, scheme):
    media = ObjectMedia.below(f"{scheme}{folder}", "image", IDS)
    assert sorted(media.ids) == ["a", "b/c", "d.1"]
    assert [media.read(i) for i in IDS] == [b"a.png", b"b%2Fc.JPG", b"d.1.webp", None]
    assert lies_outside(media)
    assert pickle.loads(pickle.dumps(media)).read("a") == b"a.png"


def test_a_relative_folder_holds_in_another_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    media = pickle.loads(pickle.dumps(ObjectMedia.below("pictures", "image", IDS)))
    monkeypatch.chdir("/")
    assert media.read("a") == b"a.png"


def test_a_file_that_is_gone_is_named_with_its_item(folder):
    media = ObjectMedia.below(str(folder), "image", IDS)
    (folder / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png.*item 'a'"):
        media.read("a")


def test_two_files_of_an_item_are_refused(folder):
    (folder / "a.jpg").touch()
    with pytest.raises(InputError, match=r"'a' has two files, 'a\.jpg' and 'a\.png'"):
        ObjectMedia.below(str(folder), "image", IDS)


def test_what_is_not_there_or_fits_nothing_is_said(folder):
    with pytest.raises(InputError, match="cannot be listed"):
        ObjectMedia.below(str(folder / "nowhere"), "image", IDS)
    with pytest.raises(InputError, match="cannot be opened"):
        ObjectMedia.below("nosuch://bucket/x", "image", IDS)
    with pytest.raises(InputError, match=r"first of 4 is .*\n.*'x'"):
        ObjectMedia.below(str(folder), "image", ["x"])
    with pytest.raises(InputError, match="there is none"):
        ObjectMedia.below(str(folder), "audio", IDS)
