from datetime import UTC, date, datetime

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.recommender.filters import matching

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "category": ["mug", "Lamp", None, "a=b"],
        "price": [5.0, 20.0, 7.5, None],
        "size": [1.0, float("nan"), 3.0, None],
        "released": [date(2020, 1, 1), date(2021, 5, 3), None, date(2022, 1, 1)],
        "pages": [1, 2, 3, 4],
        "added": [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)],
        "in_stock": [True, False, None, True],
        "genres": [["Drama", "War"], ["War"], [], None],
        "years": [[1990], [2000, 2001], None, []],
    }
)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "abcd"),
        (["category=mug"], "a"),
        (["category!=mug"], "bcd"),
        (["category~A"], "bd"),
        (["category~."], ""),
        (["category = a=b"], "d"),
        (["price<20"], "ac"),
        (["price<=20"], "abc"),
        ([" price >= 7.5 "], "bc"),
        (["price>5", "price<20"], "c"),
        (["price!=5"], "bcd"),
        (["pages=2"], "b"),
        (["size>0"], "ac"),
        (["size!=1"], "bcd"),
        (["released>=2021-05-03"], "bd"),
        (["added<2020-01-02T12:00"], "ab"),
        (["in_stock=true"], "ad"),
        (["in_stock=No"], "b"),
        (["genres~War"], "ab"),
        (["genres=Drama"], "a"),
        (["genres~Wa"], ""),
        (["years~2001"], "b"),
        (["price~20"], "b"),
        (["item_id>b"], "cd"),
    ],
)
def test_conditions(conditions, expected):
    assert "".join(ITEMS["item_id"].filter(matching(ITEMS, conditions))) == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("category", "cannot be read"),
        ("=mug", "cannot be read"),
        ("color=red", r"no attribute 'color'[\s\S]*category"),
        ("price<cheap", "'price' is a number"),
        ("released>soon", "'released' is a time"),
        ("in_stock=maybe", "'in_stock' is true or false"),
        ("genres<War", "is a list"),
    ],
)
def test_conditions_that_make_no_sense(condition, message):
    with pytest.raises(InputError, match=message):
        matching(ITEMS, [condition])
