"""Ranking against an oracle that sorts everything in plain Python."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prismrec.base import exact
from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix
from prismrec.evaluation.ranking import Ranks, Rows, rank_positives, tie_order, top_k


def rows(lists: list[list[int]]) -> Rows:
    users = np.array([u for u, items in enumerate(lists) for _ in items], dtype=np.int64)
    items = np.array([i for items in lists for i in items], dtype=np.int64)
    return Rows.of(users, items, len(lists))


def oracle_order(user, items, ids, masked) -> list[int]:
    """All candidates of a user, best first. Whole numbers: the scores are exact in any order of summing."""
    score = {
        i: int(sum(int(a) * int(b) for a, b in zip(user, row, strict=True))) for i, row in enumerate(items)
    }
    return sorted((i for i in score if i not in masked), key=lambda i: (-score[i], ids[i]))


@st.composite
def cases(draw):
    """Small whole numbers, so that ties abound; ids in an order that is not that of the rows."""
    n_users, n_items = draw(st.integers(0, 6)), draw(st.integers(1, 14))
    d = draw(st.integers(1, 3))
    number = st.integers(-2, 2)
    users = draw(st.lists(st.lists(number, min_size=d, max_size=d), min_size=n_users, max_size=n_users))
    items = draw(st.lists(st.lists(number, min_size=d, max_size=d), min_size=n_items, max_size=n_items))
    ids = draw(st.permutations([f"i{n}" for n in range(n_items)]))
    some = st.lists(st.integers(0, n_items - 1), unique=True, max_size=n_items)
    positives = [draw(some) for _ in range(n_users)]
    masked = [draw(some) for _ in range(n_users)]
    return (
        np.array(users, dtype=np.float32).reshape(n_users, d),
        np.array(items, dtype=np.float32),
        ids,
        positives,
        masked,
        draw(st.integers(1, n_items)),
    )


ALL_TIED = (
    np.ones((2, 1), np.float32),
    np.ones((3, 1), np.float32),
    ["b", "c", "a"],
    [[0, 1, 2], []],
    [[], [2]],
    3,
)


@given(cases(), st.integers(1, 3))
@example(ALL_TIED, 1)
@settings(max_examples=150)
def test_agrees_with_sorting_everything(case, tile_users):
    users, items, ids, positives, masked, k = case
    candidates, hidden = ItemMatrix.of(items, tie_order(ids)), rows(masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_TILE_USERS", tile_users)
        ranks = rank_positives(users, candidates, rows(positives), hidden)
        found, scores = top_k(users, candidates, k, hidden)
    for u in range(len(users)):
        order = oracle_order(users[u], items, ids, set(masked[u]))
        place = {item: n for n, item in enumerate(order, start=1)}
        mine = slice(ranks.starts[u], ranks.starts[u + 1])
        expected = sorted(place.get(i, len(items) + 1) for i in positives[u])
        assert ranks.ranks[mine].tolist() == expected
        assert sorted(ranks.items[mine].tolist()) == sorted(positives[u])
        for item, rank in zip(ranks.items[mine].tolist(), ranks.ranks[mine].tolist(), strict=True):
            assert rank == place.get(item, len(items) + 1)
        best = order[:k]
        assert found[u].tolist() == best + [-1] * (k - len(best))
        assert scores[u, : len(best)].tolist() == [float(users[u] @ items[i]) for i in best]
        assert np.isneginf(scores[u, len(best) :]).all()
    assert ranks.positives.tolist() == [len(p) for p in positives]


def test_without_a_mask_every_candidate_counts():
    users = np.array([[1.0]], np.float32)
    items = np.array([[3.0], [1.0], [2.0]], np.float32)
    ranks = rank_positives(users, ItemMatrix.of(items, tie_order(["x", "y", "z"])), rows([[1, 2]]))
    assert ranks.ranks.tolist() == [2, 3]
    assert ranks.items.tolist() == [2, 1]


def test_many_positives_and_a_full_list_on_real_numbers():
    """A user who likes most of the catalogue; the oracle is NumPy's sort of float64 scores."""
    random = np.random.default_rng(0)
    users = random.normal(size=(7, 16)).astype(np.float32)
    items = random.normal(size=(501, 16)).astype(np.float32)
    ids = [f"{n:04}" for n in random.permutation(501)]
    liked = [np.flatnonzero(random.random(501) < share).tolist() for share in (0, 0.01, 0.5, 0.9, 1, 0, 0.3)]
    candidates = ItemMatrix.of(items, tie_order(ids))
    ranks = rank_positives(users, candidates, rows(liked))
    found, _ = top_k(users, candidates, 501)
    order = np.argsort(-(users.astype(np.float64) @ items.T.astype(np.float64)), axis=1)
    assert np.array_equal(found, order)
    place = np.argsort(order, axis=1) + 1
    for u in range(7):
        assert ranks.ranks[ranks.starts[u] : ranks.starts[u + 1]].tolist() == sorted(
            place[u, liked[u]].tolist()
        )


