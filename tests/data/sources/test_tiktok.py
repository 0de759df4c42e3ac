import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from prismrec.base.errors import InputError
from prismrec.data.sources.tiktok import read_tiktok, sources

PAIRS = {"train": [(0, 1), (0, 2), (1, 0)], "val": [(0, 3)], "test": [(1, 2)]}


def vectors(path: Path, items: int = 5) -> None:
    rng = np.random.default_rng(0)
    for name, dim in (("image", 4), ("audio", 4), ("text", 6)):
        np.save(path / f"{name}_feat.npy", rng.normal(size=(items, dim)).astype(np.float32))


def matrices(path: Path, shape: tuple[int, int] = (3, 5)) -> None:
    vectors(path)
    for name, pairs in PAIRS.items():
        users, items = zip(*pairs, strict=True)
        matrix = sp.csr_matrix((np.ones(len(pairs)), (users, items)), shape=shape)
        (path / f"{name}_mat").write_bytes(pickle.dumps(matrix))


def lists(path: Path) -> None:
    vectors(path)
    for name, pairs in PAIRS.items():
        by_user: dict[str, list[int]] = {"0": [], "1": []}
        for user, item in pairs:
            by_user[str(user)].append(item)
        (path / f"{name}.json").write_text(json.dumps(by_user))


@pytest.mark.parametrize("write", [matrices, lists])
def test_both_forms_say_the_same(tmp_path: Path, write: object) -> None:
    write(tmp_path)  # type: ignore[operator]
    read = read_tiktok(tmp_path)
    assert read.dataset.items.ids == tuple("01234")
    assert read.parts is not None
    assert read.parts.rows() == [
        ("0", "1", "train"),
        ("0", "2", "train"),
        ("1", "0", "train"),
        ("0", "3", "valid"),
        ("1", "2", "test"),
    ]
    assert [found.modality for found in read.features] == ["audio", "image", "text"]
    assert read.refused.listed() == []


def test_where_both_are_there_no_pickle_is_opened(tmp_path: Path) -> None:
    lists(tmp_path)
    for name in PAIRS:
        (tmp_path / f"{name}_mat").write_bytes(b"no pickle")
    assert len(read_tiktok(tmp_path).dataset.interactions) == 5
    (tmp_path / "val.json").unlink()
    with pytest.raises(InputError, match="train_mat: cannot be read as a pickle"):
        read_tiktok(tmp_path)


def test_matrices_that_do_not_fit(tmp_path: Path) -> None:
    matrices(tmp_path)
    (tmp_path / "val_mat").write_bytes(pickle.dumps(sp.csr_matrix(np.eye(4))))
    with pytest.raises(InputError, match=r"differ in shape: train_mat \(3, 5\), val_mat \(4, 4\)"):
        read_tiktok(tmp_path)
    matrices(tmp_path, (3, 6))
    with pytest.raises(InputError, match="has 5 rows, and the matrices have 6 columns"):
        read_tiktok(tmp_path)
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    assert read_tiktok(tmp_path).dataset.items.ids == tuple("012345")
    (tmp_path / "test_mat").unlink()
    with pytest.raises(InputError, match="test_mat: there is no such file"):
        read_tiktok(tmp_path)


def test_lists_beyond_the_vectors(tmp_path: Path) -> None:
    lists(tmp_path)
    (tmp_path / "test.json").write_text('{"0": [], "1": [5]}')
    with pytest.raises(
        InputError, match=r"test.json, row 1: item 5 is out of range(.|\n)*rows of the vectors"
    ):
        read_tiktok(tmp_path)


def test_pairs_in_two_matrices(tmp_path: Path) -> None:
    matrices(tmp_path)
    (tmp_path / "test_mat").write_bytes((tmp_path / "train_mat").read_bytes())
    refused = read_tiktok(tmp_path).refused.listed()
    assert [(Path(r.source).name, r.row, r.user_id, r.item_id) for r in refused] == [
        ("test_mat", 0, "0", "1"),
        ("test_mat", 1, "0", "2"),
        ("test_mat", 2, "1", "0"),
    ]


def test_the_source_says_what_it_is() -> None:
    (source,) = sources
    assert (source.name, source.files) == ("tiktok", ())
