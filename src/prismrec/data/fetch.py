"""Fetching pictures and sounds from public web addresses, with every limit that a stranger's URL needs.

The URL comes from a catalogue, so it may be hostile: it must not reach services inside the network, not hold
the process, and not fill the memory. Proxy settings of the environment are not used, since a proxy would
resolve names itself.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from prismrec.base.errors import InputError

MAX_BYTES = 20 * 2**20
TIMEOUT_S = 10.0
MAX_REDIRECTS = 3

REDIRECTS = (301, 302, 303, 307, 308)
# Compressed answers are refused below: a small body that unpacks to a huge one must not be possible.
HEADERS = {"User-Agent": "prismrec", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}

_BLOCK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchError(InputError):
    """A URL was not fetched; the message is the reason."""


class FetchTimeoutError(FetchError):
    """It took too long."""


def fetch(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    max_redirects: int = MAX_REDIRECTS,
    allow_private: bool = False,
) -> bytes:
    """Fetch a URL.

    Only http and https; only hosts all of whose addresses are public, each redirect checked anew. The
    connection goes to the very address that was checked, so that a name cannot change its meaning between
    check and use; TLS still verifies the name.

    Parameters
    ----------
    url
        Where to.
    max_bytes
        More is an error, as soon as it shows.
    timeout_s
        Seconds for everything together: name, connections, redirects, content.
    max_redirects
        How many to follow.
    allow_private
        Also addresses that are not public. For servers of your own only.

    Returns
    -------
    bytes
        The body as it was sent.

    Raises
    ------
    FetchError
        With the reason.
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(max_redirects + 1):
        body, target = _request(url, max_bytes, deadline, allow_private)
        if target is None:
            return body
        url = target
    raise FetchError(f"more than {max_redirects} redirects")


