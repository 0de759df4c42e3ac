"""Items that come after training: encoded, projected, kept, recommendable at once.

In a run's folder each batch of items is one folder under ``added/``, written beside its place and renamed,
so that it is there whole or not at all. Batches are numbered; where an item stands in several, the last one
counts. An item that comes again unchanged adds nothing.
"""

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import PARTIAL, digest, read_json, storage_errors, sync_folder, write_json
from prismrec.base.progress import Progress
from prismrec.data.catalog import MEDIA_KINDS, Catalog
from prismrec.data.media import PackedMedia, pack
from prismrec.data.media_sources import FirstMedia
from prismrec.features.extract import Contents
from prismrec.features.open import load_encoder
from prismrec.features.store import FeatureStore
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.vectors import ItemVectors, compute

_BATCH = 256


@dataclass(frozen=True)
class AddReport:
    """What became of the items that were handed in.

    Parameters
    ----------
    added, updated, unchanged
        Item ids.
    without_content
        Those of `added` and `updated` that have no content that the model knows: they wait in the catalogue
        and cannot be recommended.
    problems
        Why a content could not be encoded: item id, modality, reason.
    """

    added: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    without_content: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class _Encoded:
    """Content of new items: vectors by modality, what is there, digests by modality."""

    vectors: list[npt.NDArray[np.float32]]
    present: npt.NDArray[np.bool_]
    digests: list[dict[str, str]]
    problems: list[tuple[str, str, str]]


def add_items(
    recommender: Recommender, new: Catalog, vectors: Sequence[FeatureStore], progress: Progress
) -> AddReport:
    """Take in new items (see `Recommender.add_items`).

    Raises
    ------
    InputError
        If attributes have another type than the catalogue's, a modality of own vectors has another size, or
        no content of the items is of a kind that the model knows.
    StorageError
        If the disk refuses; then nothing has changed.
    """
    fitting = _fit_columns(recommender.catalog, new)
    digests = _content_digests(recommender, fitting, vectors)
    states = {name: _state(recommender, fitting, name, digests) for name in fitting.vocabulary}
    fresh = [name for name, state in states.items() if state != "unchanged"]
    if fresh:
        chosen = fitting.select(fresh)
        encoded = _encode(recommender, chosen, vectors, digests, progress)
        codes = recommender.split.items.codes(fresh)
        items = compute(recommender.model, codes, encoded.vectors, encoded.present)
        if recommender.path is not None:
            _write(recommender.path / "added", chosen, items, encoded, recommender.modalities)
        _take_in(recommender, chosen, items, encoded.digests)
        empty = [n for n, there in zip(fresh, np.asarray(encoded.present.any(axis=1)), strict=True) if not there]
        problems = encoded.problems
    else:
        empty, problems = [], []
    return AddReport(
        tuple(n for n, state in states.items() if state == "added"),
        tuple(n for n, state in states.items() if state == "updated"),
        tuple(n for n, state in states.items() if state == "unchanged"),
        tuple(empty),
        tuple(problems),
    )


def load_additions(recommender: Recommender) -> None:
    """Take in what was added to a run's folder before.

    Raises
    ------
    DamagedError
        If a batch is damaged.
    """
    assert recommender.path is not None
    for folder in sorted(p for p in (recommender.path / "added").glob("*") if not p.name.endswith(PARTIAL)):
        catalog, items, digests = _read(folder, recommender)
        _take_in(recommender, catalog, items, digests)


def _fit_columns(catalog: Catalog, new: Catalog) -> Catalog:
    """Give the new items the catalogue's columns and types; attributes that they lack are null."""
    columns = []
    for name, dtype in catalog.items.schema.items():
        if name not in new.items.columns:
            columns.append(pl.lit(None, dtype=dtype).alias(name))
        elif new.items.schema[name] == dtype:
            columns.append(pl.col(name))
        else:
            columns.append(pl.col(name).cast(dtype, strict=True))
    try:
        items = new.items.select(columns)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"The new items' attributes do not fit the catalogue's types: {error}.",
            f"The catalogue has: {dict(catalog.items.schema)}.",
        ) from None
    return Catalog(items, catalog.text_columns, new.media)


def _content_digests(
    recommender: Recommender, new: Catalog, vectors: Sequence[FeatureStore]
) -> list[dict[str, str]]:
    """For each modality the digest of each new item's content, as the extraction computes it."""
    own = {store.name: store for store in vectors}
    unknown = set(own) - set(recommender.modalities)
    if unknown:
        raise InputError(
            f"The model knows no modality {', '.join(sorted(unknown))}.",
            f"It knows: {', '.join(recommender.modalities)}.",
        )
    digests = []
    for note in recommender.manifest.features:
        if note.name in own:
            store = own[note.name]
            if store.dim != note.dim:
                raise InputError(
                    f"Modality {note.name!r}: the new vectors have {store.dim} dimensions, the model was "
                    f"trained on {note.dim}.",
                    "Encode the new items as the catalogue was encoded.",
                )
            rows = store.rows(new.vocabulary.ids)
            digests.append(
                {
                    n: digest(store.vectors[r].tobytes())
                    for n, r in zip(new.vocabulary, rows, strict=True)
                    if r >= 0
                }
            )
            continue
        contents = _contents(new, str(note.encoder.get("kind", note.name)))
        key = str(note.encoder.get("key", ""))
        digests.append({n: digest(key.encode(), _raw(contents.read(n))) for n in contents.ids})
    return digests


def _contents(catalog: Catalog, kind: str) -> Contents:
    try:
        return Contents.of(catalog, kind)
    except InputError:
        # No new item has that kind of content: it is missing for all of them.
        return Contents((), str)


