"""Bodies of requests: read within limits, JSON or multipart, pictures checked before anybody keeps them."""

from typing import TYPE_CHECKING

import anyio
from pydantic import RootModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from prismrec.data.pictures import check_image
from prismrec.serving.problems import RequestError
from prismrec.serving.schemas import Attributes, BatchIn, BatchItemIn, ItemIn, parse
from prismrec.serving.settings import Limits
from prismrec.serving.types import NewItem

if TYPE_CHECKING:
    # It exists for type checkers only.
    from python_multipart.multipart import MultipartCallbacks

JSON = "application/json"
MULTIPART = "multipart/form-data"

# What a picture is, by how its file begins. Only these are shown as pictures by a browser.
_KINDS = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
)


class _AttributesPart(RootModel[Attributes]):
    """Part `attributes` of a multipart body."""


def content_kind(request: Request, allowed: tuple[str, ...]) -> str:
    """Return a request's content type without its parameters.

    Raises
    ------
    RequestError
        415 if it is not among those allowed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in allowed:
        raise RequestError(
            415,
            "wrong_content_type",
            "The body's content type is not known here.",
            f"Send {' or '.join(allowed)}.",
        )
    return kind


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a body whole; how large it may be is watched by `prismrec.serving.security.Gate`.

    Raises
    ------
    RequestError
        408 if it does not arrive in time, 400 if it ends early.
    """
    try:
        with anyio.fail_after(limits.body_seconds):
            return await request.body()
    except TimeoutError:
        raise RequestError(
            408,
            "too_slow",
            f"The body did not arrive within {limits.body_seconds:g} s.",
            "Send less at once.",
            {"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise RequestError(400, "cut_off", "The body ended early.") from None


def item_of(item_id: str, kind: str, content_type: str, body: bytes, limits: Limits) -> NewItem:
    """Return an item from a PUT's body.

    Raises
    ------
    RequestError
        400, 413 or 422.
    """
    if kind == JSON:
        given = parse(ItemIn, body)
        attributes, picture = given.attributes, given.picture
    else:
        parts = multipart(content_type, body, at_most=2)
        _refuse_unknown(parts, {"attributes", "picture"})
        attributes = parse(_AttributesPart, parts.get("attributes", b"{}")).root
        picture = parts.get("picture")
    return _checked(NewItem(item_id, attributes, picture), limits)


def batch_of(kind: str, content_type: str, body: bytes, limits: Limits) -> list[NewItem]:
    """Return the items of a batch.

    Raises
    ------
    RequestError
        400, 413 or 422.
    """
    parts: dict[str, bytes] = {}
    if kind == JSON:
        batch = parse(BatchIn, body)
    else:
        parts = multipart(content_type, body, at_most=limits.items + 1)
        if "batch" not in parts:
            raise RequestError(
                422, "invalid", "The part 'batch' is missing.", "It holds the JSON, other parts the pictures."
            )
        batch = parse(BatchIn, parts.pop("batch"))
    if len(batch.items) > limits.items:
        raise RequestError(
            422,
            "too_many",
            f"{len(batch.items):,} items, at most {limits.items:,}.",
            "Send several requests.",
        )
    _refuse_unknown(parts, {item.picture_part for item in batch.items if item.picture_part})
    return [_checked(_new_item(item, parts), limits) for item in batch.items]


def multipart(content_type: str, body: bytes, at_most: int) -> dict[str, bytes]:
    """Take a multipart body apart.

    Parameters
    ----------
    content_type
        Header of the request, with the boundary.
    body
        Whole.
    at_most
        Parts that are allowed.

    Returns
    -------
    dict
        Content by name of the part.

    Raises
    ------
    RequestError
        400 if it cannot be read or ends before its last boundary, 422 if a part comes twice or too many come.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError(400, "bad_multipart", "The content type names no boundary.")
    reader = _Parts(at_most)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError):
        raise RequestError(400, "bad_multipart", "The multipart body cannot be read.") from None
    if not reader.complete:
        # A parser that works on streams is content with what it got: half a picture would pass for a whole.
        raise RequestError(400, "bad_multipart", "The multipart body ends before its last boundary.")
    return {name: bytes(content) for name, content in reader.parts.items()}


def check_picture(item_id: str, content: bytes, limits: Limits) -> None:
    """Refuse a picture that is too large, too many pixels, or none.

    Raises
    ------
    RequestError
        413 or 422.
    """
    if len(content) > limits.picture_bytes:
        raise RequestError(
            413,
            "too_large",
            f"Item {item_id!r}: its picture has {len(content):,} bytes, at most {limits.picture_bytes:,}.",
            "Send a smaller one.",
        )
    reason = check_image(content, max_pixels=limits.pixels)
    if reason is not None:
        raise RequestError(
            422,
            "bad_picture",
            f"Item {item_id!r}: its picture cannot be used: {reason}.",
            "Send another one.",
        )


def picture_type(content: bytes) -> str:
    """Return the media type of a picture by its first bytes; what is not known is a plain file."""
    for place, magic, kind in _KINDS:
        if content[place : place + len(magic)] == magic:
            return kind
    return "application/octet-stream"


class _Parts:
    """Collects what the multipart parser finds."""

    def __init__(self, at_most: int) -> None:
        self.parts: dict[str, bytearray] = {}
        self.complete = False
        self._at_most = at_most
        self._header = b""
        self._value = b""
        self._name: str | None = None
        self._current = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._content_of_header,
            "on_header_end": self._header_end,
            "on_headers_finished": self._named,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._header, self._value, self._name = b"", b"", None

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _content_of_header(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            raw = parse_options_header(self._value)[1].get(b"name")
            self._name = None if raw is None else raw.decode("utf-8")
        self._header, self._value = b"", b""

    def _named(self) -> None:
        if not self._name:
            raise RequestError(400, "bad_multipart", "A part has no name.")
        if self._name in self.parts:
            raise RequestError(422, "invalid", f"The part {self._name!r} comes twice.")
        if len(self.parts) >= self._at_most:
            raise RequestError(422, "too_many", f"There are more than {self._at_most:,} parts.")
        self._current = self.parts[self._name] = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._current += data[start:end]

    def _end(self) -> None:
        self.complete = True


def _refuse_unknown(parts: dict[str, bytes], known: set[str]) -> None:
    unknown = sorted(set(parts) - known)
    if unknown:
        raise RequestError(
            422,
            "invalid",
            f"Nobody asked for the part {unknown[0]!r}.",
            f"Known here: {', '.join(sorted(known)) or 'none'}.",
        )


def _new_item(item: BatchItemIn, parts: dict[str, bytes]) -> NewItem:
    picture = item.picture
    if item.picture_part is not None:
        if picture is not None or item.picture_part not in parts:
            reason = "gives its picture twice" if picture is not None else "names a part that is not there"
            raise RequestError(
                422,
                "invalid",
                f"Item {item.item_id!r}: {reason}.",
                "Give 'picture' in JSON, or in multipart 'picture_part' and a part of that name.",
            )
        picture = parts[item.picture_part]
    return NewItem(item.item_id, item.attributes, picture)


def _checked(item: NewItem, limits: Limits) -> NewItem:
    if item.picture is not None:
        check_picture(item.item_id, item.picture, limits)
    return item
