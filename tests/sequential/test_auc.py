import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from prismrec.base.errors import InputError
from prismrec.sequential.auc import auc, auc_interval, auc_of_users

# Few values, so that ties are common.
questions = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 4)), min_size=2, max_size=40
).filter(lambda rows: len({taken for _, taken, _ in rows}) == 2)


def columns(rows):
    scores, taken, user = zip(*rows, strict=True)
    return np.array(scores, float), np.array(taken), np.unique(user, return_inverse=True)[1]


@given(questions)
def test_auc_is_that_of_scikit_learn(rows):
    scores, taken, _ = columns(rows)
    assert auc(scores, taken) == pytest.approx(roc_auc_score(taken, scores))


@given(questions, st.data())
def test_weights_count_questions_as_often_as_they_say(rows, data):
    scores, taken, _ = columns(rows)
    weights = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(rows), max_size=len(rows))))
    repeated = auc(np.repeat(scores, weights), np.repeat(taken, weights))
    assert auc(scores, taken, weights) == pytest.approx(repeated)


@given(questions)
def test_the_mean_of_users_shares_is_the_auc(rows):
    scores, taken, user = columns(rows)
    keys = np.unique(scores, return_inverse=True)[1]
    assert auc_of_users(keys, taken, user).mean() == pytest.approx(auc(scores, taken))


def test_infinite_scores_are_scores():
    assert auc([-np.inf, np.inf, 0.0, -np.inf], [False, True, True, True]) == pytest.approx(2.5 / 3)


def test_the_interval_draws_users_with_all_their_questions():
    # Two users that are right and wrong throughout: a draw of both has 0.5, of one twice 1 or 0. Draws of
    # single questions would hardly leave 0.5.
    scores, taken = [1.0, 0.0] * 20 + [0.0, 1.0] * 20, [True, False] * 40
    user = [0] * 40 + [1] * 40
    found = auc_interval(scores, taken, user)
    assert (found.low, found.mean, found.high) == (0.0, 0.5, 1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for turn in range(60):
        taken = np.arange(80) % 2 == 0
        scores = random.normal(size=80) + taken
        found = auc_interval(scores, taken, np.arange(80), resamples=200, seed=turn)
        covered += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt(2))
    assert covered >= 52


def test_draws_without_both_answers_are_left_out():
    found = auc_interval([1.0, 0.0, 2.0], [True, False, True], [0, 1, 2], resamples=300)
    assert found.mean == found.low == found.high == 1.0


def test_one_user_has_no_bounds_and_one_answer_no_auc():
    assert auc_interval([1.0, 0.0], [True, False], [0, 0]).low is None
    with pytest.raises(InputError, match="no AUC"):
        auc_interval([1.0, 0.0], [True, True], [0, 1])
