"""The default encoder for pictures: what colours, which edges, laid out how. It needs no download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from prismrec.data.pictures import PictureError, decode_image
from prismrec.features.encoder import Encoder, Vectors
from prismrec.features.encoder_file import write_encoder_file

Floats = npt.NDArray[np.float64]

_SIDE = 64
_CELLS = 4
_HUES, _SATURATIONS, _VALUES, _GREYS = 8, 2, 3, 8
_COLOURS = _HUES * _SATURATIONS * _VALUES
# Under this saturation (of 255) the hue is chance, and the pixel counts as grey.
_GREY_BELOW = 40
_ORIENTATIONS = 8
_ANGLES = 16

# Change of lightness from pixel to pixel, of full scale, under which an area counts as flat. Without a floor
# the traces of JPEG on a white ground would weigh as much as the edges of the product.
_FAINT_EDGES = 0.02
_TEXTURE_STEPS = 40

_BLOCKS = (
    ("colour", _COLOURS + _GREYS),
    ("grid", 3 * 3 * 6),
    ("hog", (_CELLS - 1) ** 2 * 4 * _ORIENTATIONS),
    ("angles", _ANGLES),
    ("texture", 10),
    ("thumbnail", 8 * 8 + 2 * 4 * 4),
)
_DIM = sum(size for _, size in _BLOCKS)


class DescriptorEncoder(Encoder[bytes]):
    """Colour, edges and layout of a picture.

    Six blocks, each brought to about length one, so that none drowns the others: a histogram of colours by
    hue, saturation and value, and of greys (56), mean and deviation of Lab colours on a 3 x 3 grid (54),
    histograms of oriented gradients (288; Dalal and Triggs, CVPR 2005), a histogram of edge directions (16),
    uniform local binary patterns (10; Ojala, Pietikäinen and Mäenpää, PAMI 2002) and a Lab thumbnail (96).
    Histograms are square-rooted (Hellinger). Pictures are brought to 64 x 64 first: position counts,
    proportions do not.
    """

    kind: ClassVar[str] = "image"

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return _DIM

    def spec(self) -> dict[str, Any]:
        """Return name and revision; the revision changes with anything that changes a vector."""
        return {"name": "descriptors", "revision": "1", "dim": _DIM, "side": _SIDE}

    def encode(self, contents: Sequence[bytes]) -> tuple[Vectors, list[str | None]]:
        """Encode pictures, one after the other.

        Returns
        -------
        vectors
            Shape ``(len(contents), dim)``; zeros where a problem is named.
        problems
            Why a picture cannot be decoded, None where it can.
        """
        vectors = np.zeros((len(contents), _DIM), dtype=np.float32)
        problems: list[str | None] = []
        for row, content in enumerate(contents):
            try:
                vectors[row] = describe(decode_image(content, at_least=(_SIDE, _SIDE)))
                problems.append(None)
            except PictureError as error:
                problems.append(str(error))
        return vectors, problems

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` into a folder."""
        write_encoder_file(folder, type(self).__name__, self.spec())


