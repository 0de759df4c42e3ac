"""Added items on the disk: one folder a batch, there whole or not at all.

``items.parquet`` (attributes), ``arrays.safetensors`` (vectors, what is there, weights, content vectors),
``image.parquet`` and ``audio.parquet`` (content), and ``batch.json``: digests of the contents, and of the
files. A batch is written beside its place and renamed.
"""

import errno
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import (
    PARTIAL,
    atomic_path,
    digest_file,
    read_json,
    storage_errors,
    sync_folder,
    write_json,
)
from prismrec.data.catalog import MEDIA_KINDS, Catalog
from prismrec.data.media import Media, PackedMedia, pack
from prismrec.data.media_sources import FirstMedia
from prismrec.recommender.vectors import ItemVectors

_NOTES = "batch.json"
_CHECKED = ("items.parquet", "arrays.safetensors")


@dataclass(frozen=True)
class AddedBatch:
    """Items that were added in one go.

    Parameters
    ----------
    catalog
        The items with their content.
    items
        Their vectors.
    digests
        Of their contents: for each modality by item id.
    """

    catalog: Catalog
    items: ItemVectors
    digests: Mapping[str, Mapping[str, str]]


class AddedMedia(FirstMedia):
    """Content that was added, before content that was there: what no data set's folder holds is known by it.

    Parameters
    ----------
    added
        Content of added items; it stands for items that were there before, too, which it replaces.
    before
        What was there; None: nothing of this kind.
    """

    def __init__(self, added: Media, before: Media | None) -> None:
        super().__init__([added] if before is None else [added, before])
        earlier = before.added_ids if isinstance(before, AddedMedia) else frozenset()
        self.added_ids: frozenset[str] = earlier.union(added.ids)


def batch_folders(home: Path) -> list[Path]:
    """Return the folders of the batches in a run's folder ``added``, in their order."""
    return sorted(p for p in home.glob("*") if p.name.isdigit())


def write_batch(home: Path, batch: AddedBatch, contents: Mapping[str, npt.NDArray[np.float32]]) -> Path:
    """Write a batch of items as one folder, atomically.

    Parameters
    ----------
    home
        The run's folder ``added``.
    batch
        What to write.
    contents
        Content vectors by modality, in the order of the items.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        building = home / f"batch.{secrets.token_hex(4)}{PARTIAL}"
        try:
            building.mkdir()
            _fill(building, batch, contents)
            target = _rename(building, home)
            sync_folder(home)
            return target
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _fill(building: Path, batch: AddedBatch, contents: Mapping[str, npt.NDArray[np.float32]]) -> None:
    items = batch.items
    arrays: dict[str, npt.NDArray[Any]] = {"vectors": items.vectors, "present": items.present}
    if items.weights is not None and items.experts is not None:
        arrays |= {"weights": items.weights, "experts": items.experts}
    arrays |= {f"content.{name}": vectors for name, vectors in contents.items()}
    with atomic_path(building / "items.parquet") as temporary:
        batch.catalog.items.write_parquet(temporary)
    with atomic_path(building / "arrays.safetensors") as temporary:
        save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, temporary)
    for kind, media in batch.catalog.media.items():
        there = set(media.ids)
        names = [n for n in batch.catalog.vocabulary if n in there]
        if names:
            pairs = ((n, c) for n in names if (c := media.read(n)) is not None)
            pack(building / f"{kind}.parquet", pairs)
    files = {name: digest_file(building / name) for name in _CHECKED}
    write_json(building / _NOTES, {"files": files, "digests": {m: dict(d) for m, d in batch.digests.items()}})


def _rename(building: Path, home: Path) -> Path:
    """Move a finished batch to the first free number; another process may take one at the same time."""
    numbers = [int(folder.name) for folder in batch_folders(home)]
    number = max(numbers, default=-1) + 1
    while True:
        target = home / f"{number:06d}"
        try:
            building.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            number += 1
        else:
            return target


def read_batch(folder: Path, text_columns: Sequence[str]) -> AddedBatch:
    """Read a batch.

    Raises
    ------
    DamagedError
        If a file is missing or altered.
    """
    try:
        notes = read_json(folder / _NOTES, "a batch of added items")
        altered = [name for name in _CHECKED if digest_file(folder / name) != notes["files"][name]]
        if altered:
            raise DamagedError(f"{folder / altered[0]}: the file was altered after it was written.", _AGAIN)
        frame = pl.read_parquet(folder / "items.parquet")
        arrays = load_file(folder / "arrays.safetensors")
        items = ItemVectors(
            arrays["vectors"], arrays["present"], arrays.get("weights"), arrays.get("experts")
        )
        digests = notes["digests"]
    except (SafetensorError, OSError, pl.exceptions.PolarsError, KeyError, InputError) as error:
        raise DamagedError(f"{folder}: the added items are damaged ({error}).", _AGAIN) from error
    media = {
        kind: PackedMedia(folder / f"{kind}.parquet")
        for kind in MEDIA_KINDS
        if (folder / f"{kind}.parquet").exists()
    }
    return AddedBatch(Catalog(frame, tuple(text_columns), media), items, digests)


_AGAIN = "Delete that folder and add its items again."
