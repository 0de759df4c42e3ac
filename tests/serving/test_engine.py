import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix
from prismrec.evaluation.ranking import Rows, rank_positives, tie_order, top_k
from prismrec.serving.diversity import diversified, pool_size
from prismrec.serving.engine import ABSENT, Among, Snapshot


def snapshot(ids, vectors, ranked=None, new=None):
    n = len(ids)
    ranked = np.ones(n, dtype=bool) if ranked is None else ranked
    new = np.zeros(n, dtype=bool) if new is None else new
    return Snapshot.of(ids, np.asarray(vectors, dtype=np.float32), ranked, new, [f"note {i}" for i in ids])


def add(shot, ids, vectors, note="note"):
    n = len(ids)
    yes, no = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    return shot.put(
        ids, np.asarray(vectors, dtype=np.float32).reshape(n, -1), yes, no, [f"{note} {i}" for i in ids]
    )


def names(shot, rows):
    return [shot.id(row) for row in rows.tolist()]


def test_the_best_by_hand_with_ties_by_id():
    shot = snapshot(["c", "a", "b", "d"], [[1, 0], [1, 0], [2, 0], [0, 5]])
    rows, scores = shot.top(np.array([1, 0], dtype=np.float32), 3)
    assert names(shot, rows) == ["b", "a", "c"]
    assert scores.tolist() == [2.0, 1.0, 1.0]
    rows, _ = shot.top(np.array([1, 0], dtype=np.float32), 2, excluded=[shot.row("b"), shot.row("a")])
    assert names(shot, rows) == ["c", "d"]
    allowed = np.array([True, False, False, True])
    assert names(shot, shot.top(np.array([1, 0], dtype=np.float32), 9, allowed)[0]) == ["c", "d"]
    assert len(shot.top(np.array([1, 0], dtype=np.float32), 9, np.zeros(4, dtype=bool))[0]) == 0


@settings(max_examples=60)
@given(st.data())
def test_lists_and_ranks_are_those_of_the_evaluation(data):
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    n, dim = data.draw(st.integers(1, 120)), data.draw(st.sampled_from([1, 3, 8, 20]))
    # Whole numbers and copies: many scores are equal or very near.
    vectors = random.integers(-2, 3, size=(n, dim)).astype(np.float32)
    if data.draw(st.booleans()):
        vectors[: n // 2] += random.normal(size=(n // 2, dim)).astype(np.float32) * 1e-7
    user = random.choice([0.0, 1.0, 1e-3, -0.1], size=dim).astype(np.float32)
    ids = [f"i{code}" for code in random.permutation(n)]
    hidden = np.flatnonzero(random.random(n) < 0.2)
    k = data.draw(st.integers(1, n))
    shot, items = snapshot(ids, vectors), ItemMatrix.of(vectors, tie_order(ids))
    masked = Rows.of(np.zeros(len(hidden), dtype=int), hidden, 1)
    found, scores = top_k(user[None, :], items, k, masked)
    rows, values = shot.top(user, k, excluded=hidden)
    assert rows.tolist() == [row for row in found[0].tolist() if row >= 0]
    assert values.tolist() == scores[0][: len(rows)].tolist()
    wanted = data.draw(st.integers(0, n - 1))
    others = hidden[hidden != wanted]
    without = Rows.of(np.zeros(len(others), dtype=int), others, 1)
    ranks = rank_positives(
        user[None, :], items, Rows.of(np.zeros(1, dtype=int), np.array([wanted]), 1), without
    )
    assert shot.rank(user, wanted, hidden) == ranks.ranks[0]


def test_scores_that_float32_cannot_tell_apart_are_told_apart_all_the_same():
    random = np.random.default_rng(0)
    user = random.normal(size=64).astype(np.float32)
    # All within a few units in the last place of one another: a product in float32 mixes up their order.
    vectors = (user + random.normal(size=(500, 64)) * 1e-7).astype(np.float32)
    ids = [f"i{number}" for number in range(500)]
    shot, items = snapshot(ids, vectors), ItemMatrix.of(vectors, tie_order(ids))
    for k in (1, 10, 250):
        found, scores = top_k(user[None, :], items, k)
        rows, values = shot.top(user, k)
        assert rows.tolist() == found[0].tolist()
        assert values.tolist() == scores[0].tolist()
    order = top_k(user[None, :], items, 500)[0][0]
    assert [shot.rank(user, row) for row in order[::50].tolist()] == list(range(1, 501, 50))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = np.arange(1, 500)
    near = top_k(unit[:1], ItemMatrix.of(unit[1:], tie_order(ids[1:])), 10)
    rows, values = shot.similar(0, 10)
    assert rows.tolist() == others[near[0][0]].tolist()
    assert values.tolist() == near[1][0].tolist()


@settings(max_examples=40)
@given(st.data())
def test_searching_among_some_rows_is_searching_where_no_others_are_allowed(data):
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    n, dim = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([1, 3, 8]))
    vectors = random.integers(-2, 3, size=(n, dim)).astype(np.float32)
    shot = snapshot([f"i{code}" for code in random.permutation(n)], vectors, random.random(n) < 0.8)
    since = data.draw(st.integers(0, n))
    rows = random.permutation(np.flatnonzero(random.random(since) < 0.5))
    mask = np.zeros(n, dtype=bool)
    mask[rows], mask[since:] = True, True
    allowed, excluded = random.random(n) < 0.7, random.integers(0, n, size=3)
    k, user = data.draw(st.integers(1, n)), vectors[0] + 1
    for some in (None, allowed):
        both = mask if some is None else mask & some
        found, wanted = (
            shot.top(user, k, some, excluded, Among(rows, since)),
            shot.top(user, k, both, excluded),
        )
        assert [one.tolist() for one in found] == [one.tolist() for one in wanted]
        found = shot.similar(0, k, some, excluded, Among(rows, since))
        assert [one.tolist() for one in found] == [one.tolist() for one in shot.similar(0, k, both, excluded)]


