import pytest

from prismrec.serving import replays
from prismrec.serving.problems import RequestError
from prismrec.serving.replays import Made, Mark, Replays


def mark(name, digest="d", who="w"):
    return Mark(who, name, digest)


def done(memory, name, body=b"x", digest="d"):
    assert memory.begin(mark(name, digest)) is None
    memory.end(mark(name, digest), Made(200, body))


def test_an_answer_is_remembered_by_its_key_and_by_who_sent_it():
    memory = Replays(10)
    done(memory, "a", b"first")
    assert memory.begin(mark("a")) == Made(200, b"first")
    assert memory.begin(mark("a", who="somebody else")) is None


def test_another_write_by_that_key_is_refused():
    memory = Replays(10)
    done(memory, "a")
    with pytest.raises(RequestError) as caught:
        memory.begin(mark("a", "other"))
    assert caught.value.status == 422


def test_a_write_under_way_is_refused_until_it_ends():
    memory = Replays(10)
    memory.begin(mark("a"))
    with pytest.raises(RequestError) as caught:
        memory.begin(mark("a"))
    assert caught.value.status == 409
    memory.end(mark("a"), None)
    assert memory.begin(mark("a", "other")) is None


def test_the_oldest_is_forgotten_first_by_number_and_by_size(monkeypatch):
    memory = Replays(3)
    for name in "abcd":
        done(memory, name)
    assert memory.begin(mark("b")) is not None
    assert memory.begin(mark("a")) is None
    monkeypatch.setattr(replays, "_BYTES", 100)
    memory = Replays(1000)
    for name in "abc":
        done(memory, name, b"x" * 40)
    assert memory.begin(mark("a")) is None
    assert memory.begin(mark("b")) is not None
    done(memory, "huge", b"x" * 101)
    assert memory.begin(mark("c")) is None
    assert memory._bytes == 0
