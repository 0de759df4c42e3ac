from pathlib import Path

from prismrec.data.report import Refusals
from prismrec.data.sources.picture_folder import pictures_by_item


def test_pictures_by_name(tmp_path: Path) -> None:
    for name in ("4.JPG", "30.png", "30.jpg", "77.jpg", "5.txt", "readme"):
        (tmp_path / name).write_bytes(b"")
    refused = Refusals()
    found = pictures_by_item(tmp_path, {"4", "5", "30"}, refused)
    assert found == {"4": tmp_path / "4.JPG", "30": tmp_path / "30.jpg"}
    assert [(Path(r.source).name, r.item_id, r.reason) for r in refused.listed()] == [
        ("30.png", "30", "a second picture"),
        ("77.jpg", "77", "no such item"),
    ]
