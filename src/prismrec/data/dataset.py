"""A data set: a checked catalogue and a checked log, in one folder or in memory."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path, digest, digest_file, is_leftover, read_json, write_json
from prismrec.data.catalog import MEDIA_KINDS, Catalog
from prismrec.data.interactions import Interactions, Pairs, first_of_pairs
from prismrec.data.media import Media, PackedMedia, pack
from prismrec.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from prismrec.data.splits import Split, SplitPlan

FORMAT = "prismrec-dataset"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """A catalogue and the interactions with it.

    Parameters
    ----------
    interactions
        The log. Every item of it is in the catalogue.
    catalog
        The items.
    min_rating
        Interactions rated at least this count as positive; None: all of them do.
    path
        The folder that it was read from or written to, None in memory.
    notes
        What was done to the data on the way (core filtering, say); written into the manifest.

    Raises
    ------
    InputError
        If an interaction names an item that the catalogue lacks.
    """

    interactions: Interactions
    catalog: Catalog
    min_rating: float | None = None
    path: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        met = self.interactions.items
        strange = met.filter(~met.is_in(self.catalog.items["item_id"].implode()))
        if len(strange):
            stray = self.interactions.where(pl.col("item_id").is_in(strange.implode()))
            first = stray.lazy.select("item_id").first().collect().item()
            raise InputError(
                f"{len(stray):,} interactions are with items that the catalogue lacks, e.g. {first!r}.",
                "Add the items or leave those interactions out; `prismrec ingest` does that and lists them.",
            )

    def __repr__(self) -> str:
        positive = "" if self.min_rating is None else f", positive from {self.min_rating:g}"
        where = "in memory" if self.path is None else str(self.path)
        return (
            f"Dataset({len(self.items):,} items, {len(self.interactions):,} interactions{positive}; {where})"
        )

    @cached_property
    def users(self) -> Vocabulary:
        """User ids in ascending order, so that the order of the log does not matter."""
        return Vocabulary(self.interactions.users.to_list(), "user")

    @property
    def items(self) -> Vocabulary:
        """Item ids in the order of the catalogue."""
        return self.catalog.vocabulary

    @cached_property
    def content_hash(self) -> str:
        """Digest of the interactions, the catalogue's attributes and the threshold."""
        if self.path is not None:
            return str(read_json(self.path / MANIFEST, "a data set")["content_hash"])
        return digest(
            frame_digest(self.interactions.frame),
            frame_digest(self.catalog.items),
            repr(self.min_rating).encode(),
        )

    def positives(self) -> tuple[Pairs, np.ndarray[Any, np.dtype[np.float64]] | None]:
        """Return the positive pairs, each once, and when each happened first.

        Returns
        -------
        pairs
            Sorted by user code, then item code.
        order
            Shape ``(len(pairs),)``: timestamp or position of the pair's first interaction; None where the
            data have neither.
        """
        rows = self.interactions.at_least(self.min_rating).coded(self.users, self.items)
        return first_of_pairs(rows, len(self.users), len(self.items))

    def split(self, plan: "SplitPlan") -> "Split":
        """Divide the positives into training, validation and a sealed test part."""
        from prismrec.data.splits import make_split

        return make_split(self, plan)

    def filter_core(self, users: int = 0, items: int = 0) -> "Dataset":
        """Keep users and items with at least so many positive interactions, again until nothing changes.

        Parameters
        ----------
        users, items
            Thresholds; 0 keeps all. Items of the catalogue without any interaction stay: they are new.

        Returns
        -------
        Dataset
            In memory, with the step noted.

        Raises
        ------
        InputError
            If nothing is left.
        """
        positive = self.interactions.at_least(self.min_rating)
        rows = positive.coded(self.users, self.items)
        of_user, of_item = rows["user"].to_numpy(), rows["item"].to_numpy()
        kept = np.ones(len(rows), dtype=np.bool_)
        while True:
            user_stays = np.bincount(of_user[kept], minlength=len(self.users)) >= users
            item_stays = np.bincount(of_item[kept], minlength=len(self.items)) >= items
            after = kept & user_stays[of_user] & item_stays[of_item]
            if after.sum() == kept.sum():
                break
            kept = after
        if not kept.any():
            raise InputError(
                f"Nothing is left after keeping users with {users} and items with {items} interactions.",
                "Choose lower thresholds.",
            )
        left = positive.where(
            pl.col("user_id").is_in(_named(self.users, of_user[kept]).implode())
            & pl.col("item_id").is_in(_named(self.items, of_item[kept]).implode())
        )
        gone = np.zeros(len(self.items), dtype=np.bool_)
        gone[self.items.codes(self.interactions.items.to_list())] = True
        gone[of_item[kept]] = False
        stay = [name for name, out in zip(self.items, gone, strict=True) if not out]
        step = {"users": users, "items": items, "interactions_removed": len(self.interactions) - len(left)}
        return Dataset(left, self.catalog.select(stay), None, None, {**self.notes, "core_filter": step})

    def write(self, path: Path | str) -> "Dataset":
        """Write the data set as a folder; the manifest comes last, so that a killed write is no data set.

        Returns
        -------
        Dataset
            The same data, read from the folder.

        Raises
        ------
        InputError
            If the folder holds something that is not a data set.
        StorageError
            If the disk refuses.
        """
        path = Path(path)
        if path.exists() and not _may_hold_dataset(path):
            raise InputError(f"{path}: is not empty and not a data set.", "Choose a new folder.")
        self.interactions.write(path / "interactions.parquet")
        _write_frame(path / "items.parquet", self.catalog.items)
        counts = {}
        for kind, media in self.catalog.media.items():
            wanted = set(self.items)
            pairs = ((i, c) for i in media.ids if i in wanted and (c := media.read(i)) is not None)
            counts[kind] = pack(path / "media" / f"{kind}.parquet", pairs)
        files = {name: digest_file(path / name) for name in ("interactions.parquet", "items.parquet")}
        write_json(
            path / MANIFEST,
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "content_hash": digest(*map(str.encode, files.values()), repr(self.min_rating).encode()),
                "files": files,
                "users": len(self.users),
                "items": len(self.items),
                "interactions": len(self.interactions),
                "min_rating": self.min_rating,
                "text_columns": list(self.catalog.text_columns),
                "media": counts,
                "notes": dict(self.notes),
            },
        )
        return Dataset.read(path)

    @staticmethod
    def read(path: Path | str) -> "Dataset":
        """Open a data set folder. Pictures and sounds stay on the disk.

        Raises
        ------
        InputError
            If the folder is not a data set.
        DamagedError
            If a file is missing or altered.
        """
        path = Path(path)
        manifest = read_json(path / MANIFEST, "a data set (as `prismrec ingest` writes it)")
        if manifest.get("format") != FORMAT:
            raise InputError(f"{path}: this is not a data set of prismrec.", "Check the path.")
        missing = [name for name in _FIELDS if name not in manifest]
        if missing:
            raise DamagedError(
                f"{path / MANIFEST}: the file is damaged, {missing[0]!r} is missing.", "Run ingest again."
            )
        if manifest["format_version"] > FORMAT_VERSION:
            raise InputError(f"{path}: written by a newer prismrec.", "Install the newer version.")
        for name, expected in manifest["files"].items():
            _check_file(path / name, expected)
        items = pl.read_parquet(path / "items.parquet")
        catalog = Catalog(items, tuple(manifest["text_columns"]), Dataset.open_media(path))
        interactions = Interactions.read(path / "interactions.parquet")
        return Dataset(interactions, catalog, manifest["min_rating"], path, manifest["notes"])

    @staticmethod
    def open_media(path: Path) -> dict[str, Media]:
        """Open the packed pictures and sounds of a data set folder, by kind."""
        packed = {kind: path / "media" / f"{kind}.parquet" for kind in MEDIA_KINDS}
        return {kind: PackedMedia(file) for kind, file in packed.items() if file.exists()}


# What reading needs of the manifest.
_FIELDS = ("format_version", "content_hash", "files", "min_rating", "text_columns", "notes")
# What a killed write may have left in a folder without a manifest.
_OWN = {"interactions.parquet", "items.parquet", "media", "refused.jsonl", "report.json"}


def _may_hold_dataset(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / MANIFEST).exists() or all(
        entry.name in _OWN or is_leftover(entry.name) for entry in path.iterdir()
    )


def _check_file(path: Path, expected: str) -> None:
    try:
        found = digest_file(path)
    except FileNotFoundError:
        raise DamagedError(f"{path}: the file is missing from the data set.", "Run ingest again.") from None
    if found != expected:
        raise DamagedError(f"{path}: the file was altered after it was written.", "Run ingest again.")


def _named(ids: Vocabulary, codes: npt.NDArray[np.int32]) -> pl.Series:
    return pl.Series(ids.names(np.unique(codes)), dtype=pl.String)


def _write_frame(path: Path, frame: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary)


def frame_digest(frame: pl.DataFrame) -> bytes:
    """Return a digest of a table: its columns, their types, and all its rows in their order."""
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer)
    return digest(buffer.getvalue()).encode()
