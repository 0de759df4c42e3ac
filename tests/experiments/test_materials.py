from itertools import pairwise

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.data.splits import TRAIN, ItemColdStart, Split, make_split
from prismrec.experiments.materials import drawn_users, of_users, prepare, thinned, with_gaps
from prismrec.recommender.train import open_features


@pytest.fixture
def split(shop: Dataset) -> Split:
    return make_split(shop, ItemColdStart(valid=0.15, test=0.15))


def counts(split: Split) -> np.ndarray:
    return np.bincount(split.train.users, minlength=len(split.users))


def pairs(split: Split, part: int | None = None) -> set[tuple[int, int]]:
    chosen = split.pairs if part is None else split.pairs.take(split.parts == part)
    return set(zip(chosen.users.tolist(), chosen.items.tolist(), strict=True))


def test_thinning_leaves_so_many_of_each_user_and_touches_nothing_else(split: Split) -> None:
    thin = thinned(split, 3, seed=0)
    np.testing.assert_array_equal(counts(thin), np.minimum(counts(split), 3))
    assert pairs(thin, TRAIN) < pairs(split, TRAIN)
    for part in (1, 2):
        assert pairs(thin, part) == pairs(split, part)
    assert thin.hash != split.hash
    assert thin.ledger == split.ledger


def test_thinning_follows_its_seed(split: Split) -> None:
    assert pairs(thinned(split, 3, 0)) == pairs(thinned(split, 3, 0))
    assert pairs(thinned(split, 3, 0)) != pairs(thinned(split, 3, 1))


def test_thinning_draws_each_pair_equally_often(split: Split) -> None:
    user = int(np.argmax(counts(split)))
    mine = sorted(item for u, item in pairs(split, TRAIN) if u == user)
    kept = dict.fromkeys(mine, 0)
    for seed in range(300):
        for u, item in pairs(thinned(split, 2, seed), TRAIN):
            if u == user:
                kept[item] += 1
    expected = 300 * 2 / len(mine)
    assert all(abs(n - expected) < 5 * np.sqrt(expected) for n in kept.values())


def test_openings_of_the_thinned_split_are_its_own(split: Split) -> None:
    split.ledger = None
    split.open_test({})
    _, before = thinned(split, 3, 0).open_test({})
    assert before == 0


def test_each_modality_loses_its_share(shop: Dataset) -> None:
    stores = open_features(shop)
    torn = with_gaps(stores, shop.items.ids, 0.3, seed=0)
    for store, left in zip(stores, torn, strict=True):
        assert len(left.ids) == len(store.ids) - round(0.3 * len(store.ids))
        assert set(left.ids) < set(store.ids)
        for name in left.ids[:20]:
            kept, had = left.vectors[left.vocabulary.code(name)], store.vectors[store.vocabulary.code(name)]
            np.testing.assert_array_equal(kept, had)
        assert left.content_hash != store.content_hash
    lost = [set(s.ids) - set(t.ids) for s, t in zip(stores, torn, strict=True)]
    assert lost[0] != lost[1]


def test_gaps_of_a_modality_do_not_depend_on_the_others(shop: Dataset) -> None:
    both = with_gaps(open_features(shop), shop.items.ids, 0.3, seed=0)
    (alone,) = with_gaps(open_features(shop, ["text"]), shop.items.ids, 0.3, seed=0)
    assert alone.ids == next(store for store in both if store.name == "text").ids


def test_more_gaps_hold_the_fewer(shop: Dataset) -> None:
    ids = [set(with_gaps(open_features(shop), shop.items.ids, s, 0)[0].ids) for s in (0.1, 0.5, 0.9)]
    for more, fewer in pairwise(ids):
        assert fewer < more


def test_an_item_keeps_one_of_its_modalities_if_asked(shop: Dataset) -> None:
    stores = open_features(shop)
    had = set().union(*(store.ids for store in stores))
    bare = with_gaps(stores, shop.items.ids, 0.9, seed=0)
    kept = with_gaps(stores, shop.items.ids, 0.9, seed=0, keep_one=True)
    assert set().union(*(store.ids for store in bare)) < had
    assert set().union(*(store.ids for store in kept)) == had
    for store, more in zip(bare, kept, strict=True):
        assert set(store.ids) < set(more.ids)


def test_nothing_left_is_an_error(shop: Dataset) -> None:
    with pytest.raises(InputError, match="Nothing is left"):
        with_gaps(open_features(shop), shop.items.ids, 0.999, seed=0)


def test_users_are_drawn_once_and_ascending() -> None:
    users = np.array([5, 1, 1, 9, 7], dtype=np.int32)
    np.testing.assert_array_equal(drawn_users(users, None, 0), [1, 5, 7, 9])
    np.testing.assert_array_equal(drawn_users(users, 4, 0), [1, 5, 7, 9])
    two = drawn_users(users, 2, 0)
    assert len(two) == 2
    assert two[0] < two[1]
    np.testing.assert_array_equal(two, drawn_users(users, 2, 0))


def test_some_users_are_kept_with_all_that_they_have(shop: Dataset) -> None:
    split = make_split(shop, ItemColdStart(seed=0))
    some = of_users(split, 7, seed=3)
    users = np.unique(some.pairs.users)
    assert len(users) == 7
    whole = np.isin(split.pairs.users, users)
    np.testing.assert_array_equal(some.pairs.items, split.pairs.items[whole])
    np.testing.assert_array_equal(some.parts, split.parts[whole])
    assert split.order is not None
    np.testing.assert_array_equal(some.order, split.order[whole])
    np.testing.assert_array_equal(np.unique(of_users(split, 7, seed=3).pairs.users), users)
    assert not np.array_equal(np.unique(of_users(split, 7, seed=4).pairs.users), users)
    assert len(of_users(split, 10**6, seed=3).pairs) == len(split.pairs)


def test_users_without_anything_in_a_part_are_an_error(shop: Dataset) -> None:
    split = make_split(shop, ItemColdStart(seed=0))
    trained_only = split.take(split.parts == TRAIN)
    with pytest.raises(InputError, match="nothing in the validation part"):
        of_users(trained_only, 3, seed=0)


def test_what_a_run_asks_for_is_prepared(plan, shop: Dataset) -> None:
    spec = plan(data={"max_per_user": 2, "missing": 0.5}).rows[0].run(1, {})
    split, stores = prepare(spec, shop)
    assert counts(split).max() == 2
    assert split.plan.model_dump()["seed"] == 1
    assert {store.name for store in stores} == {"image", "text"}
    assert all(store.path is None for store in stores)
