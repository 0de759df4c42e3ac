import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from prismrec.serving import security
from prismrec.serving.problems import RequestError
from prismrec.serving.security import RateLimiter, admit, find_key, quoted_path, secret_in
from prismrec.serving.settings import ApiKey, Rate, ServeSettings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def key(name, secret, *scopes):
    return ApiKey(
        name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=frozenset(scopes or {"read"})
    )


def scope(client="10.0.0.1", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "headers": pairs, "client": (client, 1) if client else None}


def test_a_bucket_gives_its_burst_then_fills_at_its_rate():
    clock = Clock()
    limiter = RateLimiter(Rate(per_second=2.0, burst=3), clock)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(RequestError) as caught:
        limiter.take("a")
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": "1"}
    limiter.take("b")
    clock.now += 0.5
    limiter.take("a")
    with pytest.raises(RequestError):
        limiter.take("a")
    # However long the pause, never more than the burst.
    clock.now += 1e6
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(RequestError):
        limiter.take("a")


def test_who_waits_as_long_as_told_gets_through():
    clock = Clock()
    limiter = RateLimiter(Rate(per_second=0.3, burst=1), clock)
    limiter.take("a")
    with pytest.raises(RequestError) as caught:
        limiter.take("a")
    clock.now += int(caught.value.headers["Retry-After"])
    limiter.take("a")


@given(st.lists(st.floats(0.0, 3.0), max_size=60))
def test_no_more_than_burst_and_rate_together_get_through(pauses):
    clock = Clock()
    limiter = RateLimiter(Rate(per_second=1.5, burst=4), clock)
    begin, passed = clock.now, 0
    for pause in pauses:
        clock.now += pause
        try:
            limiter.take("a")
            passed += 1
        except RequestError:
            continue
        assert passed <= 4 + 1.5 * (clock.now - begin) + 1e-6


def test_memory_is_bounded_and_the_one_that_asks_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(security, "_REMEMBERED", 10)
    limiter = RateLimiter(Rate(per_second=0.001, burst=2), Clock())
    limiter.take("often")
    limiter.take("often")
    for place in range(1000):
        limiter.take(f"once {place}")
        with pytest.raises(RequestError):
            limiter.take("often")
    assert len(limiter._buckets) <= 10


def test_secrets_are_compared_in_constant_time_with_every_key(monkeypatch):
    compared = []
    true = hmac.compare_digest
    monkeypatch.setattr(security.hmac, "compare_digest", lambda a, b: (compared.append(b), true(a, b))[1])
    keys = (key("a", "one"), key("b", "two"), key("c", "three"))
    assert find_key(keys, "one") is keys[0]
    assert len(compared) == 3
    assert find_key(keys, "three") is keys[2]
    assert find_key(keys, "onE") is None
    assert find_key(keys, "") is None
    assert find_key(keys, keys[0].sha256) is None


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"authorization": "Bearer s"}, "s"),
        ({"authorization": "bEARER   s "}, "s"),
        ({"x-api-key": "s"}, "s"),
        ({"x-api-key": "s", "authorization": "Basic x"}, "s"),
        ({"authorization": "Basic s"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "s"}, None),
        ({}, None),
    ],
)
def test_where_a_secret_stands(headers, secret):
    assert secret_in(Headers(headers)) == secret


def test_only_who_guesses_is_slowed_by_guessing():
    settings = ServeSettings(keys=(key("a", "one"),), rate=Rate(per_second=0.001, burst=2))
    limiter = RateLimiter(settings.rate, Clock())
    statuses = []
    for _ in range(3):
        with pytest.raises(RequestError) as caught:
            admit(settings, limiter, scope(x_api_key="guess"), "read")
        statuses.append(caught.value.status)
    assert statuses == [401, 401, 429]
    # From the same address, with the right key.
    assert admit(settings, limiter, scope(x_api_key="one"), "read") == "a"


def test_scopes_do_not_hold_each_other():
    settings = ServeSettings(keys=(key("r", "one", "read"), key("w", "two", "write")), rate=None)
    limiter = RateLimiter(None)
    for secret, may, may_not in (("one", "read", "write"), ("two", "write", "read")):
        admit(settings, limiter, scope(x_api_key=secret), may)
        with pytest.raises(RequestError) as caught:
            admit(settings, limiter, scope(x_api_key=secret), may_not)
        assert caught.value.status == 403


def test_bytes_in_a_key_that_are_no_text_are_only_wrong():
    settings = ServeSettings(keys=(key("a", "one"),))
    with pytest.raises(RequestError) as caught:
        admit(settings, RateLimiter(None), scope(x_api_key="\xff\xfe"), "read")
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::4", "2001:db8:1:3::4", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        (None, None, True),
    ],
)
def test_without_keys_an_address_has_a_bucket_and_ipv6_a_whole_network(one, other, same):
    settings = ServeSettings(rate=Rate(per_second=0.001, burst=1))
    limiter = RateLimiter(settings.rate, Clock())
    admit(settings, limiter, scope(one), "read")
    if same:
        with pytest.raises(RequestError):
            admit(settings, limiter, scope(other), "read")
    else:
        assert admit(settings, limiter, scope(other), "read") is None


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/items/a%2Fb/similar", "/v1/items/a%2Fb/similar"),
        (b"/v1/items%3Abatch", "/v1/items:batch"),
        (b"/v1/items/%61%7E%20", "/v1/items/a~%20"),
        (b"/v1/items/%2e%2e", "/v1/items/.."),
        (b"/v1/items/50%25", "/v1/items/50%25"),
        (b"/v1/items/k\xc3\xa4se", "/v1/items/k%C3%A4se"),
        (b"/", "/"),
    ],
)
def test_a_path_has_one_form_in_which_segments_stay_apart(raw, path):
    assert quoted_path({"raw_path": raw, "path": "ignored", "query_string": b""}) == path


@pytest.mark.parametrize(
    ("raw", "query"), [(b"/%ff", b""), (b"/a%c3", b""), (b"/a", b"q=%ff"), (b"/a", b"\xff")]
)
def test_an_address_that_is_not_utf8_is_refused(raw, query):
    with pytest.raises(RequestError) as caught:
        quoted_path({"raw_path": raw, "path": "/", "query_string": query})
    assert caught.value.status == 400
