import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from prismrec.data.sources.generated_pictures import Painter
from prismrec.data.sources.generated_shapes import Paint
from prismrec.data.sources.generated_shop import CATEGORIES, COLOURS, PATTERNS, draw_attributes
from prismrec.data.sources.generated_silhouettes import silhouette

STOCK = draw_attributes(200, 0.3, 0)


def same(**codes):
    """The stock with some attributes equal for all items."""
    return replace(STOCK, **{k: np.full(200, v, dtype=np.int8) for k, v in codes.items()})


def pixels(stock, item, size=96):
    return np.asarray(Painter(stock, size, 0).draw(item), dtype=float)


def raster(category, shape, side=64):
    sheet = Image.new("L", (side, side))
    for part in silhouette(category, shape):
        ImageDraw.Draw(sheet).polygon((part.outline * side).ravel().tolist(), fill=int(part.paint))
    return np.asarray(sheet)


@pytest.mark.parametrize("size", [32, 96, 130])
def test_a_picture_is_a_jpeg_of_its_size(size):
    with Image.open(io.BytesIO(Painter(STOCK, size, 0).jpeg(3))) as picture:
        picture.load()
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (size, size))


def test_the_same_seed_draws_the_same_bytes():
    first, again, other = (Painter(STOCK, 64, seed).jpeg(7) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_only_words_and_sounds_tell_is_not_in_the_picture():
    told = same(material=2, use=1, brand=0, style=4, voice=3)
    for item in range(5):
        assert np.array_equal(pixels(STOCK, item), pixels(told, item))


@pytest.mark.parametrize("attribute", ["category", "shape", "colour", "shade", "pattern"])
def test_what_the_picture_tells_is_in_it(attribute):
    for item in range(5):
        shown = [pixels(same(**{attribute: value}), item) for value in range(3)]
        for one, other in ((0, 1), (1, 2), (0, 2)):
            assert np.abs(shown[one] - shown[other]).max() > 15


def test_a_darker_shade_is_darker():
    plain = {"pattern": 0, "category": CATEGORIES.index("backpack"), "shape": 0}
    for colour in range(len(COLOURS)):
        centre = [pixels(same(colour=colour, shade=s, **plain), 0)[38:52, 38:58].mean() for s in range(3)]
        assert centre[0] > centre[1] > centre[2]


def test_stripes_run_across_and_pinstripes_down():
    def variation(pattern):
        stock = same(pattern=PATTERNS.index(pattern), category=CATEGORIES.index("T-shirt"), shape=0, shade=2)
        chest = np.stack([pixels(stock, item)[45:75, 38:58] for item in range(8)]).mean(axis=-1)
        return np.abs(np.diff(chest, axis=1)).mean(), np.abs(np.diff(chest, axis=2)).mean()

    down, across = variation("stripes")
    assert down > 2 * across
    down, across = variation("pinstripes")
    assert across > 2 * down
    down, across = variation("plain")
    assert max(down, across) < 3


def test_every_silhouette_is_its_own_and_shows_its_body():
    seen = set()
    for category in range(len(CATEGORIES)):
        for shape in range(3):
            drawn = raster(category, shape)
            body = np.isin(drawn, [Paint.BODY, Paint.BODY_DARK, Paint.BODY_LIGHT])
            assert body.mean() > 0.06, (CATEGORIES[category], shape)
            assert not drawn[:, 0].any()
            assert not drawn[:, -1].any()
            assert not drawn[-1].any()
            seen.add(drawn.tobytes())
    assert len(seen) == 3 * len(CATEGORIES)
