"""Vectors as research code keeps them: one .npy file a modality, row n for item n."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.source import ReadyVectors

_SUFFIX = "_feat.npy"
_BLOCK_BYTES = 1 << 26


def open_array(path: Path) -> npt.NDArray[Any]:
    """Open a .npy file without reading it into memory, and without ever running a pickle.

    Raises
    ------
    InputError
        If it is missing, damaged, or holds Python objects rather than numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read as .npy ({error}).", "Expected an array of numbers; copy the file again."
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        found = array.dtype if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: holds {found}.", "Expected an array of numbers.")
    return array


def vector_files(folder: Path) -> dict[str, Path]:
    """Return the files ``<modality>_feat.npy`` of a folder by modality, in the order of the names."""
    return {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"?*{_SUFFIX}"))}


def count_items(files: dict[str, Path]) -> int | None:
    """Return how many rows the files have, None if there is no file.

    Raises
    ------
    InputError
        If one cannot be read, has another shape than ``(items, dimensions)``, or they differ in rows.
    """
    rows: dict[str, int] = {}
    for modality, path in files.items():
        array = open_array(path)
        if array.ndim != 2 or array.shape[1] == 0:
            raise InputError(
                f"{path}: has shape {array.shape}.",
                "Expected one row of numbers an item: (items, dimensions).",
            )
        rows[modality] = len(array)
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{files[modality].name} {count:,}" for modality, count in rows.items())
        raise InputError(
            f"{next(iter(files.values())).parent}: the vectors differ in rows: {listed}.",
            "Row n of each file belongs to item n, so that all have as many rows as there are items.",
        )
    return next(iter(rows.values()), None)


def read_vectors(path: Path, modality: str, ids: Sequence[str], refused: Refusals) -> ReadyVectors:
    """Read the vectors of one modality.

    Rows that hold NaN or infinity, and rows of zeros only, count as missing content and are listed.

    Parameters
    ----------
    path
        The file, shape ``(len(ids), dim)``.
    modality
        What it is called.
    ids
        Item id of each row.
    refused
        Told of each row that is left out.

    Returns
    -------
    ReadyVectors
        Memory-mapped if the file is float32 or float16 and every row is used; else float32 in memory.

    Raises
    ------
    InputError
        If the file cannot be read, has another number of rows, or no row can be used.
    """
    array = open_array(path)
    if array.ndim != 2 or len(array) != len(ids):
        raise InputError(
            f"{path}: has shape {array.shape}, and there are {len(ids):,} items.",
            "Row n belongs to item n: expected one row an item.",
        )
    finite, filled = _usable_rows(array)
    for row in np.flatnonzero(~(finite & filled)).tolist():
        reason = "only zeros, taken as missing" if finite[row] else "holds NaN or infinity"
        refused.add(Refusal(str(path), row, modality, reason, item_id=ids[row]))
    usable = np.flatnonzero(finite & filled)
    if len(usable) == 0:
        raise InputError(f"{path}: none of the {len(ids):,} rows can be used (NaN, infinity or only zeros).")
    if len(usable) < len(ids) or array.dtype not in (np.float32, np.float16):
        array = _taken(array, usable)
    return ReadyVectors(modality, tuple(ids[row] for row in usable.tolist()), array)


def _blocks(array: npt.NDArray[Any]) -> list[slice]:
    """Slices of rows that fit into memory side by side with their checks."""
    size = max(1, _BLOCK_BYTES // max(1, array.shape[1] * array.itemsize))
    return [slice(start, start + size) for start in range(0, len(array), size)]


def _usable_rows(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows are finite, also as float32, and which hold anything but zeros."""
    finite = np.zeros(len(array), dtype=np.bool_)
    filled = np.zeros(len(array), dtype=np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(array):
            rows = np.asarray(array[block], dtype=np.float32)
            finite[block] = np.isfinite(rows).all(axis=1)
            filled[block] = (rows != 0).any(axis=1)
    return finite, filled


def _taken(array: npt.NDArray[Any], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    taken = np.empty((len(rows), array.shape[1]), dtype=np.float32)
    place = np.full(len(array), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(array):
            there = place[block] >= 0
            taken[place[block][there]] = array[block][there]
    return taken
