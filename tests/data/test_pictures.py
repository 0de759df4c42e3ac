import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from prismrec.data.pictures import PictureError, check_image, decode_image

LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")
ALL = (*LOSSLESS, "JPEG", "WEBP", "GIF")


def encoded(image: Image.Image, form: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def pixels(content: bytes, **settings) -> np.ndarray:
    return np.asarray(decode_image(content, **settings))


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(form):
    picture = noise(13, 7)
    assert np.array_equal(pixels(encoded(picture, form)), np.asarray(picture))


@pytest.mark.parametrize("form", ALL)
def test_one_pixel(form):
    shown = pixels(encoded(Image.new("RGB", (1, 1), (200, 200, 200)), form))
    assert shown.shape == (1, 1, 3)
    assert np.abs(shown.astype(int) - 200).max() <= 4


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
def test_a_cut_file_is_refused(form, part):
    whole = encoded(noise(50, 40), form)
    assert check_image(whole) is None
    reason = check_image(whole[: int(len(whole) * part)])
    assert reason
    assert "0x" not in reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>404 Not Found</body></html>", "not a picture"),
        (b"\xff\xd8\xff\xe0" + b"fake" * 20, "picture"),
        (bytes(4000), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(content, reason):
    assert reason in check_image(content)
    with pytest.raises(PictureError, match=reason):
        decode_image(content)


@pytest.mark.parametrize("side", [9_000, 10_000, 20_000])
def test_too_many_pixels_are_refused_by_the_header(side, recwarn, monkeypatch):
    # 9,000 is under Pillow's own limits, 10,000 over its warning, 20,000 over its error.
    content = encoded(Image.new("1", (side, side)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    reason = check_image(content)
    assert "too many pixels" in reason
    assert f"{side:,} x {side:,}" in reason or f"{side * side:,}" in reason
    assert "64,000,000" in reason
    assert not list(recwarn)


def test_the_limit_is_an_argument_and_inclusive():
    content = encoded(noise(10, 10))
    assert check_image(content, max_pixels=100) is None
    assert "10 x 10, at most 99" in check_image(content, max_pixels=99)


def test_a_long_strip_is_a_picture():
    assert pixels(encoded(Image.new("L", (20_000, 1), 7))).shape == (1, 20_000, 3)


def test_palette():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    assert pixels(encoded(picture)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk(form):
    shown = pixels(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), form))
    assert shown[8, 8, 0] < 30
    assert shown[8, 8, 2] > 200


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), [255, 255, 255]),
        (Image.new("RGBA", (1, 1), (200, 100, 0, 255)), [200, 100, 0]),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 128)), [127, 127, 127]),
        (Image.new("LA", (1, 1), (10, 0)), [255, 255, 255]),
        (Image.new("LA", (1, 1), (10, 255)), [10, 10, 10]),
    ],
)
def test_transparency_is_laid_on_white(picture, expected):
    assert pixels(encoded(picture))[0, 0].tolist() == expected


def test_a_transparent_colour_of_a_palette_is_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    content = encoded(picture, transparency=0)
    assert pixels(content).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    shown = pixels(encoded(Image.fromarray(values)))
    assert shown[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_values_are_scaled_and_nan_is_black():
    values = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    shown = pixels(encoded(Image.fromarray(values), "TIFF"))
    assert shown[0, :, 0].tolist() == [0, 128, 255, 0]


def test_black_and_white():
    assert pixels(encoded(Image.new("1", (2, 2), 1))).min() == 255


def test_exif_orientation_is_applied():
    picture = Image.new("RGB", (2, 1))
    picture.putdata([(255, 0, 0), (0, 0, 255)])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter clockwise to see it upright
    shown = pixels(encoded(picture, exif=exif))
    assert shown.tolist() == [[[255, 0, 0]], [[0, 0, 255]]]


def test_a_damaged_exif_block_does_not_lose_the_picture():
    assert check_image(encoded(noise(8, 8), "JPEG", exif=b"Exif\x00\x00II*\x00garbage")) is None


def test_text_in_a_picture_is_ignored():
    notes = PngInfo()
    notes.add_text("comment", "x" * 10_000)
    assert check_image(encoded(noise(3, 3), pnginfo=notes)) is None


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    extra = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **extra)
    assert pixels(content)[4, 4].tolist() == [255, 0, 0]


def test_a_large_jpeg_may_be_decoded_at_a_fraction_but_never_below_what_is_needed():
    content = encoded(Image.linear_gradient("L").resize((1_600, 1_200)).convert("RGB"), "JPEG")
    small = decode_image(content, at_least=(150, 150))
    assert small.size == (200, 150)
    full = decode_image(content)
    assert full.size == (1_600, 1_200)
    gap = np.asarray(small, dtype=float) - np.asarray(full.resize(small.size, Image.Resampling.BOX))
    assert np.abs(gap).max() < 8


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(ALL),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=20),
)
def test_no_damage_raises_anything_but_a_picture_error(form, place, junk):
    content = encoded(noise(20, 20), form)
    start = int(place * len(content))
    damaged = content[:start] + junk + content[start + len(junk) :]
    reason = check_image(damaged)
    if reason is None:
        assert decode_image(damaged).mode == "RGB"
