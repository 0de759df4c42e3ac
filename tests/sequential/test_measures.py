import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.measures import Scored, lengths, measure, random_expectation


def top3(user="u", n=7, first=0):
    """The latest positive has the code `first`; candidates are the codes below n."""
    rest = [i for i in range(n) if i != first]
    return Example(user, (100, 101, 102), (first, *rest[:2]), tuple(range(n)))


def binary(user, label):
    return Example(user, (1, 2), (3,), listed=(4,), label=label)


def naive_rank(candidates, scores, wanted):
    """The place in a list that puts the wanted one after its equals."""
    order = sorted(zip(candidates, scores, strict=True), key=lambda pair: (-pair[1], pair[0] == wanted))
    return [item for item, _ in order].index(wanted) + 1


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(-2, 2), min_size=7, max_size=7), st.integers(0, 6)),
        min_size=1,
        max_size=12,
    )
)
def test_ranks_and_means_are_those_of_a_naive_count(rows):
    scored = [Scored(top3(f"u{u}", first=f), np.array(scores, float)) for u, scores, f in rows]
    by_user = {}
    for u, scores, f in rows:
        rank = naive_rank(range(7), scores, f)
        values = [float(rank <= 3), 1 / math.log2(rank + 1) if rank <= 3 else 0.0, 1 / rank]
        by_user.setdefault(f"u{u}", []).append(values)
    found = measure("m", Task.TOP3, scored, resamples=50)
    expected = np.array([np.mean(by_user[name], axis=0) for name in sorted(by_user)])
    assert found.per_user["user"].to_list() == sorted(by_user)
    assert found.per_user["examples"].to_list() == [len(by_user[name]) for name in sorted(by_user)]
    for column, name in enumerate(("hit_rate@3", "ndcg@3", "mrr")):
        np.testing.assert_allclose(found.per_user[name].to_numpy(), expected[:, column])
        assert found.metrics[name].mean == pytest.approx(expected[:, column].mean())
        assert found.metrics[name].low <= found.metrics[name].mean if len(by_user) > 1 else True


@given(st.lists(st.integers(-2, 2), min_size=7, max_size=7), st.permutations(range(7)))
def test_the_order_of_the_candidates_has_no_say(scores, order):
    turned = Example("u", (), (0, 1, 2), tuple(order))
    here = measure("m", Task.TOP3, [Scored(top3(), np.array(scores, float))])
    there = measure("m", Task.TOP3, [Scored(turned, np.array([scores[i] for i in order], float))])
    assert here.metrics == there.metrics


def test_a_constant_score_finds_nothing():
    found = measure("m", Task.TOP3, [Scored(top3(first=f), np.zeros(7)) for f in range(7)])
    assert found.metrics["hit_rate@5"].mean == 0
    assert found.metrics["mrr"].mean == pytest.approx(1 / 7)


def test_no_answer_and_a_positive_that_is_no_candidate_are_misses():
    lost = Example("c", (1,), (9,), (0, 1, 2, 3))
    empty = Example("d", (1,), (9,), ())
    right = Example("a", (1,), (2,), (0, 1, 2, 3))
    scored = [
        Scored(right, np.array([0, 0, 1, 0.5])),
        Scored(Example("b", (1,), (2,), (0, 1, 2, 3)), None),
        Scored(lost, np.arange(4.0)),
        Scored(empty, np.zeros(0)),
    ]
    found = measure("m", Task.RERANK, scored)
    assert (found.examples, found.users, found.unanswered, found.not_found) == (4, 4, 1, 2)
    assert found.metrics["hit_rate@3"].mean == found.metrics["mrr"].mean == 0.25
    assert list(found.metrics) == ["hit_rate@1", "hit_rate@3", "ndcg@1", "ndcg@3", "mrr"]
    assert found.headline == "ndcg@3"


def test_unusable_yes_or_no_answers_are_wrong_against_all():
    answered = [("a", True, [2.0]), ("b", False, [1.0]), ("c", True, [-np.inf]), ("d", False, [np.inf])]
    rows = [*answered, ("e", True, None), ("f", False, None)]
    scored = [Scored(binary(u, label), None if s is None else np.array(s)) for u, label, s in rows]
    found = measure("m", Task.BINARY, scored)
    # Of the nine pairs only a against b is right.
    assert found.metrics["auc"].mean == pytest.approx(1 / 9)
    assert found.per_user["auc"].mean() == pytest.approx(1 / 9)
    assert found.unanswered == 2
    assert found.headline == "auc"
    assert found.metrics["auc"].low <= 1 / 9 <= found.metrics["auc"].high


@given(st.integers(2, 7), st.data())
def test_random_expectation_is_the_mean_over_all_orders(n, data):
    first = data.draw(st.integers(0, n - 1))
    example = Example("u", (), (first,), tuple(range(n)))
    orders = list(permutations(range(n))) if n <= 5 else [np.roll(range(n), s) for s in range(n)]
    scored = [Scored(example, np.array(order, float)) for order in orders]
    found, expected = measure("m", Task.NEXT, scored, resamples=2), random_expectation(Task.NEXT, [example])
    assert list(expected) == list(found.metrics)
    for name, value in expected.items():
        assert found.metrics[name].mean == pytest.approx(value), name


def test_random_expectation_of_the_published_tasks():
    assert random_expectation(Task.TOP3, [top3()])["hit_rate@3"] == pytest.approx(3 / 7)
    assert random_expectation(Task.BINARY, [binary("u", True)]) == {"auc": 0.5}


def test_random_expectation_weighs_users_alike_and_cannot_find_what_is_not_there():
    lost = Example("b", (1,), (9,), (0, 1))
    examples = [Example("a", (), (0,), (0, 1)), Example("a", (), (0,), (0, 1, 2, 3)), lost]
    found = random_expectation(Task.RERANK, examples, [1])
    assert found["hit_rate@1"] == pytest.approx(((1 / 2 + 1 / 4) / 2 + 0) / 2)
    assert set(random_expectation(Task.RERANK, [lost]).values()) == {0.0}


def test_lengths():
    few, many = Example("u", (), (0,), (0, 1, 2)), Example("u", (), (0,), tuple(range(30)))
    assert lengths([many]) == (1, 3, 5, 10)
    assert lengths([many, few, Example("u", (), (0,), ())]) == (1,)
    assert lengths([few], [3, 1, 3]) == (1, 3)
    assert lengths([Example("u", (), (0,), (0,))]) == (1,)
    for wrong in ([4], [0], []):
        with pytest.raises(InputError, match="only 3 candidates"):
            lengths([few], wrong)
    with pytest.raises(InputError, match="candidate to choose from"):
        lengths([Example("u", (), (0,), ())])


@pytest.mark.parametrize(
    ("task", "scored", "message"),
    [
        (Task.TOP3, [], "no question"),
        (Task.TOP3, [Scored(binary("u", True), np.zeros(1))], "none of the task"),
        (Task.BINARY, [Scored(top3(), np.zeros(7))], "none of the task"),
        (Task.TOP3, [Scored(top3(), np.zeros(6))], "shape"),
        (Task.TOP3, [Scored(top3(), np.array([np.nan, *range(6)]))], "1 of them NaN"),
        (Task.NEXT, [Scored(Example("u", (), (0,), (0, 1, 1)), np.zeros(3))], "twice"),
        (Task.BINARY, [Scored(binary("u", True), np.zeros(1))], "no AUC"),
    ],
)
def test_what_cannot_be_measured_says_why(task, scored, message):
    with pytest.raises(InputError, match=message):
        measure("m", task, scored)
