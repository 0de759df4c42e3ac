import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError, StorageError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.store import FeatureStore
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.kernel_ridge import KernelRidgeConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.serving import state
from prismrec.serving.errors import UnknownItem
from prismrec.serving.second_stage import by_language_model
from prismrec.serving.service import MemoryStore, RunService
from prismrec.serving.types import Event, NewItem, Service, Wish

MANY = Wish(k=1000)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the split of a small shop with features and the folders of two runs of MAMEX, of other sizes."""
    home = tmp_path_factory.mktemp("service")
    settings = GeneratedConfig(
        items=200, users=80, interactions_per_user=10, image_size=32, sounds=False, seed=3
    )
    shop = generate(settings).write(home / "shop")
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(16))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "shop" / "features" / kind, name=kind)
    split = make_split(shop, ItemColdStart(valid=0.15, test=0.15))
    plan = TrainingPlan(sampling="triplets", epochs=2, batch_size=512, learning_rate=0.01)
    for name, dim in (("first", 12), ("second", 16)):
        config = MAMEXConfig(dim=dim, start="random", missing="renormalise", loss="bpr")
        train(config, split, plan=plan, out=home / name, preset="small")
    return split, home


@pytest.fixture(scope="module")
def run(made):
    """Return a loaded run. Not to be changed: the service must not do so either."""
    return Recommender.load(made[1] / "first")


@pytest.fixture(scope="module")
def other(made):
    return Recommender.load(made[1] / "second")


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def service(run, store):
    return RunService(run, store, version="one", clock=lambda: 1000.0)


@pytest.fixture(scope="module")
def picture(run):
    media = run.catalog.media["image"]
    return media.read(media.ids[0])


class FullDisk(MemoryStore):
    """A store that refuses to write from some moment on."""

    full = False

    def _check(self):
        if self.full:
            raise StorageError("disk full")

    def put(self, rows):
        self._check()
        super().put(rows)

    def delete(self, item_ids):
        self._check()
        super().delete(item_ids)

    def record(self, events):
        self._check()
        super().record(events)


def pairs(answer):
    return [(one.item.item_id, one.score) for one in answer.items]


def ids(answer):
    return [one.item.item_id for one in answer.items]


def rows(frame, column="score"):
    return list(zip(frame["item_id"].to_list(), frame[column].to_list(), strict=True))


def lamp(name="lamp", title="A lamp of brass", **rest):
    return NewItem(name, {"title": title}, **rest)


def test_it_is_a_service(service: Service, run):
    health = service.health()
    assert health.ready
    assert (health.model, health.version, health.search, health.recall) == ("mamex", "one", "exact", 1.0)
    assert health.items == len(run.catalog)
    assert health.ranked == run.can_recommend().sum()
    assert health.users == len({*run.split.users.names(run.split.train.users)})


def test_every_users_list_is_that_of_the_recommender(service, run):
    users = [*run.split.users, "stranger"]
    expected = run.recommend(users, k=13).partition_by("user_id", maintain_order=True, as_dict=True)
    assert len(expected) == len(users)
    for user in users:
        answer = service.recommend(user, Wish(k=13))
        frame = expected[(user,)]
        assert pairs(answer) == rows(frame)
        assert [one.rank for one in answer.items] == frame["rank"].to_list()
        assert [one.item.title for one in answer.items] == frame["title"].to_list()
        assert [one.item.new for one in answer.items] == frame["new"].to_list()
        assert answer.fallback == frame["fallback"][0] == (user == "stranger" or not run.history(user))
        assert (answer.model, answer.reranked) == ("one", False)


@pytest.mark.parametrize("choose", ["all", "new", "warm"])
@pytest.mark.parametrize("seen", [True, False])
def test_wishes_mean_what_they_mean_to_the_recommender(service, run, choose, seen):
    user = run.split.users.ids[0]
    titles = [title for title in run.catalog.titles() if title]
    word = Counter(word for title in titles for word in set(title.split())).most_common(1)[0][0]
    where = (f"title~{word}",)
    for conditions in ((), where, where):
        wish = Wish(k=50, choose=choose, where=conditions, exclude_seen=seen)
        expected = run.recommend([user], k=50, choose=choose, where=conditions, exclude_seen=seen)
        assert pairs(service.recommend(user, wish)) == rows(expected)
    liked = run.item_ids.ids[:4]
    assert pairs(service.recommend_liked(liked, Wish(k=9, exclude_seen=seen))) == rows(
        run.recommend(liked=liked, k=9, exclude_seen=seen)
    )
    assert service.recommend(user, Wish(where=("title=nothing is called so",))).items == ()


def test_similar_items_are_those_of_the_recommender(service, run):
    for name in run.item_ids.ids:
        if run.can_recommend()[run.item_ids.code(name)]:
            assert pairs(service.similar(name, Wish(k=7))) == rows(run.similar(name, k=7), "similarity")


def test_reasons_are_those_of_the_recommender(service, run):
    user = next(u for u in run.split.users if len(run.history(u)) > 3)
    expected = run.recommend([user], k=5, explain=True)
    answer = service.recommend(user, Wish(k=5, explain=True))
    assert [dict(one.reason.weights) for one in answer.items] == expected["weights"].to_list()
    for one, because in zip(answer.items, expected["because"].to_list(), strict=True):
        assert {name for name, _ in one.reason.because} == set(because)
        cosines = [cosine for _, cosine in one.reason.because]
        assert cosines == sorted(cosines, reverse=True)
        by_name = dict(pairs(service.similar(one.item.item_id, MANY)))
        assert dict(one.reason.because) == pytest.approx({n: by_name[n] for n in because}, abs=1e-6)
        assert set(one.reason.experts) == {m for m, w in one.reason.weights.items() if w is not None}
        assert all(sum(e) == pytest.approx(1, abs=1e-5) for e in one.reason.experts.values())
    whole = service.recommend(user, replace(MANY, exclude_seen=False))
    for place in (0, 17, len(whole.items) - 1):
        alone = service.explain(user, whole.items[place].item.item_id)
        assert (alone.rank, alone.score) == (place + 1, whole.items[place].score)
    assert service.recommend(user, Wish(k=1)).items[0].reason is None


def test_fans_are_the_users_in_whose_lists_it_stands_highest(service, run):
    cold = next(one.item for one in service.recommend("nobody", Wish(k=1, choose="new")).items)
    known = [u for u in run.split.users if run.history(u)]
    places, scores = {}, {}
    for user in known:
        listed = pairs(service.recommend(user, MANY))
        places[user] = [name for name, _ in listed].index(cold.item_id) + 1
        scores[user] = dict(listed)[cold.item_id]
    fans = service.fans(cold.item_id, 6)
    for fan in fans:
        assert (fan.rank, fan.score) == (places[fan.user_id], pytest.approx(scores[fan.user_id], abs=1e-6))
    order = sorted(known, key=lambda u: places[u])
    assert [fan.rank for fan in fans] == sorted(fan.rank for fan in fans)
    # Nearly the first six: who is looked at is chosen by an estimate of the rank.
    assert len({fan.user_id for fan in fans}.intersection(order[:12])) == 6
    assert fans[0].rank == places[order[0]]
    best = [fan.user_id for fan in fans]
    everybody = service.fans(cold.item_id, 1000)
    assert [fan.rank for fan in everybody] == sorted(places.values())
    # Who took it needs no recommendation.
    service.record([Event(best[0], cold.item_id)])
    assert best[0] not in {fan.user_id for fan in service.fans(cold.item_id, 1000)}
    warm = run.history(known[0])[0]
    assert known[0] not in {fan.user_id for fan in service.fans(warm, 1000)}


def test_new_items_are_recommendable_at_once_as_the_recommender_would_have_them(
    service, run, made, store, picture
):
    before = len(run.catalog)
    beside = Recommender.load(made[1] / "first")
    beside.path = None
    items = [
        lamp(),
        NewItem("clock", {"title": "A clock in oak", "nonsense": 3}, picture),
        NewItem("void", {}),
    ]
    report = service.put(items)
    frame = pl.DataFrame(
        {"item_id": ["lamp", "clock", "void"], "title": ["A lamp of brass", "A clock in oak", None]}
    )
    beside.add_items(Catalog(frame, ("title",), {"image": MemoryMedia({"clock": picture})}))
    assert report.added == ("lamp", "clock", "void")
    assert report.without_content == ("void",)
    assert report.problems == (("clock", "nonsense", "the catalogue has no such column; it was left out"),)
    for user in [*run.split.users.ids[:20], "stranger"]:
        assert pairs(service.recommend(user, MANY)) == rows(beside.recommend([user], k=1000))
    assert pairs(service.similar("clock", Wish(k=5))) == rows(beside.similar("clock", k=5), "similarity")
    liked = ["lamp", run.item_ids.ids[0]]
    assert pairs(service.recommend_liked(liked, MANY)) == rows(beside.recommend(liked=liked, k=1000))
    assert service.item("lamp").new
    assert (service.item("clock").has_picture, service.item("lamp").has_picture) == (True, False)
    assert service.picture("clock") == picture
    assert service.picture("lamp") is None
    assert not service.item("void").ranked
    assert [row.item.item_id for row in store.read_all()] == ["lamp", "clock", "void"]
    assert len(run.catalog) == before
    assert "lamp" not in run.digests["text"]


def test_unchanged_updated_and_deleted_items(service, run, store, picture):
    service.put([lamp(picture=picture), NewItem("void", {})])
    before = service._state
    report = service.put([lamp(picture=picture), NewItem("void", {})])
    assert (report.added, report.updated, report.unchanged) == ((), (), ("lamp", "void"))
    assert report.without_content == ("void",)
    assert service._state is before
    report = service.put([lamp(title="A lamp of tin")])
    assert report.updated == ("lamp",)
    assert [problem[:2] for problem in report.problems] == [("lamp", "image")]
    assert service.item("lamp").title == "A lamp of tin"
    assert service.picture("lamp") is None
    trained = run.history(run.split.users.ids[0])[0]
    service.put([NewItem(trained, {"title": "Renamed"})])
    assert not service.item(trained).new
    assert service.item(trained).title == "Renamed"
    assert service.health().items == len(run.catalog) + 2
    assert service.delete([trained, "lamp", "lamp", "nobody"]) == (trained, "lamp")
    assert service.delete(["lamp"]) == ()
    assert service.health().items == len(run.catalog)
    for ask in (
        lambda: service.item("lamp"),
        lambda: service.picture("lamp"),
        lambda: service.similar("lamp", Wish()),
        lambda: service.explain("x", "lamp"),
        lambda: service.fans(trained, 3),
        lambda: service.record([Event("u", "lamp")]),
        lambda: service.recommend_liked(["lamp"], Wish()),
    ):
        with pytest.raises(UnknownItem, match="There is no item"):
            ask()
    assert not {"lamp", trained} & set(ids(service.recommend("stranger", MANY)))
    assert set(store.read_deleted()) == {trained, "lamp"}
    assert service.put([lamp()]).added == ("lamp",)
    assert "lamp" in ids(service.recommend("stranger", MANY))


def test_values_that_do_not_fit_keep_their_item_out_and_no_other(service):
    report = service.put([NewItem("bad", {"title": 7}), lamp()])
    assert report.added == ("lamp",)
    assert [problem[:2] for problem in report.problems] == [("bad", "title")]
    assert "expected String" in report.problems[0][2]
    with pytest.raises(UnknownItem):
        service.item("bad")
    assert service.put([NewItem("bad", {"title": 7})]).added == ()
    broken = service.put([lamp("broken", picture=b"no picture")])
    assert broken.added == ("broken",)
    assert [problem[:2] for problem in broken.problems] == [("broken", "image")]
    with pytest.raises(InputError, match="stands 2 times"):
        service.put([lamp(), lamp()])
    with pytest.raises(InputError, match="empty item_id"):
        service.put([lamp("")])


def test_what_the_disk_refuses_is_not_published(run):
    store = FullDisk()
    service = RunService(run, store, version="one")
    service.put([lamp("there")])
    before, history = pairs(service.recommend("eve", MANY)), service.history("eve")
    store.full = True
    for act in (
        lambda: service.put([lamp()]),
        lambda: service.put([lamp("there", "Changed")]),
        lambda: service.delete(["there"]),
        lambda: service.record([Event("eve", "there")]),
    ):
        with pytest.raises(StorageError):
            act()
    assert pairs(service.recommend("eve", MANY)) == before
    assert service.item("there").title == "A lamp of brass"
    assert service.history("eve") == history == ()
    store.full = False
    assert service.put([lamp()]).added == ("lamp",)
    assert "lamp" in ids(service.recommend("eve", MANY))


def test_a_modality_of_given_vectors_is_told_of(made, picture):
    split, home = made
    names = split.items.ids
    grid = FeatureStore("grid", np.eye(200, 6, dtype=np.float32) + 1, names, ("",) * 200, {"name": "own"})
    stores = [FeatureStore.read(home / "shop" / "features" / "text"), grid]
    trained = train(ContentProfileConfig(), split, features=stores)
    service = RunService(trained, MemoryStore(), version="one")
    report = service.put([lamp(picture=picture)])
    assert report.added == ("lamp",)
    assert report.without_content == ()
    assert [problem[:2] for problem in report.problems] == [("lamp", "grid")]
    assert "came as given vectors" in report.problems[0][2]
    # It stands there once: the item is as it was.
    assert service.put([lamp(picture=picture)]).problems == ()
    replaced = service.put([NewItem(names[0], {"title": "A lamp of brass"})])
    assert [problem[:2] for problem in replaced.problems] == [(names[0], "grid")]


def test_a_restart_answers_as_before(service, run, store, picture):
    service.put([lamp(picture=picture), lamp("gone"), lamp("later", "A mug")])
    service.put([lamp("later", "A mug with a handle")])
    service.delete(["gone", run.item_ids.ids[5]])
    service.record([Event("eve", "lamp"), Event(run.split.users.ids[0], "later")])
    again = RunService(run, store, version="one")
    for user in ("eve", *run.split.users.ids[:10]):
        wish = replace(MANY, explain=True)
        assert again.recommend(user, wish) == service.recommend(user, wish)
        assert again.history(user) == service.history(user)
    assert again.health() == service.health()
    assert again.picture("lamp") == picture
    assert again.problems == ()


def test_events_fold_in_what_was_taken_and_count_at_once(service, run):
    user = next(u for u in run.split.users if len(run.history(u)) > 3)
    trained = service.recommend(user, MANY)
    assert service.recommend("eve", Wish()).fallback
    service.put([lamp(), lamp("void", title=None)])
    service.record([Event(user, "lamp", 5.0), Event("eve", "lamp"), Event("eve", "void")])
    answer = service.recommend("eve", MANY)
    assert not answer.fallback
    assert "lamp" not in ids(answer)
    assert pairs(answer) == pairs(service.recommend_liked(["lamp"], MANY))
    assert "lamp" in ids(service.recommend("eve", replace(MANY, exclude_seen=False)))
    taken = [*(item.item_id for item in service.history(user))]
    assert taken == [*taken[:-1], "lamp"]
    assert set(taken) == {*run.history(user), "lamp"}
    assert pairs(service.recommend(user, MANY)) == pairs(service.recommend_liked(taken, MANY))
    assert pairs(service.recommend(user, MANY)) != pairs(trained)
    first = service.recommend(user, MANY)
    service.record([Event(user, run.item_ids.ids[3])])
    assert pairs(service.recommend(user, MANY)) != pairs(first)
    # A vector that was kept is not used once an item of it is another one, gone, or back.
    alone = dict(pairs(service.recommend("eve", MANY)))
    service.put([lamp(title="Something else of wood")])
    changed = pairs(service.recommend("eve", MANY))
    assert dict(changed) != pytest.approx(alone, abs=1e-5)
    assert changed == pairs(service.recommend_liked(["lamp"], MANY))
    service.delete(["lamp"])
    assert service.recommend("eve", Wish()).fallback
    service.put([lamp()])
    # In another batch: to the last places only.
    assert dict(pairs(service.recommend("eve", MANY))) == pytest.approx(alone, abs=1e-5)


def test_events_are_in_the_order_of_time_and_checked(service, store, run):
    a, b, c = run.item_ids.ids[:3]
    service.record([Event("eve", a, 30.0), Event("eve", b, 10.0)])
    service.record([Event("eve", c), Event("eve", b, 20.0)])
    assert [item.item_id for item in service.history("eve")] == [b, a, c]
    assert [event.timestamp for event in store.read_events()] == [30.0, 10.0, 1000.0, 20.0]
    with pytest.raises(UnknownItem):
        service.record([Event("eve", a), Event("eve", "nothing")])
    with pytest.raises(InputError, match="no time"):
        service.record([Event("eve", a, float("nan"))])
    with pytest.raises(InputError, match="user_id"):
        service.record([Event("", a)])
    assert len(store.read_events()) == 4


def test_a_model_with_a_folding_of_its_own_is_asked(made):
    split, home = made
    run = train(KernelRidgeConfig(), split)
    service = RunService(run, MemoryStore(), version="kernel")
    liked = [*run.item_ids.ids[:3]]
    assert pairs(service.recommend_liked(liked, MANY)) == rows(run.recommend(liked=liked, k=1000))
    user = run.split.users.ids[0]
    assert pairs(service.recommend(user, MANY)) == rows(run.recommend([user], k=1000))
    assert home.exists()


def test_finding_users_and_items(service, run):
    service.put([lamp("b", "Big ÉTOILE lamp"), lamp("a", "Big étoile lamp"), lamp("c", "étoile")])
    assert [item.item_id for item in service.find_items("étoile BIG", 9)] == ["a", "b"]
    assert [item.item_id for item in service.find_items("étoile", 2)] == ["a", "b"]
    assert len(service.find_items("", 1000)) == service.health().items
    known = sorted(u for u in run.split.users if run.history(u))
    start = known[0][:2]
    service.record([Event(f"{start}~", "a"), Event(known[0], "a")])
    expected = sorted([*(u for u in known if u.startswith(start)), f"{start}~"])
    assert service.find_users(start, 1000) == tuple(expected)
    assert service.find_users(start, 2) == tuple(expected[:2])
    assert service.find_users("nobody is called so", 5) == ()
    assert service.health().users == len(known) + 1


def test_pictures_are_those_of_the_run_whoever_asks(service, run):
    media = run.catalog.media["image"]
    expected = {name: media.read(name) for name in media.ids}
    wrong = []

    def look(names):
        wrong.extend(name for name in names if service.picture(name) != expected[name])

    names = list(expected)
    threads = [
        threading.Thread(target=look, args=(part,)) for part in (names, names[::-1], names[50:] + names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(names) > 64


@pytest.mark.parametrize(
    "wish", [Wish(k=0), Wish(k=1001), Wish(diversity=1.5), Wish(diversity=float("nan")), Wish(choose="old")]
)
def test_wishes_out_of_bounds_are_refused(service, run, wish):
    for ask in (
        lambda: service.recommend("x", wish),
        lambda: service.recommend_liked(run.item_ids.ids[:1], wish),
        lambda: service.similar(run.item_ids.ids[0], wish),
    ):
        with pytest.raises(InputError, match="is not"):
            ask()


def test_what_has_no_vector_cannot_be_asked_about(service):
    service.put([NewItem("void", {})])
    for ask in (
        lambda: service.similar("void", Wish()),
        lambda: service.explain("x", "void"),
        lambda: service.fans("void", 3),
        lambda: service.recommend_liked(["void"], Wish()),
    ):
        with pytest.raises(InputError, match="no content"):
            ask()
    with pytest.raises(InputError, match="at least one"):
        service.recommend_liked([], Wish())
    with pytest.raises(InputError, match="no attribute 'colour'"):
        service.recommend("x", Wish(where=("colour=red",)))
    with pytest.raises(InputError, match="k = 0"):
        service.find_items("x", 0)


def test_diversity_changes_the_list_and_keeps_its_length(service):
    plain, diverse = (ids(service.recommend("eve", Wish(k=10, diversity=d))) for d in (0.0, 0.9))
    assert len(set(diverse)) == 10
    assert diverse[0] == plain[0]
    assert diverse != plain
    assert set(diverse) <= set(ids(service.recommend("eve", Wish(k=50))))
    item = plain[0]
    assert len(set(ids(service.similar(item, Wish(k=10, diversity=0.9))))) == 10


def test_reload_encodes_the_stores_items_again(service, run, other, store, picture):
    service.put([lamp(picture=picture), lamp("mug", "A mug")])
    service.delete([run.item_ids.ids[5]])
    service.record([Event("eve", "lamp")])
    before = service.recommend("eve", MANY)
    assert service.reload(other, version="two") == ()
    after = service.recommend("eve", MANY)
    assert (before.model, after.model, service.health().version) == ("one", "two", "two")
    fresh = RunService(other, MemoryStore(), version="two")
    fresh.put([lamp(picture=picture), lamp("mug", "A mug")])
    fresh.delete([run.item_ids.ids[5]])
    fresh.record([Event("eve", "lamp")])
    assert pairs(after) == pairs(fresh.recommend("eve", MANY))
    assert {row.vector.shape for row in store.read_all()} == {(16,)}
    assert service.picture("lamp") == picture
    # The same version of another run is not taken for the same run.
    assert service.reload(run, version="two") == ()
    assert pairs(service.recommend("eve", MANY)) == pairs(before)


def test_a_reload_that_fails_leaves_the_old_run(run, other):
    store = FullDisk()
    service = RunService(run, store, version="one")
    service.put([lamp()])
    before = service.recommend("eve", MANY)
    store.full = True
    with pytest.raises(StorageError):
        service.reload(other, version="two")
    assert service.recommend("eve", MANY) == before


def test_requests_in_flight_end_on_the_run_on_which_they_began(service, run, other):
    service.put([lamp(), lamp("mug", "A mug")])
    user = run.split.users.ids[0]
    service.record([Event("eve", "lamp")])
    wish = Wish(k=10, explain=True)
    expected = {}
    for version, bundle in (("two", other), ("one", run)):
        service.reload(bundle, version=version)
        expected[version] = [service.recommend(name, wish) for name in (user, "eve", "stranger")]
    assert expected["one"] != expected["two"]
    wrong, seen, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            for place, name in enumerate((user, "eve", "stranger")):
                answer = service.recommend(name, wish)
                seen.add(answer.model)
                if answer != expected[answer.model][place]:
                    wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(4):
        service.reload((other, run)[number % 2], version=("two", "one")[number % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen == {"one", "two"}


def test_a_run_that_comes_in_the_middle_of_a_request_does_not_answer_it(service, run, other, monkeypatch):
    user = run.split.users.ids[0]
    before, known = service.recommend(user, MANY), service._persons.known

    def slow(state, name):
        person = known(state, name)
        service.reload(other, version="two")
        service.delete([before.items[0].item.item_id])
        return person

    monkeypatch.setattr(service._persons, "known", slow)
    assert service.recommend(user, MANY) == before
    monkeypatch.undo()
    after = service.recommend(user, MANY)
    assert after.model == "two"
    assert before.items[0].item.item_id not in ids(after)


def test_readers_see_whole_batches_while_items_come_and_go(service):
    batch = [f"n{number}" for number in range(5)]
    wish = Wish(k=20, where=("title~A lamp number",))
    wrong, seen, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            answer = service.recommend("stranger", wish)
            seen.add(len(answer.items))
            titles = {one.item.title for one in answer.items}
            if sorted(ids(answer)) not in ([], batch) or len(titles) > 1:
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(12):
        service.put([lamp(name, f"A lamp number {step}") for name in batch])
        if step % 3 == 2:
            service.delete(batch)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen == {0, 5}


def reverse(taken, found):
    return [item.item_id for item in reversed(found)]


def test_a_second_stage_puts_the_best_in_its_order(run):
    service = RunService(run, MemoryStore(), version="one", rerank=reverse, rerank_seconds=30, rerank_depth=8)
    plain = RunService(run, MemoryStore(), version="one")
    user = run.split.users.ids[0]
    first = pairs(plain.recommend(user, Wish(k=12)))
    for k in (3, 8, 12):
        answer = service.recommend(user, Wish(k=k))
        assert answer.reranked
        assert pairs(answer) == [*first[:8][::-1], *first[8:]][:k]
        assert [one.rank for one in answer.items] == list(range(1, k + 1))
    assert not service.recommend(user, Wish(k=3, diversity=0.5)).reranked
    # Nothing to go by.
    assert not service.recommend("stranger", Wish(k=3)).reranked
    service.close()
    assert not service.recommend(user, Wish(k=3)).reranked


def test_a_second_stage_that_is_late_fails_or_lies_is_done_without(run, caplog):
    release = threading.Event()
    calls = []

    def late(taken, found):
        calls.append(len(taken))
        release.wait(30)
        return reverse(taken, found)

    def broken(taken, found):
        raise RuntimeError("out of memory")

    def lying(taken, found):
        return ["lamp"] * len(found)

    user = run.split.users.ids[0]
    expected = pairs(RunService(run, MemoryStore(), version="one").recommend(user, Wish(k=5)))
    for stage, seconds, words in (
        (late, 0.02, "not done"),
        (broken, 30, "failed"),
        (lying, 30, "other items"),
    ):
        service = RunService(run, MemoryStore(), version="one", rerank=stage, rerank_seconds=seconds)
        for _ in range(2):
            answer = service.recommend(user, Wish(k=5))
            assert not answer.reranked
            assert pairs(answer) == expected
        assert words in caplog.text
        service.close()
    # The second request waited behind the first one and was given up.
    assert len(calls) == 1
    release.set()


def test_a_language_model_gets_titles_and_pictures_of_what_it_does_not_know(run, picture):
    class Fake:
        """Stands for `Reranker`: longest id first."""

        writer = SimpleNamespace(shelf=SimpleNamespace(ids=run.item_ids.ids))

        def rerank(self, lists, histories, *, new):
            self.asked = lists, histories, new
            order = np.argsort([-len(name) for name in lists["item_id"]], kind="stable")
            return lists[order]

    fake, pictures = Fake(), {}
    stage = by_language_model(fake, pictures.get)
    service = RunService(
        run, MemoryStore(), version="one", rerank=stage, rerank_seconds=30, rerank_depth=1000
    )
    pictures["a very long name for a lamp indeed"] = picture
    service.put([lamp("a very long name for a lamp indeed", picture=picture), lamp("mug", "A mug")])
    service.record([Event("eve", "mug")])
    answer = service.recommend("eve", MANY)
    assert answer.reranked
    assert answer.items[0].item.item_id == "a very long name for a lamp indeed"
    lists, histories, new = fake.asked
    assert histories == {None: ["mug"]}
    assert lists["rank"].to_list() == list(range(1, len(answer.items) + 1))
    assert dict(zip(new.ids, new.titles, strict=True)) == {
        "mug": "A mug",
        "a very long name for a lamp indeed": "A lamp of brass",
    }
    assert new.pictures.read("a very long name for a lamp indeed") == picture


def test_rows_that_were_replaced_make_room(run, monkeypatch):
    monkeypatch.setattr(state, "_FEW_HIDDEN", 3)
    service, plain = (RunService(run, MemoryStore(), version="one") for _ in range(2))
    names = run.item_ids.ids[: len(run.item_ids) // 2 + 5]
    titles = dict(zip(run.item_ids.ids, run.catalog.titles(), strict=True))
    service.put([NewItem(name, {"title": "Passing"}) for name in names])
    service.delete(names)
    plain.delete(names)
    assert service._state.items.size == len(run.item_ids) - len(names)
    left = run.item_ids.ids[-1]
    for wish in (MANY, replace(MANY, where=(f"title={titles[left]}",)), replace(MANY, choose="new")):
        for user in run.split.users.ids[:5]:
            assert service.recommend(user, wish) == plain.recommend(user, wish)
    service.record([Event("eve", left)])
    plain.record([Event("eve", left)])
    assert service.recommend("eve", MANY) == plain.recommend("eve", MANY)
    assert service.put([lamp()]).added == ("lamp",)


def test_a_store_that_does_not_fit_is_refused(service, run, store):
    service.put([lamp()])
    (row,) = store.read_all()
    for broken, message in (
        (replace(row, notes=b"{"), "notes on item 'lamp'"),
        (replace(row, vector=row.vector[:3]), "do not fit the run"),
    ):
        store.put([broken])
        with pytest.raises(DamagedError, match=message):
            RunService(run, store, version="one")


def test_the_stores_items_that_do_not_fit_another_run_are_told(service, run, other, store):
    service.put([lamp(), lamp("mug", "A mug")])
    changed = replace(other, catalog=Catalog(other.catalog.items.rename({"title": "name"}), ()))
    problems = service.reload(changed, version="two")
    assert {problem[:2] for problem in problems} == {("lamp", "title"), ("mug", "title")}
    assert service.problems == problems
    assert not service.item("lamp").ranked
