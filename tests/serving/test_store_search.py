import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.serving.storage import StoredItem
from prismrec.serving.types import NewItem

pytest.importorskip("lancedb")

from prismrec.serving import store_search
from prismrec.serving.store import ItemStore

N, DIM = 700, 8


def rows(names, vectors):
    return [
        StoredItem(NewItem(name, {}), "m", vector, b"")
        for name, vector in zip(names, np.asarray(vectors, dtype=np.float32), strict=True)
    ]


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(2)
    return (random.normal(size=(N, DIM)) * random.gamma(2, size=(N, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(3).normal(size=(12, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def small(vectors, tmp_path_factory):
    """Return a store that is searched exactly."""
    store = ItemStore(tmp_path_factory.mktemp("small"), {})
    store.put(rows([f"i{n:04d}" for n in range(N)], vectors))
    return store


@pytest.fixture
def large(vectors, tmp_path):
    """Return a store that is large enough for an index."""
    store = ItemStore(tmp_path / "large", {}, index_from=500)
    store.put(rows([f"i{n:04d}" for n in range(N)], vectors))
    return store


def by_hand(vectors, query, k, allowed=None):
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = sorted(range(len(vectors)), key=lambda n: (-scores[n], n))
    names = [f"i{n:04d}" for n in order]
    return [name for name in names if allowed is None or name in allowed][:k]


def test_exact_search(small, vectors, queries):
    for query in queries:
        found = small.search(query, 20)
        assert [name for name, _ in found] == by_hand(vectors, query, 20)
        for name, score in found:
            assert score == pytest.approx(float(vectors[int(name[1:])] @ query), rel=1e-5)
    assert small.measured_recall(queries) == 1.0
    assert small.build_index(queries) == 1.0
    assert not small.uses_index(DIM)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.3])
def test_only_what_is_allowed_is_found(small, large, vectors, queries, share, monkeypatch):
    random = np.random.default_rng(4)
    allowed = {f"i{n:04d}" for n in range(N) if random.random() < share} | {"unknown", "it's"}
    large.build_index(queries, k=10, recall=1.0)
    assert large.uses_index(DIM)
    # With all of its parts looked into, an index is exact.
    large._searcher()._probes = {f"vector_{DIM}": N}
    for few in (1000, 0):
        monkeypatch.setattr("prismrec.serving.store_search._FEW", few)
        for store in (small, large):
            for query in queries[:3]:
                found = [name for name, _ in store.search(query, 10, allowed)]
                assert found == by_hand(vectors, query, 10, allowed)
    assert small.search(queries[0], 5, set()) == ()


def test_an_index_is_as_good_as_is_asked_and_its_recall_is_measured(large, vectors, queries):
    assert not large.uses_index(DIM)
    assert [name for name, _ in large.search(queries[0], 5)] == by_hand(vectors, queries[0], 5)
    recall = large.build_index(queries, k=20, recall=0.9)
    assert large.uses_index(DIM)
    assert recall >= 0.9
    hits = [
        len({name for name, _ in large.search(query, 20)} & set(by_hand(vectors, query, 20))) / 20
        for query in queries
    ]
    assert large.measured_recall(queries, k=20) == pytest.approx(np.mean(hits)) == pytest.approx(recall)
    # Looking into one part of many finds less, and the measure says so.
    large._searcher()._probes = {f"vector_{DIM}": 1}
    assert large.measured_recall(queries, k=20) < 0.7
    assert large.build_index(queries, k=20, recall=1.0) == 1.0
    for query in queries:
        assert [name for name, _ in large.search(query, 20)] == by_hand(vectors, query, 20)


def test_the_fewer_are_allowed_the_farther_the_index_is_looked_into(large, queries, monkeypatch):
    monkeypatch.setattr("prismrec.serving.store_search._FEW", 0)
    large.build_index(queries, k=10, recall=0.5)
    asked = []
    original = store_search._ask

    def ask(column, vector, probes, n, table):
        asked.append((probes, n))
        return original(column, vector, probes, n, table)

    monkeypatch.setattr(store_search, "_ask", ask)
    large._searcher()._probes = {f"vector_{DIM}": 3}
    large.search(queries[0], 5)
    assert asked == [(3, 5)]
    asked.clear()
    large.search(queries[0], 5, {f"i{n:04d}" for n in range(0, N, 10)})
    assert asked[0] == (30, 20)


def test_new_changed_and_deleted_items_are_seen_at_once(large, small, queries):
    large.build_index(queries, k=10, recall=1.0)
    large._searcher()._probes = {f"vector_{DIM}": N}
    best = large.search(queries[0], 2)
    for tidy in (lambda: None, large.optimize):
        large.put(rows(["new", best[0][0]], [100 * queries[0], -100 * queries[0]]))
        large.delete([best[1][0]])
        tidy()
        found = [name for name, _ in large.search(queries[0], 50)]
        assert found[0] == "new"
        assert len(set(found)) == 50
        assert not {best[0][0], best[1][0]} & set(found)
    assert large.measured_recall(queries, k=10) == 1.0


def test_exact_search_sees_changes(small, vectors, queries, tmp_path):
    store = ItemStore(tmp_path / "s", {})
    assert store.search(queries[0], 3) == ()
    store.put(rows(["a", "b"], vectors[:2]))
    assert len(store.search(queries[0], 3)) == 2
    store.put(rows(["c"], [100 * queries[0]]))
    assert store.search(queries[0], 1)[0][0] == "c"
    store.delete(["c"])
    assert [name for name, _ in store.search(queries[0], 3)] != ["c"]
    assert len(store.search(queries[0], 3)) == 2


def test_an_index_is_there_when_the_store_is_opened_again(large, queries, vectors, tmp_path):
    large.build_index(queries, k=10, recall=1.0)
    again = ItemStore(tmp_path / "large", {}, index_from=500)
    assert again.uses_index(DIM)
    assert 0.3 < again.measured_recall(queries, k=10) <= 1.0
    exact = ItemStore(tmp_path / "large", {}, index_from=10_000)
    assert not exact.uses_index(DIM)
    assert [name for name, _ in exact.search(queries[1], 9)] == by_hand(vectors, queries[1], 9)


def test_vectors_of_two_sizes_keep_apart(tmp_path):
    store = ItemStore(tmp_path / "s", {})
    store.put(rows(["a"], [[1, 0]]))
    store.put(rows(["b"], [[1, 0, 0]]))
    assert [name for name, _ in store.search(np.ones(2, np.float32), 5)] == ["a"]
    assert [name for name, _ in store.search(np.ones(3, np.float32), 5)] == ["b"]
    assert store.search(np.ones(4, np.float32), 5) == ()
    assert store.search(np.ones(4, np.float32), 5, {"a"}) == ()
    store.put(rows(["a"], [[1, 0, 0]]))
    assert store.search(np.ones(2, np.float32), 5) == ()


def test_equal_scores_are_told_apart_by_id(tmp_path):
    store = ItemStore(tmp_path / "s", {}, index_from=2)
    store.put(rows(["c", "a", "b"], [[1, 0]] * 3))
    assert [name for name, _ in store.search(np.ones(2, np.float32), 2)] == ["a", "b"]


def test_what_cannot_be_asked(small):
    with pytest.raises(InputError, match="below 1"):
        small.search(np.ones(DIM, np.float32), 0)
    with pytest.raises(InputError):
        small.search(np.full(DIM, np.nan, np.float32), 3)
