import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources import amazon
from prismrec.data.sources.all_sources import source_called
from prismrec.data.sources.source import SourceData

REVIEWS_2014, META_2014 = "reviews_Baby_5.json.gz", "meta_Baby.json.gz"
REVIEWS_2018, META_2018 = "All_Beauty_5.json.gz", "meta_All_Beauty.json.gz"


def review(user: str, item: str, rating: float = 5.0, time: int = 1_400_000_000, **more: Any) -> str:
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "helpful": [0, 1],
            "reviewText": 'it says "asin": "X"',
            "overall": rating,
            "unixReviewTime": time,
            **more,
        }
    )


def write(path: Path, *lines: str | bytes) -> None:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in raw)))


def item_2014(asin: str, **fields: Any) -> str:
    """Return a line as the edition has it: printed by Python."""
    return repr({"asin": asin, **fields})


def read_2014(folder: Path, reviews: list[str | bytes], meta: list[str | bytes]) -> SourceData:
    write(folder / REVIEWS_2014, *reviews)
    write(folder / META_2014, *meta)
    return source_called("amazon-2014/baby").read(folder)


def read_2018(folder: Path, reviews: list[str | bytes], meta: list[str | bytes]) -> SourceData:
    write(folder / REVIEWS_2018, *reviews)
    write(folder / META_2018, *meta)
    return source_called("amazon-2018/all-beauty").read(folder)


def refusals(data: SourceData) -> set[tuple[str, int, str, str]]:
    frame = data.refused.frame()
    return {
        (Path(source).name, row, field, reason)
        for source, row, field, reason in frame.select("source", "row", "field", "reason").iter_rows()
    }


def item(data: SourceData, name: str) -> dict[str, Any]:
    (row,) = data.dataset.catalog.items.filter(pl.col("item_id") == name).to_dicts()
    return row


def test_an_edition_of_2014(tmp_path: Path) -> None:
    data = read_2014(
        tmp_path,
        [review("u1", "B1", 4.0, 10), review("u2", "B2", 1.0, 20), review("u1", "B2", 3.0, 30)],
        [
            item_2014(
                "B2",
                title='It\'s a "Bib" &amp; more',
                price=9.99,
                imUrl="http://ecx.images-amazon.com/images/I/1.jpg",
                brand="Acme",
                categories=[["Baby", "Feeding"], ["Baby", "Bibs"]],
                description="soft\\washable <br/>bib",
                salesRank={"Baby": 3},
                related={"also_bought": ["B1"]},
            ),
            item_2014("B9", title="nobody reviewed it"),
            item_2014("B1"),
        ],
    )
    log = data.dataset.interactions.frame
    assert log.to_dict(as_series=False) == {
        "user_id": ["u1", "u2", "u1"],
        "item_id": ["B1", "B2", "B2"],
        "rating": [4.0, 1.0, 3.0],
        "timestamp": [10.0, 20.0, 30.0],
    }
    assert data.dataset.min_rating is None
    assert list(data.dataset.items) == ["B2", "B1"]
    assert item(data, "B2") == {
        "item_id": "B2",
        "title": 'It\'s a "Bib" & more',
        "brand": "Acme",
        "categories": ["Baby", "Feeding", "Bibs"],
        "description": "soft\\washable bib",
        "price": 9.99,
        "image_url": "http://ecx.images-amazon.com/images/I/1.jpg",
        "image_urls": ["http://ecx.images-amazon.com/images/I/1.jpg"],
    }
    assert data.dataset.catalog.texts()[1] is None
    assert data.dataset.notes["metadata_of_items_without_a_review"] == 1
    assert data.dataset.notes["rows_read"] == {REVIEWS_2014: 3, META_2014: 3}
    assert refusals(data) == set()


def test_an_edition_of_2018(tmp_path: Path) -> None:
    data = read_2018(
        tmp_path,
        [review("u1", "B1"), review("u1", "B2"), review("u1", "B3")],
        [
            json.dumps(
                {
                    "asin": "B1",
                    "title": "<span class='x'>Soap</span> &quot;Nr. 5&quot; < 6",
                    "category": ["Beauty", "Soap &amp; more"],
                    "description": ["First.", "", "<p>Second.</p>"],
                    "feature": ["mild", "mild", "green"],
                    "price": "$1,234.50",
                    "imageURL": ["https://a.example/1._SS40_.jpg"],
                    "imageURLHighRes": ["https://a.example/1.jpg", "https://a.example/2.jpg"],
                }
            ),
            json.dumps({"asin": "B2", "title": "var x = new Date().getTime();", "price": "$1 - $2"}),
            json.dumps({"asin": "B3", "title": ["no"], "imageURL": ["no", "https://a.example/3.jpg"]}),
        ],
    )
    first = item(data, "B1")
    assert first["title"] == 'Soap "Nr. 5" < 6'
    assert first["categories"] == ["Beauty", "Soap & more"]
    assert first["description"] == "First.\nSecond."
    assert first["features"] == ["mild", "green"]
    assert first["price"] == 1234.5
    assert first["image_url"] == "https://a.example/1.jpg"
    assert first["image_urls"] == ["https://a.example/1.jpg", "https://a.example/2.jpg"]
    assert (item(data, "B2")["title"], item(data, "B2")["price"]) == (None, None)
    assert item(data, "B3")["image_url"] == "https://a.example/3.jpg"
    assert refusals(data) == {
        (META_2018, 1, "title", "a script of the page instead of a title"),
        (META_2018, 1, "price", "not one price"),
        (META_2018, 2, "title", "a list, expected a text"),
        (META_2018, 2, "image", "not a web address"),
    }
    assert data.dataset.catalog.text_columns == ("title", "brand", "categories", "features", "description")


