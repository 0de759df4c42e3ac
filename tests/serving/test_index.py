import gc
import logging
import shutil
import tempfile
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")

from prismrec.base.errors import ConfigError, InputError, StorageError
from prismrec.serving.engine import Snapshot
from prismrec.serving.index import IndexPlan, ItemIndex, Stopped, sampled
from prismrec.serving.index_table import Column

N, DIM = 600, 8


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def snapshot(vectors, ranked=None):
    n = len(vectors)
    ranked = np.ones(n, dtype=bool) if ranked is None else ranked
    ids = [f"i{code:04d}" for code in np.random.default_rng(n).permutation(n)]
    return Snapshot.of(ids, np.asarray(vectors, dtype=np.float32), ranked, ~ranked, [None] * n)


def add(shot, ids, vectors):
    yes = np.ones(len(ids), dtype=bool)
    return shot.put(ids, np.asarray(vectors, dtype=np.float32), yes, ~yes, [None] * len(ids))


def drawn(n=N, dim=DIM, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, dim)) * random.gamma(2, size=(n, 1))).astype(np.float32)


def queries(n=20, dim=DIM):
    return np.random.default_rng(9).normal(size=(n, dim)).astype(np.float32)


def whole(index):
    """Let an index look into all of its parts: it finds what exact search does."""
    for column in (index.by_vector, index.by_unit):
        column.probes = column.parts
    return index


def plain(found):
    return found[0].tolist(), found[1].tolist()


@settings(max_examples=12)
@given(st.data())
def test_with_all_parts_lists_are_those_of_exact_search_whatever_came_and_went(data):
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    n, dim = data.draw(st.integers(200, 400)), data.draw(st.sampled_from([1, 3, 8]))
    ties = data.draw(st.booleans())
    scale = data.draw(st.sampled_from([1e-6, 1.0, 1e6]))

    def some(count):
        whole_numbers = random.integers(-3, 4, size=(count, dim))
        return ((whole_numbers if ties else random.normal(size=(count, dim))) * scale).astype(np.float32)

    first = snapshot(some(n), random.random(n) < 0.95)
    plan = IndexPlan(1, 1.0, 5, 10)
    index = whole(ItemIndex.of(first, some(4), plan))
    names = [first.id(row) for row in random.choice(n, 20, replace=False)]
    later = add(first, [*names[:8], "new", "other"], some(10))
    less = later.without([*names[8:], "other"])
    best = less.id(int(less.top(some(1)[0], 1)[0][0]))
    used = 0
    for shot in (first, later, less, less.without([best])):
        for allowed in (None, random.random(shot.size) < 0.5):
            query, k = some(1)[0], data.draw(st.integers(1, 8))
            excluded = random.choice(n, data.draw(st.integers(0, 5)))
            found = index.top(shot, query, k, allowed, excluded)
            if found is not None:
                used += 1
                assert plain(found) == plain(shot.top(query, k, allowed, excluded))
            row = int(random.choice(np.flatnonzero(shot.ranked)))
            alike = index.similar(shot, row, k, allowed, excluded)
            if alike is not None:
                used += 1
                assert plain(alike) == plain(shot.similar(row, k, allowed, excluded))
    # Where many rows score the same, or a few numbers make a vector, much is left to exact search; else now
    # and then a question, where the last of the list is too near to the next.
    assert used >= 12 or ties or dim == 1
    index.close()


def test_what_is_as_good_as_the_last_one_is_not_left_out():
    # More rows tie than are named, and which of them are is LanceDB's affair.
    vectors = np.ones((N, 2), dtype=np.float32)
    vectors[::100] *= 2
    shot = snapshot(vectors)
    index = whole(ItemIndex.of(shot, vectors[:1], IndexPlan(1, 1.0, 5, 5)))
    query = np.ones(2, dtype=np.float32)
    assert plain(index.top(shot, query, 5)) == plain(shot.top(query, 5))
    assert index.top(shot, query, 7) is None
    assert index.top(shot, query, 5, excluded=shot.top(query, 2)[0]) is None


def test_the_recall_is_that_by_hand():
    vectors, users = drawn(), queries()
    shot = snapshot(vectors)
    index = ItemIndex.of(shot, users, IndexPlan(1, 0.6, 20, 40))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = []
    for user in users:
        best = set(np.argsort(-(vectors.astype(np.float64) @ user))[:20].tolist())
        named = index.by_vector.candidates(user / np.linalg.norm(user), 100)
        shares.append(len(best & set(named.rows.tolist())) / 20)
    assert index.by_vector.recall == pytest.approx(np.mean(shares))
    assert len(shares) == 20
    shares = []
    for row in sampled(N, 40).tolist():
        order = [other for other in np.argsort(-(unit.astype(np.float64) @ unit[row])) if other != row]
        named = index.by_unit.candidates(unit[row], 100)
        shares.append(len(set(order[:20]) & set(named.rows.tolist())) / 20)
    assert index.by_unit.recall == pytest.approx(np.mean(shares))
    assert len(shares) == 40
    assert index.recall == min(index.by_vector.recall, index.by_unit.recall) >= 0.6