@pytest.mark.parametrize("n_items", [5, 63, 257])
@pytest.mark.parametrize("n_users", [1, 5, 33])
def test_items_with_the_same_vector_are_tied(n_users, n_items):
    """A matrix product may round equal columns differently; ids must decide all the same."""
    random = np.random.default_rng(n_items)
    users = random.normal(size=(n_users, 48)).astype(np.float32)
    which = random.integers(0, 3, n_items)
    items = random.normal(size=(3, 48)).astype(np.float32)[which]
    ids = np.array([f"{n:03}" for n in random.permutation(n_items)])
    candidates = ItemMatrix.of(items, tie_order(ids.tolist()))
    found, scores = top_k(users, candidates, n_items)
    ranks = rank_positives(users, candidates, rows([list(range(n_items))] * n_users))
    assert np.array_equal(ranks.items.reshape(n_users, n_items), found)
    for u in range(n_users):
        for kind in range(3):
            mine = found[u][which[found[u]] == kind]
            assert ids[mine].tolist() == sorted(ids[which == kind])
            assert len(set(scores[u][which[found[u]] == kind].tolist())) <= 1


def test_rows_leave_out_what_is_no_candidate_and_sort():
    made = Rows.of(np.array([2, 0, 2, 0]), np.array([5, -1, 1, 3]), 4)
    assert made.starts.tolist() == [0, 1, 1, 3, 3]
    assert made.items.tolist() == [3, 1, 5]
    assert made.sizes.tolist() == [1, 0, 2, 0]


def test_rows_of_some_users():
    made = rows([[3], [], [1, 2], [0]]).take(np.array([2, 1, 0]))
    assert made.starts.tolist() == [0, 2, 2, 3]
    assert made.items.tolist() == [1, 2, 3]


def test_no_users_give_no_ranks():
    ranks = rank_positives(np.empty((0, 2), np.float32), ItemMatrix.of(np.ones((3, 2), np.float32)), rows([]))
    assert isinstance(ranks, Ranks)
    assert len(ranks.ranks) == 0


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_list_length_outside_the_candidates_is_refused(k):
    with pytest.raises(InputError, match="not between 1 and 3"):
        top_k(np.ones((1, 1), np.float32), ItemMatrix.of(np.ones((3, 1), np.float32)), k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["user", "item"])
def test_vectors_that_are_not_finite_are_refused(bad, side):
    users, items = np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)
    (users if side == "user" else items)[0, 1] = bad
    with pytest.raises(InputError, match=f"An? {side} vector"):
        rank_positives(users, ItemMatrix.of(items), rows([[0]]))


def test_scores_that_would_overflow_are_refused():
    huge = np.full((1, 2), 1e30, np.float32)
    with pytest.raises(InputError, match="overflow"):
        top_k(huge, ItemMatrix.of(huge), 1)
