"""Every route, over a socket."""

import base64
import json
import threading
import time
from urllib.parse import quote

import pytest

from prismrec.base.errors import DamagedError
from prismrec.serving import schemas, schemas_lookup
from prismrec.serving.settings import Limits, ServeSettings
from prismrec.serving.types import Event, NewItem, Wish


def test_a_user_is_recommended_what_the_service_says(serve):
    api = serve()
    answer = api.send(
        "GET",
        "/v1/users/anna/recommendations",
        params={
            "k": 2,
            "where": ["price<20", "kind=mug"],
            "choose": "new",
            "exclude_seen": "false",
            "explain": "true",
            "diversity": "0.25",
        },
    )
    assert answer.status_code == 200
    wish = Wish(2, ("price<20", "kind=mug"), "new", False, True, 0.25)
    assert api.service.asked == [("recommend", "anna", wish)]
    found = answer.json()
    assert [row["item"]["item_id"] for row in found["items"]] == ["a", "b"]
    assert found["items"][1]["rank"] == 2
    assert found["items"][1]["score"] == 0.5
    assert found["items"][0]["reason"] == {
        "weights": {"image": 0.25, "text": None},
        "experts": {"image": [0.5, 0.5]},
        "because": [{"item_id": "a", "similarity": 0.9}],
    }
    assert (found["model"], found["fallback"], found["reranked"]) == ("v1", False, False)
    schemas.AnswerOut.model_validate_json(answer.content, strict=True)


def test_without_settings_the_list_is_plain_and_what_is_no_number_is_null(serve):
    api = serve()
    found = api.send("GET", "/v1/users/nobody/recommendations").json()
    assert api.service.asked[0][2] == Wish()
    assert found["fallback"]
    assert [row["score"] for row in found["items"]] == [1.0, 0.5, None]
    assert found["items"][0]["reason"] is None


@pytest.mark.parametrize(
    ("body", "liked"),
    [
        ({"liked": ["b", "a"]}, ("b", "a")),
        ({"events": [{"item_id": "a", "timestamp": 9}, {"item_id": "c", "timestamp": 1.5}]}, ("c", "a")),
    ],
)
def test_somebody_without_a_name_is_known_by_what_they_took_oldest_first(serve, body, liked):
    api = serve()
    answer = api.send("POST", "/v1/recommendations", json={**body, "k": 1})
    assert answer.status_code == 200
    assert api.service.asked == [("liked", liked, Wish(k=1))]
    assert len(answer.json()["items"]) == 1


def test_similar_items_explanations_and_an_item(serve):
    api = serve()
    answer = api.send("GET", "/v1/items/b/similar", params={"k": 1, "where": "price=1", "choose": "warm"})
    assert api.service.asked == [("similar", "b", Wish(k=1, where=("price=1",), choose="warm"))]
    schemas.AnswerOut.model_validate_json(answer.content)
    told = api.send("GET", "/v1/users/anna/items/b/explanation").json()
    assert (told["rank"], told["score"], told["reason"]["weights"]) == (7, 0.5, {"text": 1.0})
    assert api.send("GET", "/v1/items/b").json() == {
        "item_id": "b",
        "title": "Title b",
        "attributes": {"title": "Title b", "price": 3.5},
        "has_picture": False,
        "new": False,
        "ranked": True,
    }


def test_whom_an_item_is_for_and_what_somebody_took(serve):
    api = serve(ServeSettings(port=0, rate=None, limits=Limits(k=2)))
    answer = api.send("GET", "/v1/items/b/users", params={"k": 2})
    assert answer.json() == {
        "users": [
            {"user_id": "anna.secret", "rank": 1, "score": 0.5},
            {"user_id": "otto", "rank": 4, "score": None},
        ]
    }
    schemas_lookup.FansOut.model_validate_json(answer.content)
    # The latest, oldest first, as many as are allowed; how many there are in all is said.
    told = api.send("GET", "/v1/users/anna/history").json()
    assert ([one["item_id"] for one in told["items"]], told["total"]) == (["a", "b"], 3)
    told = api.send("GET", "/v1/users/anna/history", params={"k": 1}).json()
    assert ([one["title"] for one in told["items"]], told["total"]) == (["Title b"], 3)
    assert api.send("GET", "/v1/users/nobody/history").json() == {"items": [], "total": 0}
    assert api.service.asked == [("fans", "b", 2), *[("history", "anna")] * 2, ("history", "nobody")]


