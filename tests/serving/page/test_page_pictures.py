"""Small pictures: what comes out, what is kept, what is refused."""

import io

import pytest
from PIL import Image

from prismrec.serving.page import pictures
from prismrec.serving.page.pictures import Thumbnails, initials, shrink, stand_in


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def opened(content: bytes | None) -> Image.Image:
    assert content is not None
    return Image.open(io.BytesIO(content))


def test_small_pictures_are_not_blown_up():
    assert opened(shrink(encoded(Image.new("RGB", (40, 10))), 256)).size == (40, 10)


def test_transparency_becomes_white_and_photographs_stand_upright():
    clear = opened(shrink(encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), 256)).convert("RGB")
    assert min(clear.getpixel((10, 10))) > 245
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert opened(shrink(turned, 256)).size == (20, 40)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"\x00" * 100])
def test_what_is_no_picture_gives_none(content):
    assert shrink(content, 256) is None


def test_a_picture_of_too_many_points_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "_MAX_PIXELS", 99)
    assert shrink(encoded(Image.new("RGB", (10, 10))), 256) is None


def test_a_picture_is_made_once_and_the_oldest_goes_first(monkeypatch):
    made = []

    def counted(picture: bytes, side: int) -> bytes:
        made.append(picture)
        return b"x" * 40

    monkeypatch.setattr(pictures, "shrink", counted)
    kept = Thumbnails(kept_bytes=100)
    for picture in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert kept.of(picture, 64, "t").content == b"x" * 40
    assert made == [b"a", b"b", b"c", b"b"]


def test_pictures_of_two_sizes_differ_in_their_tag():
    kept = Thumbnails()
    content = encoded(Image.new("RGB", (300, 300)))
    assert kept.of(content, 64, "t").etag != kept.of(content, 256, "t").etag
    assert kept.of(content, 5000, "t").content == kept.of(content, 256, "t").content


@pytest.mark.parametrize(
    ("title", "letters"),
    [
        ("Little guitar", "LG"),
        ("mug", "M"),
        ("<script> x", "SX"),
        ("", "?"),
        ("— & —", "?"),
        ("千と 千尋", "千千"),
    ],
)
def test_initials(title, letters):
    assert initials(title) == letters


def test_a_stand_in_always_has_the_same_colour():
    assert stand_in("Little guitar") == stand_in("Little guitar")
    assert len({stand_in(f"{n} L").split('"')[1] for n in range(60)}) > 6
