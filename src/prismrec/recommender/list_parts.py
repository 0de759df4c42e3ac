"""Lists for very many users: a folder of Parquet parts, of which one is in memory at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import digest, is_leftover, read_json, storage_errors, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.data.dataset import frame_digest
from prismrec.data.text_files import first_line
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.write_lists import write_lists

MANIFEST = "lists.json"
PART = 100_000
"""Users of a part."""


@dataclass(frozen=True)
class WrittenParts:
    """What `write_parts` left.

    Parameters
    ----------
    rows
        Of all parts.
    parts
        How many there are.
    kept
        How many were there before.
    """

    rows: int
    parts: int
    kept: int


def is_folder(path: Path) -> bool:
    """Whether lists go into a folder of parts: a name without extension."""
    return path.suffix == "" or path.is_dir()


def asked_for(recommender: Recommender, users: Sequence[str], wanted: Mapping[str, Any]) -> str:
    """Return a digest of what lists depend on: the run's files, what was added to it, the users, the wish."""
    parts = [json.dumps(dict(wanted), sort_keys=True), json.dumps(list(users))]
    parts += [json.dumps(recommender.manifest.checksums, sort_keys=True)]
    # Added items bring vectors, and attributes that conditions look at.
    items = recommender.items.vectors.tobytes(), frame_digest(recommender.catalog.items)
    return digest(*(part.encode() for part in parts), *items)


def write_parts(
    folder: Path,
    users: Sequence[str],
    lists: Callable[[Sequence[str]], pl.DataFrame],
    asked: str,
    *,
    part_size: int = PART,
    progress: Progress = SILENT,
) -> WrittenParts:
    """Make lists part by part and write each as it comes; parts that are there are kept.

    Parameters
    ----------
    folder
        New, or holding parts of the same lists: a killed call goes on. ``part-00000.parquet`` and so on, in
        the order of the users, and ``lists.json``.
    users
        User ids.
    lists
        Gives the rows of some users.
    asked
        Of `asked_for`.
    part_size
        Users of a part.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If there is no user, or the folder holds something else, or other lists.
    DamagedError
        If a part that is there cannot be read.
    StorageError
        If the disk refuses.
    """
    if not users:
        raise InputError("No user was given.")
    begin_folder(folder, asked, part_size)
    starts = range(0, len(users), part_size)
    rows = kept = 0
    with progress.task("parts", len(starts)) as task:
        for number, start in enumerate(starts):
            path = folder / f"part-{number:05}.parquet"
            if path.exists():
                kept += 1
                rows += _rows_of(path)
            else:
                frame = lists(users[start : start + part_size])
                write_lists(frame, path)
                rows += frame.height
            task.advance(1)
    return WrittenParts(rows, len(starts), kept)


def _rows_of(path: Path) -> int:
    try:
        rows: int = pl.scan_parquet(path).select(pl.len()).collect().item()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DamagedError(
            f"{path}: this part is damaged ({first_line(error)}).",
            "Remove it; the same command makes it again.",
        ) from error
    return rows


def begin_folder(folder: Path, asked: str, part_size: int) -> None:
    """Take a folder for parts, or find that it has been taken for the same ones.

    Raises
    ------
    InputError
        If it holds something else, or other lists.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file.", "Name a folder, or a file with an extension.")
    there = [p.name for p in folder.iterdir() if not is_leftover(p.name)] if folder.exists() else []
    note = {"format": "prismrec-lists", "asked": asked, "part_size": part_size}
    if not there:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST, note)
        return
    if MANIFEST not in there:
        raise InputError(
            f"{folder}: holds something that is no lists ({', '.join(sorted(there)[:3])}).",
            "Choose a new folder.",
        )
    if read_json(folder / MANIFEST, "a folder of lists") != note:
        raise InputError(
            f"{folder}: holds other lists: another run, other users or other options.",
            "Choose a new folder, or remove this one.",
        )
