"""A small drawn shop behind the page: sixty items with pictures, twenty people, no trained model."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from prismrec.data.sources.generated import GeneratedConfig, generate, planted
from prismrec.data.sources.generated_pictures import Painter
from prismrec.evaluation.result import EvaluationResult, Interval, PartResult, SliceRow
from prismrec.recommender.filters import matching
from prismrec.serving.errors import UnknownItem
from prismrec.serving.page.options import PageOptions
from prismrec.serving.page.routes import page_router
from prismrec.serving.types import (
    Answer,
    Drawn,
    Event,
    Fan,
    Health,
    Item,
    NewItem,
    PutReport,
    Ranked,
    Reason,
    Wish,
)

ITEMS, USERS = 60, 20
EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png>"
MODALITIES = ("image", "text", "audio")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@dataclass
class FakeService:
    """Ranks by planted vectors; `noise` makes another run of it."""

    frame: Any
    pictures: dict[str, bytes]
    item_vectors: dict[str, np.ndarray]
    user_vectors: dict[str, np.ndarray]
    taken: dict[str, list[str]]
    fresh: set[str]
    name: str = "mamex"
    noise: float = 0.0
    items: dict[str, Item] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    problems: tuple[tuple[str, str, str], ...] = ()
    ready: bool = True

    def __post_init__(self) -> None:
        for row in self.frame.iter_rows(named=True):
            name = row["item_id"]
            attributes = {key: value for key, value in row.items() if key != "item_id"}
            known = name in self.item_vectors
            self.items[name] = Item(
                name, row["title"] or "", attributes, name in self.pictures, name in self.fresh, known
            )

    def _answer(self, tastes: np.ndarray, wish: Wish, without: set[str], liked: Sequence[str]) -> Answer:
        self.asked.append(wish)
        meets = set(self.frame.filter(matching(self.frame, wish.where))["item_id"])
        if not wish.where:
            meets = set(self.items)
        names = [
            name
            for name, item in self.items.items()
            if item.ranked and name in meets and name not in without
            if wish.choose == "all" or item.new == (wish.choose == "new")
        ]
        vectors = np.array([self.item_vectors[name] for name in names]).reshape(len(names), len(tastes))
        scores = vectors @ tastes + self.noise * np.sin(np.arange(len(names)) * 7.0)
        if wish.diversity:
            scores = scores + wish.diversity * 3 * np.cos(np.arange(len(names)) * 5.0)
        order = np.argsort(-scores)[: wish.k]
        ranked = tuple(
            Ranked(
                rank,
                self.items[names[row]],
                float(scores[row]),
                self._reason(names[row], liked) if wish.explain else None,
            )
            for rank, row in enumerate(order.tolist(), 1)
        )
        return Answer(ranked, f"{self.name}-1")

    def _reason(self, item_id: str, liked: Sequence[str]) -> Reason:
        chance = np.random.default_rng(sum(map(ord, item_id)))
        parts = chance.dirichlet((3, 2, 1))
        weights = dict(zip(MODALITIES, map(float, parts), strict=True))
        if not self.items[item_id].has_picture:
            weights["image"] = None
        experts = {name: tuple(map(float, chance.dirichlet((1, 1, 1, 1)))) for name in MODALITIES}
        own = self.item_vectors[item_id]
        near = [
            (name, float(unit(own[None])[0] @ unit(self.item_vectors[name][None])[0]))
            for name in liked
            if name in self.item_vectors
        ]
        return Reason(weights, experts, tuple(sorted(near, key=lambda pair: -pair[1])[:3]))

    def recommend(self, user_id: str, wish: Wish) -> Answer:
        tastes = self.user_vectors.get(user_id)
        taken = self.taken.get(user_id, [])
        if tastes is None:
            mean = np.mean(list(self.user_vectors.values()), axis=0)
            return replace(self._answer(mean, wish, set(), ()), fallback=True)
        return self._answer(tastes, wish, set(taken), taken)

    def recommend_liked(self, liked: Sequence[str], wish: Wish) -> Answer:
        for name in liked:
            self.item(name)
        tastes = np.mean([self.item_vectors[name] for name in liked if name in self.item_vectors], axis=0)
        return self._answer(tastes, wish, set(liked), liked)

    def similar(self, item_id: str, wish: Wish) -> Answer:
        self.item(item_id)
        names = [name for name, item in self.items.items() if item.ranked and name != item_id]
        vectors = unit(np.array([self.item_vectors[name] for name in names]))
        cosines = vectors @ unit(self.item_vectors[item_id][None])[0]
        order = np.argsort(-cosines)[: wish.k].tolist()
        ranked = [Ranked(n, self.items[names[row]], float(cosines[row])) for n, row in enumerate(order, 1)]
        return Answer(tuple(ranked), f"{self.name}-1")

    def explain(self, user_id: str, item_id: str) -> Ranked:
        liked = self.taken.get(user_id, [])
        tastes = self.user_vectors[user_id]
        scores = {name: float(vector @ tastes) for name, vector in self.item_vectors.items()}
        rank = 1 + sum(score > scores[item_id] for score in scores.values())
        return Ranked(rank, self.item(item_id), scores[item_id], self._reason(item_id, liked))

    def fans(self, item_id: str, k: int) -> tuple[Fan, ...]:
        found = [
            Fan(user, 1 + n % 3, float(vector @ self.item_vectors[item_id]))
            for n, (user, vector) in enumerate(self.user_vectors.items())
        ]
        return tuple(sorted(found, key=lambda fan: (fan.rank, -fan.score))[:k])

    def record(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def put(self, items: Sequence[NewItem]) -> PutReport:
        self.asked.extend(items)
        for new in items:
            title = str(new.attributes.get("title", ""))
            has_content = new.picture is not None or "description" in new.attributes
            if has_content:
                self.item_vectors[new.item_id] = np.mean(list(self.item_vectors.values())[3:6], axis=0)
            attributes = dict.fromkeys(self.frame.columns[1:]) | dict(new.attributes)
            self.items[new.item_id] = Item(
                new.item_id, title, attributes, new.picture is not None, True, has_content
            )
            if new.picture is not None:
                self.pictures[new.item_id] = new.picture
        without = tuple(new.item_id for new in items if new.item_id not in self.item_vectors)
        return PutReport(tuple(new.item_id for new in items), (), (), without, self.problems)

    def delete(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        gone = tuple(name for name in item_ids if self.items.pop(name, None) is not None)
        for name in gone:
            self.item_vectors.pop(name, None)
        return gone

    def item(self, item_id: str) -> Item:
        if item_id not in self.items:
            raise UnknownItem(item_id)
        return self.items[item_id]

    def picture(self, item_id: str) -> bytes | None:
        self.item(item_id)
        return self.pictures.get(item_id)

    def find_users(self, beginning: str, k: int) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.user_vectors if name.startswith(beginning))[:k])

    def find_items(self, words: str, k: int) -> tuple[Item, ...]:
        wanted = words.lower().split()
        found = [i for i in self.items.values() if all(word in i.title.lower() for word in wanted)]
        return tuple(found[:k])

    def history(self, user_id: str) -> tuple[Item, ...]:
        return tuple(self.items[name] for name in self.taken.get(user_id, []) if name in self.items)

    def health(self) -> Health:
        return Health(
            self.ready, self.name, f"{self.name}-1", len(self.items), len(self.item_vectors),
            len(self.user_vectors), "exact", 1.0,
        )  # fmt: skip

    def vectors(self) -> tuple[Sequence[str], np.ndarray]:
        names = list(self.item_vectors)
        return names, np.array([self.item_vectors[name] for name in names])

    def weights(self) -> tuple[Sequence[str], np.ndarray]:
        rows = np.full((len(self.item_vectors), len(MODALITIES)), np.nan)
        for row, name in zip(rows, self.item_vectors, strict=True):
            if name in self.items:
                row[:] = [np.nan if w is None else w for w in self._reason(name, ()).weights.values()]
        return MODALITIES, rows

    def drawn(self) -> Drawn:
        return Drawn(*self.vectors(), *self.weights())


@pytest.fixture(scope="session")
def drawn() -> Mapping[str, Any]:
    config = GeneratedConfig(items=200, users=400, pictures=False, sounds=False)
    shop, truth = generate(config), planted(config)
    frame = shop.catalog.items.head(ITEMS)
    names = frame["item_id"].to_list()
    painter = Painter(truth.attributes, 192, config.seed)
    pictures = {name: painter.jpeg(n) for n, name in enumerate(names) if n % 11 != 7}
    log = shop.interactions.frame.sort("timestamp")
    taken: dict[str, list[str]] = {}
    for user, item in zip(log["user_id"], log["item_id"], strict=True):
        if item in names[:50]:
            taken.setdefault(str(user), []).append(str(item))
    everybody = sorted(taken, key=lambda user: -len(taken[user]))[:USERS]
    row = {str(user): n for n, user in enumerate(sorted(map(str, log["user_id"].unique())))}
    scale = np.abs(truth.item_vectors).max()
    return {
        "frame": frame,
        "pictures": pictures,
        "item_vectors": {name: truth.item_vectors[n] / scale for n, name in enumerate(names) if n != 59},
        "user_vectors": {user: truth.user_vectors[row[user]] for user in everybody},
        "taken": {user: taken[user] for user in everybody},
        "fresh": set(names[50:]),
    }


@pytest.fixture
def make_service(drawn: Mapping[str, Any]) -> Callable[..., FakeService]:
    def make(**changes: Any) -> FakeService:
        copied = {key: dict(value) if isinstance(value, dict) else value for key, value in drawn.items()}
        return FakeService(**copied, **changes)

    return make


@pytest.fixture
def service(make_service: Callable[..., FakeService]) -> FakeService:
    return make_service()


def only_writers(x_key: str = Header(default="w")) -> None:
    if x_key != "w":
        raise HTTPException(403, "This key may not write.")


def around(mean: float, reach: float) -> Interval:
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def evaluation() -> EvaluationResult:
    def part(candidates: str, base: float) -> PartResult:
        means = {"hit_rate": 1.9, "recall": 1.2, "ndcg": 1.0, "mrr": 1.1}
        rows = {
            f"{name}@{k}": around(times * base + k / 500, 0.02)
            for name, times in means.items()
            for k in (10, 20)
        }
        slices = [
            SliceRow(
                kind=kind,
                value=value,
                users=90 - 9 * n,
                positives=140 - 8 * n,
                metrics={"ndcg@10": around(base + 0.03 * n, 0.05)},
            )
            for kind, values in (
                ("user's training interactions", ("1-4", "5-9", "10-19", "20-49")),
                ("item's contents", ("image + text", "text only", EVIL)),
            )
            for n, value in enumerate(values)
        ]
        return PartResult(
            part="test",
            candidates=candidates,
            n_candidates=59,
            users_counted=1221,
            n_positives=3926,
            metrics=rows,
            random_floor=dict.fromkeys(rows, 0.05),
            slices=slices,
        )

    return EvaluationResult(
        run="mamex",
        model="mamex (tuned)",
        dataset="shop",
        parts=[part("strict", 0.35), part("all_items", 0.2)],
        notes=["The test part was small."],
    )


@pytest.fixture
def make_app(tmp_path: Path, make_service: Callable[..., FakeService]) -> Callable[..., FastAPI]:
    """Return a function from a service to an app with every part of the page."""

    def make(service: FakeService, prefix: str = "", **changes: Any) -> FastAPI:
        path = tmp_path / "evaluation.json"
        path.write_text(evaluation().model_dump_json())
        settings: dict[str, Any] = {
            "other": make_service(name="profile", noise=0.5),
            "drawable": service,
            "write": only_writers,
            "options": PageOptions(
                name="A drawn shop",
                fields=("price",),
                columns=("category", "price", "brand", "in_stock"),
                conditions=("category=mug", "price<50", "in_stock=true"),
                colour_by=("category", "brand"),
                evaluation=path,
            ),
        }
        app = FastAPI()
        app.include_router(page_router(service, **(settings | changes)), prefix=prefix)
        return app

    return make


@pytest.fixture
def client(service: FakeService, make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://testserver") as found:
        yield found


@pytest.fixture
def served() -> Iterator[Callable[[FastAPI], str]]:
    """Return a function that serves an app on a free port of this machine and returns its address."""
    import uvicorn

    running = []

    def serve(app: FastAPI) -> str:
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
