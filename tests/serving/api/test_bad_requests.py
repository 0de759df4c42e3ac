# ruff: noqa: E501 - a table: one request a line
"""Requests that are wrong, each with the status that is documented for it, and nothing done."""

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from PIL import Image

JSON = {"content-type": "application/json"}
WRITE_ONLY = {"authorization": "Bearer writer-secret"}
READ_ONLY = {"authorization": "Bearer reader-secret"}
ITEM, BATCH, EVENTS, LIST = "/v1/items/x", "/v1/items:batch", "/v1/events", "/v1/recommendations"
USER = "/v1/users/u/recommendations"
FANS, HISTORY, USERS, ITEMS = "/v1/items/a/users", "/v1/users/u/history", "/v1/users", "/v1/items"
FORM = {"content-type": "multipart/form-data; boundary=cut"}
PART = b'--cut\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb() -> bytes:
    """Four million pixels in under a thousand bytes."""
    target = io.BytesIO()
    Image.new("1", (2000, 2000)).save(target, "PNG")
    assert len(target.getvalue()) < 2000
    return target.getvalue()


def noise(size: int) -> bytes:
    """A picture that no compression makes small."""
    import numpy as np

    target = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(values).save(target, "PNG")
    return target.getvalue()


def events(count: int) -> dict[str, Any]:
    return {"events": [{"user_id": "u", "item_id": "a"}] * count}


def items(count: int) -> dict[str, Any]:
    return {"items": [{"item_id": f"n{i}"} for i in range(count)]}


@dataclass
class Bad:
    about: str
    status: int
    method: str
    path: str
    given: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def raw(content: bytes, kind: dict[str, str] = JSON) -> dict[str, Any]:
    return {"content": content, "headers": kind}


