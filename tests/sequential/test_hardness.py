"""Hardness against dense matrices, by hand, and what equation (6) promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.sequential import hardness as module
from prismrec.sequential.hardness import hardness, hardness_weights, neighbour_similarities, spread


def dense_similarities(vectors, present, k):
    """All cosines at once, row by row sorted."""
    n = len(vectors)
    found = np.zeros((n, k))
    usable = present & vectors.any(axis=1)
    unit = vectors / np.where(usable, np.linalg.norm(vectors, axis=1), 1.0)[:, None]
    cosines = unit @ unit.T
    for i in np.flatnonzero(usable):
        others = np.sort([cosines[i, j] for j in np.flatnonzero(usable) if j != i])[::-1][:k]
        found[i, : len(others)] = others
    return found


def dense_delta(similarities, chosen, rejected, temperature):
    powers = np.exp(similarities.astype(np.float64) / temperature)
    profiles = powers / powers.sum(axis=1, keepdims=True)
    return np.array(
        [
            [
                np.mean([np.linalg.norm(profiles[w] - profiles[x]) for w, x in zip(best, other, strict=True)])
                for other in others
            ]
            for best, others in zip(chosen, rejected, strict=True)
        ]
    )


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 7), st.integers(1, 12))
def test_neighbours_agree_with_all_cosines(seed, n, dim, k):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, dim))
    vectors[random.random(n) < 0.1] = 0.0
    present = random.random(n) < 0.8
    vectors[~present] = np.nan  # never read
    made = neighbour_similarities(vectors.astype(random.choice([np.float32, np.float64])), present, k)
    wanted = dense_similarities(np.where(present[:, None], vectors, 0.0), present, k)
    assert made.dtype == np.float32
    assert made.shape == (n, k)
    assert made == pytest.approx(wanted, abs=2e-6)


def test_an_item_is_not_its_own_neighbour_and_equal_items_are():
    vectors = np.array([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [3.0, 4.0]], dtype=np.float32)
    made = neighbour_similarities(vectors, np.array([True, True, False, True]), k=3)
    assert made == pytest.approx(np.array([[1, 0.6, 0], [1, 0.6, 0], [0, 0, 0], [0.6, 0.6, 0]]), abs=1e-6)


def test_vectors_that_do_not_fit_or_are_not_finite_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        neighbour_similarities(np.ones((3, 2)), np.ones(2, dtype=bool))
    with pytest.raises(InputError, match="'1'"):
        neighbour_similarities(np.array([[1.0], [np.nan]]), np.ones(2, dtype=bool))
    with pytest.raises(InputError, match="neighbours"):
        neighbour_similarities(np.ones((3, 2)), np.ones(3, dtype=bool), k=0)


def test_distance_by_hand():
    # softmax(ln 3, 0) = (3/4, 1/4); softmax(0, 0) = (1/2, 1/2); softmax(ln 3 / 0.5, 0) = (9/10, 1/10)
    similarities = np.array([[np.log(3), 0.0], [0.0, 0.0]], dtype=np.float32)
    made = hardness(similarities, [(0,), (1,)], [((1,), (0,)), ((1,), (0,))])
    assert made == pytest.approx(np.array([[0.25, 0.0], [0.0, 0.25]]) * np.sqrt(2), abs=1e-7)
    sharp = hardness(similarities, [(0,)], [((1,),)], temperature=0.5)
    assert sharp == pytest.approx(np.array([[0.4 * np.sqrt(2)]]), abs=1e-7)
    # of two items at the same places, one pair differs: half of it
    both = hardness(similarities, [(0, 1)], [((1, 1),)])
    assert both == pytest.approx(np.array([[0.125 * np.sqrt(2)]]), abs=1e-7)
    # places count: the same items in another order are not the same answer
    assert hardness(similarities, [(0, 1)], [((1, 0),)])[0, 0] == pytest.approx(0.25 * np.sqrt(2), abs=1e-7)


@given(st.data())
def test_distance_agrees_with_dense_and_keeps_its_bounds(data):
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    n, k, t, answers, pairs = (data.draw(st.integers(1, most)) for most in (9, 6, 3, 4, 12))
    similarities = -np.sort(-random.uniform(-1, 1, (n, k)).astype(np.float32), axis=1)
    temperature = data.draw(st.sampled_from([0.05, 0.3, 1.0, 4.0]))
    chosen = [tuple(row) for row in random.integers(0, n, (pairs, t)).tolist()]
    rejected = [tuple(map(tuple, row)) for row in random.integers(0, n, (pairs, answers, t)).tolist()]
    made = hardness(similarities, chosen, rejected, temperature)
    assert made.shape == (pairs, answers)
    assert made == pytest.approx(dense_delta(similarities, chosen, rejected, temperature), abs=1e-9)
    assert (made >= 0).all()
    assert (made <= np.sqrt(1 - 1 / k) + 1e-9).all()
    # a shift of all similarities changes no softmax
    assert hardness(similarities + np.float32(0.5), chosen, rejected, temperature) == pytest.approx(
        made, abs=1e-5
    )


def test_a_tiny_temperature_does_not_overflow():
    similarities = np.array([[0.9, 0.8], [0.9, 0.9]], dtype=np.float32)
    made = hardness(similarities, [(0,)], [((1,),)], temperature=1e-6)
    assert made == pytest.approx(np.array([[np.sqrt(0.5)]]))


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    similarities = random.random((6, 3)).astype(np.float32)
    chosen = [tuple(row) for row in random.integers(0, 6, (11, 2)).tolist()]
    rejected = [tuple(map(tuple, row)) for row in random.integers(0, 6, (11, 3, 2)).tolist()]
    whole = hardness(similarities, chosen, rejected)
    monkeypatch.setattr(module, "_BLOCK", 4)
    assert np.array_equal(hardness(similarities, chosen, rejected), whole)


def test_no_pairs_have_no_distances():
    assert hardness(np.zeros((2, 3), dtype=np.float32), [], []).shape[0] == 0


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ([(0,)], [], "1 chosen answers"),
        ([(0,), ()], [((1,),), ((),)], "Pair 1 names no items"),
        ([(0,)], [()], "Pair 0 names no items"),
        ([(0,), (0,)], [((1,),), ((1, 2),)], "Pair 1: 1 items"),
        ([(0,), (0, 1)], [((1,),), ((1, 2),)], "Pair 1: 2 items"),
        ([(0,), (0,)], [((1,),), ((1,), (2,))], "Pair 1: 1 items"),
        ([(3,)], [((1,),)], "Pair 0 holds a code"),
        ([(0,)], [((-1,),)], "Pair 0 holds a code"),
    ],
)
def test_pairs_that_cannot_be_compared_are_named(chosen, rejected, message):
    with pytest.raises(InputError, match=message):
        hardness(np.zeros((3, 2), dtype=np.float32), chosen, rejected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(InputError, match="temperature"):
        hardness(np.zeros((3, 2), dtype=np.float32), [(0,)], [((1,),)], temperature)


def test_weights_by_hand():
    # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4, sigmoid(mean) = sigmoid(ln sqrt 3) = sqrt 3 / (1 + sqrt 3)
    delta = np.array([[0.0], [np.log(3)]])
    middle = np.sqrt(3) / (1 + np.sqrt(3))
    assert hardness_weights(delta) == pytest.approx(np.array([[0.5], [0.75]]) / middle, rel=1e-6)
    turned = hardness_weights(delta, "harder_is_heavier")
    assert turned == pytest.approx(np.array([[0.5], [0.25]]) / (1 - middle), rel=1e-6)


distances = st.lists(st.floats(0, 1.4), min_size=1, max_size=20)


@given(distances)
def test_weights_turn_around_the_mean(values):
    delta = np.array(values)[:, None]
    published, turned = hardness_weights(delta), hardness_weights(delta, "harder_is_heavier")
    assert published.shape == turned.shape == delta.shape
    apart = np.abs(delta - delta.mean()) > 1e-6
    assert np.array_equal((published > 1)[apart], (delta > delta.mean())[apart])
    assert np.array_equal((turned > 1)[apart], (delta < delta.mean())[apart])
    # at the mean itself
    centred = np.append(delta, delta.mean())
    for direction in ("as_published", "harder_is_heavier"):
        assert hardness_weights(centred, direction)[-1] == pytest.approx(1.0, abs=1e-6)
    # whatever the temperature, equation (6) cannot leave these bounds: sigmoid(1.4) / sigmoid(0) = 1.604...
    assert published.min() > 0.62
    assert published.max() < 1.61


def test_at_temperature_one_the_weights_hardly_differ():
    random = np.random.default_rng(3)
    similarities = -np.sort(-random.uniform(0.6, 0.95, (3000, 10)).astype(np.float32), axis=1)
    chosen = [(i,) for i in range(1000)]
    rejected = [((i + 1000,), (i + 2000,)) for i in range(1000)]
    weights = hardness_weights(hardness(similarities, chosen, rejected))
    seen = spread(weights)
    assert 0.995 < seen.low < seen.mean < seen.high < 1.010
    assert seen.inert
    sharper = spread(hardness_weights(hardness(similarities, chosen, rejected, temperature=0.05)))
    assert sharper.high - sharper.low > 5 * (seen.high - seen.low)
    assert not sharper.inert


def test_at_temperature_one_no_cosines_of_that_range_reach_three_per_cent():
    # Descending shares with a largest ratio form a polytope, its corners are the shares of rows of the two
    # extremes alone, and a distance is convex: it is largest between corners.
    steps = np.array([[0.95] * high + [0.6] * (10 - high) for high in range(11)], dtype=np.float32)
    chosen = [(i,) for i in range(11) for _ in range(11)]
    rejected = [((j,),) for _ in range(11) for j in range(11)]
    farthest = hardness(steps, chosen, rejected).max()
    weights = hardness_weights(np.append(np.zeros(100_000), farthest))
    assert 1.02 < weights.max() < 1.03


def test_spread():
    seen = spread(np.array([[1.0, 0.5], [2.0, 0.5]], dtype=np.float32))
    assert (seen.low, seen.mean, seen.high, seen.inert) == (0.5, 1.0, 2.0, False)
    with pytest.raises(InputError, match="no weights"):
        spread(np.zeros((0, 1)))


def test_weights_of_nothing_or_of_no_distances_are_refused():
    for broken in ([], [np.nan], [-0.1]):
        with pytest.raises(InputError, match="at least one pair"):
            hardness_weights(np.array(broken))
    with pytest.raises(InputError, match="direction"):
        hardness_weights(np.array([0.1]), "harder")
