"""From a publisher's files to a data set folder with the vectors and the split that came along."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import PARTIAL, digest, storage_errors, sync_folder
from prismrec.base.progress import SILENT, Progress, Task
from prismrec.data.catalog import Catalog
from prismrec.data.catalog_media import FetchOptions, checker
from prismrec.data.dataset import MANIFEST, Dataset
from prismrec.data.fetch import fetch
from prismrec.data.given_split import write_parts
from prismrec.data.ingest import REFUSED
from prismrec.data.media import Media
from prismrec.data.media_sources import CheckedMedia, FirstMedia, UrlMedia
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.checksums import CheckedFile, check_files
from prismrec.data.sources.source import PARTS, ReadyVectors, Source
from prismrec.features.store import MISSING, FeatureStore

IMAGE_URL = "image_url"
"""Attribute in which a source gives the addresses of pictures."""


@dataclass(frozen=True)
class WrittenSource:
    """What was read and written.

    Parameters
    ----------
    dataset
        Read from its folder.
    features
        The stores of the vectors that came along.
    parts
        Pairs by part of the split that came along; None if none did.
    files
        The raw files, as they were found.
    refused
        What was left out; it stands in ``refused.jsonl``.
    picture_urls
        Items with the address of a picture that was not fetched.
    """

    dataset: Dataset
    features: tuple[FeatureStore, ...]
    parts: dict[str, int] | None
    files: tuple[CheckedFile, ...]
    refused: Refusals
    picture_urls: int


def write_source(
    source: Source,
    raw: Path,
    out: Path,
    *,
    min_rating: float | None = None,
    fetching: FetchOptions | None = None,
    progress: Progress = SILENT,
) -> WrittenSource:
    """Read a source's files and write a data set folder; it is there complete or not at all.

    Parameters
    ----------
    source
        What the files are.
    raw
        The folder that holds them. Nothing is downloaded.
    out
        The folder to write; new or empty.
    min_rating
        Interactions rated at least this are positive. None: as the source says, mostly all.
    fetching
        How pictures behind the addresses of the catalogue are fetched; None: they are not.
    progress
        Where to report to.

    Returns
    -------
    WrittenSource
        What it came to.

    Raises
    ------
    InputError
        If files are missing or not what they should be, nothing can be used, or `out` holds something.
    StorageError
        If the disk refuses.
    """
    out = Path(out).resolve()
    _require_free(out)
    files = check_files(source.files, raw)
    progress.say(f"Reading {source.name} from {raw}")
    read = source.read(raw)
    refused = read.refused
    catalog = read.dataset.catalog
    urls = _picture_urls(catalog)
    with _staging(out) as staging:
        media: dict[str, Media] = dict(catalog.media)
        if fetching is not None and urls:
            fetched = UrlMedia(urls, _fetcher(fetching), fetching.workers)
            media["image"] = FirstMedia([media["image"], fetched]) if "image" in media else fetched
        with progress.task("Checking and packing pictures and sounds", _count(media)) as task:
            dataset = replace(
                read.dataset,
                catalog=Catalog(catalog.items, catalog.text_columns, _checked(media, raw, refused, task)),
                min_rating=read.dataset.min_rating if min_rating is None else min_rating,
                notes=_notes(source, files, read.dataset),
            )
            _require_positives(dataset)
            dataset.write(staging)
        for vectors in read.features:
            _store(vectors, source, raw, dataset, refused).write(staging / "features" / vectors.modality)
        if read.parts is not None:
            write_parts(staging, read.parts)
        refused.write(staging / REFUSED)
        _move(staging, out)
    return WrittenSource(
        dataset=Dataset.read(out),
        features=tuple(FeatureStore.read(out / "features" / vectors.modality) for vectors in read.features),
        parts=None if read.parts is None else _sizes(read.parts),
        files=files,
        refused=refused,
        picture_urls=0 if fetching is not None else len(urls),
    )


def _require_free(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file, not a folder.", "Choose a new folder.")
    if any(out.iterdir()):
        what = "holds a data set already" if (out / MANIFEST).exists() else "is not empty"
        raise InputError(f"{out}: {what}.", "Choose a new folder, or remove this one.")


def _require_positives(dataset: Dataset) -> None:
    if dataset.min_rating is None:
        return
    if len(dataset.interactions.at_least(dataset.min_rating)) == 0:
        highest = dataset.interactions.highest("rating")
        raise InputError(
            f"No interaction is rated {dataset.min_rating:g} or more, the highest is {highest:g}.",
            "Choose a lower --min-rating.",
        )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write to, on the same disk; what a killed run left there is removed."""
    staging = out.with_name(f".{out.name}.source{PARTIAL}")
    with storage_errors(out):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, out: Path) -> None:
    with storage_errors(out):
        if out.exists():
            out.rmdir()
        staging.rename(out)
        sync_folder(out.parent)


def _notes(source: Source, files: tuple[CheckedFile, ...], dataset: Dataset) -> dict[str, Any]:
    return {
        "source": {
            "name": source.name,
            "licence": source.licence,
            "citation": source.citation,
            "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in files},
        },
        "reading": dict(dataset.notes),
    }


def _picture_urls(catalog: Catalog) -> dict[str, str]:
    if IMAGE_URL not in catalog.items.columns:
        return {}
    there = catalog.items.filter(pl.col(IMAGE_URL).is_not_null())
    return dict(there.select("item_id", IMAGE_URL).iter_rows())


def _fetcher(fetching: FetchOptions) -> partial[bytes]:
    return partial(
        fetch,
        max_bytes=fetching.max_bytes,
        timeout_s=fetching.timeout_s,
        allow_private=fetching.allow_private,
    )


def _count(media: dict[str, Media]) -> int:
    return sum(len(source.ids) for source in media.values())


def _checked(media: dict[str, Media], raw: Path, refused: Refusals, task: Task) -> dict[str, Media]:
    def refuse(kind: str, item_id: str, reason: str, value: str | None) -> None:
        refused.add(Refusal(str(raw), None, kind, reason, item_id=item_id, value=value))

    return {
        kind: CheckedMedia(source, checker(kind), partial(refuse, kind), task)
        for kind, source in media.items()
    }


def _store(
    ready: ReadyVectors, source: Source, raw: Path, dataset: Dataset, refused: Refusals
) -> FeatureStore:
    """Return a store of the vectors of the catalogue's items; list the others."""
    known = dataset.items.codes(ready.ids) != MISSING
    for row in np.flatnonzero(~known).tolist():
        refused.add(Refusal(str(raw), row, ready.modality, "unknown item", item_id=ready.ids[row]))
    vectors, ids = ready.vectors, ready.ids
    if not known.all():
        rows = np.flatnonzero(known)
        vectors, ids = vectors[rows], tuple(ids[row] for row in rows.tolist())
    # As for vectors of one's own: of the float32 bytes, whatever the precision of the store.
    digests = tuple(digest(np.asarray(row, dtype=np.float32).tobytes()) for row in vectors)
    return FeatureStore(ready.modality, vectors, ids, digests, {"name": "own vectors", "source": source.name})


def _sizes(parts: pl.DataFrame) -> dict[str, int]:
    counted = dict(parts["part"].value_counts().iter_rows())
    return {part: int(counted.get(part, 0)) for part in PARTS}
