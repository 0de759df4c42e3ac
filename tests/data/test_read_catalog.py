import io
import wave
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.data.catalog_media import FetchOptions
from prismrec.data.columns import ColumnMapping
from prismrec.data.read_catalog import read_catalog


def picture(width: int = 4, height: int = 4, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, format)
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\x01\x02" * 800)
    return buffer.getvalue()


def parquet(tmp_path: Path, **columns: object) -> Path:
    path = tmp_path / "items.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_attributes_keep_their_types(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        asin=["007", "8"],
        title=["One", None],
        year=pl.Series([1999, None], dtype=pl.Int32),
        genres=[["a", "b"], None],
        brand=pl.Series(["x", None], dtype=pl.Categorical),
        blob=[b"1", b"2"],
        nothing=pl.Series([None, None]),
    )
    catalog, refused = read_catalog(path)
    assert catalog.items.schema == {
        "item_id": pl.String,
        "title": pl.String,
        "year": pl.Int32,
        "genres": pl.List(pl.String),
        "brand": pl.String,
        "nothing": pl.String,
    }
    assert catalog.items["item_id"].to_list() == ["007", "8"]
    assert catalog.text_columns == ("title", "genres", "brand")
    assert catalog.texts() == ["One\na, b\nx", None]
    assert (refused, dict(catalog.media)) == ([], {})


