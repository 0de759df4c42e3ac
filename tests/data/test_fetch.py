import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from prismrec.data import fetch as module
from prismrec.data.fetch import FetchError, fetch

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.close_connection = True
        name, _, rest = self.path.lstrip("/").partition("/")
        getattr(self, f"at_{name.partition('?')[0]}", self.at_missing)(rest)

    def at_ok(self, _: str) -> None:
        self.send(BODY)

    def at_missing(self, _: str) -> None:
        self.send(b"no", 404)

    def at_chunked(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(int(size)):
            self.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def at_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 10_000)
        except OSError:
            pass

    def at_cut(self, _: str) -> None:
        self.send(BODY, Content_Length=str(len(BODY) + 5))

    def at_packed(self, _: str) -> None:
        self.send(BODY, Content_Encoding="gzip")

    def at_huge(self, _: str) -> None:
        self.send(b"", Content_Length=str(10**12))

    def at_hops(self, left: str) -> None:
        n = int(left)
        self.send(b"", 302, Location=f"/hops/{n - 1}" if n > 1 else "/ok")

    def at_to(self, target: str) -> None:
        self.send(b"", 301, Location=target)

    def at_nowhere(self, _: str) -> None:
        self.send(b"", 302)

    def drip(self, data: bytes) -> None:
        try:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    def at_slowbody(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.drip(b"x" * 200)

    def at_slowhead(self, _: str) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def base(server: Any) -> str:
    server.seen.clear()
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_body_comes_as_it_is(base: str) -> None:
    assert fetch(f"{base}/ok", allow_private=True) == BODY
    assert fetch(f"{base}/chunked/3", allow_private=True) == b"x" * 3000


def test_odd_characters_in_the_url_are_escaped(base: str, server: Any) -> None:
    assert fetch(f"{base}/ok/a b/ü%20?q=é x\r\nEvil: 1#part", allow_private=True) == BODY
    path, headers = server.seen[0]
    assert path == "/ok/a%20b/%C3%BC%20?q=%C3%A9%20xEvil:%201"
    assert "Evil" not in headers
    assert headers["Host"] == base.removeprefix("http://")
    assert headers["Accept-Encoding"] == "identity"


def test_private_addresses_are_refused_and_not_contacted(base: str, server: Any) -> None:
    with pytest.raises(FetchError, match=r"127\.0\.0\.1 of 127\.0\.0\.1 is not public"):
        fetch(f"{base}/ok")
    assert server.seen == []


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"]
)
def test_spellings_of_private_addresses(host: str) -> None:
    with pytest.raises(FetchError, match=r"is not public|cannot be resolved"):
        fetch(f"http://{host}:9/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("::127.0.0.1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    import ipaddress

    assert module._is_public(ipaddress.ip_address(address)) is public


def answer(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    asked: list[str] = []

    def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(FetchError, match=r"10\.0\.0\.1 of shop\.example is not public"):
        fetch("http://shop.example/a.jpg")


def test_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, server: Any
) -> None:
    asked = answer(monkeypatch, "93.184.216.34")
    contacted = []

    def connect(address: tuple[str, int], **_: object) -> socket.socket:
        contacted.append(address)
        plain = socket.socket()
        plain.connect(server.server_address)
        return plain

    monkeypatch.setattr(socket, "create_connection", connect)
    server.seen.clear()
    assert fetch("http://shop.example/ok") == BODY
    assert contacted == [("93.184.216.34", 80)]
    assert asked == ["shop.example"]
    assert server.seen[0][1]["Host"] == "shop.example"


def test_tls_must_verify(base: str) -> None:
    with pytest.raises(FetchError, match=r"127\.0\.0\.1: .*SSL"):
        fetch(base.replace("http", "https") + "/ok", allow_private=True)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("file:///etc/passwd", "only http and https are fetched, not 'file'"),
        ("ftp://host/a", "not 'ftp'"),
        ("data:image/png;base64,AAAA", "not 'data'"),
        ("/etc/passwd", "not 'a path'"),
        ("http:///x", "no host"),
        ("http://user:secret@host/x", "user name or a password"),
        ("http://host:99999/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://a..b/", "not a host name"),
        ("http://no-such-host.invalid/", "cannot be resolved"),
        ("http://a\0b/", "cannot be resolved|not a"),
    ],
)
def test_urls_that_are_not_fetched(url: str, match: str) -> None:
    with pytest.raises(FetchError, match=match):
        fetch(url, allow_private=True)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("missing", "status 404 Not Found"),
        ("cut", r"cut off: 10,240 bytes of 10,245"),
        ("packed", "compressed"),
        ("nowhere", "without a place"),
        ("to/file:///etc/passwd", "not 'file'"),
        ("hops/4", "more than 3 redirects"),
    ],
)
def test_answers_that_are_refused(base: str, path: str, match: str) -> None:
    with pytest.raises(FetchError, match=match):
        fetch(f"{base}/{path}", allow_private=True)


def test_redirects_are_followed_up_to_the_limit(base: str) -> None:
    assert fetch(f"{base}/hops/3", allow_private=True) == BODY


def test_redirect_to_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, base: str, server: Any
) -> None:
    # The first host is taken for public, so that only the second check can refuse.
    real = module._is_public
    monkeypatch.setattr(module, "_is_public", lambda a: str(a) == "127.0.0.1" or real(a))
    with pytest.raises(FetchError, match=r"169\.254\.169\.254 .* is not public"):
        fetch(f"{base}/to/http://169.254.169.254/latest/meta-data")


@pytest.mark.parametrize("path", ["ok", "chunked/20", "endless", "huge"])
def test_too_large(base: str, path: str) -> None:
    with pytest.raises(FetchError, match="bytes"):
        fetch(f"{base}/{path}", allow_private=True, max_bytes=10_239)


def test_as_large_as_allowed(base: str) -> None:
    assert fetch(f"{base}/ok", allow_private=True, max_bytes=len(BODY)) == BODY


@pytest.mark.parametrize("path", ["slowbody", "slowhead"])
def test_a_dripping_server_is_cut_off(base: str, path: str) -> None:
    # Each byte comes within the time limit; only all of them together do not.
    with pytest.raises(FetchError, match="timed out"):
        fetch(f"{base}/{path}", allow_private=True, timeout_s=0.3)


def test_a_silent_server_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(FetchError, match="timed out"):
            fetch(url, allow_private=True, timeout_s=0.2)


def test_a_resolver_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [release.wait(10)][:0])
    with pytest.raises(FetchError, match="timed out"):
        fetch("http://shop.example/", timeout_s=0.1)
    release.set()


def test_a_port_nobody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/", allow_private=True)
