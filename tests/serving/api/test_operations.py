"""What an operator relies on: limits, replays, logs, metrics, failures, and an end in order."""

import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prismrec.base.errors import DamagedError, InputError, PrismError, StorageError
from prismrec.serving.settings import Limits, Rate, ServeSettings


def takes(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", verify=False)
    except httpx.TransportError:
        return False
    return True


EVENT = {"events": [{"user_id": "anna.secret", "item_id": "a"}]}


def test_who_asks_too_often_is_told_when_to_come_again(serve):
    api = serve(ServeSettings(port=0, rate=Rate(per_second=0.01, burst=3)))
    answers = [api.send("GET", "/v1/items/a") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["error"] == "too_many_requests"
    assert 90 <= int(answers[3].headers["retry-after"]) <= 100
    # Who watches the service is not kept out.
    assert api.send("GET", "/health").status_code == 200


def test_an_event_that_is_sent_again_counts_once(serve):
    api = serve()
    first = api.send("POST", "/v1/events", json=EVENT, headers={"Idempotency-Key": "k1"})
    again = api.send("POST", "/v1/events", json=EVENT, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.service.events) == 1
    other = {"events": [{"user_id": "otto", "item_id": "a"}]}
    used = api.send("POST", "/v1/events", json=other, headers={"Idempotency-Key": "k1"})
    assert (used.status_code, used.json()["error"]) == (422, "key_used")
    elsewhere = api.send("DELETE", "/v1/items/a", headers={"Idempotency-Key": "k1"})
    assert elsewhere.status_code == 422
    assert api.send("POST", "/v1/events", json=EVENT, headers={"Idempotency-Key": "k2"}).status_code == 200
    assert len(api.service.events) == 2


def test_multipart_that_is_sent_again_has_another_boundary_and_is_the_same(serve, new_picture):
    api = serve()
    answers = [
        api.send(
            "PUT",
            "/v1/items/n",
            files={"picture": ("a.png", new_picture())},
            headers={"Idempotency-Key": "k"},
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len(api.service.asked) == 1


def test_a_write_that_failed_may_be_tried_again_with_its_key(serve):
    api = serve()
    api.service.fails = StorageError("/srv/store: cannot write here, the disk is full.")
    headers = {"Idempotency-Key": "k"}
    assert api.send("POST", "/v1/events", json=EVENT, headers=headers).status_code == 503
    api.service.fails = None
    assert api.send("POST", "/v1/events", json=EVENT, headers=headers).json() == {"recorded": 1}


def test_a_write_under_way_is_not_started_twice(serve):
    api = serve()
    api.service.hold = threading.Event()
    found = []
    headers = {"Idempotency-Key": "k"}
    write = threading.Thread(
        target=lambda: found.append(api.send("POST", "/v1/events", json=EVENT, headers=headers))
    )
    write.start()
    assert api.service.entered.wait(20)
    second = api.send("POST", "/v1/events", json=EVENT, headers=headers)
    assert (second.status_code, second.json()["error"]) == (409, "under_way")
    api.service.hold.set()
    write.join(20)
    assert found[0].status_code == 200
    assert len(api.service.events) == 1


def test_when_too_many_wait_the_next_is_turned_away_and_health_is_still_answered(serve, until):
    api = serve(ServeSettings(port=0, rate=None, limits=Limits(concurrency=1, waiting=1)))
    api.service.hold = threading.Event()
    found = []
    ask = "/v1/users/u/recommendations"
    threads = [threading.Thread(target=lambda: found.append(api.send("GET", ask))) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: found)
    # One works, one waits; the third has been answered.
    assert found[0].status_code == 503
    assert found[0].json()["error"] == "busy"
    assert found[0].headers["retry-after"] == "1"
    assert len(api.service.asked) == 1
    assert api.send("GET", "/health").status_code == api.send("GET", "/ready").status_code == 200
    api.service.hold.set()
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in found[1:]] == [200, 200]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("/srv/secret/store: cannot write here, the disk is full."), 503),
        (DamagedError("/srv/secret/run: is cut off."), 503),
        (PrismError("/srv/secret: whatever"), 500),
        (RuntimeError("anna.secret is in /srv/secret"), 500),
        (RecursionError(), 500),
        (InputError("price: is text.", "Compare it with '='."), 422),
    ],
)
def test_what_fails_inside_is_answered_without_an_inside_view(serve, lines, error, status):
    api = serve()
    api.service.fails = error
    answer = api.send("GET", "/v1/users/anna.secret/recommendations")
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    failures = [line for line in lines() if line["event"] == "failure"]
    assert len(failures) == (status >= 500)
    for line in failures:
        assert line["type"] == type(error).__name__
        assert line["request_id"] == answer.json()["request_id"]
        assert any("conftest.py" in place for place in line["where"])
        assert "anna" not in str(line)
        assert ("disk is full" in str(line)) == isinstance(error, StorageError)
    api.service.fails = None
    assert api.send("GET", "/v1/users/anna.secret/recommendations").status_code == 200


