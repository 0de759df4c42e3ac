import io
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from prismrec.base.errors import InputError
from prismrec.cli.app import app
from prismrec.data.dataset import Dataset
from prismrec.data.sources.hanorec_files import read_hanorec, sources

LISTS = {"train": "7\t30 4 11 4\n9\t4\n", "val": "\n2\t11 30\n", "test": "3\t12 4\n"}
TITLES = 'item,title\n4,"Cats, and dogs"\n30,"A ""big"" bus"\n5,Nobody saw this\n12,\n'


def folder(path: Path, titles: str | None = TITLES, **lists: str) -> Path:
    for name, text in {**LISTS, **lists}.items():
        (path / f"{name}.tsv").write_text(text)
    if titles is not None:
        (path / "Netflix_titles.csv").write_text(titles, encoding="utf-8")
    return path


def jpeg(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(content, "JPEG")
    return content.getvalue()


def pictures(place: Path, *names: str) -> Path:
    place.mkdir()
    for name in names:
        (place / name).write_bytes(jpeg("red"))
    return place


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="prismrec")
    assert done.exit_code == 0, done.output
    return done.output


def test_lists_titles_and_pictures(tmp_path: Path) -> None:
    pictures(folder(tmp_path) / "images", "4.jpg", "12.jpg", "627.jpg")
    read = read_hanorec(tmp_path)
    assert read.dataset.interactions.frame.rows() == [
        ("7", "30", 0.0),
        ("7", "4", 1.0),
        ("7", "11", 2.0),
        ("7", "4", 3.0),
        ("9", "4", 0.0),
        ("2", "11", 0.0),
        ("2", "30", 1.0),
        ("3", "12", 0.0),
        ("3", "4", 1.0),
    ]
    assert read.dataset.interactions.order_column == "position"
    assert read.dataset.catalog.items.rows() == [
        ("4", "Cats, and dogs"),
        ("5", "Nobody saw this"),
        ("11", None),
        ("12", None),
        ("30", 'A "big" bus'),
    ]
    assert read.dataset.catalog.media["image"].ids == ("12", "4")
    assert [(Path(r.source).name, r.reason) for r in read.refused.listed()] == [("627.jpg", "no such item")]
    assert (read.parts, read.features) == (None, ())
    assert read.dataset.notes["users_listed"] == {"train.tsv": 2, "val.tsv": 1, "test.tsv": 1}


def test_a_user_in_several_files_keeps_the_longest_history(tmp_path: Path) -> None:
    read = read_hanorec(folder(tmp_path, val="7\t30 4 11 4 12\n", test="7\t30 4 11\n"))
    log = read.dataset.interactions.frame.filter(pl.col("user_id") == "7")
    assert log["item_id"].to_list() == ["30", "4", "11", "4", "12"]
    with pytest.raises(InputError, match=r"val\.tsv, row 0: user 7 has another history in train\.tsv, row 0"):
        read_hanorec(folder(tmp_path, val="7\t30 5\n"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1 2 3\n", "row 0: '1 2 3' names no user"),
        ("user\titems\n", "row 0: 'user.*names no user"),
        ("1\t2\nx\t3\n", "row 1: 'x.*names no user"),
        ("1\t2 b\n", "row 0: 'b' is no item of user 1"),
        ("1\t\n", "row 0: '' is no item of user 1"),
        ("1\t2\n1\t2\n", "row 1: user 1 stands in row 0 too"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"val\.tsv, {said}"):
        read_hanorec(folder(tmp_path, val=lines))


@pytest.mark.parametrize(
    ("titles", "said"),
    [
        ("4,Cats\n", "has the columns"),
        ("item,title\nx,Cats\n", "row 0: item is 'x'"),
        ("item,title\n4,Cats\n4,Dogs\n", "row 1: item 4 stands in row 0 too"),
        ("item,title\n4,Cats\n5,Cats, and dogs\n", "data row 1.*has 3 fields"),
    ],
)
def test_titles_that_cannot_be_used(tmp_path: Path, titles: str, said: str) -> None:
    with pytest.raises(InputError, match=f"Netflix_titles.csv.*{said}"):
        read_hanorec(folder(tmp_path, titles))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.tsv: there is no such file"):
        read_hanorec(tmp_path)
    with pytest.raises(InputError, match=r"has 0 files \*_titles\.csv"):
        read_hanorec(folder(tmp_path, titles=None))
    (tmp_path / "Other_titles.csv").write_text(TITLES)
    with pytest.raises(InputError, match=r"has 2 files \*_titles\.csv"):
        read_hanorec(folder(tmp_path))
    with pytest.raises(InputError, match=r"train\.tsv: no user is listed"):
        read_hanorec(folder(tmp_path, train="", val="", test="\n"))
    (tmp_path / "train.tsv").write_bytes(b"1\t\xb2\n")
    with pytest.raises(InputError, match=r"train\.tsv: is no text of numbers"):
        read_hanorec(tmp_path)


def test_the_command_line_makes_a_data_set_with_an_order(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    pictures(folder(raw) / "images", "4.jpg")
    shown = run("source", sources[0].name, "--raw", raw, "--out", tmp_path / "netflix")
    assert "4 users, 5 items, 9 interactions" in shown
    dataset = Dataset.read(tmp_path / "netflix")
    assert dataset.catalog.media["image"].ids == ("4",)
    pairs, order = dataset.positives()
    assert order is not None
    # User 7 took item 4 twice; it counts at its first place.
    of_seven = [
        (dataset.items.ids[item], place)
        for user, item, place in zip(pairs.users, pairs.items, order, strict=True)
        if dataset.users.ids[user] == "7"
    ]
    assert sorted(of_seven, key=lambda one: one[1]) == [("30", 0.0), ("4", 1.0), ("11", 2.0)]


@pytest.mark.parametrize(("name", "separator"), [("Netflix_pairs.csv", ","), ("Netflix_pairs.tsv", "\t")])
def test_a_table_of_pairs_is_ingested_as_it_is(tmp_path: Path, name: str, separator: str) -> None:
    rows = [("user", "item", "timestamp"), ("7", "30", "20"), ("7", "4", "10"), ("9", "4", "5")]
    (tmp_path / name).write_text("".join(separator.join(row) + "\n" for row in rows))
    (tmp_path / "Netflix_titles.csv").write_text(TITLES, encoding="utf-8")
    images = pictures(tmp_path / "images", "4.jpg", "30.jpg")
    words = ("--items", tmp_path / "Netflix_titles.csv", "--images", images, "--out", tmp_path / "netflix")
    run("ingest", "--interactions", tmp_path / name, *words)
    dataset = Dataset.read(tmp_path / "netflix")
    assert dataset.interactions.frame.rows() == [("7", "30", 20.0), ("7", "4", 10.0), ("9", "4", 5.0)]
    assert dataset.interactions.order_column == "timestamp"
    assert dataset.catalog.text_columns == ("title",)
    assert dataset.catalog.titles()[:2] == ["Cats, and dogs", 'A "big" bus']
    assert sorted(dataset.catalog.media["image"].ids) == ["30", "4"]
