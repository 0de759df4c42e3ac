"""Pictures of the generated shop's products, drawn one by one.

A picture shows an item's category, shape, colour, shade and pattern. Background, trim, light, position, size
and tilt vary at random and mean nothing. It is drawn at three times its size and averaged down, which smooths
every edge.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from prismrec.data.sources.generated_shapes import Paint, Parts
from prismrec.data.sources.generated_shop import Attributes, Stream, generator
from prismrec.data.sources.generated_silhouettes import silhouette

Floats = npt.NDArray[np.float32]

_OVERSAMPLING = 3


def _rgb(*codes: str) -> Floats:
    return np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes], dtype=np.float32)


# In the order of generated_shop.COLOURS.
_COLOURS = _rgb(
    "d8503f", "ee8b3d", "edbc45", "6ea35c", "2c9a94", "3b78b8", "8259ad", "e686ab", "9b6846", "86909b"
)
_BACKGROUNDS = _rgb("f4efe6", "e9eef2", "f6e9e3", "e8f0e6", "efeaf4", "f7f1dc", "e3eeee", "f1f1f1")
_TRIMS = _rgb("c1925f", "9c7049", "4a505a", "c9a55a", "b4bac1")
_INK, _CREAM = _rgb("2f323b", "fdf6e9")
_NIGHT, _WHITE = _rgb("232742", "ffffff")

_PLAIN, _STRIPES, _PINSTRIPES, _DOTS, _CHECKS, _ZIGZAG, _SCALLOPS = range(7)
_BODY = (Paint.BODY, Paint.BODY_DARK, Paint.BODY_LIGHT)
_COVERED = [0] + [255] * 255


class Painter:
    """Draws items at one size.

    Parameters
    ----------
    attributes
        The stock.
    size
        Width and height in pixels.
    seed
        Seed.
    """

    def __init__(self, attributes: Attributes, size: int, seed: int) -> None:
        self._attributes = attributes
        self._seed = seed
        self._side = size * _OVERSAMPLING
        self._fine = (np.arange(self._side, dtype=np.float32) + 0.5) / self._side
        self._coarse = (np.arange(size, dtype=np.float32) + 0.5) / size

    def jpeg(self, item: int) -> bytes:
        """Draw an item and return a JPEG file."""
        buffer = io.BytesIO()
        self.draw(item).save(buffer, format="JPEG", quality=90, subsampling=0)
        return buffer.getvalue()

    def draw(self, item: int) -> Image.Image:
        """Draw an item."""
        stock = self._attributes
        chance = generator(self._seed, Stream.PICTURES, item)
        place = _place(chance)
        pattern = int(stock.pattern[item])
        sheet, floor = self._outline(silhouette(int(stock.category[item]), int(stock.shape[item])), place)
        cover = sheet.point(_COVERED).reduce(_OVERSAMPLING)
        if pattern != _PLAIN:
            sheet = self._print(sheet, pattern, place, chance)
        # Up to here a pixel is the number of a colour: that keeps the large sheet at one byte a pixel.
        sheet.putpalette(_palette(int(stock.colour[item]), int(stock.shade[item]), chance))
        product = np.asarray(sheet.convert("RGB").reduce(_OVERSAMPLING), dtype=np.float32)
        seen_through = 1 - np.asarray(cover, dtype=np.float32)[:, :, None] / 255
        scene = product * self._light(place, chance)[:, :, None]
        scene += seen_through * self._background(place, floor, chance)
        return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))

    def _outline(self, parts: Parts, place: "_Place") -> tuple[Image.Image, float]:
        """Draw the parts as numbers of paints; also say how far down they reach."""
        sheet = Image.new("L", (self._side, self._side), int(Paint.NOTHING))
        pen = ImageDraw.Draw(sheet)
        edge = max(1, round(self._side / 110))
        floor = 0.0
        for part in parts:
            placed = (part.outline - 0.5) @ place.turn + place.centre
            floor = max(floor, float(placed[:, 1].max()))
            corners = (placed * self._side).ravel().tolist()
            if part.paint in _BODY:
                pen.polygon(corners, fill=int(part.paint), outline=int(Paint.EDGE), width=edge)
            else:
                pen.polygon(corners, fill=int(part.paint))
        return sheet, floor

    def _print(
        self, sheet: Image.Image, pattern: int, place: "_Place", chance: np.random.Generator
    ) -> Image.Image:
        """Print the pattern on the body's paints: 16 more for each half of the second colour."""
        paints = np.array(sheet).ravel()
        body = np.flatnonzero((paints >= Paint.BODY) & (paints <= Paint.BODY_LIGHT))
        where = np.stack([self._fine[body % self._side], self._fine[body // self._side]], axis=1)
        back = np.linalg.inv(place.turn).astype(np.float32)
        local = np.asarray((where - place.centre.astype(np.float32)) @ back, dtype=np.float32)
        paints[body] = paints[body] + np.uint8(16) * _pattern(pattern, local, chance)
        return Image.fromarray(paints.reshape(self._side, self._side))

    def _light(self, place: "_Place", chance: np.random.Generator) -> Floats:
        """Return the light on the product, from the upper left or the upper right: shape ``(size, size)``."""
        side = np.float32(1.0 if chance.random() < 0.8 else -1.0)
        x = (self._coarse - np.float32(place.centre[0])) * side
        y = self._coarse - np.float32(place.centre[1])
        across = np.float32(1.03) - np.float32(0.20) * x - np.float32(0.25) * np.maximum(x, 0) ** 2
        return np.asarray(across[None, :] - np.float32(0.10) * y[:, None])

    def _background(self, place: "_Place", floor: float, chance: np.random.Generator) -> Floats:
        """Paint a wall that darkens downwards, and a soft shadow where the product stands."""
        base = _BACKGROUNDS[chance.integers(len(_BACKGROUNDS))]
        wall = (np.float32(1.02) - np.float32(0.09) * self._coarse)[:, None, None] * base
        across = np.exp(
            -(((self._coarse - np.float32(place.centre[0])) / np.float32(0.27 * place.scale)) ** 4)
        )
        down = np.exp(-(((self._coarse - np.float32(floor - 0.008)) / np.float32(0.028)) ** 2))
        return np.asarray(wall * (1 - np.float32(0.30) * down[:, None] * across[None, :])[:, :, None])


@dataclass(frozen=True)
class _Place:
    """Where a product stands in the picture: ``(point - 0.5) @ turn + centre``."""

    scale: float
    turn: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]


def _place(chance: np.random.Generator) -> _Place:
    scale = chance.uniform(0.92, 1.06)
    tilt = np.radians(chance.normal(0.0, 2.0))
    turn = scale * np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return _Place(scale, turn, 0.5 + chance.uniform(-0.02, 0.02, 2))


def _palette(colour: int, shade: int, chance: np.random.Generator) -> list[int]:
    """Return red, green and blue of 16 paints, thrice: with none, half and all of the second colour."""
    base = _COLOURS[colour]
    second = _CREAM
    if shade == 0:
        base = _mix(base, _WHITE, 0.48)
        second = _COLOURS[colour] if chance.random() < 0.5 else _WHITE
    elif shade == 2:
        base = _mix(base, _NIGHT, 0.45)
        second = _CREAM if chance.random() < 0.6 else _mix(_COLOURS[colour], _WHITE, 0.4)
    elif chance.random() < 0.35:
        second = _mix(base, _NIGHT, 0.5)
    base = base + chance.normal(0.0, 4.0, 3).astype(np.float32)
    trim = _TRIMS[chance.integers(len(_TRIMS))]
    table = np.zeros((3, 16, 3), dtype=np.float32)
    table[:, Paint.BODY] = [base, _mix(base, second, 0.5), second]
    table[:, Paint.BODY_DARK] = 0.84 * table[:, Paint.BODY]
    table[:, Paint.BODY_LIGHT] = _mix(table[:, Paint.BODY], _WHITE, 0.28)
    table[0, Paint.EDGE] = _mix(base, _NIGHT, 0.25)
    table[0, Paint.PLAIN] = _mix(base, _NIGHT, 0.32)
    table[0, Paint.TRIM] = trim
    table[0, Paint.TRIM_DARK] = 0.72 * trim
    table[0, Paint.INK] = _INK
    table[0, Paint.CREAM] = _CREAM
    return np.clip(table, 0, 255).astype(np.uint8).ravel().tolist()


def _mix(a: Floats, b: Floats, share: float) -> Floats:
    return a + (b - a) * np.float32(share)


def _pattern(pattern: int, local: Floats, chance: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return how much of the second colour each pixel takes, in halves: 0, 1 or 2."""
    pitch = np.float32(chance.uniform(0.85, 1.2))
    u = local[:, 0] * pitch + np.float32(1 + chance.random())
    v = local[:, 1] * pitch + np.float32(1 + chance.random())
    if pattern == _CHECKS:
        return _beat(u, 8, 0.5).astype(np.uint8) + _beat(v, 8, 0.5)
    if pattern == _STRIPES:
        on = _beat(v, 9, 0.45)
    elif pattern == _PINSTRIPES:
        on = _beat(u, 13, 0.22)
    elif pattern == _ZIGZAG:
        tooth = np.abs((u * 7) % 1 - np.float32(0.5))
        on = _beat(v * 8 + tooth, 1, 0.42)
    elif pattern == _DOTS:
        dx, dy = _tile(u, v, 9, 10)
        on = dx**2 + (dy - np.float32(0.5)) ** 2 < 0.085
    else:
        dx, dy = _tile(u, v, 8, 11)
        ring = dx**2 * 4 + dy**2
        on = (ring < 1.0) & (ring > 0.62)
    return on.astype(np.uint8) * 2


def _beat(x: Floats, times: int, share: float) -> npt.NDArray[np.bool_]:
    return np.asarray((x * times) % 1 < share)


def _tile(u: Floats, v: Floats, across: int, down: int) -> tuple[Floats, Floats]:
    """Return places in staggered tiles: from -0.5 to 0.5 across, from 0 to 1 down."""
    rows = v * down
    row = np.floor(rows)
    across_tile = (u * across + row * np.float32(0.5)) % 1 - np.float32(0.5)
    return np.asarray(across_tile, dtype=np.float32), rows - row
