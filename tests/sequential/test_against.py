import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.evaluation.significance import holm, sign_flip, wilcoxon
from prismrec.sequential.against import compare
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.measures import Scored, measure

USERS = 60


def ranked(name, ranks, task=Task.NEXT):
    """Users whose positive has these ranks among ten candidates."""
    scored = []
    for number, rank in enumerate(ranks):
        scores = -np.arange(10.0)
        scores[0] = 0.5 - (rank - 1)
        scores[1:] = -np.arange(9.0)
        scored.append(Scored(Example(f"u{number:02d}", (), (0,), tuple(range(10))), scores))
    return measure(name, task, scored, resamples=50)


@pytest.fixture(scope="module")
def three():
    random = np.random.default_rng(0)
    bad = random.integers(1, 11, USERS)
    good = np.maximum(1, bad - random.integers(2, 6, USERS))
    like = np.where(random.random(USERS) < 0.5, np.minimum(10, good + 1), np.maximum(1, good - 1))
    return ranked("good", good), ranked("bad", bad), ranked("like", like)


def test_a_difference_is_found_and_turned_and_chance_is_a_tie(three):
    good, bad, like = three
    better, tie = compare(good, [bad, like])
    assert (better.name, better.verdict, better.metric) == ("bad", "better", "ndcg@5")
    assert better.p < 0.001
    assert better.comparison.cohen_d > 0.5
    assert tie.verdict == "tie"
    assert tie.p > 0.05
    assert compare(bad, [good])[0].verdict == "worse"


def test_figures_are_those_of_the_tests_with_holms_correction(three):
    good, bad, like = three
    found = compare(good, [bad, like], "mrr")
    gaps = [good.per_user["mrr"].to_numpy() - other.per_user["mrr"].to_numpy() for other in (bad, like)]
    assert [one.comparison.wilcoxon_p for one in found] == [wilcoxon(gap) for gap in gaps]
    assert [one.comparison.wilcoxon_holm for one in found] == holm([wilcoxon(gap) for gap in gaps])
    assert [one.comparison.randomisation_holm for one in found] == holm([sign_flip(gap) for gap in gaps])
    assert found[0].comparison.difference.mean == pytest.approx(
        good.metrics["mrr"].mean - bad.metrics["mrr"].mean
    )


def test_aucs_are_compared_by_their_difference():
    random = np.random.default_rng(1)
    examples = [Example(f"u{n:03d}", (1,), (2,), label=bool(n % 2)) for n in range(200)]
    signal = np.array([e.label for e in examples]) + random.normal(size=200)
    right = measure("right", Task.BINARY, [Scored(e, s[None]) for e, s in zip(examples, signal, strict=True)])
    chance = measure("chance", Task.BINARY, [Scored(e, random.normal(size=1)) for e in examples])
    (found,) = compare(right, [chance])
    gap = right.metrics["auc"].mean - chance.metrics["auc"].mean
    assert found.comparison.difference.mean == pytest.approx(gap)
    assert found.verdict == "better"
    assert found.metric == "auc"


def test_what_cannot_be_paired_says_why(three):
    good, bad, _ = three
    with pytest.raises(InputError, match="not asked about the same users"):
        compare(good, [ranked("fewer", [1, 2])])
    with pytest.raises(InputError, match="was not measured"):
        compare(good, [bad], "auc")
    with pytest.raises(InputError, match="stands twice"):
        compare(good, [bad, bad])