def describe(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Describe an RGB picture; shape ``(dim,)``. See `DescriptorEncoder`."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    lab = _lab(np.asarray(small))
    lightness = lab[..., 0]
    strength, direction = _edges(lightness)
    values = {
        "colour": np.sqrt(_colour_histogram(np.asarray(small.convert("HSV")))),
        "grid": _grid(lab),
        "hog": _hog(strength, direction),
        "angles": np.sqrt(_oriented(strength, direction * _ANGLES, _ANGLES, 1).ravel()),
        "texture": np.sqrt(_texture_histogram(lightness)),
        "thumbnail": _thumbnail(lab),
    }
    parts = [_soft_unit(values[name]) for name, _ in _BLOCKS]
    return np.concatenate(parts).astype(np.float32)


def _soft_unit(values: Floats, floor: float = 0.05) -> Floats:
    """Bring to length one, but leave near-nothing small: the noise of a flat picture is no content."""
    result: Floats = values / np.sqrt(np.square(values).sum() + floor**2)
    return result


def _lab(rgb: npt.NDArray[np.uint8]) -> Floats:
    """CIE Lab of shape ``(side, side, 3)``, scaled to about -1..1 (lightness 0..1)."""
    from skimage.color import rgb2lab

    scaled: Floats = rgb2lab(rgb) / 100.0
    return scaled


def _colour_histogram(hsv: npt.NDArray[np.uint8]) -> Floats:
    hue, saturation, value = (hsv[..., channel].ravel().astype(np.int64) for channel in range(3))
    coloured = saturation >= _GREY_BELOW
    strong = (saturation - _GREY_BELOW) * _SATURATIONS // (256 - _GREY_BELOW)
    # Hues are a circle; the pure colours lie in the middle of their bins.
    around = (hue + 128 // _HUES) % 256
    colour = (around * _HUES // 256 * _SATURATIONS + strong) * _VALUES + value * _VALUES // 256
    grey = _COLOURS + value * _GREYS // 256
    counts = np.bincount(np.where(coloured, colour, grey), minlength=_COLOURS + _GREYS)
    histogram: Floats = counts / counts.sum()
    return histogram


def _grid(lab: Floats) -> Floats:
    starts = np.array([0, _SIDE // 3, 2 * _SIDE // 3])
    sizes = np.diff(np.append(starts, _SIDE))
    pixels = (sizes[:, None] * sizes)[..., None]

    def cell_means(plane: Floats) -> Floats:
        sums = np.add.reduceat(np.add.reduceat(plane, starts, axis=0), starts, axis=1)
        means: Floats = sums / pixels
        return means

    means = cell_means(lab)
    variances = cell_means(np.square(lab)) - np.square(means)
    return np.concatenate([means.ravel(), np.sqrt(np.maximum(variances, 0.0)).ravel()])


def _edges(lightness: Floats) -> tuple[Floats, Floats]:
    """Strength of each pixel's edge, and its direction in turns (0 up to 1)."""
    down, right = np.gradient(lightness)
    strength = np.maximum(np.hypot(down, right) - _FAINT_EDGES, 0.0)
    return strength, np.arctan2(down, right) / (2 * np.pi) % 1.0


def _oriented(strength: Floats, phase: Floats, bins: int, cells: int) -> Floats:
    """Mean strength by cell and direction, shape ``(cells, cells, bins)``; `phase` counts in bins.

    Each edge is shared between the two nearest directions: most edges in pictures are upright or level, right
    between two bins or right in one, and noise must not decide which.
    """
    width = _SIDE // cells
    rows = np.arange(_SIDE) // width
    cell = (rows[:, None] * cells + rows) * bins
    low = np.floor(phase).astype(np.int64)
    upper = phase - low
    histogram = np.zeros(cells * cells * bins)
    for bin_, share in ((low % bins, 1.0 - upper), ((low + 1) % bins, upper)):
        code = (cell + bin_).ravel()
        histogram += np.bincount(code, weights=(strength * share).ravel(), minlength=histogram.size)
    return histogram.reshape(cells, cells, bins) / width**2


def _hog(strength: Floats, direction: Floats) -> Floats:
    """Histograms of oriented gradients: cells of 16 x 16 pixels, each 2 x 2 of them normalised together."""
    phase = direction * 2 * _ORIENTATIONS  # a direction and its opposite are one
    cells = _oriented(strength, phase, _ORIENTATIONS, _CELLS)
    blocks = [
        _soft_unit(cells[row : row + 2, column : column + 2].ravel(), _FAINT_EDGES)
        for row in range(_CELLS - 1)
        for column in range(_CELLS - 1)
    ]
    return np.concatenate(blocks)


def _texture_histogram(lightness: Floats) -> Floats:
    from skimage.feature import local_binary_pattern

    # A few steps only: the pattern compares neighbours, and noise must not decide over a flat area.
    grey = np.round(lightness * _TEXTURE_STEPS).astype(np.uint8)
    codes = local_binary_pattern(grey, P=8, R=1, method="uniform").astype(np.int64)
    histogram: Floats = np.bincount(codes.ravel(), minlength=10) / codes.size
    return histogram


def _thumbnail(lab: Floats) -> Floats:
    """Lightness on 8 x 8, colour on 4 x 4: the eye, too, sees colour more coarsely."""
    return np.concatenate([_means(lab[..., 0], 8), _means(lab[..., 1], 4), _means(lab[..., 2], 4)])


def _means(plane: Floats, cells: int) -> Floats:
    width = _SIDE // cells
    means: Floats = plane.reshape(cells, width, cells, width).mean(axis=(1, 3)).ravel()
    return means
