"""What can be seen of the service from outside: one log line a request, metrics, headers. No personal data.

A line says which route was asked, not by which address: user ids, conditions and bodies stay out of the log.
"""

import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Mapping
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers

from prismrec.base.errors import DamagedError, MissingExtraError, PrismError, StorageError
from prismrec.serving.problems import RequestError, internal, refusal
from prismrec.serving.security import AsgiApp, AsgiScope, Message, Receive, Send

LOGGER = "prismrec.serving"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
# Only what looks drawn by a machine is taken over: a name could be somebody's.
_REQUEST_ID = re.compile(r"[0-9a-fA-F-]{8,64}")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRAMES = 12

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Lists are about persons: no cache on the way keeps one. A route may say otherwise.
    "cache-control": "no-store",
}


class JsonLines(logging.Formatter):
    """A JSON object a line; what ``extra={"fields": ...}`` brings becomes its members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without any newline in it."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        return json.dumps(line, ensure_ascii=True, default=str)


def log_to(stream: TextIO) -> logging.Handler:
    """Send the service's log to a stream as JSON lines; return the handler, by which it can be undone."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler


class Metrics:
    """Numbers for Prometheus, in a registry of their own: several services may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "prismrec_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "prismrec_request_seconds",
            "Time from request to answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "prismrec_errors", "Requests refused or failed.", ("error",), registry=self.registry
        )
        self.in_flight = Gauge("prismrec_requests_in_flight", "Requests under way.", registry=self.registry)
        self.items = Gauge(
            "prismrec_items", "Items known, and those ranked.", ("kind",), registry=self.registry
        )
        self.users = Gauge("prismrec_users", "Users known.", registry=self.registry)
        self.recall = Gauge(
            "prismrec_search_recall",
            "Share of the exact best items that search finds, as measured; 1 for exact search.",
            registry=self.registry,
        )
        self.ready = Gauge("prismrec_ready", "1 when requests are answered.", registry=self.registry)


class Observe:
    """ASGI middleware, the outermost: request ids, headers, metrics, a line in the log, and no traceback.

    Parameters
    ----------
    app
        What is behind it.
    metrics
        What is counted in.
    """

    def __init__(self, app: AsgiApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = logging.getLogger(LOGGER)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begin, status = time.perf_counter(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_headers(message.get("headers", []), request_id)
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, dressed)
            except Exception as error:
                refused = _refused(error, scope["method"])
                if refused.status >= 500:
                    note_failure(error, request_id)
                state["error"] = refused.error
                if not status:
                    await _answer(dressed, refused, request_id)
        self._note(scope, state, status, time.perf_counter() - begin)

    def _note(self, scope: AsgiScope, state: Mapping[str, object], status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # The template, never the address: addresses hold ids, and there is no end of them.
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        fields: dict[str, object] = {
            "request_id": state["request_id"],
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000.0, 3),
            "key": state.get("key"),
        }
        if "error" in state:
            fields["error"] = state["error"]
            self._metrics.errors.labels(state["error"]).inc()
        self._log.info("request", extra={"fields": fields})


def note_failure(error: BaseException, request_id: str) -> None:
    """Write down what failed inside: its type and where; the message only where it can name no person."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    fields: dict[str, object] = {
        "request_id": request_id,
        "type": type(error).__name__,
        "where": [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, StorageError | DamagedError | MissingExtraError):
        # These speak of files and packages.
        fields["problem"] = error.problem
    cause = error.__cause__
    if isinstance(error, PrismError) and cause is not None:
        fields["cause"] = type(cause).__name__
    logging.getLogger(LOGGER).error("failure", extra={"fields": fields})


def _refused(error: Exception, method: str) -> RequestError:
    # A POST names items in its body, the other methods in their path.
    return refusal(error, in_path=method != "POST") if isinstance(error, PrismError) else internal()


def _short(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").split("/")[-3:])


def _with_headers(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    more = {**_HEADERS, "x-request-id": request_id}
    return [
        *headers,
        *((name.encode(), value.encode()) for name, value in more.items() if name.encode() not in there),
    ]


async def _answer(send: Send, refused: RequestError, request_id: str) -> None:
    body = refused.body(request_id)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
