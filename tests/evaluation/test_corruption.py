import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.evaluation.corruption import (
    Filling,
    Missing,
    Noise,
    Shifted,
    Statistics,
    Swapped,
    as_stores,
    chosen_items,
    hidden_modality,
)
from prismrec.features.store import ItemFeatures
from prismrec.testing import planted


@pytest.fixture(scope="module")
def source():
    return planted().data


@pytest.fixture(scope="module")
def statistics(source):
    return Statistics.of(source.features, source.warm)


def all_of(features):
    return features.gather(np.arange(features.n_items))


def test_statistics_are_those_of_the_training_items_that_have_it(source, statistics):
    vectors, present = source.features.gather(source.warm)
    for place, found in enumerate(vectors):
        there = found[present[:, place]].astype(np.float64)
        np.testing.assert_allclose(statistics.means[place], there.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(statistics.deviations[place], there.std(axis=0), rtol=1e-5)


def test_noise_has_the_size_that_was_asked_for(source, statistics):
    sound, present = all_of(source.features)
    drawn = [all_of(Noise(source.features, statistics, 0.5, [0], seed))[0] for seed in range(40)]
    away = np.stack([found[0] - sound[0] for found in drawn])[:, present[:, 0]]
    np.testing.assert_allclose(away.std(axis=(0, 1)), 0.5 * statistics.deviations[0], rtol=0.05)
    assert abs(away.mean() / away.std()) < 0.02
    assert all(np.array_equal(found[1], sound[1]) for found in drawn)
    assert all((found[0][~present[:, 0]] == 0).all() for found in drawn)


def test_noise_belongs_to_an_item_whatever_the_block(source, statistics):
    noisy = Noise(source.features, statistics, 0.3, [0, 1], 5)
    together = all_of(noisy)[0]
    codes = np.array([90, 3, 41])
    for whole, some in zip(together, noisy.gather(codes)[0], strict=True):
        np.testing.assert_array_equal(some, whole[codes])
    twice = all_of(Noise(source.features, statistics, 0.6, [0, 1], 5))[0]
    sound = all_of(source.features)[0]
    np.testing.assert_allclose(twice[0] - sound[0], 2 * (together[0] - sound[0]), atol=1e-5)
    other = all_of(Noise(source.features, statistics, 0.3, [0, 1], 6))[0]
    assert not np.allclose(other[0], together[0])


def test_control_of_noise_has_its_length_and_one_direction(source, statistics):
    sound, present = all_of(source.features)
    there = present[:, 0]
    noise, shared = (
        (all_of(Noise(source.features, statistics, 0.5, [0], 1, shared=s))[0][0] - sound[0])[there]
        for s in (False, True)
    )
    lengths = np.linalg.norm(noise, axis=1)
    np.testing.assert_allclose(np.linalg.norm(shared, axis=1), lengths, rtol=1e-4)
    units = shared / lengths[:, None]
    np.testing.assert_allclose(units @ units[0], 1.0, atol=1e-4)
    assert abs((noise / lengths[:, None]) @ (noise[0] / lengths[0])).mean() < 0.6


def test_swapped_items_have_each_others_content(source):
    sound, present = all_of(source.features)
    damaged = Swapped(source.features, 0.3, 2)
    vectors, there = all_of(damaged)
    chosen = np.zeros(source.features.n_items, dtype=bool)
    chosen[damaged.chosen] = True
    assert chosen.sum() == round(0.3 * present.any(axis=1).sum())
    for place in range(2):
        np.testing.assert_array_equal(vectors[place][~chosen], sound[place][~chosen])
        np.testing.assert_array_equal(
            np.sort(vectors[place][chosen], axis=0), np.sort(sound[place][chosen], axis=0)
        )
    np.testing.assert_array_equal(np.sort(there[chosen], axis=0), np.sort(present[chosen], axis=0))
    both = chosen & present.all(axis=1) & there.all(axis=1)
    assert (np.abs(vectors[0][both] - sound[0][both]).max(axis=1) > 0).all()
    gone = damaged.without()
    np.testing.assert_array_equal(gone.present, present & ~chosen[:, None])


def test_larger_shares_hold_smaller_ones():
    eligible = np.arange(50) % 3 > 0
    small, large = chosen_items(eligible, 0.2, 4), chosen_items(eligible, 0.6, 4)
    np.testing.assert_array_equal(large[: len(small)], small)
    assert eligible[large].all()
    assert len(np.unique(large)) == len(large) == round(0.6 * eligible.sum())
    with pytest.raises(InputError, match="between 0 and 1"):
        chosen_items(eligible, 1.5, 0)


def test_missing_and_what_stands_in_its_place(source, statistics):
    sound, present = all_of(source.features)
    hidden = hidden_modality(source.features, 1, 0.4, 3)
    gone = hidden[:, 1]
    assert gone.sum() == round(0.4 * present[:, 1].sum())
    assert present[gone, 1].all()

    def filled(filling):
        return all_of(Missing(source.features, hidden, filling, statistics, source.warm))

    vectors, there = filled(Filling.MASKED)
    np.testing.assert_array_equal(there, present & ~hidden)
    assert (vectors[1][gone] == 0).all()
    for filling, expected in ((Filling.ZERO, 0.0), (Filling.MEAN, statistics.means[1])):
        vectors, there = filled(filling)
        np.testing.assert_array_equal(there, present)
        np.testing.assert_array_equal(vectors[1][gone], np.broadcast_to(expected, vectors[1][gone].shape))
    for filling in Filling:
        vectors, _ = filled(filling)
        np.testing.assert_array_equal(vectors[1][~gone], sound[1][~gone])
        np.testing.assert_array_equal(vectors[0], sound[0])


def test_neighbours_by_the_other_modality(source, statistics):
    sound, present = all_of(source.features)
    hidden = hidden_modality(source.features, 1, 0.4, 3)
    damaged = Missing(source.features, hidden, Filling.NEIGHBOURS, statistics, source.warm)
    vectors, _ = all_of(damaged)
    donors = [i for i in source.warm if present[i, 1] and not hidden[i, 1] and present[i, 0]]
    centred = (sound[0] - statistics.means[0]).astype(np.float64)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    alone = 0
    for item in np.flatnonzero(hidden[:, 1]):
        if not present[item, 0]:
            np.testing.assert_array_equal(vectors[1][item], statistics.means[1])
            alone += 1
            continue
        cosines = units[donors] @ units[item]
        best = np.argsort(-cosines)[:10]
        expected = sound[1][np.array(donors)[best[cosines[best] > 0]]].mean(axis=0)
        np.testing.assert_allclose(vectors[1][item], expected, rtol=1e-4, atol=1e-5)
    assert alone > 0
    # It knows more of what was there than the mean does.
    gone = hidden[:, 1] & present[:, 0]
    near = np.linalg.norm(vectors[1][gone] - sound[1][gone], axis=1).mean()
    assert near < 0.8 * np.linalg.norm(statistics.means[1] - sound[1][gone], axis=1).mean()


def test_fillings_say_what_they_need(source, statistics):
    hidden = hidden_modality(source.features, 0, 0.1, 0)
    with pytest.raises(InputError, match="statistics"):
        Missing(source.features, hidden, Filling.MEAN)
    with pytest.raises(InputError, match="training items"):
        Missing(source.features, hidden, Filling.NEIGHBOURS, statistics)
    both = hidden | hidden_modality(source.features, 1, 0.1, 0)
    with pytest.raises(InputError, match="one missing modality"):
        Missing(source.features, both, Filling.NEIGHBOURS, statistics, source.warm)


def test_shifted(source):
    sound, present = all_of(source.features)
    codes = np.array([2, 7, 30])
    shifts = [np.full((3, dim), 0.5, dtype=np.float32) for dim in source.features.dims]
    vectors, _ = all_of(Shifted(source.features, codes, shifts, "half"))
    expected = sound[0].copy()
    expected[codes] += 0.5
    expected[~present[:, 0]] = 0
    np.testing.assert_array_equal(vectors[0], expected)


def test_stores_hold_the_damage(source, statistics):
    noisy = Noise(Swapped(source.features, 0.5, 1), statistics, 0.3, [0], 2)
    ids = [f"item-{code}" for code in range(source.features.n_items)]
    stored = ItemFeatures(as_stores(noisy, ids), ids)
    for one, other in zip(
        (*all_of(noisy)[0], noisy.present), (*all_of(stored)[0], stored.present), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert noisy.content_hash != source.features.content_hash
