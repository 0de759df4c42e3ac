import hashlib

import pytest
from pydantic import ValidationError

from prismrec.base.errors import ConfigError, InputError
from prismrec.serving.settings import (
    KEYS_VARIABLE,
    ApiKey,
    ServeSettings,
    is_loopback,
    new_key,
    read_settings,
)

DIGEST = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"two").hexdigest()


def test_a_file_is_read_and_arguments_come_before_it(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(
        f"""
        host = "0.0.0.0"
        port = 9000
        bundle = "runs/one"
        index_from = 20_000
        [[keys]]
        name = "shop"
        sha256 = "{DIGEST}"
        scopes = ["read", "write"]
        [rate]
        per_second = 5
        [limits]
        items = 7
        """
    )
    found = read_settings(path, {KEYS_VARIABLE: f"cron:{OTHER}:write, page:{'0' * 64}"}, {"port": 1})
    assert (found.host, found.port, str(found.bundle)) == ("0.0.0.0", 1, "runs/one")
    assert [(key.name, sorted(key.scopes)) for key in found.keys] == [
        ("shop", ["read", "write"]),
        ("cron", ["write"]),
        ("page", ["read"]),
    ]
    assert found.keys[1].sha256 == OTHER
    assert (found.index_from, found.index_recall) == (20_000, 0.98)
    assert found.rate is not None
    assert (found.rate.per_second, found.rate.burst) == (5.0, 200)
    assert (found.limits.items, found.limits.events, found.limits.body_bytes) == (7, 1000, 8 * 1024**2)


def test_without_anything_it_is_open_on_this_machine_only():
    found = read_settings(None, {})
    assert (found.host, found.port, found.keys) == ("127.0.0.1", 8000, ())
    with pytest.raises(ValidationError):
        found.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "shop.example", "127.0.0.1.example"])
def test_another_host_without_keys_is_refused_and_with_keys_it_is_not(host):
    with pytest.raises(ConfigError, match=r"without 'keys'.*this machine only.*PRISMREC_API_KEYS"):
        read_settings(None, {}, {"host": host})
    assert read_settings(None, {KEYS_VARIABLE: f"a:{DIGEST}"}, {"host": host}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_addresses_of_this_machine(host):
    assert is_loopback(host)
    assert ServeSettings(host=host).host == host


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hots = '127.0.0.1'", "unknown setting 'hots'.*\n.*'hosts'"),
        ("port = 70000", "'port' cannot be 70000"),
        ("[limits]\nk = 1001", r"'limits.k' cannot be 1001"),
        ("[rate]\nper_second = 0", r"'rate.per_second' cannot be 0"),
        ("rerank_seconds = inf", "rerank_seconds"),
        ("index_from = 0", "'index_from' cannot be 0"),
        ("index_recall = 1.5", "'index_recall' cannot be 1.5"),
        ("keys = 3", "'keys' cannot be 3"),
        (f"[[keys]]\nname = 'a b'\nsha256 = '{DIGEST}'", "name"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['admin']", "scopes"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = []", "scopes"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\n[[keys]]\nname = 'a'\nsha256 = '{OTHER}'", "twice"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\n[[keys]]\nname = 'b'\nsha256 = '{DIGEST}'", "twice"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(path, {})
    assert str(path) in caught.value.problem


def test_a_file_that_is_missing_or_not_toml(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_settings(tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_bytes(b"host = \xff")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_settings(tmp_path / "bad.toml", {})


def test_a_secret_in_the_place_of_its_digest_is_not_shown(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("[[keys]]\nname = 'a'\nsha256 = 'hunter2'")
    for given in ((path, {}), (None, {KEYS_VARIABLE: "a:hunter2:read"})):
        with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
            read_settings(*given)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="has 1 parts"):
        read_settings(None, {KEYS_VARIABLE: "hunter2"})


def test_a_new_key_holds_the_digest_of_its_secret():
    secret, key = new_key("shop", frozenset({"write"}))
    assert len(secret) >= 43
    assert key == ApiKey(
        name="shop", sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=frozenset({"write"})
    )
    assert new_key("shop", frozenset({"write"}))[0] != secret
