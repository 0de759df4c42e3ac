from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.pictures import FORMATS
from prismrec.serving.bodies import multipart, picture_type
from prismrec.serving.problems import RequestError

TYPE = "multipart/form-data; boundary=b0"


def written(parts: dict[str, bytes]) -> bytes:
    body = b""
    for name, content in parts.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        body += b"--b0\r\n" + head + content + b"\r\n"
    return body + b"--b0--\r\n"


names = st.text("abcäß☕ /.", min_size=1, max_size=8)


@given(st.dictionaries(names, st.binary(max_size=200).filter(lambda part: b"--b0" not in part), max_size=5))
def test_what_is_written_is_read(parts):
    if parts:
        assert multipart(TYPE, written(parts), at_most=5) == parts


@given(st.data())
def test_a_cut_body_never_passes_for_a_whole_one(data):
    parts = {"picture": bytes(range(256)), "attributes": b"{}"}
    body = written(parts)
    # What follows the last boundary may be missing.
    end = data.draw(st.integers(0, len(body) - 3))
    with pytest.raises(RequestError) as caught:
        multipart(TYPE, body[:end], at_most=5)
    assert caught.value.status == 400


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content):
    # Nothing but a refusal may come out of it.
    with suppress(RequestError):
        assert isinstance(multipart(TYPE, b"--b0\r\n" + content, at_most=3), dict)


def test_a_name_that_is_not_utf8_is_refused():
    body = written({"x": b"1"}).replace(b'name="x"', b'name="\xff"')
    with pytest.raises(RequestError) as caught:
        multipart(TYPE, body, at_most=3)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/octet-stream"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "application/octet-stream"),
        (b"<!doctype html>", "application/octet-stream"),
        (b"%PDF-1.7", "application/octet-stream"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"\x00\x00\x00\x20ftypavif", "image/avif"),
        (b"II*\x00", "image/tiff"),
    ],
)
def test_only_known_pictures_are_shown_as_pictures(content, kind):
    assert picture_type(content) == kind


def test_no_format_that_runs_anything_is_let_in():
    assert not {"SVG", "EPS", "PDF"} & set(FORMATS)