BAD = [
    # Too much
    Bad("a body too large", 413, "POST", EVENTS, raw(b" " * 70_000), "too_large"),
    Bad("a body too large in pieces", 413, "POST", EVENTS, {"content": iter([b" " * 9_000] * 20), "headers": JSON}, "too_large"),
    Bad("too many items", 422, "POST", BATCH, {"json": items(4)}, "too_many"),
    Bad("too many events", 422, "POST", EVENTS, {"json": events(4)}, "too_many"),
    Bad("a list too long for all", 422, "GET", USER, {"params": {"k": 1001}}),
    Bad("a list too long for this service", 422, "GET", USER, {"params": {"k": 51}}, "too_many"),
    Bad("the same in a body", 422, "POST", LIST, {"json": {"k": 51, "liked": ["a"]}}, "too_many"),
    Bad("too many people for this service", 422, "GET", FANS, {"params": {"k": 51}}, "too_many"),
    Bad("a history too long for this service", 422, "GET", HISTORY, {"params": {"k": 51}}, "too_many"),
    Bad("too many users for this service", 422, "GET", USERS, {"params": {"k": 51}}, "too_many"),
    Bad("too many found items for this service", 422, "GET", ITEMS, {"params": {"k": 51}}, "too_many"),
    Bad("a beginning too long", 422, "GET", USERS, {"params": {"beginning": "x" * 257}}),
    Bad("words too long", 422, "GET", ITEMS, {"params": {"words": "x" * 501}}),
    Bad("too many conditions", 422, "GET", USER, {"params": {"where": ["a=1"] * 21}}),
    Bad("a condition too long", 422, "GET", USER, {"params": {"where": "a=" + "x" * 500}}),
    Bad("an id too long", 422, "GET", f"/v1/items/{'x' * 257}"),
    Bad("a picture of too many bytes", 413, "PUT", ITEM, {"json": {"picture": encoded(noise(80))}}, "too_large"),
    Bad("a bomb of a picture", 422, "PUT", ITEM, {"json": {"picture": encoded(bomb())}}, "bad_picture"),
    Bad("a bomb as a file", 422, "PUT", ITEM, {"files": {"picture": ("a.png", bomb())}}, "bad_picture"),
    Bad("too many parts", 422, "PUT", ITEM, {"files": [(str(i), b"x") for i in range(3)]}, "too_many"),
    # Not readable
    Bad("an empty body", 400, "POST", EVENTS, raw(b""), "not_json"),
    Bad("half a JSON value", 400, "POST", EVENTS, raw(b'{"events": ['), "not_json"),
    Bad("text that is not UTF-8", 400, "POST", EVENTS, raw(b'{"events": [{"user_id": "\xff"}]}'), "not_json"),
    Bad("half a surrogate", 400, "PUT", ITEM, raw(b'{"attributes": {"a": "\\ud800"}}'), "not_json"),
    Bad("JSON nested deep", 400, "PUT", ITEM, raw(b'{"attributes": ' + b"[" * 20_000), "not_json"),
    Bad("JSON nested a little", 422, "PUT", ITEM, raw(b'{"attributes": {"a": [[1]]}}'), "invalid"),
    Bad("an object as an attribute", 422, "PUT", ITEM, {"json": {"attributes": {"a": {"b": 1}}}}, "invalid"),
    Bad("not a number", 422, "PUT", ITEM, raw(b'{"attributes": {"a": NaN}}'), "invalid"),
    Bad("no number in a list", 422, "PUT", ITEM, raw(b'{"attributes": {"a": [1, -Infinity]}}'), "invalid"),
    Bad("a number beyond all", 422, "PUT", ITEM, raw(b'{"attributes": {"a": 1e999}}'), "invalid"),
    Bad("a whole number of 65 bits", 422, "PUT", ITEM, {"json": {"attributes": {"a": 2**63}}}, "invalid"),
    Bad("a number of 5,000 digits", 400, "PUT", ITEM, raw(b'{"attributes": {"a": ' + b"9" * 5000 + b"}}"), "not_json"),
    Bad("broken base64", 422, "PUT", ITEM, {"json": {"picture": "iVBORw0KGgo=!"}}, "invalid"),
    Bad("base64 that is no picture", 422, "PUT", ITEM, {"json": {"picture": encoded(b"<svg/>")}}, "bad_picture"),
    Bad("an empty picture", 422, "PUT", ITEM, {"json": {"picture": ""}}, "bad_picture"),
    Bad("multipart without its end", 400, "PUT", ITEM, raw(PART % (b"attributes", b"", b"{}"), FORM), "bad_multipart"),
    Bad("multipart cut in a picture", 400, "PUT", ITEM, raw(PART[:-2] % (b"picture", b'; filename="a"', b"\x89PNG"), FORM), "bad_multipart"),
    Bad("multipart without a boundary", 400, "PUT", ITEM, raw(b"x", {"content-type": "multipart/form-data"}), "bad_multipart"),
    Bad("multipart that is none", 400, "PUT", ITEM, raw(b"hello", FORM), "bad_multipart"),
    Bad("a part without a name", 400, "PUT", ITEM, raw(b"--cut\r\nX-A: b\r\n\r\nx\r\n--cut--\r\n", FORM), "bad_multipart"),
    Bad("a part twice", 422, "PUT", ITEM, {"files": [("attributes", (None, "{}"))] * 2}, "invalid"),
    Bad("a part that nobody asked for", 422, "PUT", ITEM, {"files": {"image": b"x"}}, "invalid"),
    Bad("a part that is not there", 422, "POST", BATCH, {"files": {"batch": (None, '{"items": [{"item_id": "a", "picture_part": "p"}]}')}}, "invalid"),
    Bad("a batch without its part", 422, "POST", BATCH, {"files": {"p": b"x"}}, "invalid"),
    Bad("a path that is not UTF-8", 400, "GET", "/v1/items/%ff", {}, "not_utf8"),
    Bad("a query that is not UTF-8", 400, "GET", USER + "?where=%ff%3D1", {}, "not_utf8"),
    # Not meant
    Bad("no list at all", 422, "GET", USER, {"params": {"k": 0}}),
    Bad("nobody at all", 422, "GET", FANS, {"params": {"k": 0}}),
    Bad("nothing of a history", 422, "GET", HISTORY, {"params": {"k": 0}}),
    Bad("a misspelt beginning", 422, "GET", USERS, {"params": {"begin": "a"}}),
    Bad("misspelt words", 422, "GET", ITEMS, {"params": {"word": "a"}}),
    Bad("conditions where there are none", 422, "GET", FANS, {"params": {"where": "price<20"}}),
    Bad("a control character in a history's user", 422, "GET", "/v1/users/a%00b/history"),
    Bad("words that are not UTF-8", 400, "GET", ITEMS + "?words=%ff", {}, "not_utf8"),
    Bad("half a place", 422, "GET", USER, {"params": {"k": "1.5"}}),
    Bad("no number", 422, "GET", USER, {"params": {"diversity": "nan"}}),
    Bad("more than all diversity", 422, "GET", USER, {"params": {"diversity": 1.01}}),
    Bad("a misspelt setting", 422, "GET", USER, {"params": {"exclude_sen": "false"}}),
    Bad("a choice that there is not", 422, "GET", USER, {"params": {"choose": "old"}}),
    Bad("a condition like SQL", 422, "GET", USER, {"params": {"where": "1; DROP TABLE items --"}}, "invalid"),
    Bad("an empty condition", 422, "GET", USER, {"params": {"where": ""}}),
    Bad("an empty id", 404, "GET", "/v1/items/", {}, "no_route"),
    Bad("an empty user", 404, "GET", "/v1/users//recommendations", {}, "no_route"),
    Bad("a control character in an id", 422, "GET", "/v1/items/a%00b"),
    Bad("a new line in an id", 422, "PUT", "/v1/items/a%0Ab", {"json": {}}),
    Bad("a new line at the end of an id", 422, "DELETE", "/v1/items/a%0A"),
    Bad("a control character in an event", 422, "POST", EVENTS, {"json": {"events": [{"user_id": "\x7f", "item_id": "a"}]}}),
    Bad("an empty id in an event", 422, "POST", EVENTS, {"json": {"events": [{"user_id": "", "item_id": "a"}]}}),
    Bad("no events", 422, "POST", EVENTS, {"json": {"events": []}}),
    Bad("milliseconds for seconds", 422, "POST", EVENTS, {"json": {"events": [{"user_id": "u", "item_id": "a", "timestamp": 1.7e12}]}}),
    Bad("a number as an id", 422, "POST", EVENTS, {"json": {"events": [{"user_id": 5, "item_id": "a"}]}}),
    Bad("a list for an object", 422, "POST", EVENTS, {"json": []}),
    Bad("an unknown member", 422, "PUT", ITEM, {"json": {"attribute": {}}}),
    Bad("an item twice", 422, "POST", BATCH, {"json": {"items": [{"item_id": "a"}, {"item_id": "a"}]}}),
    Bad("likes and events", 422, "POST", LIST, {"json": {"liked": ["a"], "events": [{"item_id": "a", "timestamp": 1}]}}),
    Bad("nothing liked", 422, "POST", LIST, {"json": {"k": 5, "liked": []}}),
    Bad("an unknown liked item", 422, "POST", LIST, {"json": {"liked": ["zz"]}}, "unknown_item"),
    Bad("an unknown item's people", 404, "GET", "/v1/items/zz/users", {}, "unknown_item"),
    Bad("an empty user's history", 404, "GET", "/v1/users//history", {}, "no_route"),
    Bad("an unknown item", 404, "GET", "/v1/items/zz", {}, "unknown_item"),
    Bad("a path out of the folder", 404, "GET", "/v1/items/..%2F..%2Fetc%2Fpasswd/picture", {}, "unknown_item"),
    Bad("dots", 404, "GET", "/v1/items/%2e%2e/picture", {}),
    Bad("a picture that there is not", 404, "GET", "/v1/items/a/picture", {}, "no_picture"),
    Bad("an item that is not there", 404, "DELETE", "/v1/items/zz", {}, "unknown_item"),
    # Not here
    Bad("an unknown route", 404, "GET", "/v2/items/a", {}, "no_route"),
    Bad("the framework's pages", 404, "GET", "/docs", {}, "no_route"),
    Bad("a wrong method", 405, "POST", "/v1/items/a", {"json": {}}, "wrong_method"),
    Bad("an invented method", 405, "BREW", "/v1/items/a", {}, "wrong_method"),
    Bad("users by another method", 405, "POST", USERS, {"json": {}}, "wrong_method"),
    Bad("a wrong content type", 415, "POST", EVENTS, raw(b"{}", {"content-type": "text/plain"}), "wrong_content_type"),
    Bad("no content type", 415, "POST", EVENTS, {"content": b"{}"}, "wrong_content_type"),
    Bad("a form for events", 415, "POST", EVENTS, {"files": {"events": b"x"}}, "wrong_content_type"),
    Bad("XML", 415, "PUT", ITEM, raw(b"<a/>", {"content-type": "application/xml"}), "wrong_content_type"),
    # Not allowed
    Bad("a wrong key", 401, "GET", "/v1/items/a", {"headers": {"authorization": "Bearer wrong"}}, "wrong_key"),
    Bad("a wrong key in the other header", 401, "GET", "/v1/items/a", {"headers": {"x-api-key": "wrong"}}, "wrong_key"),
    Bad("a digest for its secret", 401, "GET", "/v1/items/a", {"headers": {"x-api-key": "0" * 64}}, "wrong_key"),
    Bad("an empty key", 401, "GET", "/v1/items/a", {"headers": {"authorization": "Bearer"}}, "no_key"),
    Bad("another scheme", 401, "GET", "/v1/items/a", {"headers": {"authorization": "Basic cmVhZGVy"}}, "no_key"),
    Bad("reading with a key to write", 403, "GET", "/v1/items/a", {"headers": WRITE_ONLY}, "missing_scope"),
    Bad("people with a key to write", 403, "GET", FANS, {"headers": WRITE_ONLY}, "missing_scope"),
    Bad("a history with a key to write", 403, "GET", HISTORY, {"headers": WRITE_ONLY}, "missing_scope"),
    Bad("users with a key to write", 403, "GET", USERS, {"headers": WRITE_ONLY}, "missing_scope"),
    Bad("items with a key to write", 403, "GET", ITEMS, {"headers": WRITE_ONLY}, "missing_scope"),
    Bad("users without a key", 401, "GET", USERS, {"headers": {"authorization": ""}}, "no_key"),
    Bad("writing with a key to read", 403, "DELETE", "/v1/items/a", {"headers": READ_ONLY}, "missing_scope"),
    Bad("reloading with a key to read", 403, "POST", "/v1/reload", {"headers": READ_ONLY}, "missing_scope"),
    Bad("metrics without a key", 401, "GET", "/metrics", {"headers": {"authorization": ""}}, "no_key"),
    Bad("a wrong idempotency key", 400, "DELETE", "/v1/items/a", {"headers": {"idempotency-key": "x" * 256}}, "bad_idempotency_key"),
    Bad("nothing to reload", 409, "POST", "/v1/reload", {}, "nothing_to_reload"),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=[bad.about for bad in BAD])
