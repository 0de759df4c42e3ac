import json
from pathlib import Path

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.given_split import write_parts
from prismrec.data.sources.mmrec_files import read_lattice, read_mmrec, sources
from prismrec.data.splits import GivenSplit

INTER = """userID\titemID\trating\ttimestamp\tx_label
1\t0\t5.0\t1328140800\t0
0\t2\t4.0\t1330387200\t0
0\t1\t2.0\t1328400000\t1
1\t2\t3.5\t1366675200\t2
"""


def folder(path: Path, inter: str = INTER, *, mapped: bool = True, name: str = "baby.inter") -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_text(inter)
    rng = np.random.default_rng(0)
    np.save(path / "image_feat.npy", rng.normal(size=(4, 6)))  # float64, as LATTICE writes it
    np.save(path / "text_feat.npy", rng.normal(size=(4, 3)).astype(np.float32))
    if mapped:
        (path / "i_id_mapping.csv").write_text("asin\titemID\nB00X\t0\n097\t1\nB00Z\t3\nB00Y\t2\n")
        (path / "u_id_mapping.csv").write_text("user_id\tuserID\nA3\t0\nA1\t1\n")
    return path


def test_log_vectors_and_parts(tmp_path: Path) -> None:
    read = read_mmrec(folder(tmp_path))
    assert read.dataset.items.ids == ("B00X", "097", "B00Y", "B00Z")
    assert read.dataset.interactions.frame.rows() == [
        ("A1", "B00X", 5.0, 1328140800.0),
        ("A3", "B00Y", 4.0, 1330387200.0),
        ("A3", "097", 2.0, 1328400000.0),
        ("A1", "B00Y", 3.5, 1366675200.0),
    ]
    assert read.dataset.min_rating is None
    assert read.parts is not None
    assert read.parts["part"].to_list() == ["train", "train", "valid", "test"]
    image, text = read.features
    assert (image.modality, text.modality) == ("image", "text")
    assert image.ids == text.ids == read.dataset.items.ids
    np.testing.assert_array_equal(image.vectors, np.load(tmp_path / "image_feat.npy").astype(np.float32))
    assert isinstance(text.vectors, np.memmap)
    assert read.refused.listed() == []


def test_the_division_can_be_trained_on(tmp_path: Path) -> None:
    read = read_mmrec(folder(tmp_path / "raw"))
    dataset = read.dataset.write(tmp_path / "data")
    assert read.parts is not None
    write_parts(tmp_path / "data", read.parts)
    split = dataset.split(GivenSplit())
    assert (len(split.train), len(split.valid), len(split.open_test({})[0])) == (2, 1, 1)
    assert not split.holds_out_items


def test_without_mappings_the_codes_are_the_ids(tmp_path: Path) -> None:
    read = read_mmrec(folder(tmp_path, mapped=False))
    assert read.dataset.items.ids == ("0", "1", "2", "3")
    assert read.dataset.users.ids == ("0", "1")


def test_columns_that_may_lack_and_order_that_may_differ(tmp_path: Path) -> None:
    read = read_mmrec(folder(tmp_path, "x_label\titemID\tuserID\n0\t1\t0\n2\t3\t1\n"))
    assert read.dataset.interactions.frame.columns == ["user_id", "item_id"]
    assert read.parts is not None
    assert read.parts.rows() == [("A3", "097", "train"), ("A1", "B00Z", "test")]
    assert read_mmrec(folder(tmp_path, "userID\titemID\n0\t1\n")).parts is None


def test_without_vectors_the_pairs_tell_how_many_items(tmp_path: Path) -> None:
    path = folder(tmp_path, mapped=False)
    for file in path.glob("*.npy"):
        file.unlink()
    read = read_mmrec(path)
    assert read.dataset.items.ids == ("0", "1", "2")
    assert read.features == ()


