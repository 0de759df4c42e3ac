import zipfile
from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources import movielens
from prismrec.data.sources.all_sources import source_called
from prismrec.data.sources.source import SourceData

MOVIES = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation
2,"American President, The (1995)",Comedy
3,Babylon 5,(no genres listed)
4,"Quoted ""word"" (2005\u20132009)",Drama
"""
RATINGS = """userId,movieId,rating,timestamp
1,1,4.0,964982703
1,2,0.5,964981247
2,1,5.0,964982224
"""


def pack(path: Path, **members: str | bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)


def read_csv(folder: Path, movies: str = MOVIES, ratings: str = RATINGS) -> SourceData:
    pack(folder / "ml-latest-small.zip", small__movies_dot_csv=movies, small__ratings_dot_csv=ratings)
    return source_called("movielens/small").read(folder)


def read_dat(folder: Path, movies: bytes, ratings: bytes) -> SourceData:
    pack(folder / "ml-1m.zip", **{"ml-1m__movies_dot_dat": movies, "ml-1m__ratings_dot_dat": ratings})
    return source_called("movielens/1m").read(folder)


def refusals(data: SourceData) -> set[tuple[str, int, str, str]]:
    frame = data.refused.frame()
    return {
        (Path(source).name, row, field, reason)
        for source, row, field, reason in frame.select("source", "row", "field", "reason").iter_rows()
    }


def test_csv(tmp_path: Path) -> None:
    data = read_csv(tmp_path)
    assert data.dataset.catalog.items.to_dicts() == [
        {"item_id": "1", "title": "Toy Story", "year": 1995, "genres": ["Adventure", "Animation"]},
        {"item_id": "2", "title": "American President, The", "year": 1995, "genres": ["Comedy"]},
        {"item_id": "3", "title": "Babylon 5", "year": None, "genres": None},
        {"item_id": "4", "title": 'Quoted "word"', "year": 2005, "genres": ["Drama"]},
    ]
    assert data.dataset.interactions.frame.to_dict(as_series=False) == {
        "user_id": ["1", "1", "2"],
        "item_id": ["1", "2", "1"],
        "rating": [4.0, 0.5, 5.0],
        "timestamp": [964982703.0, 964981247.0, 964982224.0],
    }
    assert data.dataset.catalog.text_columns == ("title", "genres")
    assert data.dataset.min_rating is None
    assert refusals(data) == set()
    assert data.dataset.notes["rows_read"] == {"ratings.csv": 3, "movies.csv": 4}


def test_two_colons_and_latin_1(tmp_path: Path) -> None:
    movies = "1::Misérables, Les (1995)::Drama|Musical\r\n2::A::B (1999)::Comedy\r\n".encode("latin-1")
    data = read_dat(tmp_path, movies, b"6040::1::3::956703932\r\n6040::2::5::956703954")
    assert data.dataset.catalog.items["title"].to_list() == ["Misérables, Les", "A::B"]
    assert data.dataset.interactions.frame["timestamp"].to_list() == [956703932.0, 956703954.0]
    assert refusals(data) == set()


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    data = read_dat(tmp_path, b"007::Bond (1962)::Action\n", b"01::007::3::5\n")
    assert data.dataset.interactions.frame.row(0)[:2] == ("01", "007")


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    movies = MOVIES + "4,Again (1999),Drama\n,No id,Drama\n9,two fields\n"
    ratings = (
        RATINGS + "1,77,4.0,1\n1,1,4.0\n1,1,4.0,2,3\n,1,4.0,1\n1,1,four,1\n1,1,4.0,964982703\n1,1,1.0,5\n\n"
    )
    data = read_csv(tmp_path, movies, ratings)
    assert len(data.dataset.interactions) == 4
    assert refusals(data) == {
        ("movies.csv", 4, "item_id", "duplicate"),
        ("movies.csv", 5, "item_id", "missing"),
        ("movies.csv", 6, "item_id", "2 fields, expected 3"),
        ("ratings.csv", 3, "item_id", "unknown item"),
        ("ratings.csv", 4, "line", "3 fields, expected 4"),
        ("ratings.csv", 5, "line", "5 fields, expected 4"),
        ("ratings.csv", 6, "user_id", "missing"),
        ("ratings.csv", 7, "rating", "not a number"),
        ("ratings.csv", 8, "item_id", "duplicate"),
        ("ratings.csv", 10, "line", "1 fields, expected 4"),
    }
    (shown,) = data.refused.frame().filter(pl.col("reason") == "not a number")["value"].to_list()
    assert shown == "four"


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n % 9},{1 + n % 3},{n % 5}.5,{n}\n" for n in range(50)) + "bad row\n9,1,1.0,7"
    ratings = "userId,movieId,rating,timestamp\n" + rows
    whole = read_csv(tmp_path, ratings=ratings)
    monkeypatch.setattr(movielens, "_BLOCK", 7)
    blocks = read_csv(tmp_path, ratings=ratings)
    assert len(whole.dataset.interactions) == 51
    assert blocks.dataset.content_hash == whole.dataset.content_hash
    assert refusals(blocks) == refusals(whole) == {("ratings.csv", 50, "line", "1 fields, expected 4")}


def test_archives_that_are_none(tmp_path: Path) -> None:
    source = source_called("movielens/small")
    with pytest.raises(InputError, match="no such file"):
        source.read(tmp_path)
    archive = tmp_path / "ml-latest-small.zip"
    archive.write_bytes(b"<html>moved</html>")
    with pytest.raises(InputError, match="cannot be unpacked"):
        source.read(tmp_path)
    pack(archive, small__ratings_dot_csv=RATINGS)
    with pytest.raises(InputError, match=r"no files called 'movies.csv'"):
        source.read(tmp_path)
    read_csv(tmp_path)
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"ml-latest-small.zip"):
        source.read(tmp_path)


def test_text_of_another_encoding(tmp_path: Path) -> None:
    pack(
        tmp_path / "ml-latest-small.zip",
        movies_dot_csv="movieId,title,genres\n1,Misérables (1995),Drama\n".encode("latin-1"),
        ratings_dot_csv=RATINGS,
    )
    with pytest.raises(InputError, match=r"movies.csv: cannot be read as utf-8"):
        source_called("movielens/small").read(tmp_path)


def test_no_rating_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 1 rows can be used"):
        read_csv(tmp_path, ratings="userId,movieId,rating,timestamp\n1,99,4.0,1\n")
