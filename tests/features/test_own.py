from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.base.files import digest
from prismrec.features.own import read_assigned, read_vectors

VECTORS = np.array([[1.0, 2.0, 3.0], [0.1, -0.5, 1e-8]])
IDS = ["a/b", "☕"]


def write(path: Path, **columns: object) -> Path:
    pl.DataFrame(columns, strict=False).write_parquet(path)
    return path


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float64, 3), pl.List(pl.Float32)])
def test_parquet(tmp_path: Path, dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"item_id": IDS, "v": pl.Series(VECTORS.tolist(), dtype=dtype)})
    frame.write_parquet(tmp_path / "v.parquet")
    store = read_vectors(tmp_path / "v.parquet", name="clip")
    assert (store.name, store.ids, store.dim) == ("clip", tuple(IDS), 3)
    np.testing.assert_array_equal(store.vectors, VECTORS.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_npy_with_ids(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "v.npy", VECTORS.astype(dtype))
    (tmp_path / "ids.txt").write_text("\n".join(IDS), encoding="utf-8")
    store = read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", name="clip")
    # What a store can hold as it is stays on the disk.
    assert store.vectors.dtype == (dtype if dtype is np.float16 else np.float32)
    assert isinstance(store.vectors, np.memmap) == (dtype in (np.float16, np.float32))
    np.testing.assert_array_equal(store.vectors, VECTORS.astype(dtype).astype(np.float32))
    assert store.digests == tuple(digest(row.tobytes()) for row in VECTORS.astype(dtype).astype("<f4"))
    same = read_assigned(f"clip={tmp_path}/v.npy:{tmp_path}/ids.txt")
    np.testing.assert_array_equal(same.vectors, store.vectors)


def test_digest_is_that_of_the_single_precision_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", item_id=IDS, v=VECTORS.tolist())
    store = read_vectors(path, name="clip")
    assert store.digests == tuple(digest(row.tobytes()) for row in VECTORS.astype("<f4"))


def test_numbers_as_ids_are_read_as_the_catalogue_reads_them(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", item_id=[7, 8], v=VECTORS.tolist())
    assert read_vectors(path, name="clip").ids == ("7", "8")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"item_id": ["a", "b"], "v": [[1.0, 2.0], [1.0, float("nan")]]}, r"1 items .* item 'b' \(row 1\)"),
        ({"item_id": ["a", "b"], "v": [[1.0, 2.0], [1.0, None]]}, r"item 'b' \(row 1\)"),
        ({"item_id": ["a", "b"], "v": [[1.0, 2.0], [1.0, 1e300]]}, r"item 'b' \(row 1\)"),
        (
            {"item_id": ["a", "b"], "v": [[1.0, 2.0], [1.0]]},
            r"differ in length: 2 .* 1 in row 1 \(item 'b'\)",
        ),
        ({"item_id": ["a", "b"], "v": [[1.0, 2.0], None]}, r"hold no vector, the first is that of item 'b'"),
        ({"item_id": ["a", "b"], "v": [["x"], ["y"]]}, "not numbers"),
        ({"item_id": ["a", "a"], "v": [[1.0], [2.0]]}, "'a' stands twice, in rows 0 and 1"),
        ({"item_id": ["a", None], "v": [[1.0], [2.0]]}, "row 1: the item id"),
        ({"item_id": ["a", "b"], "v": [1.0, 2.0]}, "one column of lists"),
        ({"item_id": ["a"], "v": [[1.0]], "w": [[1.0]]}, "one column of lists"),
        ({"id": ["a"], "v": [[1.0]]}, "'item_id'"),
        ({"item_id": ["a"], "v": pl.Series([[]], dtype=pl.List(pl.Float64))}, "no dimension"),
        (
            {"item_id": pl.Series([], dtype=pl.String), "v": pl.Series([], dtype=pl.List(pl.Float64))},
            "no row",
        ),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    path = write(tmp_path / "v.parquet", **columns)
    with pytest.raises(InputError, match=said):
        read_vectors(path, name="clip")


def test_npy_that_cannot_be_used(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\n")
    for array, said in (
        (np.zeros(3), "shape"),
        (np.array([["x", "y"]]), "<U1"),
        (np.zeros((3, 2)), "3 rows, and .* 2 ids"),
        (np.zeros((2, 0)), "no dimension"),
        (np.array([[1.0], [np.inf]]), "item 'b'"),
    ):
        np.save(tmp_path / "v.npy", array)
        with pytest.raises(InputError, match=said):
            read_vectors(tmp_path / "v.npy", ids, name="clip")
    np.save(tmp_path / "v.npy", np.array([{"code": "run"}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_vectors(tmp_path / "v.npy", ids, name="clip")
    with pytest.raises(InputError, match="nothing of ids"):
        read_vectors(tmp_path / "v.npy", name="clip")
    with pytest.raises(InputError, match="no such file"):
        read_vectors(tmp_path / "none.npy", ids, name="clip")
    with pytest.raises(InputError, match="this kind of file"):
        read_vectors(tmp_path / "v.pt", name="clip")


@pytest.mark.parametrize("text", ["v.parquet", "=v.parquet", "clip="])
def test_assignment_of_another_form(text: str) -> None:
    with pytest.raises(InputError, match="not understood"):
        read_assigned(text)
