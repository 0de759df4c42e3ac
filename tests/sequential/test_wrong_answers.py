"""Where wrong answers are looked for."""

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.sequential.examples import Example
from prismrec.sequential.wrong_answers import Alike, checked_neighbours, ranked_wrong


def catalogue(values, dtype=None):
    """Make a data set whose items have an attribute ``kind``."""
    names = [f"i{code}" for code in range(len(values))]
    items = pl.DataFrame({"item_id": names, "kind": pl.Series(values, dtype=dtype)})
    log = pl.DataFrame({"user_id": ["a"], "item_id": ["i0"], "position": [0.0]})
    return Dataset(Interactions(log), Catalog(items))


def test_lists_share_an_element_and_each_item_comes_once():
    alike = Alike(catalogue([["x", "y"], ["y"], ["x", "y"], ["z"], [], None, ["z", "x"]]), "kind")
    random = np.random.default_rng(0)
    assert sorted(alike.stream(0, random)) == [0, 1, 2, 6]
    assert sorted(alike.stream(3, random)) == [3, 6]
    assert list(alike.stream(4, random)) == list(alike.stream(5, random)) == []


def test_a_large_kind_comes_whole_in_random_order():
    alike = Alike(catalogue(["x"] * 30 + ["", None]), "kind")
    orders = [list(alike.stream(0, np.random.default_rng(seed))) for seed in range(400)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    firsts = np.bincount([order[0] for order in orders], minlength=30)
    # 400 draws of 30: four standard deviations above 13.
    assert firsts.max() < 13.4 + 4 * 13.4**0.5
    assert list(alike.stream(30, np.random.default_rng(0))) == []


def test_an_attribute_that_is_missing_or_empty_is_an_error():
    with pytest.raises(InputError, match="no attribute 'genre'"):
        Alike(catalogue(["x"]), "genre")
    with pytest.raises(InputError, match="no value"):
        Alike(catalogue([None, None], pl.String), "kind")


def test_candidates_come_by_score_and_ties_by_place():
    examples = [Example("a", (), (5,), candidates=(5, 6, 7)), Example("a", (), (1,), candidates=(1, 2))]
    ranked = ranked_wrong(examples, [np.array([1.0, 2.0, 2.0]), np.array([-np.inf, 0.0])])
    assert ranked(0) == [6, 7, 5]
    assert ranked(1) == [2, 1]


def test_neighbours_that_fit_are_given_back():
    near = np.array([[1, -1], [0, 2], [-1, -1]])
    assert (checked_neighbours(near, 3) == near).all()
    with pytest.raises(InputError, match="one row"):
        checked_neighbours(near, 4)
