"""Vectors of your own: from a Parquet file, or from a .npy file with ids beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import digest
from prismrec.data import values
from prismrec.data.id_files import read_ids
from prismrec.data.readers import PARQUET, open_table
from prismrec.features.store import FeatureStore, require_finite

_BLOCK = 8192
_FORMS = "Give a .parquet with 'item_id' and a column of lists, or a .npy and a file of ids."


def read_vectors(path: Path, ids: Path | None = None, *, name: str) -> FeatureStore:
    """Read vectors that were made elsewhere.

    Parameters
    ----------
    path
        Parquet with ``item_id`` and one column of lists or arrays of numbers; or ``.npy`` of shape
        ``(n, dim)``.
    ids
        For ``.npy``: the item id of each row, one a line (``.txt``) or a table with ``item_id``.
    name
        What the modality is called.

    Returns
    -------
    FeatureStore
        In memory, float32; of a ``.npy`` file of float16 or float32 the vectors stay on the disk. The digest
        of a row is that of its float32 bytes, so that `add_items` recognises vectors that have not changed.

    Raises
    ------
    InputError
        If the file cannot be read, rows differ in length, hold NaN or something else than numbers, an id is
        missing or stands twice, or ids and rows differ in number.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        if ids is None:
            raise InputError(f"{path}: a .npy file says nothing of ids.", "Name a file of ids: FILE.npy:IDS")
        vectors, names = _read_array(path), read_ids(ids, "item_id")
        if len(vectors) != len(names):
            raise InputError(f"{path} has {len(vectors):,} rows, and {ids} {len(names):,} ids.")
    elif path.is_dir() or path.suffix.lower() in PARQUET:
        if ids is not None:
            raise InputError(f"{path}: a Parquet file holds the ids itself.", "Leave out the file of ids.")
        vectors, names = _read_parquet(path)
    else:
        raise InputError(f"{path}: vectors cannot be read from this kind of file.", _FORMS)
    _require_unique(path, names)
    if vectors.shape[1] == 0:
        raise InputError(f"{path}: the vectors have no dimension.")
    if vectors.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    require_finite(vectors, names, str(path))
    digests = tuple(_digests(vectors))
    return FeatureStore(name, vectors, tuple(names), digests, {"name": "own vectors", "file": path.name})


def _digests(vectors: npt.NDArray[Any]) -> Iterator[str]:
    for first in range(0, len(vectors), _BLOCK):
        for row in np.ascontiguousarray(vectors[first : first + _BLOCK], dtype=np.float32):
            yield digest(row.tobytes())


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as .npy ({error}).", "Write or copy it again.") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        found = f"{array.dtype}, shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: holds {found}.", "Expected numbers of shape (items, dimensions).")
    return array


def _read_parquet(path: Path) -> tuple[npt.NDArray[Any], list[str]]:
    table = open_table(path)
    columns = [name for name, dtype in table.schema.items() if isinstance(dtype, (pl.List, pl.Array))]
    if "item_id" not in table.schema or len(columns) != 1:
        raise InputError(
            f"{path}: expected a column 'item_id' and one column of lists of numbers.",
            f"Columns are: {dict(table.schema)}.",
        )
    column = columns[0]
    frame = table.read(["item_id", column])
    if frame.is_empty():
        raise InputError(f"{path}: there is no row in the table.")
    names, reasons = values.ids(frame["item_id"], f"{path}: the column 'item_id'")
    if reasons.null_count() < len(reasons):
        row = int(reasons.is_not_null().arg_max() or 0)
        raise InputError(f"{path}, row {row}: the item id cannot be used ({reasons[row]}).")
    return _matrix(path, frame[column], names.to_list()), names.to_list()


def _matrix(path: Path, column: pl.Series, names: list[str]) -> npt.NDArray[Any]:
    dtype = column.dtype
    inner = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    if not inner.is_numeric():
        raise InputError(
            f"{path}: the column {column.name!r} holds {inner}, not numbers.",
            "Expected one list of numbers an item, all of the same length.",
        )
    lists = column.cast(pl.List(pl.Float64))
    sizes = lists.list.len()
    if sizes.null_count():
        row = int(sizes.is_null().arg_max() or 0)
        raise InputError(
            f"{path}: {sizes.null_count():,} rows hold no vector, the first is that of item {names[row]!r} "
            f"(row {row}).",
            "Leave those rows out: the items then count as missing.",
        )
    odd = sizes != sizes[0]
    if odd.any():
        row = int(odd.arg_max() or 0)
        raise InputError(
            f"{path}: vectors differ in length: {sizes[0]} numbers in row 0, {sizes[row]} in row {row} "
            f"(item {names[row]!r}).",
            "All vectors of a modality have the same size.",
        )
    flat = lists.explode(empty_as_null=False).fill_null(float("nan")).to_numpy()
    return np.asarray(flat).reshape(len(names), int(sizes[0]))


def _require_unique(path: Path, names: list[str]) -> None:
    place: dict[str, int] = {}
    for row, name in enumerate(names):
        if name in place:
            raise InputError(
                f"{path}: item {name!r} stands twice, in rows {place[name]} and {row}.", "Keep one of them."
            )
        place[name] = row


def read_assigned(assignment: str) -> FeatureStore:
    """Read vectors as they are named on the command line: ``NAME=FILE`` or ``NAME=FILE.npy:IDS``.

    Raises
    ------
    InputError
        If it is of another form; and whatever `read_vectors` raises.
    """
    name, equals, rest = assignment.partition("=")
    if not equals or not name or not rest:
        raise InputError(
            f"--vectors {assignment!r} is not understood.",
            "Write NAME=FILE, e.g. clip=vectors.parquet or clip=vectors.npy:ids.txt.",
        )
    file, colon, ids = rest.partition(".npy:")
    if colon:
        return read_vectors(Path(f"{file}.npy"), Path(ids), name=name)
    return read_vectors(Path(rest), name=name)
