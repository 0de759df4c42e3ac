"""Draws show items with titles that the user has never touched, by their weights."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.sequential.pool import ItemPool, keyed


def dataset(log, titles, ratings=None, min_rating=None, text_columns=(), column="title"):
    """Make a data set of (user, item) pairs, item codes being places in `titles`."""
    names = [f"i{code}" for code in range(len(titles))]
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _ in log],
            "item_id": [names[item] for _, item in log],
            "position": [float(n) for n in range(len(log))],
        },
        schema={"user_id": pl.String, "item_id": pl.String, "position": pl.Float64},
    )
    if ratings is not None:
        frame = frame.with_columns(rating=pl.Series(ratings, dtype=pl.Float64))
    items = pl.DataFrame({"item_id": names, column: pl.Series(titles, dtype=pl.String)})
    return Dataset(Interactions(frame), Catalog(items, text_columns), min_rating)


def test_items_without_a_title_are_not_in_it_and_alike_titles_share_a_number():
    pool = ItemPool.of(dataset([("a", 0)], ["Heat", None, " heat ", "  ", "Up", "The  Sea", "the sea"]))
    assert pool.codes.tolist() == [0, 2, 4, 5, 6]
    assert pool.titles.tolist() == [0, -1, 0, -1, 1, 2, 2]


def test_touching_one_item_of_a_title_touches_all_of_them():
    pool = ItemPool.of(dataset([("a", 0), ("b", 2)], ["Heat", "HEAT", "Up", "Sea"]))
    assert pool.rest(pool.taken("a")) == [2, 3]
    assert pool.rest(pool.taken("b")) == [0, 3]


def test_what_was_rated_too_low_to_be_a_positive_was_touched_too():
    pool = ItemPool.of(dataset([("a", 0), ("a", 1)], ["A", "B", "C"], [5.0, 1.0], 4.0))
    assert pool.rest(pool.taken("a")) == [2]


def test_without_titles_there_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match="title"):
        ItemPool.of(dataset([("a", 0)], ["A", "B"], column="plot"))
    plots = dataset([("a", 0)], ["A", "B"], text_columns=("plot",), column="plot")
    assert ItemPool.of(plots).codes.tolist() == [0, 1]


def test_an_unknown_user_is_an_error():
    with pytest.raises(InputError, match="nobody"):
        ItemPool.of(dataset([("a", 0)], ["A"])).taken("nobody")


@given(
    touched=st.sets(st.integers(0, 11), min_size=1, max_size=11),
    names=st.lists(st.sampled_from(["x", "y", "z", "u", "v", "w", None]), min_size=12, max_size=12),
    count=st.integers(1, 8),
    seed=st.integers(0, 1000),
    popular=st.booleans(),
)
def test_a_draw_gives_free_titles_each_once_as_many_as_there_are(touched, names, count, seed, popular):
    names[0] = "x"
    pool = ItemPool.of(dataset([("a", item) for item in touched], names))
    if popular:
        pool = pool.by_popularity(np.arange(12) ** 4)
    found = pool.draw(np.random.default_rng(seed), count, pool.taken("a"))
    free = {name for name in names if name} - {names[item] for item in touched}
    shown = [names[item] for item in found]
    assert set(shown) <= free
    assert len(shown) == len(set(shown)) == min(count, len(free))
    assert all(isinstance(item, int) for item in found)


@pytest.mark.parametrize("touched", [0, 40])
def test_popular_items_are_drawn_as_often_as_they_occur(touched):
    # Of 3 items that are left the counts are 1 (never taken), 2 and 5; the touched ones are the popular ones,
    # so that luck alone rarely finds the others: the second way of drawing has to give the same shares.
    counts = np.array([0, 2, 5] + [10_000] * touched)
    log = [("a", 3 + n) for n in range(touched)] or [("b", 0)]
    data = dataset([*log, ("a", 3 + touched)], [f"t{n}" for n in range(4 + touched)])
    pool = ItemPool.of(data).by_popularity(np.append(counts, 7))
    random = np.random.default_rng(3)
    drawn = [pool.draw(random, 1, pool.taken("a"))[0] for _ in range(4000)]
    shares = np.bincount(drawn, minlength=3)[:3] / 4000
    # Four standard errors of a share.
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=4 * 0.5 / 4000**0.5)


def test_a_key_gives_its_own_draws():
    assert keyed(0, "a", 1).random() == keyed(0, "a", 1).random()
    values = {
        keyed(*key).random() for key in [(0, "a", 1), (1, "a", 1), (0, "a", 2), (0, "a", "1"), (0, "a1")]
    }
    assert len(values) == 5
