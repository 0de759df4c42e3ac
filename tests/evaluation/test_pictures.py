"""Pictures inside a page."""

import base64
import io

import pytest
from PIL import Image

from prismrec.evaluation.pictures import data_uri, hue


def encoded(mode: str, size: tuple[int, int], kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(uri: str | None) -> Image.Image:
    assert uri is not None
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_large_pictures_shrink_and_keep_their_shape():
    assert decoded(data_uri(encoded("RGB", (1000, 500), "JPEG"))).size == (280, 140)
    assert decoded(data_uri(encoded("RGB", (20, 10)))).size == (20, 10)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
def test_every_kind_of_pixel_becomes_a_picture(mode):
    assert decoded(data_uri(encoded(mode, (8, 8)))).mode == "RGB"


def test_what_is_transparent_is_white():
    assert decoded(data_uri(encoded("RGBA", (8, 8)))).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    "bad", [None, b"", b"junk", encoded("RGB", (50, 50))[:60], b"<svg xmlns='http://x'/>"]
)
def test_what_is_no_picture_is_none(bad):
    assert data_uri(bad) is None


def test_hues_are_stable_and_differ():
    assert hue("Heat") == hue("Heat")
    assert all(0 <= hue(str(n)) < 360 for n in range(50))
    assert len({hue(str(n)) for n in range(50)}) > 30
