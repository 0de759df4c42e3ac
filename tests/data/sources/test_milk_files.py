from pathlib import Path

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.given_split import write_parts
from prismrec.data.sources.milk_files import read_milk, sources
from prismrec.data.splits import Candidates, GivenSplit, Part

TRAIN = "0 0 1\n1 1\n2 0 2 1\n"
VAL = "0 3\n1 \n2 4 3\n"
TEST = "0 \n1 5\n2 5\n"


def folder(path: Path, train: str = TRAIN, val: str = VAL, test: str = TEST) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in (("train", train), ("val", val), ("test", test)):
        (path / f"{name}.txt").write_text(text)
    np.save(path / "cold_item_index.npy", np.array([5, 3, 4]))
    rng = np.random.default_rng(0)
    for name in ("image_feat", "text_feat", "image_feat_missing_test"):
        np.save(path / f"{name}.npy", rng.normal(size=(7, 4)).astype(np.float32))
    np.save(path / "cold_missing_item_index.npy", np.array([5]))
    return path


def test_pairs_parts_and_vectors(tmp_path: Path) -> None:
    read = read_milk(folder(tmp_path))
    assert read.dataset.items.ids == tuple("0123456")  # 6 is in no pair: new
    assert read.parts is not None
    assert read.parts.rows() == [
        *[("0", "0", "train"), ("0", "1", "train"), ("1", "1", "train")],
        *[("2", "0", "train"), ("2", "2", "train"), ("2", "1", "train")],
        *[
            ("0", "3", "valid"),
            ("2", "4", "valid"),
            ("2", "3", "valid"),
            ("1", "5", "test"),
            ("2", "5", "test"),
        ],
    ]
    assert [vectors.modality for vectors in read.features] == ["image", "text"]
    assert read.refused.listed() == []
    assert read.dataset.notes == {
        "source": "milk-files",
        "cold_items": 3,
        "held_out_items_not_listed_as_cold": 0,
    }


def test_the_cold_items_are_the_candidates_as_released(tmp_path: Path) -> None:
    read = read_milk(folder(tmp_path / "raw"))
    data = read.dataset.write(tmp_path / "data")
    assert read.parts is not None
    write_parts(tmp_path / "data", read.parts)
    split = data.split(GivenSplit())
    assert split.holds_out_items
    ranked = split.candidates(Candidates.AS_RELEASED, Part.TEST)
    listed = np.load(tmp_path / "raw" / "cold_item_index.npy")
    assert sorted(split.items.names(ranked)) == sorted(str(code) for code in listed)


def test_a_list_of_cold_items_that_may_lack(tmp_path: Path) -> None:
    (folder(tmp_path) / "cold_item_index.npy").unlink()
    assert read_milk(tmp_path).dataset.notes["cold_items"] == 3


def test_held_out_items_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    np.save(folder(tmp_path) / "cold_item_index.npy", np.array([5, 6]))
    assert read_milk(tmp_path).dataset.notes["held_out_items_not_listed_as_cold"] == 2


def test_without_vectors(tmp_path: Path) -> None:
    for path in folder(tmp_path).glob("*_feat.npy"):
        path.unlink()
    np.save(tmp_path / "cold_item_index.npy", np.array([3, 4, 5, 8]))
    read = read_milk(tmp_path)
    assert read.dataset.items.ids == tuple("012345678")
    assert read.features == ()


def test_a_user_on_two_lines_and_blank_lines(tmp_path: Path) -> None:
    read = read_milk(folder(tmp_path, "0 0\n\n0 1 2\r\n"))
    assert read.parts is not None
    assert read.parts.rows()[:3] == [("0", "0", "train"), ("0", "1", "train"), ("0", "2", "train")]


def test_pairs_that_stand_twice(tmp_path: Path) -> None:
    read = read_milk(folder(tmp_path, "0 0 1 0\n", test="0 3\n2 5\n"))
    assert [(Path(r.source).name, r.row, r.item_id, r.reason) for r in read.refused.listed()] == [
        ("train.txt", 0, "0", "the pair stands twice"),
        ("test.txt", 0, "3", "the pair stands in the part valid too"),
    ]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("0 1\n1 x 2\n", "train.txt, row 1: 'x' is no code"),
        ("0 1\n1 -2\n", "train.txt, row 1: '-2' is no code"),
        ("0,1\n", "train.txt, row 0: '0,1' is no code"),
        ("0 1.0\n", "train.txt, row 0: '1.0' is no code"),
        ("0 99999999999999999999\n", "row 0: '99999999999999999999' is no code"),
        ("0 1\n1 7\n", r"train.txt, row 1: item 7 is out of range(.|\n)*0 to 6 \(rows of the vectors\)"),
        ("0 1\n1 0 4\n", "item 4 is listed as cold and trained on, in .*train.txt, row 1; 1 items are"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, train: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_milk(folder(tmp_path, train))


def test_lists_of_cold_items_that_are_none(tmp_path: Path) -> None:
    path = folder(tmp_path) / "cold_item_index.npy"
    for array, said in (
        (np.array([3.0, 4.0]), "holds float64"),
        (np.array([[3], [4]]), r"shape \(2, 1\)"),
        (np.array([3, 7]), "row 1: item 7 is out of range"),
        (np.array([-1]), "row 0: item -1 is out of range"),
    ):
        np.save(path, array)
        with pytest.raises(InputError, match=f"cold_item_index.npy.*{said}"):
            read_milk(tmp_path)


def test_files_that_lack_or_are_no_text(tmp_path: Path) -> None:
    (folder(tmp_path) / "val.txt").write_bytes(b"\xff\xfe0 1")
    with pytest.raises(InputError, match=r"val\.txt: is no text of numbers"):
        read_milk(tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt: there is no such file"):
        read_milk(tmp_path)
    with pytest.raises(InputError, match="no pair"):
        read_milk(folder(tmp_path, "", "", ""))


def test_the_source_says_what_it_is() -> None:
    (source,) = sources
    assert (source.name, source.files) == ("milk-files", ())
