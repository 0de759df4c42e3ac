"""Feature store: one array a modality, keyed by item id, on disk and memory-mapped.

A store is a folder: ``manifest.json`` names the encoder, the sizes and the two data files, an array of the
vectors that exist and an index from item ids to its rows. The manifest is written last and names its files
by content, so that a reader meets either the old store or the new one, never a mixture. Items without
content have no row: a missing modality is a fact, not a vector of zeros.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path, digest, read_json, write_array, write_json
from prismrec.data.vocabulary import Vocabulary

FORMAT = "prismrec-features"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MISSING = -1
_FIELDS = ("modality", "encoder", "dim", "items", "content_hash", "problems", "files")
_BLOCK = 65_536


@dataclass(frozen=True)
class FeatureStore:
    """The vectors of one modality.

    Parameters
    ----------
    name
        The modality ("image", "text", "audio", or yours).
    vectors
        Shape ``(n, dim)``, float16 or float32, mostly memory-mapped. Only vectors that exist.
    ids
        Item id of each row, unique.
    digests
        Digest of the content that each row was encoded from; empty strings where there is none.
    encoder
        What made the vectors (`Encoder.spec`), or where they came from.
    problems
        Why an item has no vector although it has content, by item id.
    path
        The folder, None in memory.

    Raises
    ------
    InputError
        If shapes do not fit each other or a vector is not finite.
    """

    name: str
    vectors: npt.NDArray[np.floating[Any]]
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    encoder: Mapping[str, Any]
    problems: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids) or len(self.ids) != len(self.digests):
            raise InputError(
                f"Features {self.name!r}: {self.vectors.shape} vectors, {len(self.ids)} ids and "
                f"{len(self.digests)} digests do not fit each other."
            )
        if self.path is None:
            require_finite(self.vectors, self.ids, f"Features {self.name!r}")

    def __repr__(self) -> str:
        size = f"{len(self.ids):,} vectors of {self.dim} numbers, {self.vectors.dtype}"
        return f"FeatureStore({self.name!r}: {size}; {'in memory' if self.path is None else self.path})"

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Item ids in the order of the rows."""
        return Vocabulary(self.ids, "item")

    @cached_property
    def content_hash(self) -> str:
        """Digest of the vectors and their ids; what is derived from a store is keyed by it."""
        if self.path is not None:
            return str(read_json(self.path / MANIFEST, "a feature store")["content_hash"])
        return _content_hash(self.vectors, self.ids)

    def rows(self, item_ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the row of each item, `MISSING` where it has no vector."""
        return self.vocabulary.codes(item_ids)

    def forget(self) -> None:
        """Let go of the pages of the file that reading has brought into memory.

        They count as the process's memory until the system needs it for something else. After a walk through
        the whole store that is all of it. What is read later is read again, mostly from the system's cache.
        """
        mapped = self.vectors.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def write(self, folder: Path) -> "FeatureStore":
        """Write the store into a folder, replacing what stands there in one instant.

        Returns
        -------
        FeatureStore
            The same store, memory-mapped from the folder.
        """
        content_hash = _content_hash(self.vectors, self.ids)
        index = pl.DataFrame(
            {"item_id": self.ids, "digest": self.digests}, schema={"item_id": pl.String, "digest": pl.String}
        )
        # Two stores may hold the same vectors and differ in the index (other digests): name by both.
        stamp = digest(content_hash.encode(), "\n".join(self.digests).encode())[:12]
        files = {"vectors": f"vectors-{stamp}.npy", "index": f"index-{stamp}.parquet"}
        write_array(folder / files["vectors"], self.vectors)
        with atomic_path(folder / files["index"]) as temporary:
            index.write_parquet(temporary)
        write_json(
            folder / MANIFEST,
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "modality": self.name,
                "encoder": dict(self.encoder),
                "dim": self.dim,
                "dtype": str(self.vectors.dtype),
                "items": len(self.ids),
                "content_hash": content_hash,
                "problems": dict(self.problems),
                "files": files,
            },
        )
        for stale in (*folder.glob("vectors-*.npy"), *folder.glob("index-*.parquet")):
            if stale.name not in files.values():
                stale.unlink(missing_ok=True)
        return FeatureStore.read(folder)

    @staticmethod
    def read(folder: Path) -> "FeatureStore":
        """Open a store; the vectors stay on the disk.

        Raises
        ------
        InputError
            If the folder is not a store.
        DamagedError
            If a file is missing, truncated or of another size than the manifest says.
        """
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST, "a feature store (as `prismrec encode` writes it)")
        if manifest.get("format") != FORMAT:
            raise InputError(f"{folder}: this is not a feature store of prismrec.")
        if manifest.get("format_version", 0) > FORMAT_VERSION:
            raise InputError(f"{folder}: written by a newer prismrec.", "Install the newer version.")
        missing = [name for name in _FIELDS if name not in manifest]
        if missing:
            raise DamagedError(
                f"{folder / MANIFEST}: the file is damaged, {missing[0]!r} is missing.", "Encode again."
            )
        try:
            vectors = np.load(folder / manifest["files"]["vectors"], mmap_mode="r", allow_pickle=False)
            index = pl.read_parquet(folder / manifest["files"]["index"])
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise DamagedError(
                f"{folder}: the feature store is damaged ({error}).", "Encode again."
            ) from error
        if vectors.shape != (manifest["items"], manifest["dim"]) or len(index) != manifest["items"]:
            raise DamagedError(
                f"{folder}: the feature store's files do not fit its manifest.", "Encode again."
            )
        return FeatureStore(
            manifest["modality"],
            vectors,
            tuple(index["item_id"].to_list()),
            tuple(index["digest"].to_list()),
            manifest["encoder"],
            manifest["problems"],
            folder,
        )


class ItemFeatures:
    """The features of all modalities, aligned with item codes.

    Parameters
    ----------
    stores
        One a modality, in the order in which models see them.
    items
        Item ids in the order of their codes.

    Raises
    ------
    InputError
        If there is no modality, a name stands twice, or no item has a vector.
    """

    def __init__(self, stores: Sequence[FeatureStore], items: Sequence[str]) -> None:
        self.stores = tuple(stores)
        self.names = tuple(store.name for store in stores)
        self.dims = tuple(store.dim for store in stores)
        self.n_items = len(items)
        if len(set(self.names)) != len(self.names):
            raise InputError(f"A modality stands twice: {', '.join(self.names)}.")
        self._rows = [store.rows(items) for store in stores]
        present = [rows != MISSING for rows in self._rows]
        self.present: npt.NDArray[np.bool_] = (
            np.stack(present, axis=1) if present else np.zeros((self.n_items, 0), dtype=np.bool_)
        )
        for name, mask in zip(self.names, present, strict=True):
            if not mask.any():
                raise InputError(
                    f"Features {name!r}: not one item of the catalogue has a vector there.",
                    "Are the ids the same as the catalogue's? Check the first few of both.",
                )

    @property
    def content_hash(self) -> str:
        """Digest over all modalities."""
        return digest(*(f"{store.name}={store.content_hash}".encode() for store in self.stores))

    def gather(
        self, codes: npt.NDArray[np.integer[Any]]
    ) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
        """Return the vectors of some items.

        Parameters
        ----------
        codes
            Item codes, shape ``(n,)``.

        Returns
        -------
        vectors
            One array a modality, float32, shape ``(n, dim)``; rows of missing content are zero, and marked:
        present
            Shape ``(n, modalities)``.
        """
        vectors = []
        for store, rows in zip(self.stores, self._rows, strict=True):
            wanted = rows[codes]
            gathered = np.asarray(store.vectors[np.maximum(wanted, 0)], dtype=np.float32)
            gathered[wanted == MISSING] = 0.0
            vectors.append(gathered)
        return vectors, self.present[codes]


def require_finite(vectors: npt.NDArray[np.floating[Any]], ids: Sequence[str], where: str) -> None:
    """Check that vectors are numbers, in blocks.

    Raises
    ------
    InputError
        Naming the first item whose vector holds a NaN or an infinity, and how many there are.
    """
    bad: list[int] = []
    for start in range(0, len(vectors), _BLOCK):
        finite = np.isfinite(vectors[start : start + _BLOCK]).all(axis=1)
        bad.extend((np.flatnonzero(~finite) + start).tolist())
    if bad:
        raise InputError(
            f"{where}: the vectors of {len(bad):,} items hold NaN or infinite numbers, "
            f"the first is that of item {ids[bad[0]]!r} (row {bad[0]}).",
            "Leave those items out (they then count as missing) or repair them.",
        )


def _content_hash(vectors: npt.NDArray[Any], ids: Sequence[str]) -> str:
    blocks = (np.ascontiguousarray(vectors[s : s + _BLOCK]).tobytes() for s in range(0, len(vectors), _BLOCK))
    state = [digest(block) for block in blocks]
    shape = json.dumps([list(vectors.shape), str(vectors.dtype)])
    return digest(shape.encode(), "".join(state).encode(), "\n".join(ids).encode())