def _raw(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _state(recommender: Recommender, new: Catalog, name: str, digests: Sequence[dict[str, str]]) -> str:
    if name not in recommender.item_ids:
        return "added"
    for modality, found in zip(recommender.modalities, digests, strict=True):
        if recommender.digests.get(modality, {}).get(name) != found.get(name):
            return "updated"
    old = recommender.catalog.items[recommender.item_ids.code(name)]
    return "unchanged" if old.equals(new.items[new.vocabulary.code(name)]) else "updated"


def _encode(
    recommender: Recommender,
    new: Catalog,
    vectors: Sequence[FeatureStore],
    digests: Sequence[dict[str, str]],
    progress: Progress,
) -> _Encoded:
    own = {store.name: store for store in vectors}
    notes = recommender.manifest.features
    found = [np.zeros((len(new), note.dim), dtype=np.float32) for note in notes]
    present = np.zeros((len(new), len(notes)), dtype=np.bool_)
    problems: list[tuple[str, str, str]] = []
    for m, note in enumerate(notes):
        names = [n for n in new.vocabulary if n in digests[m]]
        if not names:
            continue
        rows = new.vocabulary.codes(names)
        if note.name in own:
            store = own[note.name]
            found[m][rows] = store.vectors[store.rows(names)]
            present[rows, m] = True
            continue
        if note.name not in recommender.encoders:
            problems += [(n, note.name, "the run has no encoder; give vectors of your own") for n in names]
            continue
        encoder = load_encoder(recommender.encoders[note.name])
        contents = Contents.of(new, encoder.kind)
        with progress.task(f"encode {note.name}", len(names)) as task:
            for first in range(0, len(names), _BATCH):
                block = names[first : first + _BATCH]
                encoded, reasons = encoder.encode([contents.read(n) for n in block])
                good = np.array([reason is None for reason in reasons])
                chosen = rows[first : first + _BATCH]
                found[m][chosen[good]] = encoded[good]
                present[chosen[good], m] = True
                problems += [
                    (n, note.name, reason)
                    for n, reason in zip(block, reasons, strict=True)
                    if reason is not None
                ]
                task.advance(len(block))
    return _Encoded(found, present, list(digests), problems)


def _take_in(
    recommender: Recommender, new: Catalog, items: ItemVectors, digests: Sequence[dict[str, str]]
) -> None:
    """Put items into the recommender in memory: known ones in their rows, others at the end."""
    old = recommender.catalog
    fitted = _fit_columns(old, new)
    vocabulary = recommender.item_ids.extended(new.vocabulary.ids)
    rows = vocabulary.codes(new.vocabulary.ids)
    source = np.arange(len(vocabulary))
    source[rows] = len(old) + np.arange(len(new))
    frame = pl.concat([old.items, fitted.items])[source.tolist()]
    media = {
        kind: FirstMedia([m for m in (new.media.get(kind), old.media.get(kind)) if m is not None])
        for kind in MEDIA_KINDS
        if kind in new.media or kind in old.media
    }
    recommender.catalog = Catalog(frame, old.text_columns, media)
    recommender.items = recommender.items.replaced(rows, items)
    for modality, found in zip(recommender.modalities, digests, strict=True):
        table = recommender.digests.setdefault(modality, {})
        for name in new.vocabulary:
            table.pop(name, None)
        table.update({n: found[n] for n in new.vocabulary if n in found})
    recommender.forget_derived()


def _write(
    home: Path, new: Catalog, items: ItemVectors, encoded: _Encoded, modalities: Sequence[str]
) -> None:
    """Write a batch of items as one folder, atomically."""
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        numbers = [int(p.name) for p in home.iterdir() if p.name.isdigit()]
        target = home / f"{max(numbers, default=-1) + 1:06d}"
        building = home / f"{target.name}.{secrets.token_hex(4)}{PARTIAL}"
        try:
            building.mkdir()
            new.items.write_parquet(building / "items.parquet")
            arrays: dict[str, npt.NDArray[Any]] = {"vectors": items.vectors, "present": items.present}
            if items.weights is not None and items.experts is not None:
                arrays |= {"weights": items.weights, "experts": items.experts}
            arrays |= {f"content.{n}": v for n, v in zip(modalities, encoded.vectors, strict=True)}
            save_file(
                {n: np.ascontiguousarray(a) for n, a in arrays.items()}, building / "arrays.safetensors"
            )
            for kind, media in new.media.items():
                pairs = ((n, c) for n in new.vocabulary if (c := media.read(n)) is not None)
                if pack(building / f"{kind}.parquet", pairs) == 0:
                    (building / f"{kind}.parquet").unlink()
            write_json(building / "digests.json", dict(zip(modalities, encoded.digests, strict=True)))
            sync_folder(building)
            building.rename(target)
            sync_folder(home)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _read(folder: Path, recommender: Recommender) -> tuple[Catalog, ItemVectors, list[dict[str, str]]]:
    try:
        frame = pl.read_parquet(folder / "items.parquet")
        arrays = load_file(folder / "arrays.safetensors")
        digests = read_json(folder / "digests.json", "a batch of added items")
    except (SafetensorError, OSError, pl.exceptions.PolarsError, json.JSONDecodeError, InputError) as error:
        raise DamagedError(
            f"{folder}: the added items are damaged ({error}).", "Delete that folder and add them again."
        ) from error
    media = {
        kind: PackedMedia(folder / f"{kind}.parquet")
        for kind in MEDIA_KINDS
        if (folder / f"{kind}.parquet").exists()
    }
    items = ItemVectors(arrays["vectors"], arrays["present"], arrays.get("weights"), arrays.get("experts"))
    catalog = Catalog(frame, recommender.catalog.text_columns, media)
    return catalog, items, [digests.get(name, {}) for name in recommender.modalities]