def test_users_and_items_are_found(serve):
    api = serve()
    assert api.send("GET", "/v1/users").json() == {"users": ["anna.secret", "otto"]}
    assert api.send("GET", "/v1/users", params={"beginning": "ot", "k": 3}).json() == {"users": ["otto"]}
    found = api.send("GET", "/v1/items", params={"words": "b", "k": 4})
    assert [one["item_id"] for one in found.json()["items"]] == ["b"]
    schemas_lookup.ItemsOut.model_validate_json(found.content)
    assert api.service.asked == [("users", "", 10), ("users", "ot", 3), ("items", "b", 4)]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/anna.secret/history",
        "/v1/users?beginning=anna.secret",
        "/v1/items?words=anna.secret",
        "/v1/items/a/users",
    ],
)
def test_nobody_is_named_in_the_log_or_the_metrics(serve, lines, path):
    api = serve()
    assert api.send("GET", path).status_code == 200
    # The line is written when the answer has gone out already.
    while not (told := [line["status"] for line in lines() if line["event"] == "request"]):
        time.sleep(0.01)
    assert told == [200]
    assert "anna" not in str(lines())
    assert "anna" not in api.send("GET", "/metrics").text


@pytest.mark.parametrize(
    ("kind", "media"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
    ],
)
def test_a_picture_put_as_a_file_comes_back_as_what_it_is(serve, new_picture, kind, media):
    api = serve()
    content = new_picture(kind=kind)
    answer = api.send(
        "PUT",
        "/v1/items/new one",
        data={"attributes": json.dumps({"title": "Kanne ☕", "price": 2})},
        # What the sender says of its type does not count.
        files={"picture": ("../../etc/passwd", content, "text/html")},
    )
    assert answer.status_code == 201
    assert answer.json()["added"] == ["new one"]
    assert api.service.items["new one"].attributes == {"title": "Kanne ☕", "price": 2}
    shown = api.send("GET", "/v1/items/new one/picture")
    assert shown.content == content
    assert shown.headers["content-type"] == media
    assert shown.headers["x-content-type-options"] == "nosniff"
    again = api.send("GET", "/v1/items/new one/picture", headers={"If-None-Match": shown.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_what_is_no_picture_is_never_shown_as_one(serve):
    api = serve()
    page = b"<html><script>alert(1)</script>"
    api.service.items["a"] = NewItem("a", {}, page)
    shown = api.send("GET", "/v1/items/a/picture")
    assert shown.content == page
    assert shown.headers["content-type"] == "application/octet-stream"
    assert shown.headers["content-disposition"] == "attachment"


def test_an_item_put_as_json_is_new_once(serve, new_picture):
    api = serve()
    body = {
        "attributes": {"title": "x", "tags": ["p", "q"], "old": True, "none": None},
        "picture": base64.b64encode(new_picture()).decode(),
    }
    assert [api.send("PUT", "/v1/items/n", json=body).status_code for _ in range(2)] == [201, 200]
    assert api.service.items["n"].picture == new_picture()
    assert dict(api.service.items["n"].attributes) == body["attributes"]


def test_a_batch_in_both_forms(serve, new_picture):
    api = serve()
    encoded = base64.b64encode(new_picture()).decode()
    items = [{"item_id": "n1", "attributes": {"price": 1}, "picture": encoded}, {"item_id": "a"}]
    found = api.send("POST", "/v1/items:batch", json={"items": items})
    assert found.status_code == 200
    assert found.json() == {
        "added": ["n1"],
        "updated": ["a"],
        "unchanged": [],
        "without_content": ["a"],
        "refused": [],
        "problems": [{"item_id": "a", "field": "image", "reason": "has no picture"}],
    }
    batch = {"items": [{"item_id": "n2", "picture_part": "p"}, {"item_id": "n3", "attributes": {"t": "ä"}}]}
    found = api.send(
        "POST",
        "/v1/items:batch",
        files={"batch": (None, json.dumps(batch)), "p": ("x.jpg", new_picture(kind="JPEG"))},
    )
    assert found.json()["added"] == ["n2", "n3"]
    assert api.service.items["n2"].picture == new_picture(kind="JPEG")
    assert dict(api.service.items["n3"].attributes) == {"t": "ä"}


def test_items_that_do_not_fit_are_named_and_if_none_fits_it_is_an_error(serve):
    api = serve()
    api.service.unfit = {"n1", "n2"}
    found = api.send("POST", "/v1/items:batch", json={"items": [{"item_id": "n1"}, {"item_id": "n3"}]})
    assert (found.status_code, found.json()["refused"], found.json()["added"]) == (200, ["n1"], ["n3"])
    for method, path, body in (
        ("POST", "/v1/items:batch", {"items": [{"item_id": "n1"}, {"item_id": "n2"}]}),
        ("PUT", "/v1/items/n1", {}),
    ):
        refused = api.send(method, path, json=body)
        assert refused.status_code == 422
        assert "item 'n1': price: is text" in refused.json()["problem"]


def test_an_item_is_deleted_once(serve):
    api = serve()
    assert api.send("DELETE", "/v1/items/b").json() == {"deleted": ["b"]}
    assert api.send("DELETE", "/v1/items/b").status_code == 404
    assert "b" not in api.service.items


def test_events_are_recorded(serve):
    api = serve()
    events = [{"user_id": "u", "item_id": "a", "timestamp": 12.5}, {"user_id": "v", "item_id": "b"}]
    assert api.send("POST", "/v1/events", json={"events": events}).json() == {"recorded": 2}
    assert api.service.events == [Event("u", "a", 12.5), Event("v", "b", None)]


@pytest.mark.parametrize(
    "name", ["a/b", "../../etc/passwd", "..%2f", "100%", "a?b#c", "käse ☕", "similar", "a+b&c=d", "x" * 256]
)
def test_an_id_reaches_the_service_as_it_is_meant(serve, name):
    api = serve()
    path = f"/v1/items/{quote(name, safe='')}"
    assert api.send("PUT", path, json={"attributes": {}}).status_code == 201
    assert api.send("GET", path).json()["item_id"] == name
    assert api.send("GET", f"{path}/similar").status_code == 200
    assert api.service.asked[-1][1] == name
    api.send("GET", f"/v1/users/{quote(name, safe='')}/items/a/explanation")
    assert api.service.asked[-1] == ("explain", name, "a")


def test_health_and_readiness(serve):
    api = serve()
    assert api.send("GET", "/health").json() == {"status": "alive"}
    assert api.send("GET", "/ready").json() == {"ready": True}
    assert api.send("GET", "/v1/status").json()["version"] == "v1"
    api.service.ready = False
    assert api.send("GET", "/ready").status_code == 503
    assert api.send("GET", "/health").status_code == 200
    api.service.ready = True
    api.service.fails = RuntimeError("the model is gone")
    answer = api.send("GET", "/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


def test_a_reload_opens_what_the_settings_name_and_only_that(serve, fake, tmp_path):
    opened = []

    def open_service(path):
        opened.append(path)
        return fake("v2")

    api = serve(ServeSettings(port=0, rate=None, bundle=tmp_path), open_service=open_service)
    answer = api.send("POST", "/v1/reload?path=/etc", json={"path": "/etc"})
    assert answer.json()["version"] == "v2"
    assert opened == [tmp_path]
    assert api.send("GET", "/v1/users/u/recommendations").json()["model"] == "v2"


def test_a_reload_that_fails_leaves_the_old_model(serve, tmp_path):
    def open_service(path):
        raise DamagedError(f"{path}: is cut off.")

    api = serve(ServeSettings(port=0, rate=None, bundle=tmp_path), open_service=open_service)
    answer = api.send("POST", "/v1/reload")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert api.send("GET", "/v1/users/u/recommendations").json()["model"] == "v1"
    assert api.send("DELETE", "/v1/items/a").status_code == 200


def test_without_a_bundle_nothing_is_reloaded(serve):
    assert serve().send("POST", "/v1/reload").status_code == 409


def test_no_write_falls_between_two_models(serve, fake, tmp_path):
    opening, go_on = threading.Event(), threading.Event()

    def open_service(path):
        opening.set()
        assert go_on.wait(20)
        return fake("v2")

    api = serve(ServeSettings(port=0, rate=None, bundle=tmp_path), open_service=open_service)
    # A write under way is waited for.
    api.service.hold = threading.Event()
    write = threading.Thread(target=api.send, args=("DELETE", "/v1/items/a"))
    write.start()
    assert api.service.entered.wait(20)
    found = []
    reload = threading.Thread(target=lambda: found.append(api.send("POST", "/v1/reload")))
    reload.start()
    assert not opening.wait(0.2)
    api.service.hold.set()
    assert opening.wait(20)
    # While it opens, reads are answered and writes are turned away.
    assert api.send("GET", "/v1/items/b").status_code == 200
    refused = api.send("DELETE", "/v1/items/b")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert api.send("POST", "/v1/reload").status_code == 409
    go_on.set()
    write.join(20)
    reload.join(20)
    assert found[0].json()["version"] == "v2"
    assert api.send("DELETE", "/v1/items/b").status_code == 200