def test_a_bad_request_is_refused_in_words_and_changes_nothing(guarded, bad):
    before = dict(guarded.service.items)
    answer = guarded.send(bad.method, bad.path, **bad.given)
    assert answer.status_code == bad.status, answer.text
    told = answer.json()
    assert set(told) == {"error", "problem", "hint", "request_id"}
    assert told["error"] == (bad.error or "invalid" if bad.status == 422 else bad.error or told["error"])
    assert told["problem"].endswith(".") or bad.status == 422
    assert told["request_id"] == answer.headers["x-request-id"]
    assert len(answer.content) < 3_000
    for inside in ("Traceback", "site-packages", ".py", "pydantic", "starlette"):
        assert inside not in answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert guarded.service.items == before
    assert guarded.service.events == []


def test_every_refusal_is_documented(guarded):
    paths = guarded.client.get("/v1/openapi.json").json()["paths"]
    templates = {
        ITEM: "/v1/items/{item_id}",
        USER: "/v1/users/{user_id}/recommendations",
        FANS: "/v1/items/{item_id}/users",
        HISTORY: "/v1/users/{user_id}/history",
        "/v1/items/a": "/v1/items/{item_id}",
        "/v1/items/a/picture": "/v1/items/{item_id}/picture",
    }
    checked = 0
    for bad in BAD:
        operation = paths.get(templates.get(bad.path, bad.path), {}).get(bad.method.lower())
        if operation is not None:
            assert str(bad.status) in operation["responses"], bad.about
            checked += 1
    assert checked > 70


