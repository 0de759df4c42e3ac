import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.sources.pickled_matrix import read_matrix

DENSE = np.array([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 1]])


def dumped(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def places(matrix: np.ndarray) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in zip(*np.nonzero(matrix), strict=True)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array, sp.coo_array]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int8, np.bool_])
def test_matrices_as_scipy_pickles_them(tmp_path: Path, kind: type, protocol: int, dtype: str) -> None:
    path = dumped(tmp_path / "m", kind(DENSE.astype(dtype)), protocol)
    (rows, columns), shape = read_matrix(path)
    assert shape == (3, 4)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == places(DENSE)


def test_numbers_with_their_bytes_the_other_way_round(tmp_path: Path) -> None:
    matrix = sp.csr_matrix(DENSE)
    matrix.indices, matrix.data = matrix.indices.astype(">i4"), matrix.data.astype(">f8")
    (rows, columns), _ = read_matrix(dumped(tmp_path / "m", matrix))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == places(DENSE)


def test_a_file_cannot_ask_for_all_memory(tmp_path: Path) -> None:
    # LONG_BINPUT 2**32 - 1: the reader written in C would make room for as many objects.
    (tmp_path / "m").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")
    with pytest.raises(InputError, match="holds no matrix"):
        read_matrix(tmp_path / "m")


def test_stored_zeros_are_no_pairs(tmp_path: Path) -> None:
    matrix = sp.csr_matrix((np.array([1.0, 0.0]), ([0, 1], [2, 0])), shape=(2, 3))
    (rows, columns), _ = read_matrix(dumped(tmp_path / "m", matrix))
    assert (rows.tolist(), columns.tolist()) == ([0], [2])


def test_names_of_older_releases(tmp_path: Path) -> None:
    # What SciPy 1.5 and NumPy 1.19 wrote: other modules, int32 sizes that are NumPy's own numbers.
    new = pickle.dumps(sp.csr_matrix(DENSE.astype(np.float64)), protocol=2)
    old = new.replace(b"cscipy.sparse._csr\n", b"cscipy.sparse.csr\n")
    old = old.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    (tmp_path / "m").write_bytes(old)
    (rows, columns), _ = read_matrix(tmp_path / "m")
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == places(DENSE)


def test_sizes_that_are_numpy_numbers(tmp_path: Path) -> None:
    matrix = sp.csr_matrix(DENSE)
    matrix._shape = (np.int64(3), np.int32(4))
    assert read_matrix(dumped(tmp_path / "m", matrix))[1] == (3, 4)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    command = f"touch {sprung}"
    hidden = sp.csr_matrix(DENSE)
    hidden.extra = Trap(command)
    for value in (Trap(command), [Trap(command)], hidden):
        with pytest.raises(InputError, match=r"asks for \w+.system, which is not read"):
            read_matrix(dumped(tmp_path / "m", value))
    assert not sprung.exists()
    pickle.loads((tmp_path / "m").read_bytes())
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1+1\ntR.",
        b"c__builtin__\ngetattr\n(cnumpy\nndarray\nV__class__\ntR.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"cscipy.sparse\nload_npz\n(Vx\ntR.",
        b"cnumpy\nndarray.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"Pfile\n.",
        b"cposix\nsystem\n(Vtrue\ntR.",
    ],
)
def test_names_that_are_not_admitted(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "m").write_bytes(program)
    with pytest.raises(InputError, match="which is not read"):
        read_matrix(tmp_path / "m")


def test_what_one_file_alters_does_not_reach_the_next(tmp_path: Path) -> None:
    # BUILD with a pair sets attributes, here on the holder itself: {"__setstate__": 1} on ndarray's.
    (tmp_path / "bad").write_bytes(b"cnumpy\nndarray\n(N}V__setstate__\nI1\nstb.")
    with pytest.raises(InputError):
        read_matrix(tmp_path / "bad")
    assert len(read_matrix(dumped(tmp_path / "good", sp.csr_matrix(DENSE)))[0][0]) == 4


def test_pickles_that_hold_something_else(tmp_path: Path) -> None:
    for value in ({"a": 1}, [1, 2], DENSE, b"x", None, np.float64(3)):
        with pytest.raises(InputError, match="holds no matrix"):
            read_matrix(dumped(tmp_path / "m", value))
    with pytest.raises(InputError, match=r"asks for scipy.sparse._lil.lil_matrix"):
        read_matrix(dumped(tmp_path / "m", sp.lil_matrix(DENSE)))
    bad = sp.csr_matrix(DENSE)
    bad.data = np.array([{}, 1, 2, 3], dtype=object)
    with pytest.raises(InputError, match=r"damaged .*type 'O8'"):
        read_matrix(dumped(tmp_path / "m", bad))
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as a pickle"):
        read_matrix(tmp_path / "m")
    with pytest.raises(InputError, match="no such file"):
        read_matrix(tmp_path / "none")


def test_arrays_that_make_no_matrix(tmp_path: Path) -> None:
    def broken(kind: type = sp.csr_matrix, **altered: object) -> sp.csr_matrix:
        matrix = kind(DENSE.astype(np.float64))
        vars(matrix).update(altered)
        return matrix

    for matrix, said in (
        (broken(indices=np.array([1, 3, 0, 4], np.int32)), "entry 3: column 4 of 4"),
        (broken(indices=np.array([1, 3, -1, 2], np.int32)), "entry 2: column -1 of 4"),
        (broken(indices=np.array([1, 3, 0], np.int32)), "do not divide 3 entries"),
        (broken(data=np.ones(3)), "4 rows, 4 columns, 3 values"),
        (broken(data=np.array([1, np.nan, 1, 1])), "NaN"),
        (broken(indptr=np.array([0, 3, 2, 4], np.int32)), "do not divide 4 entries among 3"),
        (broken(indptr=np.array([0, 4], np.int32)), "among 3"),
        (broken(_shape=(2, 4)), "among 2"),
        (broken(_shape=(3, 4, 1)), "damaged"),
        (broken(_shape=None), "damaged"),
        (broken(data=None), "damaged"),
        (broken(sp.coo_matrix, _shape=(2, 4)), "entry 2: row 2 of 2"),
    ):
        with pytest.raises(InputError, match=said):
            read_matrix(dumped(tmp_path / "m", matrix))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_pickles_are_an_error_or_a_matrix(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(pickle.dumps(sp.csr_matrix(DENSE.astype(np.float64)), protocol=4))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("p") / "m"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        (rows, columns), (n_rows, n_columns) = read_matrix(path)
    except InputError:
        return
    assert len(rows) == len(columns)
    assert not len(rows) or (rows.min() >= 0 and rows.max() < n_rows and columns.max() < n_columns)