def test_broken_lines_are_listed_with_their_rows_and_nothing_else_is_lost(tmp_path: Path) -> None:
    data = read_2014(
        tmp_path,
        [
            review("u1", "B1"),
            '{"reviewerID": "u1", "asin": ',
            "",
            b'{"reviewerID": "\xff", "asin": "B1"}',
            "[1, 2]",
            json.dumps({"asin": "B1", "overall": 5.0, "unixReviewTime": 1}),
            review("u2", " "),
            review("u2", "B1", time="soon"),  # type: ignore[arg-type]
            json.dumps({"reviewerID": "u2", "asin": "B1", "overall": None, "unixReviewTime": 1}),
            json.dumps({"reviewerID": ["u2"], "asin": "B1", "overall": 1, "unixReviewTime": 1}),
            '{"reviewerID": "u2", "asin": "B1", "overall": NaN, "unixReviewTime": 1}',
            '{"reviewerID": "u2", "asin": "B1", "overall": 1e999, "unixReviewTime": 1}',
            review("u1", "B1"),
            review("u1", "B1", 1.0),
            review("u1", "B1", 1.0, 5),
        ],
        [
            "{'asin': 'B1', 'title': __import__('os').system('true')}",
            "{'title': 'whose?'}",
            "{'asin': 7}",
            item_2014("B1", title="one"),
            item_2014("B1", title="one"),
            item_2014("B1", title="two"),
            "{'asin': 'B1'",
        ],
    )
    assert data.dataset.interactions.frame["timestamp"].to_list() == [1_400_000_000.0, 5.0]
    assert refusals(data) == {
        (REVIEWS_2014, 1, "line", "cannot be read as a record"),
        (REVIEWS_2014, 3, "line", "not UTF-8"),
        (REVIEWS_2014, 4, "line", "a list, expected an object"),
        (REVIEWS_2014, 5, "user_id", "missing"),
        (REVIEWS_2014, 6, "item_id", "missing"),
        (REVIEWS_2014, 7, "timestamp", "not a number"),
        (REVIEWS_2014, 8, "rating", "missing"),
        (REVIEWS_2014, 9, "reviewerID", "a list, expected a text or a number"),
        (REVIEWS_2014, 10, "line", "cannot be read as a record"),
        (REVIEWS_2014, 11, "rating", "not a finite number"),
        (REVIEWS_2014, 12, "item_id", "duplicate"),
        (REVIEWS_2014, 13, "item_id", "duplicate, with other values"),
        (META_2014, 0, "line", "cannot be read as a record"),
        (META_2014, 1, "item_id", "missing"),
        (META_2014, 2, "item_id", "missing"),
        (META_2014, 4, "item_id", "duplicate"),
        (META_2014, 5, "item_id", "duplicate, with other values"),
        (META_2014, 6, "line", "cannot be read as a record"),
    }
    (duplicate,) = data.refused.frame().filter(pl.col("row") == 13).to_dicts()
    assert (duplicate["user_id"], duplicate["item_id"]) == ("u1", "B1")
    assert data.dataset.notes["rows_read"] == {REVIEWS_2014: 15, META_2014: 7}


def test_items_without_metadata_stay(tmp_path: Path) -> None:
    data = read_2014(tmp_path, [review("u", "B2"), review("u", "B1")], [item_2014("B2", title="t")])
    assert list(data.dataset.items) == ["B2", "B1"]
    assert data.dataset.notes["items_without_metadata"] == 1
    assert len(data.dataset.interactions) == 2


def test_another_items_id_inside_a_text_does_not_hide_a_record(tmp_path: Path) -> None:
    line = '{"title": "see \'asin\': \'B9\'", "asin": "B1"}'
    data = read_2018(tmp_path, [review("u", "B1")], [line])
    assert item(data, "B1")["title"] == "see 'asin': 'B9'"


def test_chunks_do_not_change_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str | bytes] = [review(f"u{n % 7}", f"B{n % 5}", time=n % 20) for n in range(60)]
    lines[31] = "broken"
    meta: list[str | bytes] = [item_2014("B1", title="t")]
    whole = read_2014(tmp_path, lines, meta)
    monkeypatch.setattr(amazon, "_CHUNK", 4)
    parts = read_2014(tmp_path, lines, meta)
    assert parts.dataset.content_hash == whole.dataset.content_hash
    assert refusals(parts) == refusals(whole)


def test_the_other_edition_is_no_data_set(tmp_path: Path) -> None:
    write(tmp_path / REVIEWS_2018, "{'reviewerID': 'u', 'asin': 'B1'}")
    write(tmp_path / META_2018, json.dumps({"asin": "B1"}))
    with pytest.raises(InputError, match="none of its 1 rows can be used") as caught:
        source_called("amazon-2018/all-beauty").read(tmp_path)
    assert "edition" in str(caught.value)


def test_a_file_that_is_cut_off_or_missing(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(review(f"u{n}", "B1", time=n) for n in range(500)).encode())
    (tmp_path / REVIEWS_2014).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"reviews_Baby_5.*unpacked"):
        source_called("amazon-2014/baby").read(tmp_path)
    (tmp_path / REVIEWS_2014).write_bytes(b"no archive")
    with pytest.raises(InputError, match="unpacked"):
        source_called("amazon-2014/baby").read(tmp_path)
    write(tmp_path / REVIEWS_2014, review("u", "B1"))
    with pytest.raises(InputError, match=r"meta_Baby.*no such file"):
        source_called("amazon-2014/baby").read(tmp_path)