def test_who_looks_into_few_parts_finds_less_and_it_says_so():
    shot, users = snapshot(drawn()), queries()
    low = ItemIndex.of(shot, users, IndexPlan(1, 0.01, 20, 20))
    high = ItemIndex.of(shot, users, IndexPlan(1, 0.9, 20, 20))
    assert low.by_vector.probes == low.by_unit.probes == 1
    assert low.recall < 0.75
    assert high.recall >= 0.9
    assert high.by_vector.probes > 1
    assert high.by_vector.parts == 24
    lists = [low.top(shot, user, 5) for user in users]
    exact = [shot.top(user, 5) for user in users]
    assert any(plain(one) != plain(best) for one, best in zip(lists, exact, strict=True) if one is not None)
    # What it finds has the scores that it has by exact search, and what it cannot fill is left to that.
    for user, found in zip(users, lists, strict=True):
        if found is not None:
            assert found[1].tolist() == [np.float32(shot.score(user, row)) for row in found[0].tolist()]
            assert len(found[0]) == 5


def test_what_is_left_to_exact_search():
    shot = snapshot(drawn())
    index = whole(ItemIndex.of(shot, queries(), IndexPlan(1, 1.0, 5, 5)))
    user = queries()[0]
    assert index.top(shot, user, 5) is not None
    few = np.arange(N) < N // 12
    assert index.top(shot, user, 5, few) is None
    assert index.similar(shot, 0, 5, few) is None
    assert index.top(shot, user, N // 2) is None
    assert index.top(shot, user, 5, excluded=np.arange(N // 2)) is None
    for odd in (np.zeros(DIM, np.float32), np.full(DIM, np.nan, np.float32), np.ones(3, np.float32)):
        assert index.top(shot, odd, 5) is None
    with pytest.raises(InputError, match="overflow"):
        index.top(shot, np.full(DIM, 3e38, np.float32), 5)


def test_another_lineage_is_not_searched():
    shot = snapshot(drawn())
    index = ItemIndex.of(shot, queries(), IndexPlan(1, 1.0, 5, 5))
    heir, other = add(shot, ["x"], [[1] * DIM]), add(shot, ["y"], [[2] * DIM])
    assert index.covers(heir)
    assert index.covers(heir.without(["x"]))
    compact, _ = heir.compacted()
    for stranger in (other, compact, snapshot(drawn())):
        assert not index.covers(stranger)
        assert index.top(stranger, queries()[0], 5) is None
    later = ItemIndex.of(heir, queries(), IndexPlan(1, 1.0, 5, 5))
    assert not later.covers(shot)
    # It keeps nobody's rows in memory.
    shelf = index._lineage
    del shot, heir, other, compact, stranger, later
    gc.collect()
    assert shelf() is None


def test_no_folder_is_left(folder, monkeypatch):
    shot, plan = snapshot(drawn()), IndexPlan(1, 0.5, 5, 5)
    one, two = (ItemIndex.of(shot, queries(), plan) for _ in range(2))
    assert len(list(folder.iterdir())) == 2
    one.close()
    assert list(folder.iterdir()) == [two.folder]
    assert one.top(shot, queries()[0], 5) is None
    del two
    gc.collect()
    assert list(folder.iterdir()) == []
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        ItemIndex.of(shot, queries(), plan, stop)

    def full(column):
        raise RuntimeError("lance error: No space left on device (os error 28), /rust/io.rs:3:4")

    monkeypatch.setattr(Column, "build", full)
    with pytest.raises(StorageError, match="the disk is full"):
        ItemIndex.of(shot, queries(), plan)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    with pytest.raises(StorageError, match="TMPDIR"):
        ItemIndex.of(shot, queries(), plan)


def test_files_that_are_gone_are_told_once_and_answers_go_on(caplog, monkeypatch):
    shot = snapshot(drawn())
    index = whole(ItemIndex.of(shot, queries(), IndexPlan(1, 0.5, 5, 5)))
    shutil.rmtree(index.folder)

    def gone(*_, **__):
        raise OSError("Not found: items.lance")

    # LanceDB keeps parts in memory: whether it misses the files depends on what was asked before.
    monkeypatch.setattr(index.by_vector._table, "search", gone)
    with caplog.at_level(logging.INFO, "prismrec.serving"):
        assert index.top(shot, queries()[0], 5) is None
        assert index.similar(shot, 3, 5) is None
    assert index.broken
    (record,) = caplog.records
    assert (record.getMessage(), record.fields["failed"], record.fields["rows"]) == ("index", "OSError", N)
    assert str(index.folder) in record.fields["problem"]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_rows_make_an_index_too(n):
    shot = snapshot(drawn(n))
    index = ItemIndex.of(shot, np.zeros((0, DIM), dtype=np.float32), IndexPlan(1, 1.0, 5, 5))
    assert index.recall == 1.0
    assert index.top(shot, queries()[0], 1) is None


def test_the_same_rows_are_drawn_each_time():
    assert sampled(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert sampled(1000, 7).tolist() == sampled(1000, 7).tolist()
    assert len(set(sampled(1000, 7).tolist())) == 7


@pytest.mark.parametrize("wrong", [{"start": 0}, {"recall": 0.0}, {"recall": 1.1}, {"k": 0}, {"samples": 0}])
def test_a_plan_out_of_bounds_is_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be"):
        IndexPlan(**wrong)