def test_a_pair_in_two_parts_is_learnt_from_and_not_tested(tmp_path: Path) -> None:
    path = folder(tmp_path, INTER + "1\t0\t1.0\t1400000000\t2\n0\t1\t2.0\t1328400001\t1\n")
    read = read_mmrec(path)
    assert [(r.source, r.row, r.user_id, r.item_id, r.reason) for r in read.refused.listed()] == [
        (str(path / "baby.inter"), 4, "A1", "B00X", "the pair stands in the part train too"),
        (str(path / "baby.inter"), 5, "A3", "097", "the pair stands twice"),
    ]
    assert read.parts is not None
    assert read.parts.height == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x\t1\t5\t1\t0", "row 4: userID is 'x', no whole number"),
        ("0\t1.5\t5\t1\t0", "row 4: itemID is '1.5'"),
        ("0\t3\tgood\t1\t0", "row 4: rating is 'good', no finite number"),
        ("0\t3\t5\tinf\t0", "row 4: timestamp is 'inf'"),
        ("0\t3\t5\t1\t3", "row 4: x_label is 3"),
        ("0\t3\t5\t1\t-1", "row 4: x_label is -1"),
        ("0\t3\t5\t1\t", "row 4: x_label is None"),
        ("0\t4\t5\t1\t0", r"row 4: item 4 is out of range; 1 rows are(.|\n)*0 to 3 \(rows of the vectors\)"),
        ("2\t3\t5\t1\t0", r"row 4: user 2 is out of range(.|\n)*0 to 1 \(ids of the mapping\)"),
        ("-1\t3\t5\t1\t0", "row 4: user -1 is out of range"),
    ],
)
def test_cells_that_cannot_be_used(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError, match=f"baby.inter, {said}"):
        read_mmrec(folder(tmp_path, INTER + line + "\n"))


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 0 files"):
        read_mmrec(tmp_path)
    path = folder(tmp_path)
    (path / "sports.inter").write_text(INTER)
    with pytest.raises(InputError, match="has 2 files"):
        read_mmrec(path)
    (path / "sports.inter").unlink()
    with pytest.raises(InputError, match=r"no column 'userID', but \['userID itemID"):
        read_mmrec(folder(path, INTER.replace("\t", " ")))
    with pytest.raises(InputError, match="no pair"):
        read_mmrec(folder(path, "userID\titemID\tx_label\n"))
    folder(path)
    np.save(path / "text_feat.npy", np.ones((5, 3)))
    with pytest.raises(InputError, match=r"image_feat.npy 4, text_feat.npy 5"):
        read_mmrec(path)
    folder(path)
    (path / "i_id_mapping.csv").write_text("asin\titemID\nB00X\t0\n097\t1\nB00Y\t2\n")
    with pytest.raises(InputError, match="has 4 rows, and there are 3 item ids"):
        read_mmrec(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("asin,itemID\nB,0\n", r"has the columns \['asin,itemID'\]"),
        ("asin\titemID\na\t0\nb\t1\nc\t1\nd\t3\n", "row 2: code 1 is out of range or stands twice"),
        ("asin\titemID\na\t0\nb\t1\nc\t2\nd\t4\n", "row 3: code 4"),
        ("asin\titemID\na\t0\nb\t1\na\t2\nd\t3\n", "row 2: the id 'a' stands in row 0 too"),
        ("asin\titemID\na\t0\n\t1\nc\t2\nd\t3\n", "row 1: the id '' is empty"),
        ("asin\titemID\na\tzero\n", "row 0: itemID is 'zero'"),
    ],
)
def test_mappings_that_are_none(tmp_path: Path, content: str, said: str) -> None:
    path = folder(tmp_path)
    (path / "i_id_mapping.csv").write_text(content)
    with pytest.raises(InputError, match=f"i_id_mapping.csv.*{said}"):
        read_mmrec(path)


def lattice(path: Path) -> Path:
    for core, parts in (
        ("5-core", ({"0": [0, 1], "1": [2]}, {"0": [3], "1": []}, {"0": [], "1": [0]})),
        ("0-core", ({"0": [0, 1], "1": [0]}, {"0": [3], "1": []}, {"0": [], "1": [2]})),
    ):
        (path / core).mkdir()
        for name, lists in zip(("train", "val", "test"), parts, strict=True):
            (path / core / f"{name}.json").write_text(json.dumps(lists))
    (path / "5-core" / "item_list.txt").write_text("B9\t0\nB7\t1\nB8\t2\nB6\t3\nB5\t4\n")
    (path / "5-core" / "user_list.txt").write_text("A1\t0\nA0\t1\n")
    np.save(path / "text_feat.npy", np.ones((5, 3), dtype=np.float32))
    return path


def test_lattice_with_pairs_and_with_items_held_out(tmp_path: Path) -> None:
    by_name = {source.name: source for source in sources}
    warm = by_name["lattice-files"].read(lattice(tmp_path))
    cold = by_name["lattice-files/cold"].read(tmp_path)
    assert warm.dataset.items.ids == ("B9", "B7", "B8", "B6", "B5")
    assert warm.parts is not None
    assert warm.parts.rows() == [
        ("A1", "B9", "train"),
        ("A1", "B7", "train"),
        ("A0", "B8", "train"),
        ("A1", "B6", "valid"),
        ("A0", "B9", "test"),
    ]
    for read, is_cold in ((warm, False), (cold, True)):
        data = read.dataset.write(tmp_path / f"data{is_cold}")
        assert read.parts is not None
        write_parts(tmp_path / f"data{is_cold}", read.parts)
        assert data.split(GivenSplit()).holds_out_items == is_cold
    assert cold.dataset.users.ids == warm.dataset.users.ids


def test_lattice_without_lists_of_ids(tmp_path: Path) -> None:
    lattice(tmp_path)
    for name in ("item_list.txt", "user_list.txt"):
        (tmp_path / "5-core" / name).unlink()
    assert read_lattice(tmp_path, "0-core").dataset.items.ids == ("0", "1", "2", "3", "4")


def test_lattice_lists_that_are_none(tmp_path: Path) -> None:
    path = lattice(tmp_path) / "5-core" / "item_list.txt"
    path.write_text("B9\t0\nB7 1\n")
    with pytest.raises(InputError, match=r"item_list.txt, row 1: names no code"):
        read_lattice(tmp_path, "5-core")
    (tmp_path / "5-core" / "val.json").unlink()
    with pytest.raises(InputError, match=r"val.json: there is no such file"):
        read_lattice(tmp_path, "5-core")


def test_sources_say_what_they_are() -> None:
    assert [source.name for source in sources] == ["mmrec-files", "lattice-files", "lattice-files/cold"]
    for source in sources:
        assert source.files == ()
        assert "Google Drive" in source.about
        assert source.licence
        assert source.citation
