"""The whole app over a real socket: page and API stand on the same service and the same keys."""

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("lancedb")

from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.linear_map import LinearMapConfig
from prismrec.recommender.train import train
from prismrec.serving.compose import make_app, open_service
from prismrec.serving.index import IndexPlan
from prismrec.serving.server import server
from prismrec.serving.settings import ServeSettings, new_key


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("compose")
    settings = GeneratedConfig(
        items=200, users=60, interactions_per_user=8, image_size=32, sounds=False, seed=1
    )
    shop = generate(settings).write(home / "shop")
    extract(
        Contents.of(shop.catalog, "text"),
        TfidfSvdEncoder(8),
        home / "shop" / "features" / "text",
        name="text",
    )
    split = make_split(shop, ItemColdStart(valid=0.15, test=0.15))
    train(LinearMapConfig(), split, out=home / "run")
    return home / "run"


@pytest.fixture
def serving(run: Path, tmp_path: Path) -> Iterator:
    """Return what starts an app and gives its address."""
    started = []

    def start(settings: ServeSettings | None = None, store: Path | None = None) -> str:
        service = open_service(run, store)
        chosen = settings or ServeSettings(port=0)
        one = server(make_app(service, chosen, run=run), chosen)
        thread = threading.Thread(target=one.run, daemon=True)
        thread.start()
        while not one.started:
            time.sleep(0.01)
        started.append((one, thread, service))
        port = one.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield start
    for one, thread, service in started:
        one.should_exit = True
        thread.join()
        service.close()


def test_page_and_api_show_the_same_list(serving) -> None:
    address = serving()
    user = httpx.get(f"{address}/v1/status").json()
    assert user["items"] > 0
    people = httpx.get(f"{address}/")
    assert people.status_code == 200
    name = people.text.partition("/page/person?user=")[2].partition('"')[0]
    listed = httpx.get(f"{address}/v1/users/{name}/recommendations?k=3").json()["items"]
    page = httpx.get(f"{address}/page/person", params={"user": name, "k": 3}).text
    for one in listed:
        assert one["item"]["item_id"] in page
    assert httpx.get(f"{address}/page/map").status_code == 200
    assert httpx.get(f"{address}/page/map.json").json()


def test_an_index_is_passed_on_and_shown(run: Path) -> None:
    service = open_service(run, index=IndexPlan(start=50, recall=0.9, k=5, samples=10))
    # Ready before the first request or after it: the status shows it once it is.
    end = time.monotonic() + 60
    while service.health().search != "index" and time.monotonic() < end:
        time.sleep(0.05)
    health = service.health()
    service.close()
    assert health.search == "index"
    assert 0.9 <= health.recall <= 1.0


def test_an_item_that_is_put_is_recommendable_and_there_after_a_restart(serving, tmp_path: Path) -> None:
    store = tmp_path / "items"
    address = serving(store=store)
    body = {"attributes": {"title": "A very blue mug", "description": "A blue mug of glazed clay."}}
    columns = httpx.get(f"{address}/v1/status").json()
    assert columns
    put = httpx.put(f"{address}/v1/items/n1", json=body)
    assert put.status_code in (200, 201), put.text
    assert httpx.get(f"{address}/v1/items/n1/similar?k=2").json()["items"]
    again = serving(store=store)
    assert httpx.get(f"{again}/v1/items/n1").json()["title"] == "A very blue mug"


def test_with_keys_the_page_asks_too_and_takes_what_a_browser_sends(serving) -> None:
    secret, key = new_key("people", frozenset({"read"}))
    address = serving(ServeSettings(port=0, keys=(key,)))
    refused = httpx.get(f"{address}/")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    typed = base64.b64encode(f"anybody:{secret}".encode()).decode()
    assert httpx.get(f"{address}/", headers={"Authorization": f"Basic {typed}"}).status_code == 200
    wrong = base64.b64encode(b"anybody:no").decode()
    assert httpx.get(f"{address}/", headers={"Authorization": f"Basic {wrong}"}).status_code == 401
    assert httpx.get(f"{address}/page/map.json").status_code == 401
    assert httpx.get(f"{address}/", headers={"X-API-Key": secret}).status_code == 200
    # It may read only; and what a browser adds by itself does not let another site write.
    headers = {"Authorization": f"Basic {typed}", "Origin": "http://elsewhere.example"}
    assert httpx.delete(f"{address}/v1/items/x", headers=headers).status_code == 403
    body = httpx.post(f"{address}/page/new", headers={"Authorization": f"Basic {typed}"})
    assert body.status_code == 403