def test_hidden_rows_are_replaced_removed_and_compacted():
    first = snapshot(["a", "b", "c"], [[1.0], [2.0], [3.0]])
    second = add(first, ["b", "d"], [[9.0], [0.5]], "later")
    third = second.without(["c", "nobody"])
    one = np.ones(1, dtype=np.float32)
    assert names(first, first.top(one, 9)[0]) == ["c", "b", "a"]
    assert names(second, second.top(one, 9)[0]) == ["b", "c", "a", "d"]
    assert names(third, third.top(one, 9)[0]) == ["b", "a", "d"]
    assert first.row("d") == ABSENT
    assert third.row("c") == ABSENT
    assert second.row("c") != ABSENT
    assert second.note(second.row("b")) == "later b"
    assert first.note(first.row("b")) == "note b"
    small, kept = third.compacted()
    assert small.size == 3 < third.size
    assert kept.tolist() == [0, 3, 4]
    assert names(small, small.top(one, 9)[0]) == ["b", "a", "d"]
    assert small.note(small.row("b")) == "later b"
    back = add(third, ["c"], [[4.0]])
    assert names(back, back.top(one, 9)[0]) == ["b", "c", "a", "d"]


def test_two_heirs_of_one_snapshot_do_not_see_each_other():
    base = snapshot(["a"], [[1.0]])
    left, right = add(base, ["l"], [[2.0]]), add(base, ["r"], [[3.0]])
    one = np.ones(1, dtype=np.float32)
    assert names(left, left.top(one, 9)[0]) == ["l", "a"]
    assert names(right, right.top(one, 9)[0]) == ["r", "a"]
    assert (left.row("r"), right.row("l")) == (ABSENT, ABSENT)
    assert add(left, ["m"], [[0.0]]).top(one, 9)[1].tolist() == [2.0, 1.0, 0.0]


def test_memory_is_shared_until_it_is_doubled():
    shot = snapshot([f"i{n}" for n in range(100)], np.ones((100, 2)))
    moved, buffer = 0, None
    for step in range(400):
        shot = add(shot, [f"j{step}"], [[1.0, 2.0]])
        base = shot._vectors.base
        moved, buffer = moved + (base is not buffer), base
    # 100 -> 200 -> 400 -> 800.
    assert moved == 3
    assert shot.size == 500
    assert shot.vectors(np.array([499])).tolist() == [[1.0, 2.0]]


