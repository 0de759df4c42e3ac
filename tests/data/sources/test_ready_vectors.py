import pickle
from pathlib import Path

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources import ready_vectors
from prismrec.data.sources.ready_vectors import count_items, open_array, read_vectors, vector_files

IDS = ("a", "b", "c")


def test_whole_float32_and_float16_files_stay_on_the_disk(tmp_path: Path) -> None:
    for kind in (np.float32, np.float16):
        rows = np.arange(1, 7, dtype=kind).reshape(3, 2)
        np.save(tmp_path / "text_feat.npy", rows)
        refused = Refusals()
        read = read_vectors(tmp_path / "text_feat.npy", "text", IDS, refused)
        assert isinstance(read.vectors, np.memmap)
        assert read.vectors.dtype == kind
        assert read.ids == IDS
        np.testing.assert_array_equal(read.vectors, rows)
        assert refused.listed() == []


@pytest.mark.parametrize("kind", [np.float64, np.int64, ">f4", np.uint8])
def test_other_numbers_become_float32(tmp_path: Path, kind: str) -> None:
    rows = np.array([[1, 2], [3, 4], [250, 6]]).astype(kind)
    np.save(tmp_path / "x_feat.npy", rows)
    read = read_vectors(tmp_path / "x_feat.npy", "x", IDS, Refusals())
    assert read.vectors.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(read.vectors, [[1, 2], [3, 4], [250, 6]])


@pytest.mark.parametrize("block", [1, 1 << 26])
def test_rows_without_content_are_left_out_and_listed(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_vectors, "_BLOCK_BYTES", block)
    rows = np.array([[0, 0], [1, np.nan], [3, 4], [1e300, 1], [5, 0], [-np.inf, 1]])
    path = tmp_path / "image_feat.npy"
    np.save(path, rows)
    refused = Refusals()
    read = read_vectors(path, "image", list("uvwxyz"), refused)
    assert read.ids == ("w", "y")
    np.testing.assert_array_equal(read.vectors, [[3, 4], [5, 0]])
    assert [(r.source, r.row, r.field, r.item_id, r.reason) for r in refused.listed()] == [
        (str(path), 0, "image", "u", "only zeros, taken as missing"),
        (str(path), 1, "image", "v", "holds NaN or infinity"),
        (str(path), 3, "image", "x", "holds NaN or infinity"),  # too large for float32
        (str(path), 5, "image", "z", "holds NaN or infinity"),
    ]


def test_no_row_at_all(tmp_path: Path) -> None:
    np.save(tmp_path / "a_feat.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match="none of the 3 rows"):
        read_vectors(tmp_path / "a_feat.npy", "a", IDS, Refusals())


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "two_feat.npy", np.ones((2, 2)))
    np.save(tmp_path / "three_feat.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match=r"two_feat.npy: has shape \(2, 2\), and there are 3 items"):
        read_vectors(tmp_path / "two_feat.npy", "two", IDS, Refusals())
    files = vector_files(tmp_path)
    assert list(files) == ["three", "two"]
    with pytest.raises(InputError, match=r"three_feat.npy 3, two_feat.npy 2"):
        count_items(files)
    for odd in (np.ones(3), np.ones((3, 0)), np.float64(3.0)):
        np.save(tmp_path / "odd_feat.npy", odd)
        with pytest.raises(InputError, match=r"odd_feat\.npy: has shape"):
            count_items({"odd": tmp_path / "odd_feat.npy"})
    assert count_items({}) is None
    assert count_items({"two": files["two"]}) == 2


def test_versions_with_filled_in_vectors_are_not_read(tmp_path: Path) -> None:
    for name in ("image_feat.npy", "image_feat_missing_test.npy", "_feat.npy", "feat.npy", "text_feat.npz"):
        (tmp_path / name).touch()
    assert list(vector_files(tmp_path)) == ["image"]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.path,)  # type: ignore[return-value]


def test_a_pickle_in_an_array_is_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "a_feat.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as \.npy"):
        open_array(tmp_path / "a_feat.npy")
    assert not sprung.exists()
    # A bare pickle under this name is another way in.
    (tmp_path / "b_feat.npy").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"cannot be read as \.npy"):
        open_array(tmp_path / "b_feat.npy")
    assert not sprung.exists()
    np.load(tmp_path / "b_feat.npy", allow_pickle=True)
    assert sprung.exists()  # the trap works


def test_files_that_are_no_arrays_of_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "archive.npz", np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "cut.npy", np.ones((100, 3)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    (tmp_path / "empty.npy").touch()
    for name, said in (
        ("archive.npy", "an archive"),
        ("words.npy", "<U1"),
        ("cut.npy", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("none.npy", "no such file"),
    ):
        with pytest.raises(InputError, match=said):
            open_array(tmp_path / name)
