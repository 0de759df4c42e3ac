import json

import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.features.encoder_file import FILE, FORMAT_VERSION, read_encoder_file, write_encoder_file


def test_what_is_written_is_read(tmp_path):
    write_encoder_file(tmp_path / "new" / "folder", "Some", {"dim": 3, "sizes": [1, 2], "name": "é"})
    assert read_encoder_file(tmp_path / "new" / "folder") == (
        "Some",
        {"dim": 3, "sizes": [1, 2], "name": "é"},
    )


def test_an_empty_folder_holds_no_encoder(tmp_path):
    with pytest.raises(InputError, match="not an encoder"):
        read_encoder_file(tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": "other"}, InputError),
        ({"format_version": FORMAT_VERSION + 1}, InputError),
        ({"format_version": "1"}, DamagedError),
        ({"class": None}, DamagedError),
        ({"settings": 3}, DamagedError),
    ],
)
def test_foreign_newer_and_damaged_files_are_told_apart(tmp_path, change, error):
    write_encoder_file(tmp_path, "Some", {})
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, **change}))
    with pytest.raises(error):
        read_encoder_file(tmp_path)


def test_no_json_is_damage(tmp_path):
    (tmp_path / FILE).write_text("{")
    with pytest.raises(DamagedError):
        read_encoder_file(tmp_path)
