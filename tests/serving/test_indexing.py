"""The service builds and uses an index while it answers."""

import gc
import logging
import tempfile
import threading

import pytest

pytest.importorskip("lancedb")

from prismrec.base.errors import StorageError
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.linear_map import LinearMapConfig
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.serving import indexing, state
from prismrec.serving.index import IndexPlan, ItemIndex
from prismrec.serving.service import MemoryStore, RunService
from prismrec.serving.types import Event, NewItem, Wish

PLAN = IndexPlan(start=100, recall=1.0, k=5, samples=20)
WISHES = (
    Wish(k=5),
    Wish(k=3, exclude_seen=False),
    Wish(k=5, choose="warm"),
    Wish(k=4, choose="new"),
    Wish(k=2, diversity=0.4),
    Wish(k=1000),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("indexing")
    settings = GeneratedConfig(
        items=300, users=60, interactions_per_user=6, image_size=32, sounds=False, pictures=False, seed=3
    )
    shop = generate(settings).write(home / "shop")
    texts = home / "shop" / "features" / "text"
    extract(Contents.of(shop.catalog, "text"), TfidfSvdEncoder(12), texts, name="text")
    train(LinearMapConfig(), make_split(shop, ItemColdStart(valid=0.15, test=0.15)), out=home / "run")
    return Recommender.load(home / "run")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def service(run):
    one = RunService(run, MemoryStore(), version="one", index=PLAN)
    settled(one)
    yield one
    one.close()


@pytest.fixture
def exact(run):
    return RunService(run, MemoryStore(), version="one")


def settled(service):
    """Wait until nothing is being built; let the index look into all of its parts."""
    thread = service._indexing._thread
    if thread is not None:
        thread.join(60)
        assert not thread.is_alive()
    index = service._state.index
    if index is not None:
        for column in (index.by_vector, index.by_unit):
            column.probes = column.parts
    return index


def lamp(name, title="A lamp of brass"):
    return NewItem(name, {"title": title})


def agree(service, exact, run):
    titles = [title for title in run.catalog.titles() if title]
    wishes = (*WISHES, Wish(k=5, where=(f"title~{titles[0][0]}",)))
    for wish in wishes:
        for user in (*run.split.users.ids[:6], "eve", "stranger"):
            assert service.recommend(user, wish) == exact.recommend(user, wish)
        for item in exact.recommend("stranger", Wish(k=5)).items:
            name = item.item.item_id
            assert service.similar(name, wish) == exact.similar(name, wish)


def asked_of_the_index(monkeypatch):
    """Return a list that is told whether the index answered, each time it is asked."""
    answered = []
    for name in ("top", "similar"):
        original = getattr(ItemIndex, name)

        def ask(*words, original=original):
            found = original(*words)
            answered.append(found is not None)
            return found

        monkeypatch.setattr(ItemIndex, name, ask)
    return answered


def test_lists_are_those_of_exact_search_and_the_index_answers(service, exact, run, monkeypatch):
    answered = asked_of_the_index(monkeypatch)
    health = service.health()
    assert (health.search, health.recall) == ("index", service._state.index.recall)
    assert exact.health().search == "exact"
    agree(service, exact, run)
    assert sum(answered) > len(answered) / 3
    first, second = (row.item.item_id for row in exact.recommend("stranger", Wish(k=2)).items)
    for one in (service, exact):
        one.put(
            [lamp("lamp"), lamp("other", "Another lamp"), lamp(first, "Something else"), NewItem("void", {})]
        )
        one.delete(["other", second])
        one.record([Event("eve", "lamp")])
    before = service._state.index
    agree(service, exact, run)
    assert service._state.index is before is not None
    user = run.split.users.ids[0]
    assert service.explain(user, "lamp") == exact.explain(user, "lamp")
    assert service.fans("lamp", 9) == exact.fans("lamp", 9)


def test_it_answers_exactly_while_the_index_is_built_and_says_when_it_is_ready(
    run, exact, monkeypatch, caplog
):
    begun, go = threading.Event(), threading.Event()

    def slow(*words):
        begun.set()
        assert go.wait(60)
        return ItemIndex.of(*words)

    monkeypatch.setattr(indexing, "ItemIndex", type("Slow", (), {"of": staticmethod(slow)}))
    with caplog.at_level(logging.INFO, "prismrec.serving"):
        service = RunService(run, MemoryStore(), version="one", index=PLAN)
        assert begun.wait(60)
        assert (service.health().search, service.health().recall) == ("exact", 1.0)
        agree(service, exact, run)
        # What comes meanwhile is looked at beside the index.
        for one in (service, exact):
            one.put([lamp("lamp")])
        go.set()
        index = settled(service)
    assert service.health().search == "index"
    assert index.rows == service._state.items.size - 1
    agree(service, exact, run)
    (record,) = [one for one in caplog.records if one.getMessage() == "index"]
    assert record.fields["rows"] == index.rows
    assert record.fields["recall"] == pytest.approx(index.recall, abs=1e-4)
    assert record.fields["probes"] >= 1
    assert record.fields["seconds"] >= 0
    service.close()


def test_below_the_size_nothing_is_built(run, folder):
    service = RunService(run, MemoryStore(), version="one", index=IndexPlan(start=100_000))
    service.put([lamp("lamp")])
    assert settled(service) is None
    assert service.health().search == "exact"
    assert list(folder.iterdir()) == []
    service.close()


def test_it_is_built_anew_when_much_has_come_and_the_old_folder_goes(service, folder):
    first = service._state.index
    rows = first.rows
    tenth = rows // 10
    service.put([lamp(f"n{n}", f"A lamp of kind {n}") for n in range(tenth)])
    settled(service)
    assert service._state.index is first
    service.put([lamp("one more")])
    again = settled(service)
    assert again is not first
    assert again.rows == rows + tenth + 1
    # Requests in flight may hold the old one.
    assert len(list(folder.iterdir())) == 2
    del first
    gc.collect()
    assert list(folder.iterdir()) == [again.folder]


def test_a_reload_gets_an_index_of_its_own(service, exact, run, folder):
    service.put([lamp("lamp")])
    exact.put([lamp("lamp")])
    service.reload(run, version="two")
    exact.reload(run, version="two")
    index = settled(service)
    assert index.covers(service._state.items)
    assert service.health().search == "index"
    agree(service, exact, run)
    gc.collect()
    assert list(folder.iterdir()) == [index.folder]


def test_rows_that_make_room_take_the_index_along(service, exact, run, monkeypatch):
    monkeypatch.setattr(state, "_FEW_HIDDEN", 3)
    first = service._state.index
    names = run.item_ids.ids[: len(run.item_ids) // 2 + 5]
    for one in (service, exact):
        one.put([lamp(f"n{n}", f"A lamp of kind {n}") for n in range(60)])
        one.delete(names)
    index = settled(service)
    assert index is not first
    assert index is not None
    assert index.rows == service._state.items.size
    agree(service, exact, run)


def test_an_index_that_comes_too_late_for_its_rows_is_built_again(run, monkeypatch):
    held, tries = [], []

    def overtaken(*words):
        index = ItemIndex.of(*words)
        tries.append(index.rows)
        if len(tries) == 1:
            held[0].reload(run, version="two")
        return index

    # The first look is at once: the service stands before the thread needs it.
    monkeypatch.setattr(indexing, "ItemIndex", type("Slow", (), {"of": staticmethod(overtaken)}))
    original = RunService._look
    monkeypatch.setattr(RunService, "_look", lambda service: held.append(service) or original(service))
    service = RunService(run, MemoryStore(), version="one", index=PLAN)
    index = settled(service)
    assert len(tries) == 2
    assert index.covers(service._state.items)
    assert service.health().version == "two"
    service.close()


@pytest.mark.parametrize(
    "error", [StorageError("/tmp/x: cannot write here, the disk is full."), ValueError("kmeans: empty")]
)
def test_a_build_that_fails_is_logged_and_search_stays_exact(run, exact, monkeypatch, caplog, error):
    tries = []

    def failing(*words):
        tries.append(words)
        raise error

    monkeypatch.setattr(indexing, "ItemIndex", type("Failing", (), {"of": staticmethod(failing)}))
    service = RunService(run, MemoryStore(), version="one", index=PLAN)
    settled(service)
    assert service.health().search == "exact"
    agree(service, exact, run)
    (record,) = [one for one in caplog.records if one.getMessage() == "index"]
    assert record.levelname == "ERROR"
    assert record.fields["failed"] == type(error).__name__
    assert record.fields["problem"] in str(error)
    # Not at each write, but when much has come.
    service.put([lamp("lamp")])
    settled(service)
    assert len(tries) == 1
    service.put([lamp(f"n{n}", f"A lamp of kind {n}") for n in range(60)])
    settled(service)
    assert len(tries) == 2
    service.close()


def test_close_ends_what_is_being_built_and_leaves_no_folder(run, exact, folder, monkeypatch):
    service = RunService(run, MemoryStore(), version="one", index=PLAN)
    # At whatever moment.
    service.close()
    assert service._indexing._thread is None
    assert list(folder.iterdir()) == []
    service = RunService(run, MemoryStore(), version="one", index=PLAN)
    old = settled(service)
    held = service._state
    service.close()
    assert list(folder.iterdir()) == []
    assert old.broken
    assert service.health().search == "exact"
    service.put([lamp("lamp")])
    exact.put([lamp("lamp")])
    assert service._indexing._thread is None
    agree(service, exact, run)
    # A request in flight still has the old one.
    person = service._persons.known(held, "stranger")
    allowed = held.allowed("all", ())
    found = held.top(person.vector, 5, allowed, ())
    assert found[0].tolist() == held.items.top(person.vector, 5)[0].tolist()


def test_readers_are_answered_while_indexes_come_and_go(service, exact, run):
    user, wrong, stop = run.split.users.ids[0], [], threading.Event()
    wish = Wish(k=5, choose="warm")
    scores = {row.item.item_id: row.score for row in exact.recommend(user, Wish(k=1000, choose="warm")).items}

    def ask():
        while not stop.is_set():
            found = service.recommend(user, wish).items
            # Until all parts are looked into, one may be missing; what is found is scored exactly.
            if len(found) != 5 or any(row.score != scores[row.item.item_id] for row in found):
                wrong.append(found)

    reader = threading.Thread(target=ask)
    reader.start()
    for step in range(2):
        service.put([lamp(f"n{step}-{n}", f"A lamp of kind {n}") for n in range(40)])
        settled(service)
    stop.set()
    reader.join()
    assert wrong == []
    assert service.health().search == "index"
