from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from prismrec.base.progress import Silent
from prismrec.data.sources import generated_log
from prismrec.data.sources.generated_log import Planted, draw_log, name_all, plant
from prismrec.data.sources.generated_shop import CATEGORIES, CLOSED, draw_attributes

POPULARITY = np.array([0.4, 0.3, 0.2, 0.1])
TASTE = np.array([0.0, -1.0, 0.5, 1.5])


def tiny(users):
    """Four items, users all alike; the true choice is softmax(TASTE + log POPULARITY)."""
    attributes = draw_attributes(4, 0.0, 0)
    return Planted(attributes, TASTE[:, None], np.ones((users, 1)), POPULARITY)


def drawn(users, size, noise):
    sizes = np.full(users, size)
    return generated_log._draw_block(tiny(users), np.arange(users), sizes, noise, np.random.default_rng(0))


def test_the_first_item_follows_the_softmax():
    _, items = drawn(20_000, 1, 0.0)
    weight = POPULARITY * np.exp(TASTE)
    assert np.bincount(items) / 20_000 == pytest.approx(weight / weight.sum(), abs=0.012)


def test_noise_follows_popularity_alone():
    _, items = drawn(20_000, 1, 1.0)
    assert np.bincount(items) / 20_000 == pytest.approx(POPULARITY, abs=0.012)


def test_two_items_are_drawn_one_after_the_other_without_putting_back():
    rows, items = drawn(20_000, 2, 0.0)
    pairs = np.sort(items[np.argsort(rows, kind="stable")].reshape(-1, 2), axis=1)
    p = POPULARITY * np.exp(TASTE)
    p = p / p.sum()
    for a, b in permutations(range(4), 2):
        if a < b:
            expected = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
            assert np.mean((pairs == (a, b)).all(axis=1)) == pytest.approx(expected, abs=0.012)


def test_noise_never_repeats_what_preference_took():
    rows, items = drawn(2000, 3, 0.5)
    assert len(set(zip(rows.tolist(), items.tolist(), strict=True))) == 6000


def test_a_shelf_gives_every_item_its_due_on_average():
    weight = (np.arange(12_000) + 2.0) ** -0.75
    popularity = weight / weight.sum()
    chance = np.random.default_rng(0)
    total = np.zeros(12_000)
    for _ in range(200):
        shelf, due = generated_log._stock_shelf(popularity, chance)
        assert generated_log.LONGEST_HISTORY < len(shelf) < generated_log.SHELF
        total[shelf] += due
    assert total[:200] / 200 == pytest.approx(popularity[:200])
    assert total[2000:].sum() / 200 == pytest.approx(popularity[2000:].sum(), rel=0.01)


def test_a_small_catalogue_is_its_own_shelf():
    shelf, due = generated_log._stock_shelf(POPULARITY, np.random.default_rng(0))
    assert shelf.tolist() == [0, 1, 2, 3]
    assert due is POPULARITY


def test_a_log_from_shelves_is_as_sound_as_one_without(monkeypatch):
    truth = plant(draw_attributes(3000, 0.3, 0), 200, 0)
    monkeypatch.setattr(generated_log, "SHELF", 1000)
    monkeypatch.setattr(generated_log, "LONGEST_HISTORY", 250)
    log = draw_log(truth, 20.0, 0.1, 0, Silent())
    check(log, truth)
    assert percentile(log, truth, truth.scores(np.arange(200))) > 0.85


def check(log, truth):
    assert not log.select("user_id", "item_id").is_duplicated().any()
    assert log["timestamp"].is_sorted()
    released = truth.attributes.released[log["item_id"].str.slice(1).cast(int).to_numpy()]
    assert (log["timestamp"].to_numpy() > released).all()
    assert log["timestamp"].max() < CLOSED
    assert (log["timestamp"] % 1 == 0).all()


def percentile(log, truth, scores):
    """Mean share of items that score below the one that was taken: 0.5 is chance."""
    users = log["user_id"].str.slice(1).cast(int).to_numpy()
    items = log["item_id"].str.slice(1).cast(int).to_numpy()
    rank = scores.argsort(axis=1).argsort(axis=1)
    return rank[users, items].mean() / (scores.shape[1] - 1)


@pytest.fixture(scope="module")
def shop():
    truth = plant(draw_attributes(600, 0.3, 0), 600, 0)
    return truth, draw_log(truth, 25.0, 0.15, 0, Silent())


def test_the_log_is_well_formed(shop):
    truth, log = shop
    check(log, truth)
    assert set(log["user_id"]) == set(name_all("u", 600, 4))


def test_the_truth_ranks_better_than_popularity_and_chance(shop):
    truth, log = shop
    best = percentile(log, truth, truth.scores(np.arange(600)))
    popular = percentile(log, truth, np.tile(truth.popularity, (600, 1)))
    strangers = percentile(log, truth, truth.preferences(np.roll(np.arange(600), 1)))
    assert best > 0.82
    assert 0.55 < popular < best - 0.12
    assert strangers < best - 0.2


def test_popularity_and_histories_have_long_tails(shop):
    _, log = shop
    items = log["item_id"].value_counts()["count"].sort(descending=True).to_numpy()
    assert items[:60].sum() / items.sum() > 0.25
    users = log["user_id"].value_counts()["count"].to_numpy()
    assert users.min() >= generated_log.SHORTEST_HISTORY
    assert users.max() > 5 * np.median(users)
    assert users.mean() == pytest.approx(25, rel=0.1)


def test_noise_weakens_preference():
    truth = plant(draw_attributes(300, 0.3, 0), 300, 0)
    found = [
        percentile(draw_log(truth, 15.0, noise, 0, Silent()), truth, truth.preferences(np.arange(300)))
        for noise in (0.0, 0.5, 1.0)
    ]
    assert found[0] > found[1] + 0.05 > found[2] + 0.1
    assert found[2] == pytest.approx(0.5, abs=0.05)


def moved(attribute):
    """How far the items of each category move when an attribute of all changes."""
    stock = draw_attributes(2000, 0.5, 0)
    other = replace(stock, **{attribute: (getattr(stock, attribute) + 1) % 3})
    vectors = (plant(a, 10, 0).item_vectors for a in (stock, other))
    distance = np.linalg.norm(next(vectors) - next(vectors), axis=1)
    return stock, {name: distance[stock.category == code] for code, name in enumerate(CATEGORIES)}


def test_each_category_has_a_content_that_decides():
    _, by_pattern = moved("pattern")
    _, by_material = moved("material")
    stock, by_voice = moved("voice")
    for name in ("T-shirt", "mug", "vase", "backpack"):
        assert by_pattern[name].mean() > 2 * by_material[name].mean()
        assert by_pattern[name].mean() > 2 * by_pattern["chair"].mean()
    for name in ("chair", "lamp", "sneaker"):
        assert by_material[name].mean() > 2 * by_pattern[name].mean()
    for name in ("clock", "ukulele", "radio"):
        heard = stock.has_sound[stock.category == CATEGORIES.index(name)]
        assert by_voice[name][heard].mean() > 2 * max(by_pattern[name].mean(), by_material[name].mean())
        assert by_voice[name][~heard].sum() == 0


def test_names_sort_like_numbers():
    names = name_all("p", 120_000, 5)
    assert names[:2].to_list() == ["p000000", "p000001"]
    assert names.is_sorted()
    assert name_all("u", 3, 4).to_list() == ["u0000", "u0001", "u0002"]
