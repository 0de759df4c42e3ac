"""Sparse matrices out of pickle files, without running what a pickle may carry.

A pickle is a program: loading one from elsewhere may do anything. Here nothing of it is carried out. The few
names that SciPy's and NumPy's pickles mention are answered with plain holders that keep what they are given;
any other name is refused; the numbers are taken from the holders afterwards and checked. Neither SciPy nor
NumPy sees the file's content before that.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError

_FORMATS = ("csr", "csc", "coo")
_MATRIX_MODULES = ("scipy.sparse", *(f"scipy.sparse.{dash}{name}" for name in _FORMATS for dash in ("", "_")))
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "b1")
_HINT = "Expected a SciPy matrix (CSR, CSC or COO) that holds numbers."

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def read_matrix(path: Path) -> tuple[Pairs, tuple[int, int]]:
    """Read the places of a sparse matrix that are not zero.

    Parameters
    ----------
    path
        A pickled ``csr_matrix``, ``csc_matrix`` or ``coo_matrix``.

    Returns
    -------
    pairs
        Rows and columns, each shape ``(n,)``, in the order of the file.
    shape
        Of the matrix.

    Raises
    ------
    InputError
        If the file is missing, no such pickle, names anything but a matrix and its arrays, or the arrays do
        not make a matrix.
    """
    try:
        with Path(path).open("rb") as handle:
            found = _Reader(handle).load()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except _RefusedError as error:
        raise InputError(f"{path}: the pickle asks for {error}, which is not read.", _HINT) from None
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise InputError(f"{path}: cannot be read as a pickle ({error}).", _HINT) from None
    kind = getattr(type(found), "kind", None)
    if kind is None:
        raise InputError(f"{path}: the pickle holds no matrix.", _HINT)
    try:
        return _places(kind, vars(found))
    except Exception as error:  # the holders may hold anything instead of numbers
        raise InputError(f"{path}: the pickled matrix is damaged ({error}).", _HINT) from None


class _RefusedError(Exception):
    """A name that is not admitted."""


class _Reader(pickle._Unpickler):
    # The reader written in Python: that in C sets aside as much memory as a damaged file asks for.

    def __init__(self, handle: Any) -> None:
        super().__init__(handle)
        self._admitted = _holders()

    def find_class(self, module: str, name: str) -> Any:
        holder = self._admitted.get((module, name))
        if holder is None:
            raise _RefusedError(f"{module}.{name}")
        return holder

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"the outside object {pid!r:.40}")


def _holders() -> Mapping[tuple[str, str], Any]:
    """Answers to the names that are admitted, made anew for each file: a pickle can alter its own only."""

    class Number:
        """Stands for a dtype: its name and the order of its bytes."""

        def __init__(self, name: str, *_: Any) -> None:
            self.name = name
            self.order = "<"

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = state[1]

    class Array:
        """Stands for an array: version, shape, dtype, whether by columns, bytes."""

        def __init__(self, *_: Any) -> None:
            self.state: tuple[Any, ...] = ()

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.state = state

    def scalar(dtype: Any, content: Any) -> Array:
        return from_buffer(content, dtype, (1,), "C")

    def from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
        array = Array()
        array.state = (1, shape, dtype, order == "F", bytes(content))
        return array

    def encode(text: str, _: Any = None) -> bytes:
        """How older protocols write bytes."""
        return text.encode("latin-1")

    admitted: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Number,
        ("_codecs", "encode"): encode,
    }
    for module in _ARRAY_MODULES:
        admitted |= {(module, "_reconstruct"): Array, (module, "scalar"): scalar}
    for module in _BUFFER_MODULES:
        admitted[module, "_frombuffer"] = from_buffer
    for kind in _FORMATS:
        matrix = type(kind, (), {"kind": kind})
        for module in _MATRIX_MODULES:
            admitted |= {(module, f"{kind}_matrix"): matrix, (module, f"{kind}_array"): matrix}
    return admitted


def _array(held: Any) -> npt.NDArray[Any]:
    """Make an array of what a holder keeps."""
    _, shape, dtype, by_columns, content = held.state
    if dtype.name not in _NUMBERS or dtype.order not in ("<", ">", "|", "="):
        raise ValueError(f"numbers of the type {dtype.name!r}")
    if not isinstance(content, bytes):
        raise TypeError("an array without bytes")
    kind = np.dtype(dtype.name).newbyteorder(">" if dtype.order == ">" else "<")
    sizes = [_whole(size) for size in shape]
    return np.frombuffer(content, dtype=kind).reshape(sizes, order="F" if by_columns else "C")


def _whole(value: Any) -> int:
    if isinstance(value, int):
        return value
    (number,) = _array(value).ravel().tolist()
    return int(number)


def _places(kind: str, state: Mapping[str, Any]) -> tuple[Pairs, tuple[int, int]]:
    n_rows, n_columns = (_whole(size) for size in state["_shape"])
    values = _array(state["data"])
    if kind == "coo":
        held = state["coords"] if "coords" in state else (state["row"], state["col"])
        rows, columns = (_array(part).astype(np.int64) for part in held)
    else:
        starts, inner = (_array(state[name]).astype(np.int64) for name in ("indptr", "indices"))
        outer = _expanded(starts, n_rows if kind == "csr" else n_columns, len(inner))
        rows, columns = (outer, inner) if kind == "csr" else (inner, outer)
    if not rows.shape == columns.shape == values.shape or rows.ndim != 1:
        raise ValueError(f"{len(rows)} rows, {len(columns)} columns, {len(values)} values")
    if not np.isfinite(values.astype(np.float64)).all():
        raise ValueError("a value is NaN or infinite")
    for places, limit, what in ((rows, n_rows, "row"), (columns, n_columns, "column")):
        stray = np.flatnonzero((places < 0) | (places >= limit))
        if len(stray):
            raise ValueError(f"entry {stray[0]}: {what} {places[stray[0]]} of {limit}")
    there = values != 0
    return (rows[there], columns[there]), (n_rows, n_columns)


def _expanded(starts: npt.NDArray[np.int64], count: int, entries: int) -> npt.NDArray[np.int64]:
    """Return the row (or column) of each entry, from where the entries of each begin."""
    sizes = np.diff(starts)
    if len(starts) != count + 1 or starts[0] != 0 or starts[-1] != entries or (sizes < 0).any():
        raise ValueError(f"the starts do not divide {entries} entries among {count}")
    return np.repeat(np.arange(count), sizes)