def test_csv_numbers_are_recognised_and_ids_are_not(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("movieId,title,year,price,zip\n007,2001,1999,1.5,01234\n8,Two,,2,99999\n")
    catalog, _ = read_catalog(path)
    assert catalog.items.rows() == [("007", "2001", 1999, 1.5, "01234"), ("8", "Two", None, 2.0, "99999")]
    assert catalog.text_columns == ("title", "zip")


def test_ids_that_cannot_be_used_and_duplicates(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        item_id=["a", "", None, "a", "b", "a", "🎬/ ü"],
        title=["A", "x", "y", "A", "B", "other", "C"],
        tags=[["t"], [], [], ["t"], [], ["t"], []],
    )
    catalog, refused = read_catalog(path)
    assert catalog.items["item_id"].to_list() == ["a", "b", "🎬/ ü"]
    assert catalog.items["title"].to_list() == ["A", "B", "C"]
    assert [(r.row, r.item_id, r.field, r.reason) for r in refused] == [
        (1, None, "item_id", "missing"),
        (2, None, "item_id", "missing"),
        (3, "a", "item_id", "duplicate"),
        (5, "a", "item_id", "duplicate, with other values"),
    ]
    assert {r.source for r in refused} == {str(path)}


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no item is left of 2 rows"):
        read_catalog(parquet(tmp_path, item_id=["", None]))
    with pytest.raises(InputError, match="it has a header and no rows"):
        read_catalog(parquet(tmp_path, item_id=pl.Series([], dtype=pl.String)))


def test_an_own_item_id_beside_the_given_one(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=["1"], sku=["x"])
    with pytest.raises(InputError, match="'sku' is taken as the item's id, and there is a column 'item_id'"):
        read_catalog(path, mapping=ColumnMapping(item="sku"))


def test_pictures_in_a_column(tmp_path: Path) -> None:
    tiny, fake, cut = picture(1, 1), b"GIF89a, or so it says", picture(64, 64, "JPEG")[:-200]
    path = parquet(
        tmp_path, item_id=list("abcdef"), image=[picture(), None, tiny, fake, cut, b""], year=[1] * 6
    )
    catalog, refused = read_catalog(path)
    media = catalog.media["image"]
    assert list(media.ids) == ["a", "c"]
    assert [media.read(name) for name in "abcdef"] == [picture(), None, tiny, None, None, None]
    assert [(r.item_id, r.row, r.field) for r in refused] == [
        ("d", 3, "image"),
        ("e", 4, "image"),
        ("f", 5, "image"),
    ]
    assert "truncated" in refused[1].reason.lower()
    assert "empty" in refused[2].reason
    assert "image" not in catalog.items.columns


def test_a_picture_of_twenty_thousand_pixels_a_side(tmp_path: Path) -> None:
    # 50 kB in the file, 400 million pixels decoded.
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    path = parquet(tmp_path, item_id=["big", "ok"], image=[buffer.getvalue(), picture()])
    catalog, refused = read_catalog(path)
    assert list(catalog.media["image"].ids) == ["ok"]
    assert [r.item_id for r in refused] == ["big"]
    assert "too many pixels" in refused[0].reason


def test_embedded_pictures(tmp_path: Path) -> None:
    cells = [{"bytes": picture(), "path": None}, {"bytes": None, "path": "x.png"}, None]
    path = parquet(tmp_path, item_id=["a", "b", "c"], image=cells)
    catalog, refused = read_catalog(path)
    assert list(catalog.media["image"].ids) == ["a"]
    assert [(r.item_id, r.reason) for r in refused] == [
        ("b", "the cell holds a path and no bytes, and no folder was given to look in")
    ]


def test_files_by_id_and_a_column_together(tmp_path: Path) -> None:
    pics, sounds = tmp_path / "pics", tmp_path / "sounds"
    pics.mkdir()
    sounds.mkdir()
    (pics / "a.png").write_bytes(picture(9, 9))
    (pics / "b%2F1.png").write_bytes(picture(2, 2))
    (pics / "c.png").write_bytes(b"no picture")
    (sounds / "a.wav").write_bytes(sound())
    (sounds / "c.mp3").write_bytes(b"no sound")
    path = parquet(tmp_path, item_id=["a", "b/1", "c"], image=[picture(), None, None])
    catalog, refused = read_catalog(path, images=pics, audio=sounds)
    image, audio = catalog.media["image"], catalog.media["audio"]
    assert [image.read(name) for name in image.ids] == [picture(), picture(2, 2)]
    assert [audio.read(name) for name in audio.ids] == [sound()]
    assert sorted((r.item_id, r.field) for r in refused) == [("c", "audio"), ("c", "image")]


def test_paths_below_a_folder(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    (pics / "deep").mkdir(parents=True)
    (pics / "deep" / "x.png").write_bytes(picture())
    (tmp_path / "out.png").write_bytes(picture())
    path = tmp_path / "items.csv"
    path.write_text("item_id,poster_path\na,deep/x.png\nb,../out.png\nc,gone.png\nd,\n")
    with pytest.raises(InputError, match="the column 'poster_path' holds paths") as caught:
        read_catalog(path)
    assert "--images" in str(caught.value)
    catalog, refused = read_catalog(path, images=pics)
    assert list(catalog.media["image"].ids) == ["a"]
    assert [(r.item_id, r.row, r.reason, r.value) for r in refused] == [
        ("b", 1, "the path leads outside the folder", "../out.png"),
        ("c", 2, "there is no such file", "gone.png"),
    ]
    ignored, _ = read_catalog(path, mapping=ColumnMapping(image=""))
    assert ignored.media == {}
    assert ignored.text_columns == ()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.png").write_bytes(picture())
    (tmp_path / "web" / "fake.png").write_bytes(b"no picture")
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_urls_only_on_request(tmp_path: Path, web: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(f"item_id,image_url\na,{web}/a.png\nb,{web}/fake.png\nc,{web}/gone.png\n")
    catalog, refused = read_catalog(path)
    assert catalog.media == {}
    assert [r.reason for r in refused] == ["it is at a URL, and fetching was not asked for"] * 3
    catalog, refused = read_catalog(path, fetching=FetchOptions())
    assert list(catalog.media["image"].ids) == []
    assert all("not public" in r.reason for r in refused)
    catalog, refused = read_catalog(path, fetching=FetchOptions(allow_private=True, workers=2))
    assert [catalog.media["image"].read(name) for name in "abc"] == [picture(), None, None]
    assert [(r.item_id, r.row) for r in refused] == [("b", 1), ("c", 2)]
    assert "status 404" in refused[1].reason
