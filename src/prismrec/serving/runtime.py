"""What all routes share: the service that answers now, its threads, its gates."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response

from prismrec.serving.observe import Metrics
from prismrec.serving.problems import RequestError
from prismrec.serving.replays import Made, Mark, Replays
from prismrec.serving.security import RateLimiter
from prismrec.serving.settings import ServeSettings
from prismrec.serving.types import Health, Service

T = TypeVar("T")
OpenService = Callable[[Path], Service]

_LONGEST_MARK = 255


class Runtime:
    """The service that answers now, and how it is called.

    Parameters
    ----------
    service
        Answers from the beginning.
    settings
        Limits.
    open_service
        Opens the bundle of the settings anew; None: it cannot be reloaded.
    """

    def __init__(
        self, service: Service, settings: ServeSettings, open_service: OpenService | None = None
    ) -> None:
        self.service = service
        self.settings = settings
        self.metrics = Metrics()
        self.limiter = RateLimiter(settings.rate)
        self._open_service = open_service
        self._replays = Replays(settings.limits.replays)
        self._threads = anyio.CapacityLimiter(settings.limits.concurrency)
        self._pending = 0
        self._writers = 0
        self._reloading = False
        self._no_writers = anyio.Event()

    async def call(self, work: Callable[[], T]) -> T:
        """Do something that blocks, in a thread.

        Raises
        ------
        RequestError
            503 if too many wait already: a late answer helps nobody, and the queue would only grow.
        """
        limits = self.settings.limits
        if self._pending >= limits.concurrency + limits.waiting:
            raise RequestError(
                503, "busy", "The service is busy.", "Try again in a moment.", {"Retry-After": "1"}
            )
        self._pending += 1
        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._pending -= 1

    async def answer(self, work: Callable[[], bytes]) -> Response:
        """Answer with JSON that is made in a thread."""
        return Response(await self.call(work), media_type="application/json")

    async def write(self, request: Request, body: bytes, work: Callable[[], Made]) -> Response:
        """Carry out a write once, however often it comes with the same ``Idempotency-Key``.

        Raises
        ------
        RequestError
            400 if the key is none, 409 if it is under way, 422 if it was used for another write.
        """
        mark = await _mark(request, body)
        if mark is None:
            async with self._writing():
                made = await self.call(work)
            return _response(made)
        before = self._replays.begin(mark)
        if before is not None:
            return _response(before, {"Idempotent-Replayed": "true"})
        done: Made | None = None
        try:
            async with self._writing():
                done = await self.call(work)
        finally:
            self._replays.end(mark, done)
        return _response(done)

    async def reload(self) -> Health:
        """Open the bundle anew and let it answer from the next request on; if that fails the old one stays.

        Raises
        ------
        RequestError
            409 if there is nothing to open, or it is being opened already.
        """
        path, opener = self.settings.bundle, self._open_service
        if path is None or opener is None:
            raise RequestError(
                409, "nothing_to_reload", "The service was started without a bundle to reload.",
                "Set 'bundle' in its settings.",
            )  # fmt: skip
        if self._reloading:
            raise RequestError(409, "under_way", "The bundle is being reloaded already.", "Wait for it.")
        self._reloading = True
        try:
            # What the old service would still take in, the new one would not know.
            while self._writers:
                self._no_writers = anyio.Event()
                await self._no_writers.wait()
            fresh = await to_thread.run_sync(opener, path)
            health = await to_thread.run_sync(fresh.health)
            self.service = fresh
        finally:
            self._reloading = False
        return health

    async def health(self) -> Health:
        """Ask the service how it is; not in the queue, as it has to be known when that is long."""
        return await to_thread.run_sync(self.service.health)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        if self._reloading:
            raise RequestError(
                503, "reloading", "The bundle is being reloaded; nothing can be written until then.",
                "Try again in a moment.", {"Retry-After": "2"},
            )  # fmt: skip
        self._writers += 1
        try:
            yield
        finally:
            self._writers -= 1
            if not self._writers:
                self._no_writers.set()


async def _mark(request: Request, body: bytes) -> Mark | None:
    name = request.headers.get("idempotency-key")
    if name is None:
        return None
    if not 1 <= len(name) <= _LONGEST_MARK or not name.isascii() or not name.isprintable():
        raise RequestError(
            400,
            "bad_idempotency_key",
            "The Idempotency-Key is not 1 to 255 printable ASCII characters.",
            "Draw a UUID.",
        )
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    head = "\n".join((request.method, request.scope["path"])).encode() + b"\n" + kind + b"\0"

    def digest() -> str:
        # Programs draw a new boundary each time that they send the same parts.
        boundary = options.get(b"boundary")
        return hashlib.sha256(head + (body.replace(boundary, b"") if boundary else body)).hexdigest()

    return Mark(getattr(request.state, "key", None) or "", name, await to_thread.run_sync(digest))


def _response(made: Made, headers: dict[str, str] | None = None) -> Response:
    return Response(made.body, made.status, headers, "application/json")
