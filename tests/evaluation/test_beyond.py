"""Coverage, inequality, novelty and diversity against plain definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.evaluation import beyond
from prismrec.evaluation.beyond import beyond_accuracy, diversity, gini, self_information


def test_two_lists_by_hand():
    lists = np.array([[0, 1], [0, -1]])
    candidates = np.array([3, 0, 2, 1])  # codes in a catalogue of five items
    counts = np.array([1, 0, 0, 5, 9])
    got = beyond_accuracy(lists, candidates, counts)
    assert got.k == 2
    assert got.coverage == pytest.approx(2 / 4)
    assert got.popularity == pytest.approx((5 + 1 + 5) / 3)
    assert got.novelty == pytest.approx((2 * -np.log2(6 / 20) - np.log2(2 / 20)) / 3)
    assert got.diversity is None
    # Exposures 2, 1, 0, 0: mean absolute difference over all 16 ordered pairs / (2 * mean).
    assert got.gini == pytest.approx((2 * (1 + 2 + 2 + 1 + 1 + 0) / 16) / (2 * 0.75))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_gini_is_the_mean_difference_of_pairs(exposure):
    pairs = [abs(a - b) for a, b in itertools.product(exposure, repeat=2)]
    expected = np.mean(pairs) / (2 * np.mean(exposure))
    assert gini(np.array(exposure)) == pytest.approx(expected, abs=1e-12)


def test_gini_at_its_ends():
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)


def test_a_cold_item_is_the_most_surprising_and_finite():
    bits = self_information(np.array([0, 1, 3]))
    assert bits.tolist() == pytest.approx([np.log2(7), np.log2(7 / 2), np.log2(7 / 4)])


def test_diversity_averages_modalities_that_both_items_have():
    text = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=np.float32)
    image = np.array([[1.0], [1.0], [0.0], [0.0]], dtype=np.float32)
    content = {
        "text": (text, np.array([True, True, True, False])),
        "image": (image, np.array([True, True, False, False])),
    }
    # (0, 1): text 0, image 1, mean 0.5. (0, 2): text 1. (1, 2): text 0.
    assert diversity(np.array([[0, 1, 2]]), content) == pytest.approx(1 - (0.5 + 1 + 0) / 3)
    # Item 3 has nothing and -1 is no item: the pair (0, 2) is left.
    assert diversity(np.array([[0, 3, 2, -1]]), content) == pytest.approx(0.0)
    # A list without a pair is left out of the mean.
    assert diversity(np.array([[0, 1], [3, 0]]), content) == pytest.approx(0.5)
    assert diversity(np.array([[3, -1]]), content) is None


def test_diversity_in_blocks_is_the_same(monkeypatch):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = np.array([random.permutation(30)[:5] for _ in range(11)])
    content = {"text": (vectors.astype(np.float16), np.ones(30, dtype=bool))}
    expected = np.mean(
        [1 - vectors[a] @ vectors[b] for row in lists for a, b in itertools.combinations(row, 2)]
    )
    assert diversity(lists, content) == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(beyond, "_BLOCK", 1)
    assert diversity(lists, content) == pytest.approx(expected, abs=1e-3)


def test_lists_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="No list"):
        beyond_accuracy(np.full((2, 3), -1), np.arange(4), np.ones(4, dtype=int))
    with pytest.raises(InputError, match="position 4"):
        beyond_accuracy(np.array([[4]]), np.arange(4), np.ones(4, dtype=int))
