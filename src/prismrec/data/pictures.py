"""Decoding pictures that come from anywhere: every shape of file, and a stated reason for each refusal."""

import io
import re
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000
"""Pictures with more pixels are refused before they are decoded."""

# Formats for pictures of items. Others that Pillow knows (EPS, PSD, FITS ...) run interpreters or are rare
# enough for their decoders to be little tested against hostile files.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

_WHITE = (255, 255, 255, 255)


class PictureError(ValueError):
    """A picture cannot be used; the message is the reason, in words for a report."""


def decode_image(
    content: bytes, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a picture to RGB.

    Transparency is laid on white, 16-bit and floating-point values are scaled to 8 bits, EXIF orientation is
    applied, of an animation the first frame is taken.

    Parameters
    ----------
    content
        The encoded file.
    max_pixels
        Pictures with more are refused by the size in their header, before any decoding. Pillow's own limit of
        about 179 million stays in force.
    at_least
        Width and height that suffice: a larger JPEG may be decoded at a fraction of its size, never to less
        than this. None: full size.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    PictureError
        If it is not a picture of a known format, is truncated or damaged, has no pixels or too many.
    """
    if not content:
        raise PictureError("the file is empty")
    image = _open(content, max_pixels)
    with image:
        try:
            if at_least is not None:
                image.draft(None, at_least)
            image.load()
            return _to_rgb(_upright(image))
        except MemoryError:
            raise
        # Decoders answer damaged bytes with almost any exception; all of them mean the same here.
        except Exception as error:
            raise PictureError(
                f"damaged or truncated {image.format} picture ({_first_line(error)})"
            ) from error


def check_image(content: bytes, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return why a picture cannot be used, None if it can. The whole file is read, so that a cut shows."""
    try:
        # Large JPEGs are decoded at an eighth of their size: all bytes are still read.
        decode_image(content, max_pixels=max_pixels, at_least=(1, 1))
    except PictureError as error:
        return str(error)
    return None


def _open(content: bytes, max_pixels: int) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns between its soft and its hard limit; the limit here is checked below.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=known)
    except Image.DecompressionBombError as error:
        count = re.search(r"\((\d+) pixels\)", str(error))
        shown = f"{int(count[1]):,}" if count else "more than Pillow allows"
        raise PictureError(f"too many pixels: {shown}, at most {max_pixels:,}") from error
    except UnidentifiedImageError:
        raise PictureError("not a picture in a known format") from None
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError(f"damaged picture, its header cannot be read ({_first_line(error)})") from error
    width, height = image.size
    if width < 1 or height < 1:
        raise PictureError(f"no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise PictureError(f"too many pixels: {width:,} x {height:,}, at most {max_pixels:,}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # A damaged EXIF block is no reason to lose the picture.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(image).convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        # Premultiplied modes convert to RGBA only; LA and PA do directly.
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and floating-point grey values to 8 bits."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max())
    full = max(top, 65_535.0)
    if image.mode == "F":
        # Both conventions are in use: 0 to 1 and 0 to 255.
        full = 1.0 if top <= 1.0 else max(top, 255.0)
    return Image.fromarray(np.round(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
