"""Pictures for a page: small, re-encoded, kept for a while, and a drawn stand-in where there is none."""

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

from markupsafe import Markup

from prismrec.base.files import digest
from prismrec.evaluation.pictures import hue

SIDE = 256
"""Longest side of a picture, in pixels."""

SMALL = 96
"""Longest side of a picture beside a text."""

_KEPT_BYTES = 64 * 2**20
# What a picture may have before it is refused: far above any photograph, far below what fills the memory.
_MAX_PIXELS = 80_000_000


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Parameters
    ----------
    content
        Encoded.
    media_type
        E.g. ``"image/webp"``.
    etag
        Another one for another picture.
    """

    content: bytes
    media_type: str
    etag: str


class Thumbnails:
    """Makes small pictures and keeps those that were asked for last. Safe to use from several threads.

    Parameters
    ----------
    kept_bytes
        How much is kept.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._room = kept_bytes
        self._kept: OrderedDict[str, Thumbnail] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, picture: bytes | None, side: int, title: str) -> Thumbnail:
        """Return a picture at a size; a stand-in if there is none or it cannot be decoded.

        Parameters
        ----------
        picture
            Encoded.
        side
            Longest side in pixels; `SIDE` is the most.
        title
            For the stand-in.
        """
        if picture is None:
            return _stand_in(title)
        key = digest(picture, str(side).encode(), title.encode())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = shrink(picture, min(side, SIDE))
        made = _stand_in(title) if content is None else Thumbnail(content, "image/webp", f'"{key[:24]}"')
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._room -= len(made.content)
            while self._room < 0 and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._room += len(oldest.content)
        return made


def shrink(picture: bytes, side: int) -> bytes | None:
    """Shrink a picture and encode it anew, so that nothing but pixels passes; None if it cannot be decoded.

    Parameters
    ----------
    picture
        Encoded, in any format that Pillow knows.
    side
        Longest side in pixels.

    Returns
    -------
    bytes
        WebP, upright, on white where it was transparent.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                return None
            opened.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
            flat = Image.new("RGB", upright.size, "white")
            flat.paste(upright, mask=upright.getchannel("A"))
        buffer = io.BytesIO()
        flat.save(buffer, "WEBP", quality=80, method=4)
    # Pillow raises whatever its decoders meet on damaged bytes; the page then shows a stand-in.
    except Exception:
        return None
    return buffer.getvalue()


def initials(title: str) -> str:
    """Return the first letters of a title's first two words, ``"?"`` if it has none."""
    words = ["".join(sign for sign in word if sign.isalnum()) for word in title.split()]
    return "".join(word[0] for word in words if word)[:2].upper() or "?"


def stand_in(title: str) -> Markup:
    """Draw a title's initials on its colour, as SVG that reads its colours from the page's styles."""
    return Markup('<svg class="cover hue{}" viewBox="0 0 100 100" aria-hidden="true">{}</svg>').format(
        hue(title) // 30, _letters(title)
    )


def icon() -> bytes:
    """Draw the page's icon, as SVG."""
    return (
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        b'<path d="M16 3 30 28H2Z" fill="#2f6f9f"/><path d="M16 3 30 28H16Z" fill="#c47a1c"/>'
        b'<path d="M16 3 21 28H11Z" fill="#4f8a4c"/></svg>'
    )


def _stand_in(title: str) -> Thumbnail:
    drawn = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="256" height="256">'
        '<rect width="100" height="100" fill="hsl({},24%,62%)"/><g fill="#14181b" font-family="serif">{}</g>'
        "</svg>"
    ).format(hue(title), _letters(title))
    content = str(drawn).encode()
    return Thumbnail(content, "image/svg+xml", f'"{digest(content)[:24]}"')


def _letters(title: str) -> Markup:
    return Markup(
        '<text x="50" y="52" text-anchor="middle" dominant-baseline="middle" font-size="36">{}</text>'
    ).format(initials(title))
