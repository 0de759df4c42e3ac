"""A bundle: a run made ready to serve, in one folder that needs nothing beside it.

It is a run's folder (`prismrec.recommender.folder`) with the items that were added to the run worked in, the
pictures of the whole catalogue in ``catalog/image.parquet``, no path of a data set, and ``bundle.json``: what
it is, its version, and size and digest of every file. Nothing writes into it once it stands; a new model is a
new bundle.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import prismrec
from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import (
    PARTIAL,
    digest,
    digest_file,
    read_json,
    storage_errors,
    sync_folder,
    write_json,
)
from prismrec.data.dataset import MANIFEST as DATASET_MANIFEST
from prismrec.data.dataset import Dataset
from prismrec.data.media import Media, MemoryMedia, PackedMedia, pack
from prismrec.data.media_sources import FirstMedia
from prismrec.recommender.added_batches import batch_folders
from prismrec.recommender.folder import MANIFEST as RUN_MANIFEST
from prismrec.recommender.folder import read_manifest
from prismrec.recommender.manifest import RunManifest
from prismrec.recommender.recommender import Recommender
from prismrec.serving.bundle_files import (
    AGAIN,
    MANIFEST,
    BundleManifest,
    FileNote,
    check_files,
    listing,
    read_bundle_manifest,
    version_of,
)

_PICTURES = "catalog/image.parquet"


@dataclass(frozen=True)
class Bundle:
    """A folder to serve from. Made by `write_bundle` and `open_bundle`.

    Parameters
    ----------
    path
        The folder.
    version
        Digest of what is in it: two bundles of one version answer alike.
    model
        Name of the model.
    created
        When it was made; of a plain run, when its training began.
    encoders
        By modality: the encoder's name, revision and settings.
    plain_run
        Whether it is a run's folder as training left it: without checksums of everything, and with pictures
        only while the data set is where it was.
    """

    path: Path
    version: str
    model: str
    created: str
    encoders: Mapping[str, Mapping[str, Any]]
    plain_run: bool = False

    def recommender(self) -> Recommender:
        """Load the recommender. It is in memory only: nothing that it is told is written into the folder.

        Raises
        ------
        DamagedError
            If a file is missing or altered.
        """
        recommender = Recommender.load(self.path)
        recommender.path = None
        return recommender

    @cached_property
    def pictures(self) -> Media:
        """The catalogue's pictures; may be read from several threads."""
        if self.plain_run:
            # Which of data set, run and added items has a picture is the run's to know.
            media = Recommender.load(self.path).catalog.media.get("image", MemoryMedia({}))
        else:
            packed = self.path / _PICTURES
            media = PackedMedia(packed) if packed.exists() else MemoryMedia({})
        return _OneAtATime(media)


class _OneAtATime:
    """Media for several threads: a packed file remembers the group it read last, which two would mix up."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._lock = threading.Lock()

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""
        with self._lock:
            return self._media.ids

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none."""
        with self._lock:
            return self._media.read(item_id)