def test_only_ranked_rows_come_into_lists_and_cosine_knows_no_length():
    ranked = np.array([True, True, False, True])
    shot = snapshot(["a", "b", "c", "z"], [[1, 1], [50, 49], [1, 1], [0, 0]], ranked)
    rows, values = shot.similar(0, 5)
    assert names(shot, rows) == ["b", "z"]
    assert values.tolist() == pytest.approx([99 / np.sqrt(2 * (2500 + 2401)), 0.0], abs=1e-6)
    assert names(shot, shot.similar(3, 5)[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.top(np.array([1.0], dtype=np.float32), 1), "does not fit"),
        (lambda s: s.top(np.array([1.0, np.nan], dtype=np.float32), 1), "NaN"),
        (lambda s: s.top(np.array([3e38, 0.0], dtype=np.float32), 1), "overflow"),
        (lambda s: add(s, ["x", "x"], [[1, 2], [1, 2]]), "twice"),
        (lambda s: add(s, ["x"], [[1, 2, 3]]), "do not fit"),
        (lambda s: add(s, ["x", "bad"], [[1, 2], [np.inf, 2]]), "'bad'"),
    ],
)
def test_what_cannot_be_searched_is_refused(act, message):
    shot = snapshot(["a"], [[1.0, 2.0]])
    with pytest.raises(InputError, match=message):
        act(shot)
    assert shot.row("x") == ABSENT
    assert add(shot, ["y"], [[1, 2]]).row("y") == 1


def test_every_answer_is_of_one_moment_while_writers_add_and_replace():
    # All rows of a snapshot hold its number: an answer that mixes two moments would show two numbers.
    ids = [f"i{n}" for n in range(40)]
    holder = [snapshot(ids, np.full((40, 4), 1.0))]
    wrong, stop, answers = [], threading.Event(), [0]

    def read():
        one = np.ones(4, dtype=np.float32)
        while not stop.is_set():
            shot = holder[0]
            rows, scores = shot.top(one, 1000)
            moment = {shot.id(row).partition("-")[0] for row in rows.tolist()}
            grown = len(rows) - 40
            if moment - {f"i{n}" for n in range(40)} != {f"j{n}" for n in range(grown)}:
                wrong.append(("rows", len(rows)))
            if len(set(scores[[shot.id(row).startswith("i") for row in rows.tolist()]].tolist())) != 1:
                wrong.append(("scores", scores))
            answers[0] += 1

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(150):
        value = float(number + 2)
        holder[0] = add(holder[0], [*ids, f"j{number}"], np.full((41, 4), value))
        if number % 40 == 39:
            holder[0] = holder[0].compacted()[0]
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert answers[0] > 0
    assert holder[0].alive.sum() == 190


def test_diversity_by_hand():
    # Two alike at the top, another direction below: with some diversity the other comes second.
    vectors = np.array([[1, 0], [1, 0.01], [0, 1]], dtype=np.float32)
    scores = np.array([3.0, 2.9, 1.0], dtype=np.float32)
    assert diversified(scores, vectors, 2, 0.0) == [0, 1]
    assert diversified(scores, vectors, 2, 0.1) == [0, 1]
    assert diversified(scores, vectors, 2, 0.6) == [0, 2]
    assert diversified(scores, vectors, 9, 1.0) == [0, 2, 1]
    assert pool_size(10) == 50


@given(
    st.integers(0, 30),
    st.integers(0, 40),
    st.floats(0, 1),
    st.integers(0, 1000),
    st.booleans(),
)
def test_a_diverse_list_never_repeats_and_keeps_its_length(n, k, diversity, seed, equal):
    random = np.random.default_rng(seed)
    scores = np.sort(np.zeros(n) if equal else random.normal(size=n))[::-1].astype(np.float32)
    vectors = random.integers(-1, 2, size=(n, 3)).astype(np.float32)
    chosen = diversified(scores, vectors, k, diversity)
    assert len(chosen) == len(set(chosen)) == min(k, n)
    assert all(0 <= place < n for place in chosen)
    if diversity == 0:
        assert chosen == sorted(chosen)
