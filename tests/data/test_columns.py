from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.columns import (
    ITEM_ROLES,
    LOG_ROLES,
    ColumnMapping,
    choose_text_columns,
    find_columns,
)
from prismrec.data.readers import Table

PATH = Path("t.csv")


@dataclass(frozen=True)
class Columns(Table):
    """A table of which only the columns are known."""

    known: pl.Schema
    textual = True

    @property
    def schema(self) -> pl.Schema:
        return self.known


def table(*columns: str, **types: pl.DataType) -> Table:
    schema = {**dict.fromkeys(columns, pl.String()), **types}
    return Columns(PATH, (PATH,), pl.Schema(schema))


def log(*columns: str, **given: str) -> dict[str, str]:
    found = find_columns(table(*columns), LOG_ROLES, ColumnMapping(**given), ("user", "item"))
    return {str(role): column for role, column in found.items()}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["user_id", "item_id"], {"user": "user_id", "item": "item_id"}),
        (["userId", "movieId"], {"user": "userId", "item": "movieId"}),
        (["User ID", "Product"], {"user": "User ID", "item": "Product"}),
        (
            ["reviewerID", "asin", "overall", "unixReviewTime", "reviewTime", "id"],
            {"user": "reviewerID", "item": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
        ),
        (["uid", "iid", "position"], {"user": "uid", "item": "iid", "position": "position"}),
    ],
)
def test_usual_names(columns: list[str], expected: dict[str, str]) -> None:
    assert log(*columns) == expected


def test_own_name_goes_before_other_usual_names() -> None:
    assert log("user_id", "user", "item_id", "asin")["user"] == "user_id"


def test_given_goes_before_found_and_none_is_possible() -> None:
    found = log("user_id", "klant", "item_id", "rating", user="klant", rating="")
    assert found == {"user": "klant", "item": "item_id"}


def test_ambiguous_columns_ask() -> None:
    with pytest.raises(InputError, match=r"\['asin', 'parent_asin'\] could each be the item") as caught:
        log("user_id", "asin", "parent_asin")
    assert "--column item=asin" in str(caught.value)
    assert log("user_id", "asin", "parent_asin", item="parent_asin")["item"] == "parent_asin"


def test_missing_columns_ask() -> None:
    with pytest.raises(InputError, match="known to hold the user ids") as caught:
        log("who", "item_id")
    assert "['who', 'item_id']" in str(caught.value)
    assert "--column user=" in str(caught.value)


def test_wrong_separator_is_guessed() -> None:
    with pytest.raises(InputError, match="separated otherwise"):
        log("user_id;item_id;rating")


def test_given_column_must_exist() -> None:
    with pytest.raises(InputError, match=r"no column 'wer' \(given for user\)"):
        log("user_id", "item_id", user="wer")


def test_one_column_for_two_roles_is_refused() -> None:
    with pytest.raises(InputError, match="both user and item"):
        log("x", user="x", item="x")


def test_a_column_given_for_one_role_is_not_found_for_another() -> None:
    assert log("user_id", "item_id", "count", rating="count") == {
        "user": "user_id",
        "item": "item_id",
        "rating": "count",
    }


def test_id_alone_is_the_item_in_a_catalogue_only() -> None:
    assert find_columns(table("id", "title"), ITEM_ROLES, ColumnMapping(), ("item",)) == {"item": "id"}
    with pytest.raises(InputError, match="hold the item ids"):
        log("user_id", "id")


def test_media_columns_need_a_type_that_holds_media() -> None:
    embedded = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    assert find_columns(
        table("item_id", image=pl.Int64(), audio=embedded), ITEM_ROLES, ColumnMapping(), ("item",)
    ) == {"item": "item_id", "audio": "audio"}


def test_parse() -> None:
    assert ColumnMapping.parse(["user=a=b", "rating="]) == ColumnMapping(user="a=b", rating="")
    for bad in (["user"], ["who=x"], ["user=a", "user=b"]):
        with pytest.raises(InputError, match="--column"):
            ColumnMapping.parse(bad)


def test_text_columns_by_default() -> None:
    items = pl.DataFrame(
        {
            "item_id": ["1", "2"],
            "brand": ["Acme", None],
            "title": ["one.jpg is a title", "two"],
            "tags": [["a"], None],
            "year": [1999, 2000],
            "group_id": ["g1", "g2"],
            "storeId": ["s1", "s2"],
            "Madrid": ["paid", "void"],
            "homepage": ["https://a.example/x", "http://b.example"],
            "cover_file": ["some words", "more words"],
            "pic": ["a.jpg", "b/c.png"],
            "released": ["1999-01-01", "2000-12-31T00:00:00Z"],
            "empty": pl.Series([None, None], dtype=pl.String),
        }
    )
    assert choose_text_columns(items, None, PATH) == ("title", "brand", "tags", "Madrid")


def test_text_columns_as_wanted() -> None:
    items = pl.DataFrame({"item_id": ["1"], "year": [1], "a": ["x"], "when": [pl.Series([1])]})
    assert choose_text_columns(items, ["year", "a", "year"], PATH) == ("year", "a")
    with pytest.raises(InputError, match="no column 'b'"):
        choose_text_columns(items, ["b"], PATH)
    with pytest.raises(InputError, match="Boolean and holds no text"):
        choose_text_columns(items.with_columns(flag=True), ["flag"], PATH)
