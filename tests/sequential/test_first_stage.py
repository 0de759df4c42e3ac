"""Lists of a first stage as candidates: nothing touched, nothing untitled, misses that stay misses."""

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.sequential.first_stage import first_lists, reranked
from prismrec.sequential.pool import ItemPool

TITLES = ["A", "B", "C", "D", None, "F", "c"]


@pytest.fixture
def data():
    # User a has touched 0, 1, 2; user b 5.
    log = [("a", 0), ("a", 1), ("a", 2), ("b", 5)]
    frame = pl.DataFrame(
        {
            "user_id": [u for u, _ in log],
            "item_id": [f"i{i}" for _, i in log],
            "position": [0.0, 1.0, 2.0, 0.0],
        }
    )
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(len(TITLES))], "title": TITLES})
    return Dataset(Interactions(frame), Catalog(items))


def test_touched_untitled_and_gaps_go_and_the_rest_keeps_its_order(data):
    pool = ItemPool.of(data)
    assert reranked("a", 2, [1, 5, 4, -1, 2, 0, 3], pool, None, must_hold=False) == [5, 2, 3]
    assert reranked("a", 2, [1, 5, 4, -1, 2, 0, 3], pool, 1, must_hold=False) == [5]


def test_another_item_of_the_positives_title_does_not_stand_in_for_it(data):
    pool = ItemPool.of(data)
    assert reranked("a", 2, [6, 5, 3], pool, None, must_hold=False) == [5, 3]
    assert reranked("a", 2, [6, 5, 2], pool, None, must_hold=False) == [5, 2]


def test_a_positive_that_was_not_found_takes_the_last_place_in_training_only(data):
    pool = ItemPool.of(data)
    assert reranked("a", 2, [5, 3], pool, 2, must_hold=True) == [5, 2]
    assert reranked("a", 2, [5, 3], pool, 2, must_hold=False) == [5, 3]
    assert reranked("a", 2, [3, 2, 5], pool, 2, must_hold=True) == [3, 2]
    # There is room: nobody has to go.
    assert reranked("a", 2, [5, 3], pool, 4, must_hold=True) == [5, 3, 2]


def test_a_user_without_candidates_is_an_error_that_names_the_user(data):
    with pytest.raises(InputError, match="'a'"):
        reranked("a", 2, [0, 1, -1], ItemPool.of(data), None, must_hold=False)


def test_lists_come_from_a_function_of_ids_or_an_array_of_all_users(data):
    table = np.array([[3, 4], [0, -1]])
    assert first_lists(data, ["b"], table) == {"b": [0, -1]}
    assert first_lists(data, ["b", "a"], lambda users: np.array([[len(u), 3] for u in users])) == {
        "b": [1, 3],
        "a": [1, 3],
    }


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, 3), int), np.zeros(2, int), np.zeros((2, 2)), np.full((2, 2), 7), np.full((2, 2), -2)],
)
def test_an_array_that_does_not_fit_is_an_error(data, wrong):
    with pytest.raises(InputError, match="first stage"):
        first_lists(data, ["a"], wrong)