def _request(url: str, max_bytes: int, deadline: float, allow_private: bool) -> tuple[bytes, str | None]:
    """Return the body, or where the server redirects to."""
    connection, target = open_connection(url, deadline, allow_private=allow_private)
    try:
        with _Watchdog(connection, deadline):
            connection.request("GET", target, headers=HEADERS)
            return _answer(connection.getresponse(), url, max_bytes, deadline)
    except FetchError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        _check_time(deadline)
        raise FetchError(f"{connection.host}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def open_connection(url: str, deadline: float, *, allow_private: bool) -> tuple["Connection", str]:
    """Check a URL and prepare a connection to the very addresses that were checked.

    Parameters
    ----------
    url
        Where to; http or https.
    deadline
        When connecting has to be done, on the clock `time.monotonic`.
    allow_private
        Also addresses that are not public.

    Returns
    -------
    connection
        Not connected yet; close it.
    target
        What to ask it for.

    Raises
    ------
    FetchError
        If the URL cannot be used, the host cannot be resolved, or an address is not public.
    """
    parts, host, port = _split(url)
    addresses = _resolve(host, port, deadline)
    if not allow_private:
        for address in addresses:
            if not _is_public(ipaddress.ip_address(address)):
                raise FetchError(f"the address {address} of {host} is not public")
    secure = parts.scheme.lower() == "https"
    return Connection(host, port, addresses, secure, deadline), _target(parts)


def _split(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise FetchError(f"not a URL ({error})") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise FetchError(f"only http and https are fetched, not {parts.scheme or 'a path'!r}")
    if not host:
        raise FetchError("the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise FetchError("the URL holds a user name or a password")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise FetchError(f"not a host name: {host!r}") from error
    return parts, host, port or (443 if parts.scheme.lower() == "https" else 80)


def _target(parts: SplitResult) -> str:
    keep = "%/:=&?~+!$,;'@()*[]-._"
    path = quote(parts.path or "/", safe=keep)
    return f"{path}?{quote(parts.query, safe=keep)}" if parts.query else path


def _resolve(host: str, port: int, deadline: float) -> list[str]:
    """Resolve a name, in a thread of its own since the system's resolver knows no time limit."""
    answers: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # Addresses may carry a zone ("fe80::1%eth0"); such are never public.
            answers.put([str(entry[4][0]) for entry in found])
        except (OSError, ValueError) as error:
            answers.put(OSError(str(error)))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=max(deadline - time.monotonic(), 0.001))
    except Empty:
        raise FetchTimeoutError("timed out") from None
    if isinstance(answer, OSError) or not answer:
        raise FetchError(f"the host {host} cannot be resolved")
    return answer


def _is_public(address: Address) -> bool:
    """Tell whether an address, and any IPv4 address wrapped in it, belongs to the public internet."""
    if not address.is_global or address.is_multicast or address.is_unspecified:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not address.is_reserved
    if address.is_site_local:
        return False
    inner = _wrapped(address)
    if inner is not None:
        return _is_public(inner)
    return not address.is_reserved


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


class Connection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked, under the name of the host."""

    def __init__(self, host: str, port: int, addresses: list[str], secure: bool, deadline: float) -> None:
        super().__init__(host, port)
        self.default_port = 443 if secure else 80
        self._addresses = addresses
        self._secure = secure
        self._deadline = deadline
        # http.client lets go of its socket once the headers are read; the watchdog still needs it.
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        """Connect; the time limit of each step is what is left of the whole."""
        wire = self._connect_any()
        if self._secure:
            context = ssl.create_default_context()
            wire = context.wrap_socket(wire, server_hostname=self.host, do_handshake_on_connect=False)
            self._wire = wire
            wire.settimeout(_left(self._deadline))
            wire.do_handshake()
        self._wire = wire
        self.sock: Any = wire
        wire.settimeout(_left(self._deadline))

    def _connect_any(self) -> socket.socket:
        problem: OSError = OSError("no address")
        for address in self._addresses:
            try:
                return socket.create_connection((address, self.port), timeout=_left(self._deadline))
            except OSError as error:
                problem = error
        raise problem

    def wait_at_most(self, seconds: float) -> None:
        """Limit each wait for the next bytes from now on, in place of what is left until the deadline."""
        if self._wire is not None:
            self._wire.settimeout(seconds)

    def hang_up(self) -> None:
        """End the connection from another thread; whoever reads from it wakes up."""
        if self._wire is not None:
            with contextlib.suppress(OSError):
                # Not the method of an SSL socket, which would pull its state away under the reader.
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close, also a socket whose TLS handshake failed."""
        super().close()
        if self._wire is not None:
            self._wire.close()


class _Watchdog:
    """Hangs up at the deadline: a server that sends a byte a second defeats every limit per read."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._timer = threading.Timer(max(deadline - time.monotonic(), 0.0), connection.hang_up)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


def _answer(
    response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float
) -> tuple[bytes, str | None]:
    if response.status in REDIRECTS:
        location = response.getheader("Location")
        if not location:
            raise FetchError(f"status {response.status} without a place to go")
        return b"", urljoin(url, location)
    if response.status != 200:
        raise FetchError(f"status {response.status} {response.reason}".strip())
    encoding = response.getheader("Content-Encoding", "identity")
    if encoding.lower() not in ("identity", ""):
        raise FetchError(f"the server sent it compressed ({encoding}), which was not asked for")
    promised = response.length
    if promised is not None and promised > max_bytes:
        raise FetchError(f"{promised:,} bytes, at most {max_bytes:,} are taken")
    body = bytearray()
    while block := response.read(_BLOCK):
        _check_time(deadline)
        body += block
        if len(body) > max_bytes:
            raise FetchError(f"more than {max_bytes:,} bytes")
    _check_time(deadline)
    if promised is not None and len(body) != promised:
        raise FetchError(f"cut off: {len(body):,} bytes of {promised:,}")
    return bytes(body), None


def _left(deadline: float) -> float:
    _check_time(deadline)
    return max(deadline - time.monotonic(), 0.001)


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise FetchTimeoutError("timed out")
