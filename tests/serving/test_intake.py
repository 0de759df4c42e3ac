from datetime import date, datetime
from types import SimpleNamespace

import polars as pl
import pytest

from prismrec.data.catalog import Catalog
from prismrec.serving.intake import as_catalog
from prismrec.serving.types import NewItem

SCHEMA = {
    "item_id": pl.String,
    "title": pl.String,
    "price": pl.Float64,
    "pages": pl.Int32,
    "sold": pl.Boolean,
    "out": pl.Date,
    "seen": pl.Datetime("us"),
    "genres": pl.List(pl.String),
}


@pytest.fixture(scope="module")
def run():
    """Return what stands for a run: it has a catalogue."""
    return SimpleNamespace(catalog=Catalog(pl.DataFrame(schema=SCHEMA), ("title",)))


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("price", 3, 3.0),
        ("price", None, None),
        ("pages", 300, 300),
        ("sold", True, True),
        ("out", "2024-05-31", date(2024, 5, 31)),
        ("out", date(2024, 5, 31), date(2024, 5, 31)),
        ("seen", "2024-05-31T10:00:00", datetime(2024, 5, 31, 10)),
        ("genres", ["a", "b"], ["a", "b"]),
        ("genres", [], []),
    ],
)
def test_values_that_fit(run, column, value, kept):
    catalog, problems = as_catalog(run, [NewItem("x", {column: value}, b"picture")])
    assert problems == []
    assert dict(catalog.items.schema) == SCHEMA
    row = catalog.items.row(0, named=True)
    assert row == {**dict.fromkeys(SCHEMA), "item_id": "x", column: kept}
    assert catalog.media["image"].read("x") == b"picture"
    assert catalog.text_columns == ("title",)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("title", 3),
        ("price", "cheap"),
        ("price", True),
        ("pages", 3.5),
        ("pages", 2**40),
        ("sold", "yes"),
        ("out", "soon"),
        ("seen", 5.5),
        ("genres", "a"),
        ("genres", [1]),
    ],
)
def test_values_that_do_not(run, column, value):
    catalog, problems = as_catalog(run, [NewItem("x", {column: value}, b"picture"), NewItem("y", {})])
    assert catalog.vocabulary.ids == ("y",)
    assert catalog.media == {}
    assert [(name, field) for name, field, _ in problems] == [("x", column)]
    assert f"expected {SCHEMA[column] if column != 'seen' else 'Datetime'}" in problems[0][2]


def test_an_item_may_not_name_its_id_among_its_attributes(run):
    catalog, problems = as_catalog(run, [NewItem("x", {"item_id": "y"})])
    assert catalog.vocabulary.ids == ("x",)
    assert [(name, field) for name, field, _ in problems] == [("x", "item_id")]
