"""Metrics against ranx, hand-computed cases, exhaustive expectation and invariants."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.evaluation.metrics import Metric, expected_random, parse_metric, per_user
from prismrec.evaluation.ranking import Ranks


def ranks_of(lists: list[list[int]]) -> Ranks:
    """Ranks of each user's positives, as given."""
    sizes = np.array([len(r) for r in lists], dtype=np.int64)
    flat = np.array([r for one in lists for r in sorted(one)], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Ranks(starts, flat, sizes, np.zeros(len(flat), np.int32))


some_ranks = st.lists(st.lists(st.integers(1, 30), unique=True, max_size=8), min_size=1, max_size=8)


def test_one_user_by_hand():
    """Positives at ranks 2, 3 and 9 of ten, K = 5."""
    got = per_user(ranks_of([[2, 3, 9]]), [5])
    dcg = 1 / math.log2(3) + 1 / math.log2(4)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert got["recall@5"] == pytest.approx([2 / 3])
    assert got["ndcg@5"] == pytest.approx([dcg / best])
    assert got["precision@5"] == pytest.approx([2 / 5])
    assert got["hit_rate@5"] == pytest.approx([1.0])
    assert got["map@5"] == pytest.approx([(1 / 2 + 2 / 3) / 3])
    assert got["mrr@5"] == pytest.approx([1 / 2])


def test_the_ideal_list_is_as_long_as_the_list_that_is_shown():
    """Five positives and K = 2: both places right is a perfect NDCG."""
    got = per_user(ranks_of([[1, 2, 10, 11, 12]]), [2])
    assert got["ndcg@2"] == pytest.approx([1.0])
    assert got["recall@2"] == pytest.approx([0.4])
    assert got["map@2"] == pytest.approx([0.4])


def test_users_without_a_positive_are_not_counted():
    got = per_user(ranks_of([[], [1], [], [50]]), [10])
    assert got.n_counted == 2
    assert np.isnan(got["ndcg@10"]).tolist() == [True, False, True, False]
    assert got.means()["ndcg@10"] == pytest.approx(0.5)


def test_no_counted_user_has_no_mean():
    with pytest.raises(InputError, match="No user has a positive"):
        per_user(ranks_of([[], []]), [1]).means()


def test_several_lengths_at_once_by_name():
    got = per_user(ranks_of([[4], [1, 6]]), [10, 1, 5, 5])
    assert got.ks == (1, 5, 10)
    assert got.names[:4] == ["recall@1", "recall@5", "recall@10", "ndcg@1"]
    assert got["recall@1"].tolist() == [0, 0.5]
    assert got["recall@5"].tolist() == [1, 0.5]
    assert got.get(Metric.RECALL, 10).tolist() == [1, 1]
    with pytest.raises(InputError, match="ndcg@7 was not computed"):
        got["ndcg@7"]


@pytest.mark.parametrize(
    "name", ["ndgc@10", "ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@x", "NDCG@10", "@10", "ndcg@²"]
)
def test_a_wrong_name_lists_what_exists(name):
    with pytest.raises(InputError, match="hit_rate"):
        parse_metric(name)


def test_a_right_name():
    assert parse_metric("hit_rate@20") == (Metric.HIT_RATE, 20)


@pytest.mark.parametrize("ks", [[], [0, 5], [-1]])
def test_lengths_that_are_none_are_refused(ks):
    with pytest.raises(InputError):
        per_user(ranks_of([[1]]), ks)


@given(some_ranks)
def test_bounds_and_growth_with_k(lists):
    got = per_user(ranks_of(lists), [1, 3, 10, 30])
    values = got.values[:, :, got.counted]
    assert (values >= 0).all()
    assert (values <= 1 + 1e-12).all()
    for metric in (Metric.RECALL, Metric.HIT_RATE, Metric.MAP, Metric.MRR):
        rows = np.array([got.get(metric, k)[got.counted] for k in got.ks])
        assert (np.diff(rows, axis=0) >= -1e-12).all()
    assert (got["recall@30"][got.counted] == 1).all()


@given(some_ranks, st.randoms())
def test_the_order_of_users_does_not_matter(lists, random):
    order = list(range(len(lists)))
    random.shuffle(order)
    straight = per_user(ranks_of(lists), [2, 7]).values
    shuffled = per_user(ranks_of([lists[i] for i in order]), [2, 7]).values
    np.testing.assert_allclose(shuffled, straight[:, :, order], rtol=1e-12)


@given(st.integers(1, 6), st.data())
@settings(max_examples=40)
def test_the_random_floor_is_the_mean_over_all_rankings(n, data):
    """Every place that the positives can take, each equally likely, by enumeration."""
    p = data.draw(st.integers(1, n))
    k = data.draw(st.integers(1, n + 1))
    everywhere = [list(places) for places in itertools.combinations(range(1, n + 1), p)]
    means = per_user(ranks_of(everywhere), [k]).means()
    for metric in Metric:
        assert expected_random(metric, k, np.array([p]), n)[0] == pytest.approx(means[f"{metric}@{k}"])


def test_the_random_floor_of_several_users():
    floor = expected_random(Metric.RECALL, 10, np.array([3, 0, 1]), np.array([1000, 1000, 5]))
    np.testing.assert_allclose(floor, [0.01, np.nan, 1.0])
    with pytest.raises(InputError, match="more positive items"):
        expected_random(Metric.NDCG, 10, np.array([3]), 2)


def test_against_ranx():
    """Scores, qrels and names are built for ranx from the same lists; 40 users, lists of 30."""
    ranx = pytest.importorskip("ranx")
    random = np.random.default_rng(3)
    n, ks = 30, (1, 5, 10, 30)
    lists = [random.choice(n, size=random.integers(1, 9), replace=False) + 1 for _ in range(40)]
    got = per_user(ranks_of([one.tolist() for one in lists]), ks)
    qrels = ranx.Qrels({f"u{u:02}": {f"i{r:02}": 1 for r in one} for u, one in enumerate(lists)})
    run = ranx.Run(
        {f"u{u:02}": {f"i{r:02}": float(n - r) for r in range(1, n + 1)} for u in range(len(lists))}
    )
    for metric in Metric:
        names = [f"{metric}@{k}" for k in ks]
        theirs = ranx.evaluate(qrels, run, names, return_mean=False)
        for name in names:
            np.testing.assert_allclose(got[name], theirs[name], atol=1e-9, err_msg=name)
