import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.data.sources.llmrec import read_llmrec, sources
from prismrec.data.splits import GivenSplit
from prismrec.features.source_folder import write_source

FILMS = '''0,2003.0,Dinosaur Planet
1,2004.0,"Isle of Man TT, 2004 ""Review"""
2,,Roundhay, Garden
3,1997.0,
4,NULL,Lilo
'''
LISTS = {
    "train": {"0": [4, 1], "1": [0], "2": [2, 0]},
    "val": {"0": [0], "1": []},
    "test": {"0": [], "1": [1]},
}


def folder(path: Path, films: str | None = FILMS, lists: dict[str, dict[str, list[int]]] = LISTS) -> Path:
    for part, by_user in lists.items():
        (path / f"{part}.json").write_text(json.dumps(by_user))
    if films is not None:
        (path / "item_attribute.csv").write_text(films, encoding="utf-8")
    return path


def posters(place: Path, *names: str) -> None:
    (place / "Netflix_Posters").mkdir(parents=True)
    for name in names:
        (place / "Netflix_Posters" / name).write_bytes(name.encode())


def vectors(path: Path, items: int) -> None:
    rng = np.random.default_rng(0)
    for name, dim in (("image", 4), ("text", 6)):
        np.save(path / f"{name}_feat.npy", rng.normal(size=(items, dim)).astype(np.float32))


def test_pairs_films_posters_and_vectors(tmp_path: Path) -> None:
    posters(folder(tmp_path), "0.jpg", "4.jpg", "9.jpg")
    vectors(tmp_path, 5)
    read = read_llmrec(tmp_path)
    catalog = read.dataset.catalog
    assert catalog.items.rows() == [
        ("0", "Dinosaur Planet", 2003),
        ("1", 'Isle of Man TT, 2004 "Review"', 2004),
        ("2", "Roundhay, Garden", None),
        ("3", None, 1997),
        ("4", "Lilo", None),
    ]
    assert catalog.text_columns == ("title",)
    pictures = catalog.media["image"]
    assert {name: pictures.read(name) for name in pictures.ids} == {"0": b"0.jpg", "4": b"4.jpg"}
    assert read.parts is not None
    assert read.parts.rows() == [
        ("0", "4", "train"),
        ("0", "1", "train"),
        ("1", "0", "train"),
        ("2", "2", "train"),
        ("2", "0", "train"),
        ("0", "0", "valid"),
        ("1", "1", "test"),
    ]
    assert [(found.modality, found.vectors.shape) for found in read.features] == [
        ("image", (5, 4)),
        ("text", (5, 6)),
    ]
    assert [(Path(r.source).name, r.reason) for r in read.refused.listed()] == [("9.jpg", "no such item")]
    assert read.dataset.notes["valid_repeats_test"] is False


def test_no_order_is_made_up(tmp_path: Path) -> None:
    log = read_llmrec(folder(tmp_path)).dataset.interactions
    assert log.frame.columns == ["user_id", "item_id"]
    assert log.order_column is None


def test_a_validation_part_that_is_the_test_part(tmp_path: Path) -> None:
    both = {"0": [0], "1": [1, 4]}
    raw = tmp_path / "raw"
    raw.mkdir()
    folder(raw, lists={**LISTS, "val": both, "test": {"1": [4, 1], "0": [0]}})
    (source,) = sources
    written = write_source(source, raw, tmp_path / "netflix")
    assert written.parts == {"train": 5, "valid": 0, "test": 3}
    assert written.refused.counts() == {"pair: the validation pairs are the test pairs": 3}
    assert [(Path(r.source).name, r.row, r.item_id) for r in written.refused.listed()] == [
        ("val.json", 0, "0"),
        ("val.json", 1, "1"),
        ("val.json", 1, "4"),
    ]
    dataset = Dataset.read(tmp_path / "netflix")
    assert dataset.notes["reading"]["valid_repeats_test"] is True
    split = dataset.split(GivenSplit())
    test, _ = split.open_test({})
    assert (len(split.train), len(split.valid), len(test)) == (5, 0, 3)


def test_parts_that_only_overlap_keep_the_earlier(tmp_path: Path) -> None:
    read = read_llmrec(folder(tmp_path, lists={**LISTS, "test": {"0": [0], "1": [1]}}))
    assert read.parts is not None
    assert read.parts.filter(pl.col("part") != "train").rows() == [("0", "0", "valid"), ("1", "1", "test")]
    assert read.refused.counts() == {"pair: the pair stands in the part valid too": 1}


def test_the_filtered_table_and_the_unpacked_archive(tmp_path: Path) -> None:
    inner = folder(tmp_path, films="7,1999,Another table\n") / "netflix_image_text"
    posters(inner, "1.jpg")
    (inner / "item_attribute_filter.csv").write_text(FILMS, encoding="utf-8")
    read = read_llmrec(tmp_path)
    assert read.dataset.notes["films"] == "item_attribute_filter.csv"
    assert read.dataset.catalog.titles()[4] == "Lilo"
    assert read.dataset.catalog.media["image"].ids == ("1",)


def test_ids_that_are_not_the_codes(tmp_path: Path) -> None:
    folder(tmp_path, films="11,2001,A\n12,2002,B\n13,2003,C\n14,2004,D\n15,2005,E\n")
    items = read_llmrec(tmp_path).dataset.catalog.items
    assert items.row(1, named=True) == {"item_id": "1", "title": "B", "year": 2002, "netflix_id": "12"}
    posters(tmp_path, "12.jpg")
    with pytest.raises(InputError, match=r"the code 0 has the id 11; 5 of 5(.|\n)*Name the posters after"):
        read_llmrec(tmp_path)


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    folder(tmp_path, lists={**LISTS, "test": {"1": [], "0": [5]}})
    with pytest.raises(
        InputError, match=r"test\.json, row 1: item 5 is out of range(.|\n)*films of item_attribute\.csv"
    ):
        read_llmrec(tmp_path)
    folder(tmp_path)
    vectors(tmp_path, 6)
    with pytest.raises(InputError, match=r"item_attribute\.csv: has 5 films, and the vectors have 6 rows"):
        read_llmrec(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("5", "row 5: '5' names no film"),
        ("5,2001", "row 5: '2001' is no year and title"),
        ("5,MMI,Roman", "row 5: the year is 'MMI'"),
        ("5,2001.5,Half", "row 5: the year is '2001.5'"),
        ("4,2001,Again", "row 5: film 4 stands in row 4 too"),
    ],
)
def test_films_that_cannot_be_used(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"item_attribute\.csv, {said}"):
        read_llmrec(folder(tmp_path, FILMS + line + "\n"))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json: there is no such file"):
        read_llmrec(tmp_path)
    with pytest.raises(InputError, match=r"item_attribute\.csv: there is no such file, nor item_attribute_f"):
        read_llmrec(folder(tmp_path, films=None))
    (tmp_path / "val.json").write_text('{"0": ["3"]}')
    with pytest.raises(InputError, match=r"val\.json, row 0: item '3' of user '0' is no code"):
        read_llmrec(tmp_path)
