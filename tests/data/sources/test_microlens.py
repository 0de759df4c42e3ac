from pathlib import Path

import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources.microlens import read_microlens, sources
from prismrec.data.splits import LeaveLast

PAIRS = "user,item,timestamp\n7,30,1583378629552\n7,4,1583378629000\n9,4,1583378630000\n7,11,1583378631500\n"
TITLES = '4,Cats, and dogs\n30,"A ""big"", red bus"\n5,Nobody\u2028saw this\n12,\n'


def folder(path: Path, pairs: str = PAIRS, titles: str | None = TITLES) -> Path:
    (path / "MicroLens-100k_pairs.csv").write_text(pairs)
    if titles is not None:
        (path / "MicroLens-100k_title_en.csv").write_text(titles, encoding="utf-8")
    return path


def test_log_titles_categories_and_covers(tmp_path: Path) -> None:
    covers = folder(tmp_path) / "MicroLens-100k_covers"
    covers.mkdir()
    for name in ("4.jpg", "30.png", "30.jpg", "77.jpg", "readme.txt"):
        (covers / name).write_bytes(name.encode())
    (tmp_path / "tags_to_summary.csv").write_text("4,Animals\n11,Food\n")
    read = read_microlens(tmp_path, "100k")
    assert read.dataset.interactions.frame.rows()[0] == ("7", "30", 1583378629.552)
    assert read.dataset.catalog.items.rows() == [
        ("4", "Cats, and dogs", "Animals"),
        ("5", "Nobody\u2028saw this", None),
        ("11", None, "Food"),
        ("30", 'A "big", red bus', None),
    ]
    assert read.dataset.catalog.text_columns == ("title",)
    pictures = read.dataset.catalog.media["image"]
    assert {name: pictures.read(name) for name in pictures.ids} == {"30": b"30.jpg", "4": b"4.jpg"}
    assert [(Path(r.source).name, r.item_id, r.reason) for r in read.refused.listed()] == [
        ("30.png", "30", "a second picture"),
        ("77.jpg", "77", "no such item"),
    ]
    assert (read.features, read.parts) == ((), None)


def test_pairs_alone_in_order_of_time(tmp_path: Path) -> None:
    read = read_microlens(folder(tmp_path, titles=None), "100k")
    assert read.dataset.catalog.items.columns == ["item_id"]
    split = read.dataset.split(LeaveLast(n=1))
    test, _ = split.open_test({})
    assert split.items.names(split.valid.items) == ["30"]
    assert split.items.names(test.items) == ["11"]


def test_names_of_the_smaller_one(tmp_path: Path) -> None:
    (tmp_path / "MicroLens-50k_pairs.csv").write_text(PAIRS)
    (tmp_path / "MicroLens-50k_titles.csv").write_text("item,title\n4,Cats\n")
    read = read_microlens(tmp_path, "50k")
    assert read.dataset.catalog.titles() == ["Cats", "11", "30"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7,x,1", "row 4: item is 'x'"),
        ("7,,1", "row 4: item is None"),
        ("7,4,-1", "row 4: timestamp is '-1'"),
        ("7,4,1.5", "row 4: timestamp is '1.5'"),
        ("7,4,1,2", "cannot be read as CSV"),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError, match=f"pairs.csv.*{said}"):
        read_microlens(folder(tmp_path, PAIRS + line + "\n"), "100k")


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pairs\.csv: there is no such file"):
        read_microlens(tmp_path, "100k")
    for pairs, said in (
        ("7,30,1583378629552\n", "has the columns"),
        ("user,item,timestamp\n", "no row"),
        ("", "cannot be read as CSV"),
    ):
        with pytest.raises(InputError, match=said):
            read_microlens(folder(tmp_path, pairs), "100k")


@pytest.mark.parametrize(
    ("titles", "said"),
    [
        ("4,Cats\n4,Dogs\n", "row 1: video 4 stands in row 0 too"),
        ("4,\n4,Dogs\n", "row 1: video 4 stands in row 0 too"),
        ("4,Cats\nand dogs\n", "row 1: 'and dogs' names no video"),
        ("4,Cats\nb,dogs\n", "row 1: 'b,dogs' names no video"),
        ("4\n", "row 0: '4' names no video"),
    ],
)
def test_titles_that_cannot_be_used(tmp_path: Path, titles: str, said: str) -> None:
    with pytest.raises(InputError, match=f"title_en.csv, {said}"):
        read_microlens(folder(tmp_path, titles=titles), "100k")


def test_titles_that_are_no_text(tmp_path: Path) -> None:
    (folder(tmp_path) / "MicroLens-100k_title_en.csv").write_bytes(b"4,\xff\xff")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        read_microlens(tmp_path, "100k")


def test_sources_name_the_files_that_are_read(tmp_path: Path) -> None:
    assert [source.name for source in sources] == ["microlens/50k", "microlens/100k"]
    for source in sources:
        pairs, titles = source.files
        (tmp_path / pairs.name).write_text(PAIRS)
        (tmp_path / titles.name).write_text("4,Cats\n")
        assert source.read(tmp_path).dataset.catalog.titles()[0] == "Cats"
        assert all(file.url.startswith("https://recsys.westlake.edu.cn/") for file in source.files)
        assert all(file.url.endswith(f"/{file.name}") for file in source.files)