def test_the_log_says_what_was_asked_and_not_by_whom(serve, lines, until):
    api = serve()
    trace = {"X-Request-Id": "0af7651916cd43dd"}
    api.send("GET", "/v1/users/anna.secret/recommendations?where=name%3Dsecret", headers=trace)
    api.send("GET", "/v1/users/anna.secret/items/a/explanation", headers={"X-Request-Id": "anna.secret"})
    api.send("POST", "/v1/events", json=EVENT, headers={"Idempotency-Key": "anna.secret"})
    api.send("PUT", "/v1/items/secret", json={"attributes": {"owner": "anna.secret"}})
    api.send("GET", "/v1/users/anna.secret/nothing?q=secret")
    api.send("GET", "/v1/users/anna%00secret/recommendations")
    api.send("GET", "/v1/items/%ffsecret")
    # The last line is written after its answer has been sent.
    until(lambda: len(lines()) >= 7)
    written = lines()
    assert "secret" not in str(written)
    assert [(line["method"], line["route"], line["status"]) for line in written] == [
        ("GET", "/v1/users/{user_id}/recommendations", 200),
        ("GET", "/v1/users/{user_id}/items/{item_id}/explanation", 200),
        ("POST", "/v1/events", 200),
        ("PUT", "/v1/items/{item_id}", 201),
        ("GET", "none", 404),
        ("GET", "/v1/users/{user_id}/recommendations", 422),
        ("GET", "none", 400),
    ]
    assert written[0]["request_id"] == "0af7651916cd43dd"
    assert written[4]["error"] == "no_route"
    assert all(line["ms"] >= 0 and line["event"] == "request" for line in written)


def test_the_log_names_the_key(guarded, lines, until):
    guarded.send("GET", "/v1/items/a", headers={"authorization": "Bearer reader-secret"})
    until(lines)
    assert lines()[-1]["key"] == "reads"
    assert "secret" not in str(lines())


def test_metrics_can_be_read_and_count(serve, fake):
    service = fake()
    service.search, service.recall = "index", 0.97
    api = serve(service=service)
    for _ in range(3):
        api.send("GET", "/v1/users/u/recommendations")
    api.send("GET", "/v1/items/zz")
    api.send("BREW", "/anything")
    answer = api.send("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    route = "/v1/users/{user_id}/recommendations"
    assert values["prismrec_requests_total", *sorted(("GET", route, "200"))] == 3
    assert values["prismrec_requests_total", *sorted(("other", "none", "404"))] == 1
    assert values["prismrec_request_seconds_count", route] == 3
    assert values["prismrec_errors_total", "unknown_item"] == 1
    assert values["prismrec_items", "known"] == 3
    assert values["prismrec_ready",] == 1
    assert values["prismrec_search_recall",] == 0.97
    assert values["prismrec_requests_in_flight",] == 1


def test_two_services_in_a_process_count_apart(serve):
    one, other = serve(), serve()
    one.send("GET", "/v1/items/a")
    assert '/v1/items/{item_id}"' not in other.send("GET", "/metrics").text


def test_requests_in_flight_are_finished_before_the_end(serve, until):
    api = serve()
    api.service.hold = threading.Event()
    found = []
    ask = threading.Thread(target=lambda: found.append(api.send("GET", "/v1/users/u/recommendations")))
    ask.start()
    assert api.service.entered.wait(20)
    api.running.should_exit = True
    # New ones are not taken any more.
    until(lambda: not takes(api.url))
    assert not found
    assert api.thread.is_alive()
    api.service.hold.set()
    ask.join(20)
    api.thread.join(20)
    assert found[0].status_code == 200
    assert len(found[0].json()["items"]) == 3
    assert not api.thread.is_alive()


def test_a_body_that_does_not_come_is_not_waited_for(serve):
    api = serve(ServeSettings(port=0, rate=None, limits=Limits(body_seconds=0.05)))

    def slowly():
        yield b"{"
        time.sleep(1.0)
        yield b"}"

    answer = api.send("POST", "/v1/events", content=slowly(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (408, "too_slow")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:8000"}, 400),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost:7", "Origin": "http://localhost:7"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
    ],
)
def test_without_keys_pages_of_other_sites_cannot_write(serve, headers, status):
    api = serve()
    assert api.send("DELETE", "/v1/items/a", headers=headers).status_code == status
    assert ("a" in api.service.items) == (status != 200)
