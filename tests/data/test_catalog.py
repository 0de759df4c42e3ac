import warnings

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia


def test_reading_a_clean_file_warns_of_nothing(tmp_path):
    pl.DataFrame({"item_id": ["a/1", "é"], "title": ["One", "Two"], "price": [1.5, 2.0]}).write_parquet(
        tmp_path / "new.parquet"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog = Catalog.read(tmp_path / "new.parquet")
    assert catalog.vocabulary.ids == ("a/1", "é")
    assert catalog.texts() == ["One", "Two"]


def test_what_is_left_out_is_counted_with_the_first_reason(tmp_path):
    (tmp_path / "new.csv").write_text("item_id,title\na,One\na,Other\nb,Two\n,Three\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "b.jpg").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"new\.csv: 3 rows or contents were left out; the first") as caught:
        catalog = Catalog.read(tmp_path / "new.csv", images=tmp_path / "pictures", text_columns=["title"])
    assert catalog.vocabulary.ids == ("a", "b")
    assert caught[0].filename == __file__


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "new.csv").write_text("item_id,title\n,One\n,Two\n")
    with pytest.raises(InputError, match="no item is left"):
        Catalog.read(tmp_path / "new.csv")


def test_texts_and_titles():
    frame = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "title": ["One", " ", None], "tags": [["x", "y"], None, ["z"]]}
    )
    catalog = Catalog(frame, ("title", "tags"))
    assert catalog.texts() == ["One\nx, y", None, "z"]
    assert catalog.titles() == ["One", "b", "c"]
    assert Catalog(frame.drop("title"), ("tags",)).titles() == ["x, y", "b", "z"]
    assert Catalog(frame.select("item_id")).titles() == ["a", "b", "c"]
    assert catalog.select(["c", "a"]).texts() == ["z", "One\nx, y"]


def test_what_is_no_catalogue_is_refused():
    frame = pl.DataFrame({"item_id": ["a", "a"], "title": ["x", "y"]})
    with pytest.raises(InputError, match="stands twice"):
        Catalog(frame)
    with pytest.raises(InputError, match="no column 'item_id'"):
        Catalog(frame.rename({"item_id": "id"}))
    with pytest.raises(InputError, match="no column 'plot'"):
        Catalog(frame[:1], ("plot",))
    with pytest.raises(InputError, match="Unknown kind"):
        Catalog(frame[:1], (), {"video": MemoryMedia({})})
    with pytest.raises(InputError, match="no item 'b'"):
        Catalog(frame[:1]).select(["b"])


def test_what_a_notebook_shows_is_a_line():
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["One", "Two"]})
    assert repr(Catalog(items)) == "Catalog(2 items)"
    media = {"image": MemoryMedia({"a": b"x"})}
    assert repr(Catalog(items, ("title",), media)) == "Catalog(2 items; text of title; image of 1)"
