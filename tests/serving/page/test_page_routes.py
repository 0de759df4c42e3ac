"""Every function of the page, by a client that runs no script."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from prismrec.base.errors import ConfigError, StorageError
from prismrec.serving.page.options import PageOptions
from prismrec.serving.page.routes import page_router
from prismrec.serving.types import Wish

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png>"
_EMPTY = {"img", "input", "meta", "link", "br", "rect", "circle", "path"}


class Page(HTMLParser):
    """Elements in their order, with the text inside each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in _EMPTY:
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        if any(self.found[place][0] == tag for place in self._open):
            while self.found[self._open.pop()][0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.texts[place] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Attributes of the elements of a tag, with their text as "text"."""
        return [
            {**attrs, "text": " ".join(self.texts[place].split())}
            for place, (name, attrs) in enumerate(self.found)
            if name == tag
            if all(value in attrs.get(key.rstrip("_"), "").split() for key, value in wanted.items())
        ]


def get(client: TestClient, path: str, status: int = 200, **query: Any) -> Page:
    answer = client.get(path, params=query or None)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return Page(answer.text)


def png(size: tuple[int, int] = (300, 200), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, kind)
    return buffer.getvalue()


def someone(service: Any) -> str:
    return next(iter(service.taken))


def titles(page: Page) -> list[str]:
    return [link["text"] for link in page.all("a", class_="over")]


def shown(item: Any) -> str:
    return item.title or item.item_id


def test_a_person_is_found_by_the_beginning_of_the_id(client, service):
    user = someone(service)
    everybody = get(client, "/").all("a")
    assert sum("/page/person?" in link["href"] for link in everybody) == len(service.taken)
    page = get(client, "/", begin=user)
    assert [a["href"] for a in page.all("a") if "person?" in a["href"]] == [f"/page/person?user={user}"]
    assert page.all("input", type_="search")[0]["value"] == user
    assert "Nobody" in get(client, "/", begin="nobody-is-called-so").all("section")[0]["text"]


def test_more_people_than_fit_are_told_of(client, service):
    for n in range(30):
        service.user_vectors[f"zz{n:02}"] = next(iter(service.user_vectors.values()))
    page = get(client, "/", begin="zz")
    assert sum("/page/person?" in link["href"] for link in page.all("a")) == 24
    assert "There are more" in page.all("section")[0]["text"]


def test_a_person_has_history_list_and_reasons(client, service):
    user = someone(service)
    page = get(client, "/page/person", user=user)
    history = page.all("ul", class_="strip")[0]["text"]
    assert all(shown(item) in history for item in service.history(user))
    expected = service.recommend(user, service.asked[-1])
    assert titles(page) == [shown(ranked.item) for ranked in expected.items]
    first = page.all("li", class_="card")[0]
    assert "Rank 1" in first["text"]
    assert f"{expected.items[0].score:.3g}" in first["text"]
    reason = expected.items[0].reason
    for name, weight in reason.weights.items():
        assert name in first["text"]
        if weight is not None:
            assert f"{100 * weight:.0f} %" in first["text"]
    for item_id, cosine in reason.because:
        assert shown(service.items[item_id]) in first["text"]
        assert f"{cosine:.2f}" in first["text"]


def test_bars_have_the_width_of_the_weights(client, service):
    page = get(client, "/page/person", user=someone(service))
    reason = service.recommend(someone(service), service.asked[-1]).items[0].reason
    total = sum(weight or 0 for weight in reason.weights.values())
    wanted = [round(100 * weight / total, 2) for weight in reason.weights.values() if weight]
    drawn = [float(rect["width"]) for rect in page.all("rect") if rect.get("height") == "6"]
    assert drawn[: len(wanted)] == pytest.approx(wanted)


def test_what_the_list_is_like_goes_to_the_service_and_stays_in_the_form(client, service):
    query = {"diversity": "0.4", "choose": "new", "where": ["price<500", ""], "k": "6"}
    page = get(client, "/page/person", user=someone(service), **query)
    wish = service.asked[-1]
    assert (wish.diversity, wish.choose, wish.where, wish.k) == (0.4, "new", ("price<500",), 6)
    assert page.all("input", name="diversity")[0]["value"] == "0.4"
    assert [radio["value"] for radio in page.all("input", type_="radio") if "checked" in radio] == ["new"]
    assert [line["value"] for line in page.all("input", name="where")] == ["price<500", ""]
    assert [option["text"] for option in page.all("option") if "selected" in option] == ["6"]
    assert titles(page) == [shown(r.item) for r in service.recommend(someone(service), wish).items]
    assert all("New" in card["text"] for card in page.all("li", class_="card"))


def test_a_wrong_condition_is_told_beside_the_question(client, service):
    page = get(client, "/page/person", 422, user=someone(service), where="nonsense")
    assert "cannot be read" in page.all("div", role="alert")[0]["text"]
    assert "nonsense" in [line["value"] for line in page.all("input", name="where")]


@pytest.mark.parametrize(
    "query", ["", "user=a&diversity=2", "user=a&k=0", "user=a&choose=some", f"user={'a' * 600}"]
)
def test_a_wrong_question_gets_a_page_that_says_so(client, query):
    page = get(client, f"/page/person?{query}", 422)
    assert page.all("h1")[0]["text"] == "That cannot be read"


def test_an_unknown_person_gets_the_average_list(client):
    page = get(client, "/page/person", user="nobody")
    assert "average person" in page.all("p", class_="notice")[0]["text"]
    assert page.all("li", class_="card")


def test_a_long_history_is_shortened_and_says_so(client, service):
    user = someone(service)
    service.taken[user] = list(service.items)[:40]
    page = get(client, "/page/person", user=user)
    assert "40 items" in page.all("section")[0]["text"]
    assert "the last 24 are shown" in page.all("section")[0]["text"]
    whole = next(link["href"] for link in page.all("a") if link["text"] == "Show all")
    strip = get(client, whole).all("ul", class_="strip")[0]["text"]
    assert all(shown(service.items[name]) in strip for name in service.taken[user])


def test_picked_items_make_a_list(client, service):
    liked = list(service.items)[3:6]
    page = get(client, "/page/pick", like=[*liked, liked[0]], q="")
    checked = [box["value"] for box in page.all("input", type_="checkbox") if "checked" in box]
    assert checked == liked
    expected = service.recommend_liked(liked, service.asked[-1])
    assert titles(page) == [shown(ranked.item) for ranked in expected.items]
    assert not get(client, "/page/pick").all("li", class_="card")


def test_items_to_pick_are_searched_by_words_of_the_title(client, service):
    page = get(client, "/page/pick", q="MUG")
    boxes = [box["value"] for box in page.all("input", type_="checkbox")]
    assert boxes
    assert all("mug" in service.items[name].title.lower() for name in boxes)
    assert "No item" in get(client, "/page/pick", q="no such words").all("form")[0]["text"]


def test_a_liked_item_that_is_gone_is_told_of(client):
    page = get(client, "/page/pick", 422, like="gone")
    assert "no item 'gone'" in page.all("div", role="alert")[0]["text"]


def test_two_runs_stand_side_by_side_and_what_both_have_is_marked(client, service):
    user = someone(service)
    page = get(client, "/page/compare", user=user)
    left, right = page.all("ol", class_="rows")
    cards = page.all("li", class_="card")
    ours = [shown(r.item) for r in service.recommend(user, service.asked[-1]).items]
    assert titles(page)[: len(ours)] == ours
    here, there = cards[: len(ours)], cards[len(ours) :]
    marked = {"in both" in card["text"] for card in cards}
    assert marked == {True, False}
    assert sum("in both" in card["text"] for card in here) == sum("in both" in c["text"] for c in there)
    both = sum("in both" in card["text"] for card in here)
    assert f"{both} of {len(ours)} items stand in both lists" in page.all("div", id="lists")[0]["text"]
    assert left["text"] != right["text"]
    assert {h["text"].split()[1] for h in page.all("h2")} == {"mamex", "profile"}
    assert any("compare?user=" in link["href"] for link in get(client, "/page/compare").all("a"))


def test_an_item_shows_whom_it_is_for_and_what_is_like_it(client, service):
    user, name = someone(service), list(service.items)[51]
    page = get(client, "/page/item", id=name, user=user)
    why = service.explain(user, name)
    listed = [ranked.item.item_id for ranked in service.recommend(user, Wish(k=1000)).items]
    told = page.all("section")[0]["text"]
    assert f"rank {listed.index(name) + 1} of the list" in told
    assert f"rank {why.rank}; its score" in told
    taken = service.taken[user][0]
    assert f"{user} took it" in get(client, "/page/item", id=taken, user=user).all("section")[0]["text"]
    assert [a["text"] for a in page.all("ol", class_="fans")] != []
    assert all(fan.user_id in page.all("ol", class_="fans")[0]["text"] for fan in service.fans(name, 12))
    assert len(titles(page)) == 12
    assert get(client, "/page/item", 404, id="gone").all("h1")[0]["text"] == "Not found"
    without = next(item for item in service.items.values() if not item.ranked)
    assert "cannot be recommended" in get(client, "/page/item", id=without.item_id).all("main")[0]["text"]


def token_of(client: TestClient, path: str = "/page/new") -> str:
    return get(client, path).all("input", name="token")[0]["value"]


def add(client: TestClient, picture: bytes | None = None, origin: str = "http://testserver", **fields: str):
    token = fields.pop("token", None) or token_of(client)
    title = fields.pop("title", "A new mug")
    data = {"token": token, "field:title": title, "field:price": "12.5", **fields}
    files = {} if picture is None else {"picture": ("p.png", picture, "image/png")}
    headers = {"origin": origin} if origin else {}
    return client.post("/page/new", data=data, files=files, headers=headers, follow_redirects=False)


def test_a_new_item_comes_in_is_shown_and_can_be_deleted(client, service):
    answer = add(client, png(), id="mine")
    assert (answer.status_code, answer.headers["location"]) == (303, "/page/item?id=mine&added=1")
    given = service.asked[-1]
    assert (given.item_id, given.attributes) == ("mine", {"title": "A new mug", "price": 12.5})
    assert given.picture == png()
    page = get(client, answer.headers["location"])
    assert "can be recommended from now on" in page.all("div", role="status")[0]["text"]
    assert page.all("ol", class_="fans")
    assert len(titles(page)) == 12
    gone = client.post(
        "/page/delete",
        data={"token": page.all("input", name="token")[0]["value"], "id": "mine"},
        headers={"origin": "http://testserver"},
        follow_redirects=False,
    )
    assert gone.status_code == 303
    assert "mine was deleted" in get(client, gone.headers["location"]).all("p", role="status")[0]["text"]
    assert "mine" not in service.items


FORM = PageOptions(fields=("price", "in_stock", "released", "brand", "sizes", "genres"))


def with_lists(service: Any) -> None:
    for place, item in enumerate(list(service.items.values())):
        genres = None if place < 9 else ["Comedy", "Drama"] if place % 3 else ["War"]
        lists = {"sizes": [place, 40], "genres": genres}
        service.items[item.item_id] = replace(item, attributes={**item.attributes, **lists})


def test_what_is_typed_reaches_the_service_as_what_the_column_holds(service, make_app):
    with_lists(service)
    typed = {
        "field:price": "12.5",
        "field:in_stock": "yes",
        "field:released": "1700000000",
        "field:brand": "12",
        "field:sizes": "38, 40,",
        "field:genres": " Comedy,Film-Noir ",
    }
    with TestClient(make_app(service, options=FORM)) as client:
        assert add(client, png(), **typed).status_code == 303
        page = get(client, "/page/new")
    given = service.asked[-1].attributes
    assert given == {
        "title": "A new mug",
        "price": 12.5,
        "in_stock": True,
        "released": 1700000000,
        "brand": "12",
        "sizes": [38, 40],
        "genres": ["Comedy", "Film-Noir"],
    }
    assert [type(given[name]) for name in ("in_stock", "released", "brand")] == [bool, int, str]
    helps = " ".join(help["text"] for help in page.all("p", class_="help"))
    assert "Several with commas between them, e.g. War" in helps
    assert "Several with commas between them (each a whole number)" in helps
    assert [option["text"] for option in page.all("option")] == ["", "yes", "no"]


@pytest.mark.parametrize(
    ("column", "typed", "said"),
    [
        ("price", "cheap", "Price: 'cheap' is not a number, e.g. "),
        ("price", "nan", "'nan' is not a number"),
        ("released", "12.5", "Released: '12.5' is not a whole number, e.g. "),
        ("in_stock", "perhaps", "In stock: 'perhaps' is not yes or no"),
        ("sizes", "38, XL", "Sizes: '38, XL' is not several with commas between them (each a whole number)"),
        ("in_stock", "y" * 900, "yyy…' is not yes or no"),
    ],
)
def test_what_does_not_fit_its_column_is_told_beside_it(service, make_app, column, typed, said):
    with_lists(service)
    before = dict(service.items)
    with TestClient(make_app(service, options=FORM)) as client:
        answer = add(client, png(), **{f"field:{column}": typed})
    page = Page(answer.text)
    assert answer.status_code == 422
    assert said in page.all("div", role="alert")[0]["text"]
    wrong = [attrs for tag in ("input", "select") for attrs in page.all(tag) if "aria-invalid" in attrs]
    assert [attrs["name"] for attrs in wrong] == [f"field:{column}"]
    assert set(wrong[0]["aria-describedby"].split()) <= {attrs.get("id") for _, attrs in page.found}
    assert service.items == before


def test_an_item_without_an_id_gets_one_and_without_content_says_so(client, service):
    answer = add(client)
    page = get(client, answer.headers["location"])
    assert service.asked[-1].item_id.startswith("new-")
    assert "cannot be recommended" in page.all("main")[0]["text"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": "  "}, "Give it a title"),
        ({"picture": b"no picture"}, "not a picture"),
        ({"picture": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "not a picture"),
        ({"id": "p00003"}, "such an item already"),
        ({"id": "x" * 300}, "more than 200"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_is_lost(client, service, changes, said):
    before = dict(service.items)
    answer = add(client, **{"field:description": "Kept text", **changes})
    page = Page(answer.text)
    assert answer.status_code == 422
    assert said in page.all("div", role="alert")[0]["text"]
    assert page.all("textarea")[0]["text"] == "Kept text"
    assert page.all("input", **{"aria-invalid": "true"})
    assert service.items == before


def test_a_picture_that_is_too_large_is_refused(service, make_app):
    options = PageOptions(max_picture=100)
    with TestClient(make_app(service, options=options)) as client:
        answer = add(client, png((900, 900)))
    assert answer.status_code == 422
    assert "larger than 100 bytes" in answer.text


def test_problems_that_the_service_reports_are_shown(client, service):
    service.problems = (("mine", "audio", "the file is broken"),)
    answer = add(client, png(), id="mine")
    assert answer.status_code == 201
    assert "audio: the file is broken" in Page(answer.text).all("p", role="alert")[0]["text"]


@pytest.mark.parametrize(
    "changes",
    [{"origin": "http://evil.example"}, {"origin": ""}, {"origin": "null"}, {"token": "0" * 64}],
)
def test_no_other_site_can_write(client, service, changes):
    before = dict(service.items)
    answer = add(client, png(), **changes)
    assert answer.status_code == 403
    assert service.items == before


def test_no_other_site_can_delete(client, service):
    name, token = next(iter(service.items)), token_of(client)
    for headers, data in (
        ({"origin": "http://testserver", "sec-fetch-site": "cross-site"}, {"token": token, "id": name}),
        ({"origin": "http://testserver"}, {"id": name}),
    ):
        assert client.post("/page/delete", data=data, headers=headers).status_code == 403
    assert name in service.items
    client.cookies.clear()
    kept = client.post(
        "/page/delete", data={"token": token, "id": name}, headers={"origin": "http://testserver"}
    )
    assert kept.status_code == 403
    assert client.get("/page/delete").status_code == 405


def test_the_cookie_of_the_forms_is_out_of_reach(client):
    cookie = client.get("/page/new").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_who_may_not_write_is_turned_away_before_anything_happens(client, service):
    before = dict(service.items)
    token = token_of(client)
    for path, data in (("/page/new", {"field:title": "x"}), ("/page/delete", {"id": next(iter(before))})):
        answer = client.post(
            path, data={**data, "token": token}, headers={"origin": "http://testserver", "x-key": "r"}
        )
        assert answer.status_code == 403
        assert "This key may not write" in answer.text
    assert service.items == before


def test_a_full_disk_is_told(client, service, monkeypatch):
    def full(items: Any) -> None:
        raise StorageError("/srv/items: the disk is full.", "Make room.")

    monkeypatch.setattr(service, "put", full)
    answer = add(client, png())
    assert answer.status_code == 503
    assert "nothing was changed" in answer.text
    assert "/srv/items" not in answer.text


def test_what_is_not_given_is_not_offered(service):
    app = FastAPI()
    app.include_router(page_router(service))
    with TestClient(app) as client:
        page = get(client, "/")
        names = [a["text"] for a in page.all("a") if a["href"].startswith("/page/") and "?" not in a["href"]]
        assert names == ["Pick", "Pick items"]
        for path in ("compare?user=a", "map", "map.json", "new", "results", "delete"):
            assert client.get(f"/page/{path}").status_code == 404
        assert client.post("/page/new").status_code == 404
        assert "set-cookie" not in client.get("/").headers


def test_the_map_has_every_item_with_a_vector(client, service):
    found = client.get("/page/map.json", params={"by": "category"}).json()
    assert found["ids"] == list(service.item_vectors)
    for name, title, fresh, group in zip(
        found["ids"], found["titles"], found["new"], found["group"], strict=True
    ):
        item = service.items[name]
        assert title == shown(item)
        assert bool(fresh) == item.new
        assert found["groups"][group] in (item.attributes["category"], "other")
    assert len(found["x"]) == len(found["y"]) == len(found["ids"])
    by_modality = client.get("/page/map.json", params={"by": "modality"}).json()
    assert set(by_modality["groups"]) <= {"image", "text", "audio"}


def test_the_map_is_a_table_too_and_a_picture_without_scripts(client, service):
    rows: list[str] = []
    path = "/page/map?by=category"
    for _ in range(3):
        page = get(client, path)
        rows += [row["text"] for row in page.all("tr")[1:]]
        path = next((a["href"] for a in page.all("a", rel="next")), "")
    assert path == ""
    assert len(rows) == len(service.item_vectors)
    drawing = client.get(get(client, "/page/map").all("img", class_="drawn")[0]["src"])
    tree = ElementTree.fromstring(drawing.text)
    paths = [path.get("d") for path in tree]
    assert sum(d.count("h0") for d in paths) == sum(not service.items[i].new for i in service.item_vectors)
    assert sum(d.count("z") for d in paths) == sum(service.items[i].new for i in service.item_vectors)
    get(client, "/page/map", 404, by="colour of the soul")
    get(client, "/page/map", 404, page=99)


def test_the_map_is_coloured_by_the_first_entries_of_lists_and_says_so(client, service):
    with_lists(service)
    page = get(client, "/page/map")
    assert [option["text"] for option in page.all("option")] == ["category", "brand", "genres", "modality"]
    page = get(client, "/page/map", by="genres")
    assert "Genres: each item by the first of its entries." in page.all("figcaption")[0]["text"]
    assert "each item by the first" not in get(client, "/page/map", by="brand").all("figcaption")[0]["text"]
    found = client.get("/page/map.json", params={"by": "genres"}).json()
    assert found["groups"] == ["Comedy", "War", "not known"]
    get(client, "/page/map", 404, by="sizes")


def test_a_map_that_tells_little_says_so(client, service):
    assert "tells little" not in get(client, "/page/map").all("main")[0]["text"]
    # Every item has a direction of its own, as with a kernel: no two axes show more than the others.
    for row, name in enumerate(service.item_vectors):
        service.item_vectors[name] = np.eye(250)[row]
    extra = {f"more{n}": np.eye(250)[n] for n in range(len(service.item_vectors), 250)}
    for name, vector in extra.items():
        service.items[name] = replace(next(iter(service.items.values())), item_id=name)
        service.item_vectors[name] = vector
    told = get(client, "/page/map").all("main")[0]["text"]
    assert "show less than 1 % of the variance" in told
    assert "tells little" in told


def test_a_map_by_neighbours_says_so_and_names_no_share(client, service):
    item = next(iter(service.items.values()))
    for n in range(320):
        vector = np.zeros(400)
        vector[[n, 320 + n // 8]] = 1.0, 0.3
        service.items[f"more{n}"] = replace(item, item_id=f"more{n}")
        service.item_vectors[f"more{n}"] = vector
    for name in [name for name in service.item_vectors if not name.startswith("more")]:
        del service.items[name], service.item_vectors[name]
    told = get(client, "/page/map").all("main")[0]["text"]
    assert "each was placed near the ones most like it" in told
    assert "The two axes show" not in told
    assert "since the map was drawn" not in told
    service.items["late"] = replace(item, item_id="late")
    service.item_vectors["late"] = service.item_vectors["more5"]
    told = get(client, "/page/map").all("main")[0]["text"]
    assert "1 item that came or changed since the map was drawn stands beside what is most like it." in told


def test_the_results_are_those_of_the_evaluation(client):
    page = get(client, "/page/results")
    text = page.all("main")[0]["text"]
    assert "68.5 %" in text
    assert "0.350 – 0.390" in text  # noqa: RUF001
    assert "User's training interactions" in text
    assert EVIL in text
    assert "The test part was small." in text


def test_a_damaged_evaluation_is_named_in_the_log_alone(client, tmp_path, caplog):
    (tmp_path / "evaluation.json").write_text('{"run": 3}')
    page = get(client, "/page/results", 503)
    assert "finds the cause in the log" in page.all("main")[0]["text"]
    assert str(tmp_path) not in client.get("/page/results").text
    assert "evaluation.json" in caplog.records[0].fields["problem"]


def test_a_picture_is_small_and_asked_for_once(client, service):
    name = next(iter(service.pictures))
    service.pictures[name] = png((2000, 1000))
    answer = client.get("/page/picture", params={"id": name})
    with Image.open(io.BytesIO(answer.content)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (256, 128))
    again = client.get(
        "/page/picture", params={"id": name}, headers={"if-none-match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    small = client.get("/page/picture", params={"id": name, "small": 1})
    with Image.open(io.BytesIO(small.content)) as opened:
        assert opened.size == (96, 48)
    service.pictures[name] = png((30, 20))
    changed = client.get(
        "/page/picture", params={"id": name}, headers={"if-none-match": answer.headers["etag"]}
    )
    assert changed.status_code == 200
    assert client.get("/page/picture", params={"id": "gone"}).status_code == 404


def test_a_broken_picture_gets_a_stand_in(client, service):
    name = next(iter(service.pictures))
    service.pictures[name] = b"<svg onload='alert(1)'/>"
    answer = client.get("/page/picture", params={"id": name})
    assert answer.headers["content-type"] == "image/svg+xml"
    assert b"onload" not in answer.content
    ElementTree.fromstring(answer.text)


def every_page(service: Any) -> list[str]:
    user, item = someone(service), next(iter(service.items))
    return [
        "/",
        f"/page/person?user={user}",
        f"/page/person?user={user}&where=price<0",
        f"/page/pick?like={item}",
        f"/page/compare?user={user}",
        "/page/compare",
        f"/page/item?id={item}&user={user}",
        f"/page/item?id={list(service.items)[-1]}&added=1",
        "/page/new",
        "/page/map",
        "/page/results",
        "/page/item?id=gone",
    ]


def test_titles_cannot_break_out(client, service):
    for name, item in list(service.items.items()):
        attributes = {**item.attributes, "category": EVIL, "description": EVIL}
        service.items[name] = type(item)(name, EVIL, attributes, item.has_picture, item.new, item.ranked)
    service.taken[EVIL] = list(service.items)[:3]
    service.user_vectors[EVIL] = next(iter(service.user_vectors.values()))
    paths = [*every_page(service), "/page/person?user=" + EVIL.replace("&", "%26")]
    for path in paths:
        answer = client.get(path)
        page = Page(answer.text)
        assert [script["src"].split("?")[0] for script in page.all("script")] == ["/page/static/page.js"]
        assert all(img["src"].startswith("/page/") for img in page.all("img"))
    assert "&lt;script&gt;" in client.get(paths[1]).text
    assert "<script" not in client.get("/page/picture", params={"id": list(service.items)[7]}).text


def test_every_page_keeps_to_its_own_site_and_is_well_made(client, service):
    for path in every_page(service):
        answer = client.get(path)
        page = Page(answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        for tag, attrs in page.found:
            assert tag != "style"
            assert not any(name == "style" or name.startswith("on") for name in attrs), (path, attrs)
            for name in ("src", "href", "action", "data-map"):
                assert not re.match(r"\w+:|//", attrs.get(name, "")), (path, attrs)
        assert len(page.all("h1")) == 1
        assert len(page.all("main")) == len(page.all("footer")) == 1
        assert page.all("html")[0]["lang"] == "en"
        ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
        assert len(ids) == len(set(ids)), path
        for attrs in page.all("img"):
            assert "alt" in attrs
        named = {label.get("for") for label in page.all("label")}
        for tag in ("input", "select", "textarea"):
            for attrs in page.all(tag):
                if attrs.get("type") in ("hidden", "radio", "checkbox"):
                    continue
                assert attrs.get("id") in named or attrs.get("aria-label"), (path, attrs)


def test_styles_and_script_are_kept_by_browsers_until_they_change(client):
    page = get(client, "/")
    address = next(link["href"] for link in page.all("link") if link["rel"] == "stylesheet")
    assert "immutable" in client.get(address).headers["cache-control"]
    assert client.get(address.split("?")[0]).headers["cache-control"] == "no-cache"
    assert client.get("/page/static/routes.py").status_code == 404
    assert client.get("/page/static/..%2Froutes.py").status_code == 404
    for name in ("style.css", "page.js"):
        text = client.get(f"/page/static/{name}").text
        assert not re.search(r"https?://|@import|url\(", text)


def test_everything_works_behind_a_prefix(service, make_app):
    with TestClient(make_app(service, prefix="/shop"), root_path="/outer") as client:
        page = Page(client.get("/shop/").text)
        addresses = [a["href"] for a in page.all("a")[1:]] + [img["src"] for img in page.all("img")]
        assert addresses
        assert all(address.startswith("/outer/shop/") for address in addresses)


def test_a_service_that_is_not_ready_says_so(client, service):
    service.ready = False
    assert "not ready" in get(client, "/").all("p", role="alert")[0]["text"]


def test_a_short_secret_is_refused(service):
    with pytest.raises(ConfigError, match="5 bytes"):
        page_router(service, PageOptions(secret=b"short"))


def test_processes_with_one_secret_take_each_others_forms(service, make_app: Callable[..., FastAPI]):
    options = PageOptions(secret=b"s" * 32)
    with TestClient(make_app(service, options=options)) as one:
        token = token_of(one)
        cookies = dict(one.cookies)
    with TestClient(make_app(service, options=options), cookies=cookies) as two:
        assert add(two, png(), token=token).status_code == 303


def test_nothing_of_the_page_is_missing_from_the_package():
    import prismrec.serving.page as package

    folder = Path(package.__file__).parent
    for template in (folder / "templates").glob("*.html"):
        assert template.read_text(encoding="utf-8").strip()
    assert {path.name for path in (folder / "static").iterdir()} == {"style.css", "page.js"}