def write_bundle(
    run: Path | str, out: Path | str, *, dataset: Path | str | None = None, pictures: bool = True
) -> Bundle:
    """Make a bundle of a run. A kill leaves nothing at `out`, or the whole bundle.

    Parameters
    ----------
    run
        The run's folder.
    out
        A new folder.
    dataset
        Where the run's data set is now; None: where it was in training.
    pictures
        Whether to take the catalogue's pictures along; without them it is small.

    Returns
    -------
    Bundle
        As it stands on the disk, checked.

    Raises
    ------
    InputError
        If `run` is no run, `out` is there already, or the data set is gone or is another.
    DamagedError
        If a file of the run is missing or altered.
    StorageError
        If the disk refuses.
    """
    run, out = Path(run), Path(out)
    _require_free(out)
    recommender = Recommender.load(run)
    images = _pictures(recommender, None if dataset is None else Path(dataset)) if pictures else None
    # What serves must not depend on a folder that another machine does not have, nor tell where it was.
    recommender.manifest.dataset_path = None
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        building = out.with_name(f"{out.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            recommender.save(building)
            _pack_pictures(recommender, images, building / _PICTURES)
            _write_manifest(building, recommender.manifest)
            _put_in_place(building, out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open_bundle(out)


def open_bundle(path: Path | str, *, check: bool = True) -> Bundle:
    """Open a bundle, or a run's folder in its place.

    Parameters
    ----------
    path
        The folder.
    check
        Whether to read every file and compare it with its checksum. A plain run has none for all of it; what
        it has is compared when it is loaded.

    Raises
    ------
    InputError
        If the folder is neither, or was written by a newer version.
    DamagedError
        If a file is missing, altered, truncated, or does not belong there.
    """
    path = Path(path)
    if not (path / MANIFEST).exists() and (path / RUN_MANIFEST).exists():
        return _plain_run(path)
    manifest = read_bundle_manifest(path)
    if manifest.version != version_of(manifest.files):
        raise DamagedError(f"{path / MANIFEST}: the version does not fit the list of files.", AGAIN)
    if check:
        check_files(path, manifest.files)
        run = read_manifest(path)
        if (manifest.model, manifest.encoders) != (run.model, _encoders(run)):
            raise DamagedError(f"{path / MANIFEST}: was altered, it does not fit {RUN_MANIFEST}.", AGAIN)
    return Bundle(path, manifest.version, manifest.model, manifest.created.isoformat(), manifest.encoders)


def _require_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already, and a bundle is never changed.", "Choose a new folder.")


def _pictures(recommender: Recommender, dataset: Path | None) -> Media | None:
    """Return the pictures of all items, the run's own first: an item that was replaced has its new one there.

    A run shrugs off a data set that is gone. A bundle must not: nobody would notice before the page is empty.
    """
    own = recommender.catalog.media.get("image")
    asked = recommender.manifest.dataset_path
    if dataset is None and asked is None:
        return own
    home = dataset if dataset is not None else Path(str(asked))
    advice = "Name the folder where the data set is now, or make the bundle without pictures."
    try:
        found = read_json(home / DATASET_MANIFEST, "a data set").get("content_hash")
    except InputError as error:
        raise InputError(
            f"{home}: the run's data set is not there, its pictures are needed.", advice
        ) from error
    if found != recommender.manifest.dataset_hash:
        raise InputError(f"{home}: is not the data set that the run was trained on, or has changed.", advice)
    sources = [own, Dataset.open_media(home).get("image")]
    return FirstMedia([media for media in sources if media is not None])


def _pack_pictures(recommender: Recommender, images: Media | None, path: Path) -> None:
    """Write the pictures of all items; saving has left those of later items at that path."""
    path.unlink(missing_ok=True)
    wanted = [] if images is None else [name for name in images.ids if name in recommender.item_ids]
    if images is not None and wanted:
        pack(path, ((name, content) for name in wanted if (content := images.read(name)) is not None))


def _write_manifest(folder: Path, run: RunManifest) -> None:
    notes = {}
    for name, file in sorted(listing(folder).items()):
        # Copies of encoders have not been flushed yet; all has to be there before the name is.
        with file.open("rb+") as written:
            os.fsync(written.fileno())
        notes[name] = FileNote(size=file.stat().st_size, digest=digest_file(file))
    manifest = BundleManifest(
        version=version_of(notes),
        prismrec=prismrec.__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        model=run.model,
        encoders=_encoders(run),
        files=notes,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _put_in_place(building: Path, out: Path) -> None:
    for home, _, _ in os.walk(building):
        sync_folder(Path(home))
    try:
        building.rename(out)
    except OSError:
        # Somebody else was faster.
        _require_free(out)
        raise
    sync_folder(out.parent)


def _encoders(run: RunManifest) -> dict[str, dict[str, Any]]:
    return {note.name: note.encoder for note in run.features}


def _plain_run(path: Path) -> Bundle:
    run = read_manifest(path)
    vectors = path / "vectors.safetensors"
    parts = [path / RUN_MANIFEST, vectors]
    # Items that were added have vectors too.
    parts += [file for batch in batch_folders(path / "added") if (file := batch / "batch.json").exists()]
    try:
        version = digest(*(digest_file(part).encode() for part in parts))
    except FileNotFoundError:
        raise DamagedError(f"{vectors}: the file is missing from the run.", "Train again.") from None
    return Bundle(path, version, run.model, run.started, _encoders(run), plain_run=True)
