"""The API on a trained run: what is put is recommended, what is recorded counts, what is wrong is said."""

import pytest

from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.serving import schemas, schemas_lookup
from prismrec.serving.service import MemoryStore, RunService


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("api")
    settings = GeneratedConfig(
        items=200, users=60, interactions_per_user=8, image_size=32, sounds=False, seed=1
    )
    shop = generate(settings).write(home / "shop")
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(8))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "shop" / "features" / kind, name=kind)
    split = make_split(shop, ItemColdStart(valid=0.15, test=0.15))
    config = MAMEXConfig(dim=8, start="random", missing="renormalise", loss="bpr")
    plan = TrainingPlan(sampling="triplets", epochs=1, batch_size=512, learning_rate=0.01)
    train(config, split, plan=plan, out=home / "run", preset="small")
    return Recommender.load(home / "run")


def test_an_item_that_is_put_is_recommended_explained_and_gone_again(run, serve):
    service = RunService(run, MemoryStore(), version="one")
    api = serve(service=service)
    media = run.catalog.media["image"]
    content = media.read(media.ids[0])
    put = api.send("PUT", "/v1/items/new%2Fone", data={"attributes": "{}"}, files={"picture": ("x", content)})
    assert put.status_code == 201
    assert put.json()["added"] == ["new/one"]
    assert api.send("GET", "/v1/items/new%2Fone").json()["ranked"]
    assert api.send("GET", "/v1/items/new%2Fone/picture").content == content
    user = service.find_users("", 1)[0]
    asked = {"k": 1000, "choose": "new", "explain": True}
    answer = api.send("GET", f"/v1/users/{user}/recommendations", params=asked)
    found = schemas.AnswerOut.model_validate_json(answer.content)
    mine = next(row for row in found.items if row.item.item_id == "new/one")
    assert mine.reason is not None
    assert set(mine.reason.weights) == {"image", "text"}
    told = api.send("GET", f"/v1/users/{user}/items/new%2Fone/explanation")
    assert schemas.RankedOut.model_validate_json(told.content).score == pytest.approx(mine.score, abs=1e-5)
    alike = api.send("GET", "/v1/items/new%2Fone/similar", params={"k": 3}).json()
    assert len(alike["items"]) == 3
    assert api.send("DELETE", "/v1/items/new%2Fone").status_code == 200
    assert "new/one" not in api.send("GET", f"/v1/users/{user}/recommendations", params=asked).text


def test_an_event_counts_from_the_next_request_on(run, serve):
    api = serve(service=RunService(run, MemoryStore(), version="one"))
    ask = "/v1/users/somebody new/recommendations"
    before = api.send("GET", ask, params={"k": 5}).json()
    assert before["fallback"]
    first = before["items"][0]["item"]["item_id"]
    event = {"user_id": "somebody new", "item_id": first}
    assert api.send("POST", "/v1/events", json={"events": [event]}).status_code == 200
    after = api.send("GET", ask, params={"k": 5}).json()
    assert not after["fallback"]
    assert first not in [row["item"]["item_id"] for row in after["items"]]
    liked = api.send("POST", "/v1/recommendations", json={"liked": [first], "k": 5}).json()
    assert len(liked["items"]) == 5


def test_whom_an_item_is_for_who_took_it_and_what_it_is_called(run, serve):
    service = RunService(run, MemoryStore(), version="one")
    api = serve(service=service)
    users = api.send("GET", "/v1/users", params={"k": 1000}).json()["users"]
    assert users == sorted(users)
    assert len(users) == service.health().users
    history = schemas_lookup.HistoryOut.model_validate_json(
        api.send("GET", f"/v1/users/{users[0]}/history").content
    )
    assert history.total == len(history.items) > 2
    titled = next(item for item in history.items if item.title)
    words = titled.title.upper().split()[-1]
    named = api.send("GET", "/v1/items", params={"words": words, "k": 1000}).json()["items"]
    assert titled.item_id in [item["item_id"] for item in named]
    assert all(words.casefold() in item["title"].casefold() for item in named)
    fans = api.send("GET", f"/v1/items/{titled.item_id}/users", params={"k": 1000}).json()["users"]
    ranks = [fan["rank"] for fan in fans]
    assert ranks == sorted(ranks)
    # Who took it is not told that it would be something for them.
    assert users[0] not in [fan["user_id"] for fan in fans]
    first = api.send("GET", f"/v1/users/{fans[0]['user_id']}/recommendations", params={"k": ranks[0]}).json()
    assert first["items"][-1]["item"]["item_id"] == titled.item_id
    assert first["items"][-1]["score"] == pytest.approx(fans[0]["score"], abs=1e-5)


def test_what_the_service_refuses_is_answered_in_its_words(run, serve):
    api = serve(service=RunService(run, MemoryStore(), version="one"))
    wrong = api.send("GET", "/v1/users/u/recommendations", params={"where": "colour=red"})
    assert wrong.status_code == 422
    assert "no attribute 'colour'" in wrong.json()["problem"]
    event = {"events": [{"user_id": "u", "item_id": "nowhere"}]}
    assert api.send("POST", "/v1/events", json=event).status_code == 422
    assert api.send("GET", "/v1/items/nowhere/similar").status_code == 404
