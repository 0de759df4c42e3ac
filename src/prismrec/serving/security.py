"""Who may ask, how often, and how much: keys, rates, and what is turned away before any work is done."""

import base64
import hashlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.datastructures import Headers

from prismrec.serving.problems import RequestError
from prismrec.serving.settings import ApiKey, Rate, Scope, ServeSettings

Message = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

_REMEMBERED = 10_000
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# RFC 3986: what a path segment may hold unquoted. All else stays quoted for the router.
_SEGMENT = "-._~!$&'()*+,;=:@"


class RateLimiter:
    """Token buckets, one a key or address.

    Parameters
    ----------
    rate
        How fast they fill and how much they hold; None: no limit.
    clock
        Seconds that only grow.
    """

    def __init__(self, rate: Rate | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        # Who: tokens left, and when that was. A bucket that is forgotten is a full one, so the memory can be
        # bounded: to gain by it, somebody needs more addresses than are remembered.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> None:
        """Take a token.

        Raises
        ------
        RequestError
            429 with the seconds to wait, if there is none.
        """
        if self._rate is None:
            return
        now = self._clock()
        tokens, since = self._buckets.pop(who, (float(self._rate.burst), now))
        tokens = min(float(self._rate.burst), tokens + (now - since) * self._rate.per_second)
        allowed = tokens >= 1.0
        self._buckets[who] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if not allowed:
            seconds = max(1, math.ceil((1.0 - tokens) / self._rate.per_second))
            raise RequestError(
                429,
                "too_many_requests",
                "There were too many requests in too short a time.",
                f"Wait {seconds} s; {self._rate.per_second:g} a second are allowed.",
                {"Retry-After": str(seconds)},
            )


def find_key(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """Return whose secret it is, in a time that does not tell how much of it was right."""
    given = hashlib.sha256(secret.encode("utf-8", errors="surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(given, key.sha256):
            found = key
    return found


def secret_in(headers: Headers) -> str | None:
    """Return the secret in ``X-API-Key`` or ``Authorization``, None if there is none.

    ``Bearer`` is for programs. Browsers ask people for ``Basic``: any name, the key as password.
    """
    direct = headers.get("x-api-key")
    if direct:
        return direct
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return _password(rest.strip())
    return rest.strip() or None if scheme.lower() == "bearer" else None


def _password(encoded: str) -> str | None:
    try:
        _, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return password if colon and password else None


def admit(settings: ServeSettings, limiter: RateLimiter, scope: AsgiScope, needed: Scope) -> str | None:
    """Let a request in.

    Returns
    -------
    str or None
        Name of its key; None where no keys are asked for.

    Raises
    ------
    RequestError
        401 without a valid key, 403 if the key lacks the scope, 429 if it asks too often.
    """
    if not settings.keys:
        limiter.take(f"address {_address(scope)}")
        return None
    secret = secret_in(Headers(scope=scope))
    key = None if secret is None else find_key(settings.keys, secret)
    if key is None:
        # Guessing secrets is limited by address; who has one is not hindered by a neighbour who guesses.
        limiter.take(f"address {_address(scope)}")
        raise RequestError(
            401,
            "no_key" if secret is None else "wrong_key",
            "No key was given." if secret is None else "The key is not valid.",
            "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            # The page's people get a form to type the key into; programs send what they were told to.
            {"WWW-Authenticate": 'Basic realm="prismrec", charset="UTF-8"'},
        )
    limiter.take(f"key {key.name}")
    if needed not in key.scopes:
        raise RequestError(
            403, "missing_scope", f"The key may not {needed}.", f"Use a key with the scope {needed!r}."
        )
    return key.name


class Gate:
    """ASGI middleware: turns away what no route should see, and counts bodies.

    A body over the limit is cut while it comes, also where its length was not announced or was a lie.

    Parameters
    ----------
    app
        What is behind it.
    settings
        Whose hosts and limits hold.
    """

    def __init__(self, app: AsgiApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        # Without keys only this machine is answered. A page from elsewhere, open in a browser here, must not
        # reach the service by a name that it has pointed at 127.0.0.1 (DNS rebinding).
        local = () if settings.keys else (*_LOCAL_NAMES, settings.host.lower())
        self._hosts = frozenset(name.lower() for name in settings.hosts) or frozenset(local)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["path"] = quoted_path(scope)
        self._check_sender(scope, headers)
        limit = self._settings.limits.body_bytes
        announced = headers.get("content-length", "0")
        if not announced.isascii() or not announced.isdigit():
            raise RequestError(400, "bad_length", "Content-Length is not a number.")
        if int(announced[:20]) > limit:
            raise _too_large(limit)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)

    def _check_sender(self, scope: AsgiScope, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts and name not in self._hosts:
            raise RequestError(
                400,
                "unknown_host",
                "The service does not answer to the name in the Host header.",
                "Use its address, or add the name to 'hosts' in its settings.",
            )
        origin = headers.get("origin")
        # A browser sends some forms to other sites without asking. A key guards enough, as no browser adds it
        # by itself, unless it was typed into the browser's own form.
        by_itself = not self._settings.keys or headers.get("authorization", "").lower().startswith("basic")
        open_writes = by_itself and scope["method"] not in _SAFE_METHODS
        if origin and open_writes and _netloc(origin) != host:
            raise RequestError(
                403,
                "foreign_page",
                "Pages of other sites may not write here.",
                "Send the request from a program, or from the service's own page.",
            )


def quoted_path(scope: AsgiScope) -> str:
    """Return a request's path, each segment still quoted: a slash in an id does not part the path.

    Raises
    ------
    RequestError
        400 if path or query is not UTF-8 behind its quoting.
    """
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    try:
        segments = [unquote_to_bytes(part).decode("utf-8") for part in raw.split(b"/")]
        unquote_to_bytes(scope["query_string"]).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(
            400, "not_utf8", "The address is not UTF-8 behind its percent signs.", "Quote it as UTF-8."
        ) from None
    return "/".join(quote(part, safe=_SEGMENT) for part in segments)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "too_large",
        f"The request's body is larger than {limit:,} bytes.",
        "Send less at once, e.g. fewer items.",
        # What is still under way is not read, so the connection is of no more use.
        {"Connection": "close"},
    )


def _address(scope: AsgiScope) -> str:
    client = scope.get("client")
    if not client:
        return "unknown"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return str(client[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        # One household has a whole /64.
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