def test_a_body_that_lies_about_its_length_is_refused(guarded):
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer both-secret\r\n"
    head += b"Content-Type: application/json\r\nConnection: close\r\n"
    short = guarded.raw(head + b"Content-Length: 100\r\n\r\n{}", hang_up=True)
    # Who hangs up in the middle may be told nothing, but nothing is recorded and the service lives.
    assert short == b"" or short.split(b" ")[1] == b"400"
    negative = guarded.raw(head + b"Content-Length: -1\r\n\r\n{}")
    assert negative.split(b" ")[1] == b"400"
    both = guarded.raw(head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert both.split(b" ")[1] in (b"400", b"422")
    assert guarded.send("GET", "/health").status_code == 200
    assert guarded.service.events == []


def test_a_body_that_announces_too_much_is_not_read(guarded):
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer both-secret\r\n"
    answer = guarded.raw(head + b"Content-Type: application/json\r\nContent-Length: 70000\r\n\r\n")
    assert answer.split(b" ")[1] == b"413"


def test_a_chunked_body_is_cut_before_it_ends(guarded):
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer both-secret\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    # The end of the body never comes: the answer comes because the limit is passed.
    answer = guarded.raw(head, *[b"2000\r\n" + b" " * 0x2000 + b"\r\n"] * 9)
    assert answer.split(b" ")[1] == b"413"
    assert b"connection: close" in answer.lower()


def test_a_picture_in_a_batch_that_cannot_be_used_keeps_out_the_batch(guarded):
    batch = {"items": [{"item_id": "good"}, {"item_id": "bad", "picture": encoded(b"no")}]}
    answer = guarded.send("POST", BATCH, json=batch)
    assert answer.status_code == 422
    assert "'bad'" in answer.json()["problem"]
    assert "good" not in guarded.service.items


def test_an_error_names_the_field_and_what_was_expected(guarded):
    told = guarded.send("GET", USER, params={"k": 0, "diversity": 2}).json()
    assert told["problem"].startswith("query.k: Input should be greater than or equal to 1; query.diversity")
    told = guarded.send("PUT", ITEM, json={"attributes": {"size": [[1]]}}).json()
    assert "attributes.size" in told["problem"]
    assert "or a list of these" in told["problem"]
    told = guarded.send("GET", USER, params={"where": "price"}).json()
    assert told["hint"] == "Write e.g. 'price<20'."


def test_keys_come_in_either_header_and_open_what_they_may(guarded):
    with httpx.Client(base_url=guarded.url) as client:
        for headers in ({"X-API-Key": "reader-secret"}, {"Authorization": "bearer reader-secret"}):
            assert client.get("/v1/items/a", headers=headers).status_code == 200
        refused = client.get("/v1/items/a")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        sent = client.post(EVENTS, json={"events": []}, headers={"X-API-Key": "writer-secret"})
        assert sent.status_code == 422


def test_the_form_of_a_refusal_is_the_documented_one(guarded):
    from prismrec.serving.schemas import ErrorOut

    ErrorOut.model_validate(json.loads(guarded.send("GET", "/v1/items/zz").content))
