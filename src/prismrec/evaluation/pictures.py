"""Pictures inside a page: small, re-encoded, and a stand-in where there is none."""

import base64
import hashlib
import io

_SIDE = 280


def data_uri(picture: bytes | None) -> str | None:
    """Shrink an encoded picture and return it as a data URI; None if there is none or it cannot be decoded.

    It is decoded and written anew as JPEG, so that nothing but pixels reaches the page.
    """
    if picture is None:
        return None
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            opened.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
            upright.thumbnail((_SIDE, _SIDE))
            flat = Image.new("RGB", upright.size, "white")
            flat.paste(upright, mask=upright.getchannel("A"))
    # Pillow raises whatever its decoders meet on damaged bytes; the page then shows a stand-in.
    except Exception:
        return None
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def hue(text: str) -> int:
    """Return a hue in degrees that is always the same for a text, for its stand-in."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest(), "big") % 360
