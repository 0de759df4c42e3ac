"""A service that knows three items, behind a real socket."""

import hashlib
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.serving.api import create_app
from prismrec.serving.errors import UnknownItem
from prismrec.serving.observe import LOGGER, JsonLines
from prismrec.serving.server import server
from prismrec.serving.settings import ApiKey, Limits, ServeSettings
from prismrec.serving.types import (
    Answer,
    Event,
    Fan,
    Health,
    Item,
    NewItem,
    PutReport,
    Ranked,
    Reason,
    Service,
    Wish,
)

READER, WRITER, BOTH = "reader-secret", "writer-secret", "both-secret"


def picture_of(size: tuple[int, int] = (4, 3), kind: str = "PNG", mode: str = "RGB") -> bytes:
    target = io.BytesIO()
    Image.new(mode, size).save(target, kind)
    return target.getvalue()


class FakeService:
    """Remembers what it was asked; ranks by id."""

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self.ready = True
        self.search, self.recall = "exact", 1.0
        # Items that do not fit.
        self.unfit: set[str] = set()
        self.items = {name: NewItem(name, {"title": f"Title {name}", "price": 3.5}) for name in "abc"}
        self.events: list[Event] = []
        self.asked: list[Any] = []
        self.fails: Exception | None = None
        self.hold: threading.Event | None = None
        self.entered = threading.Event()

    def _enter(self, *asked: Any) -> None:
        self.asked.append(asked)
        self.entered.set()
        if self.hold is not None:
            assert self.hold.wait(20)
        if self.fails is not None:
            raise self.fails

    def _answer(self, wish: Wish, *, fallback: bool = False) -> Answer:
        for condition in wish.where:
            if "=" not in condition and "<" not in condition:
                raise InputError(f"The condition {condition!r} cannot be read.", "Write e.g. 'price<20'.")
        reason = Reason({"image": 0.25, "text": None}, {"image": (0.5, 0.5)}, (("a", 0.9),))
        rows = [
            Ranked(place, self.item(name), float("nan") if name == "c" else 1.0 / place)
            for place, name in enumerate(sorted(self.items)[: wish.k], start=1)
        ]
        explained = [replace(row, reason=reason) for row in rows] if wish.explain else rows
        return Answer(tuple(explained), self.version, fallback)

    def recommend(self, user_id: str, wish: Wish) -> Answer:
        self._enter("recommend", user_id, wish)
        return self._answer(wish, fallback=user_id == "nobody")

    def recommend_liked(self, liked: Sequence[str], wish: Wish) -> Answer:
        self._enter("liked", tuple(liked), wish)
        for name in liked:
            self.item(name)
        return self._answer(wish, fallback=not liked)

    def similar(self, item_id: str, wish: Wish) -> Answer:
        self._enter("similar", item_id, wish)
        self.item(item_id)
        return self._answer(wish)

    def explain(self, user_id: str, item_id: str) -> Ranked:
        self._enter("explain", user_id, item_id)
        return Ranked(7, self.item(item_id), 0.5, Reason({"text": 1.0}))

    def fans(self, item_id: str, k: int) -> tuple[Fan, ...]:
        self._enter("fans", item_id, k)
        self.item(item_id)
        return (Fan("anna.secret", 1, 0.5), Fan("otto", 4, float("nan")))[:k]

    def record(self, events: Sequence[Event]) -> None:
        self._enter("record", len(events))
        self.events += events

    def put(self, items: Sequence[NewItem]) -> PutReport:
        self._enter("put", tuple(item.item_id for item in items))
        unfit = tuple((item.item_id, "price", "is text") for item in items if item.item_id in self.unfit)
        items = [item for item in items if item.item_id not in self.unfit]
        added = tuple(item.item_id for item in items if item.item_id not in self.items)
        updated = tuple(item.item_id for item in items if item.item_id in self.items)
        self.items.update({item.item_id: item for item in items})
        bare = [item.item_id for item in items if item.picture is None]
        problems = tuple((name, "image", "has no picture") for name in bare)
        return PutReport(added, updated, (), tuple(bare), (*unfit, *problems))

    def delete(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        self._enter("delete", tuple(item_ids))
        return tuple(name for name in item_ids if self.items.pop(name, None) is not None)

    def item(self, item_id: str) -> Item:
        if item_id not in self.items:
            raise UnknownItem(item_id)
        known = self.items[item_id]
        title = str(known.attributes.get("title", item_id))
        return Item(item_id, title, known.attributes, known.picture is not None, False, True)

    def picture(self, item_id: str) -> bytes | None:
        self.item(item_id)
        return self.items[item_id].picture

    def find_users(self, beginning: str, k: int) -> tuple[str, ...]:
        self._enter("users", beginning, k)
        return tuple(name for name in ("anna.secret", "otto") if name.startswith(beginning))[:k]

    def find_items(self, words: str, k: int) -> tuple[Item, ...]:
        self._enter("items", words, k)
        found = [self.item(name) for name in sorted(self.items)]
        return tuple(one for one in found if words in one.title)[:k]

    def history(self, user_id: str) -> tuple[Item, ...]:
        self._enter("history", user_id)
        return tuple(self.item(name) for name in "cab" if name in self.items and user_id != "nobody")

    def health(self) -> Health:
        if self.fails is not None:
            raise self.fails
        return Health(
            self.ready, "holo", self.version, len(self.items), len(self.items), 5, self.search, self.recall
        )


@dataclass
class Api:
    """A running service and a client of it."""

    url: str
    service: FakeService
    client: httpx.Client
    running: Any
    thread: threading.Thread

    def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.client.request(method, path, **given)

    def raw(self, *chunks: bytes, hang_up: bool = False) -> bytes:
        """Send bytes over a plain socket and return all that comes back until the service closes it."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as line:
            for chunk in chunks:
                line.sendall(chunk)
            if hang_up:
                line.shutdown(socket.SHUT_WR)
            found = b""
            while True:
                piece = line.recv(65536)
                if not piece:
                    return found
                found += piece


def key(name: str, secret: str, *scopes: str) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=frozenset(scopes))


KEYS = (key("reads", READER, "read"), key("writes", WRITER, "write"), key("all", BOTH, "read", "write"))


@contextmanager
def running(
    service: FakeService,
    settings: ServeSettings,
    open_service: Callable[[Path], Service] | None = None,
) -> Iterator[Api]:
    app = create_app(service, settings, open_service)
    process = server(app, settings)
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    while not process.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = process.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {BOTH}"} if settings.keys else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=20, verify=False) as client:
            yield Api(url, service, client, process, thread)
    finally:
        process.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Api]]:
    """Return a function that starts a service: `settings`, `service`, `open_service`."""
    with ExitStack() as stack:

        def start(
            settings: ServeSettings | None = None,
            service: FakeService | None = None,
            open_service: Callable[[Path], Service] | None = None,
        ) -> Api:
            made = settings or ServeSettings(port=0, rate=None)
            return stack.enter_context(running(service or FakeService(), made, open_service))

        yield start


@pytest.fixture(scope="module")
def guarded() -> Iterator[Api]:
    """A service with keys and small limits, for all tests of a file; the client may do everything."""
    limits = Limits(body_bytes=64 * 1024, picture_bytes=16 * 1024, pixels=1_000_000, items=3, events=3, k=50)
    with running(FakeService(), ServeSettings(port=0, rate=None, keys=KEYS, limits=limits)) as api:
        yield api


@pytest.fixture(scope="session")
def fake() -> type[FakeService]:
    return FakeService


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """Return a function that waits for something to come true, and fails where it does not come at all."""

    def wait(true: Callable[[], object]) -> None:
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end
            time.sleep(0.005)

    return wait


@pytest.fixture
def new_picture() -> Callable[..., bytes]:
    return picture_of


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that gives the service's log so far, as it is written out."""
    caplog.set_level(logging.INFO, logger=LOGGER)
    written = JsonLines()
    return lambda: [json.loads(written.format(one)) for one in caplog.records if one.name == LOGGER]
