import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.catalog_media import FetchOptions
from prismrec.data.dataset import Dataset
from prismrec.data.given_split import read_parts
from prismrec.data.interactions import Interactions
from prismrec.data.media import MemoryMedia
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.source import ReadyVectors, RemoteFile, Source, SourceData
from prismrec.data.splits import GivenSplit
from prismrec.features import source_folder
from prismrec.features.encode import EncodePlan, encode_modalities
from prismrec.features.source_folder import write_source
from prismrec.features.store import FeatureStore


def picture(tmp_path: Path) -> bytes:
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8), (200, 10, 10)).save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def read(raw: Path, **changes: Any) -> SourceData:
    """Read four pairs, whatever the files hold."""
    log = pl.DataFrame(
        {
            "user_id": ["u1", "u1", "u2", "u2"],
            "item_id": ["a", "b", "a", "c"],
            "rating": [5.0, 1.0, 3.0, 4.0],
        }
    )
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c", "d"], "title": ["red mug", "blue mug", "red pen", "blue pen"]}
    )
    refused = Refusals()
    refused.add(Refusal(str(raw / "log.txt"), 4, "item_id", "missing"))
    data = SourceData(
        dataset=Dataset(Interactions(log), Catalog(items, ("title",)), notes={"rows": 5}),
        features=(ReadyVectors("image", ("c", "a"), np.array([[1, 2], [3, 4]], dtype=np.float16)),),
        parts=log.select("user_id", "item_id", part=pl.Series(["train", "train", "train", "test"])),
        refused=refused,
    )
    return replace(data, **changes)


def source(reader: Callable[[Path], SourceData] = read) -> Source:
    file = RemoteFile("log.txt", "https://a.example/log.txt", size=3)
    return Source("tiny/one", "Four pairs.", "free", "nobody", (file,), reader)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "log.txt").write_bytes(b"abc")
    return folder


def test_all_that_comes_along_is_written(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "shop"
    written = write_source(source(), raw, out)
    data = Dataset.read(out)
    assert written.dataset.content_hash == data.content_hash
    assert (len(data.interactions), list(data.items)) == (4, ["a", "b", "c", "d"])
    assert data.notes["source"]["name"] == "tiny/one"
    assert data.notes["source"]["files"]["log.txt"]["size"] == 3
    assert data.notes["reading"] == {"rows": 5}
    store = FeatureStore.read(out / "features" / "image")
    assert store.vectors.dtype == np.float16
    assert store.rows(["a", "b", "c"]).tolist() == [1, -1, 0]
    np.testing.assert_array_equal(store.vectors, [[1, 2], [3, 4]])
    assert written.parts == {"train": 3, "valid": 0, "test": 1}
    assert read_parts(out / "parts.parquet").height == 4
    (refused,) = map(json.loads, (out / "refused.jsonl").read_text().splitlines())
    assert (refused["row"], refused["reason"]) == (4, "missing")
    assert sorted(path.name for path in out.parent.iterdir()) == ["shop"]


def test_the_split_that_came_along_can_be_used(raw: Path, tmp_path: Path) -> None:
    split = write_source(source(), raw, tmp_path / "shop").dataset.split(GivenSplit())
    assert len(split.train) == 3


def test_vectors_that_came_along_are_kept_when_texts_are_encoded(raw: Path, tmp_path: Path) -> None:
    data = write_source(source(), raw, tmp_path / "shop").dataset
    before = FeatureStore.read(tmp_path / "shop" / "features" / "image").content_hash
    done = {modality.store.name for modality in encode_modalities(data, EncodePlan())}
    assert done == {"text"}
    assert FeatureStore.read(tmp_path / "shop" / "features" / "image").content_hash == before


def test_vectors_of_items_outside_the_catalogue_are_listed(raw: Path, tmp_path: Path) -> None:
    vectors = ReadyVectors("clip", ("x", "a"), np.eye(2, dtype=np.float32))
    written = write_source(source(lambda raw: read(raw, features=(vectors,))), raw, tmp_path / "shop")
    assert written.features[0].ids == ("a",)
    np.testing.assert_array_equal(written.features[0].vectors, [[0, 1]])
    assert written.refused.counts()["clip: unknown item"] == 1


def test_a_threshold(raw: Path, tmp_path: Path) -> None:
    written = write_source(source(), raw, tmp_path / "shop", min_rating=4)
    assert len(written.dataset.positives()[0]) == 2
    with pytest.raises(InputError, match="the highest is 5"):
        write_source(source(), raw, tmp_path / "other", min_rating=6)
    assert not (tmp_path / "other").exists()


def test_pictures_are_checked(raw: Path, tmp_path: Path) -> None:
    def with_pictures(raw: Path) -> SourceData:
        data = read(raw)
        media = MemoryMedia({"a": picture(tmp_path), "b": b"no picture"})
        catalog = replace(data.dataset.catalog, media={"image": media})
        return replace(data, dataset=replace(data.dataset, catalog=catalog))

    written = write_source(source(with_pictures), raw, tmp_path / "shop")
    assert list(written.dataset.catalog.media["image"].ids) == ["a"]
    assert any(refusal.item_id == "b" for refusal in written.refused.listed())


def test_pictures_behind_addresses_are_fetched_on_request_only(raw: Path, tmp_path: Path) -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/a.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(picture(tmp_path) if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    def with_urls(raw: Path) -> SourceData:
        data = read(raw)
        urls = pl.Series([f"{base}/a.png", f"{base}/b.png", None, None])
        items = data.dataset.catalog.items.with_columns(image_url=urls)
        return replace(data, dataset=replace(data.dataset, catalog=Catalog(items, ("title",))))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        without = write_source(source(with_urls), raw, tmp_path / "without")
        assert asked == []
        assert without.picture_urls == 2
        fetching = FetchOptions(allow_private=True)
        fetched = write_source(source(with_urls), raw, tmp_path / "with", fetching=fetching)
        server.shutdown()
    assert list(fetched.dataset.catalog.media["image"].ids) == ["a"]
    (refusal,) = (r for r in fetched.refused.listed() if r.field == "image")
    assert (refusal.item_id, "404" in refusal.reason) == ("b", True)


def test_nothing_is_written_over(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop"
    write_source(source(), raw, out)
    with pytest.raises(InputError, match="holds a data set already"):
        write_source(source(), raw, out)
    (tmp_path / "other").mkdir()
    write_source(source(), raw, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_source(source(), raw, tmp_path / "file")


def test_a_run_that_fails_leaves_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(source_folder, "write_parts", fail)
    with pytest.raises(KeyboardInterrupt):
        write_source(source(), raw, tmp_path / "shop")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_raw_files_are_checked_first(raw: Path, tmp_path: Path) -> None:
    (raw / "log.txt").write_bytes(b"abcd")
    with pytest.raises(InputError, match="4 bytes, expected 3"):
        write_source(source(), raw, tmp_path / "shop")
    (raw / "log.txt").unlink()
    with pytest.raises(InputError, match="missing") as caught:
        write_source(source(), raw, tmp_path / "shop")
    assert "https://a.example/log.txt" in str(caught.value)


def test_vectors_of_a_wrong_shape_or_type() -> None:
    with pytest.raises(InputError, match="one row an item"):
        ReadyVectors("image", ("a",), np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(InputError, match="float64"):
        ReadyVectors("image", ("a",), np.zeros((1, 3)))
