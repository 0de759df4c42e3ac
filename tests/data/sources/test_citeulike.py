from pathlib import Path

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources.citeulike import read_citeulike, sources

RAW = (
    '"doc.id","title","citeulike.id","raw.title","raw.abstract"\n'
    '"1","the cell","42","The {C}ell","Cells, ""alive"".\nAnd more."\n'
    '"2","graphs","43","","Networks"\n'
    '"3","caf\xe9","44","Caf\xe9",""\n'
)
USERS = "2 0 2\n1 1\n3 0 1 2\n"
MULT = "2 0:3 2:1\n0\n1 1:2\n"
WORDS = "cell\ngraph\nalive\n"


def folder(
    path: Path, raw: str = RAW, users: str = USERS, mult: str = MULT, encoding: str = "latin-1"
) -> Path:
    (path / "raw-data.csv").write_bytes(raw.encode(encoding))
    (path / "users.dat").write_text(users)
    (path / "mult.dat").write_text(mult)
    (path / "vocabulary.dat").write_text(WORDS)
    return path


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_libraries_articles_and_words(tmp_path: Path, encoding: str) -> None:
    read = read_citeulike(folder(tmp_path, encoding=encoding))
    assert read.dataset.interactions.frame.rows() == [
        *[("0", "0"), ("0", "2"), ("1", "1"), ("2", "0"), ("2", "1"), ("2", "2")]
    ]
    assert read.dataset.catalog.items.rows() == [
        ("0", "The {C}ell", 'Cells, "alive".\nAnd more.', "42"),
        ("1", "graphs", "Networks", "43"),
        ("2", "Café", None, "44"),
    ]
    assert read.dataset.catalog.texts()[1:] == ["graphs\nNetworks", "Café"]
    assert read.parts is None
    (words,) = read.features
    assert (words.modality, words.ids) == ("words", ("0", "2"))
    assert words.vectors.dtype == np.float16
    np.testing.assert_array_equal(words.vectors, [[3, 0, 1], [0, 2, 0]])
    assert [(r.row, r.item_id, r.reason) for r in read.refused.listed()] == [(1, "1", "no words")]


def test_counts_too_large_for_float16(tmp_path: Path) -> None:
    (words,) = read_citeulike(folder(tmp_path, mult="1 0:2049\n0\n1 1:2\n")).features
    assert words.vectors.dtype == np.float32
    assert words.vectors[0, 0] == 2049


def test_without_words(tmp_path: Path) -> None:
    (folder(tmp_path) / "mult.dat").unlink()
    assert read_citeulike(tmp_path).features == ()


def test_an_article_twice_in_a_library(tmp_path: Path) -> None:
    read = read_citeulike(folder(tmp_path, users="3 0 2 0\n"))
    assert [(r.row, r.item_id, r.reason) for r in read.refused.listed()][:1] == [
        (0, "0", "the pair stands twice")
    ]


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("2 0 2\n2 1\n", "users.dat, row 1: announces 2 articles and has 1"),
        ("2 0 2\n\n", "users.dat, row 1: '' is not only numbers"),
        ("2 0 b\n", "users.dat, row 0: '2 0 b' is not only numbers"),
        ("1 0\n1 3\n", r"users.dat, row 1: item 3 is out of range(.|\n)*articles of raw-data.csv"),
        ("", "no pair"),
    ],
)
def test_libraries_that_cannot_be_used(tmp_path: Path, users: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_citeulike(folder(tmp_path, users=users))


@pytest.mark.parametrize(
    ("mult", "said"),
    [
        ("0\n0\n", "has 2 lines, and raw-data.csv 3 articles"),
        ("0\n1 0:1 1:1\n0\n", "row 1: announces 1 words and has 2"),
        ("0\n1 3:1\n0\n", "row 1: word 3 is not among the 3"),
        ("0\n2 1:1 1:2\n0\n", "row 1: a word stands twice"),
        ("0\n1 1:0\n0\n", "row 1: a count is 0"),
        ("0\n1 1:x\n0\n", "row 1: '1 1 x' is not only numbers"),
        ("0\n1 1 1\n0\n", "row 1: announces 1 words and has 0"),
        ("0\n0\n0\n", "no article has a word"),
    ],
)
def test_bags_that_cannot_be_used(tmp_path: Path, mult: str, said: str) -> None:
    with pytest.raises(InputError, match=f"mult.dat.*{said}"):
        read_citeulike(folder(tmp_path, mult=mult))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (RAW.replace("raw.title", "full"), "has the columns"),
        (RAW.replace('"3","caf', '"4","caf'), "row 2: has 5 cells and the doc.id '4'"),
        (RAW.replace('"44",', ""), "row 2: has 4 cells"),
        ("", r"has the columns \[\]"),
    ],
)
def test_articles_that_cannot_be_used(tmp_path: Path, raw: str, said: str) -> None:
    with pytest.raises(InputError, match=f"raw-data.csv.*{said}"):
        read_citeulike(folder(tmp_path, raw))


def test_files_that_lack(tmp_path: Path) -> None:
    for name in ("vocabulary.dat", "users.dat", "raw-data.csv"):
        (folder(tmp_path) / name).unlink()
        with pytest.raises(InputError, match=f"{name}: there is no such file"):
            read_citeulike(tmp_path)


def test_the_source_says_what_it_is() -> None:
    (source,) = sources
    assert (source.name, source.files) == ("citeulike-a", ())
