from pathlib import Path
from typing import Any

import pytest

from prismrec.data.report import Refusals
from prismrec.data.sources.amazon_items import ATTRIBUTES, ItemReader, plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        # What looks like a tag is one.
        ("a<b and c>d", "a d"),
        ("a < b and c > d", "a < b and c > d"),
        ("<B>bold</B>\n\t text", "bold text"),
        ("x<script type='a'>var a = '<b>';</script >y<!-- c -->", "x y"),
        ("5 &lt; 6 &#39;", "5 < 6 '"),
        ("", ""),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("given", "price", "refused"),
    [
        ("$12.99", 12.99, 0),
        ("1,234", 1234.0, 0),
        (7, 7.0, 0),
        ("", None, 0),
        (None, None, 0),
        ("$1.00 - $2.00", None, 1),
        ("12,34", None, 1),
        (True, None, 1),
        (float("inf"), None, 1),
        (["$1"], None, 1),
    ],
)
def test_prices(given: Any, price: float | None, refused: int) -> None:
    refusals = Refusals()
    record = {"asin": "B", "price": given}
    assert ItemReader(Path("m"), refusals).read_2018("B", 3, record)["price"] == price
    assert [(r.row, r.item_id, r.field) for r in refusals.listed()] == [(3, "B", "price")] * refused


def test_both_editions_give_the_same_attributes() -> None:
    reader = ItemReader(Path("m"), Refusals())
    for read in (reader.read_2014, reader.read_2018):
        assert list(read("B", 0, {"asin": "B"})) == list(ATTRIBUTES)
