"""Items that come after training: encoded, projected, kept, recommendable at once.

In a run's folder each call adds one batch (`prismrec.recommender.added_batches`). Where an item stands in
several, the last one counts. An item that comes again unchanged adds nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import digest
from prismrec.base.progress import Progress
from prismrec.data.catalog import Catalog
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.extract import plain_spec
from prismrec.features.open import foreign_class, load_encoder
from prismrec.features.store import FeatureStore
from prismrec.recommender.added_batches import AddedBatch, AddedMedia, batch_folders, read_batch, write_batch
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.vectors import compute, vector_digest

_BATCH = 256
_NO_VECTORS = (
    "this modality came as given vectors, the run has no encoder for it: the item goes without; hand in its "
    "vector (add_items(..., vectors=...), `prismrec add-items --vectors`)"
)


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
        Why a content could not be encoded, that an item has lost one, or that it came without vectors for a
        modality that has no encoder: item id, modality, reason.
    ignored
        Attributes of the new items that the catalogue does not have.
    """

    added: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    without_content: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Encoded:
    """Content of new items: vectors by modality, what is there, what went wrong."""

    vectors: list[npt.NDArray[np.float32]]
    present: npt.NDArray[np.bool_]
    problems: list[tuple[str, str, str]]


def keep_encoders(recommender: Recommender, encoders: Mapping[str, Encoder[Any]]) -> None:
    """Keep encoders of the user's own for the modalities that they made.

    Raises
    ------
    InputError
        If a modality is unknown, or was made by another encoder or other settings.
    """
    notes = {note.name: note for note in recommender.manifest.features}
    for name, encoder in encoders.items():
        if name not in notes:
            raise InputError(
                f"The model knows no modality {name}.", f"It knows: {', '.join(recommender.modalities)}."
            )
        spec, made_by = plain_spec({**encoder.spec(), "kind": encoder.kind}), notes[name].encoder
        if not spec.items() <= made_by.items():
            raise InputError(
                f"Modality {name!r}: the encoder is {spec}, and the catalogue was encoded by {made_by}.",
                "Hand in the encoder that made the catalogue's vectors.",
            )
    recommender.opened.update(encoders)


def add_items(
    recommender: Recommender, new: Catalog, vectors: Sequence[FeatureStore], progress: Progress
) -> AddReport:
    """Take in new items (see `Recommender.add_items`).

    Raises
    ------
    InputError
        If attributes have another type than the catalogue's, or a modality of own vectors is unknown or has
        another size.
    StorageError
        If the disk refuses; then nothing has changed.
    """
    fitting = _fit_columns(recommender.catalog, new)
    digests = _content_digests(recommender, fitting, vectors)
    states = {name: _state(recommender, fitting, name, digests) for name in fitting.vocabulary}
    fresh = [name for name, state in states.items() if state != "unchanged"]
    empty: list[str] = []
    problems: list[tuple[str, str, str]] = []
    if fresh:
        chosen = fitting.select(fresh)
        encoded = _encode(recommender, chosen, vectors, digests, progress)
        told = {(name, modality) for name, modality, _ in encoded.problems}
        lost = _lost(recommender, fresh, digests)
        problems = [problem for problem in lost if problem[:2] not in told] + encoded.problems
        codes = recommender.split.items.codes(fresh)
        items = compute(recommender.model, codes, encoded.vectors, encoded.present)
        kept = {
            modality: {n: found[n] for n in fresh if n in found}
            for modality, found in zip(recommender.modalities, digests, strict=True)
        }
        batch = AddedBatch(chosen, items, kept)
        if recommender.path is not None:
            contents = dict(zip(recommender.modalities, encoded.vectors, strict=True))
            write_batch(recommender.path / "added", batch, contents)
        _take_in(recommender, batch)
        empty = [fresh[row] for row in np.flatnonzero(~encoded.present.any(axis=1))]
    return AddReport(
        tuple(n for n, state in states.items() if state == "added"),
        tuple(n for n, state in states.items() if state == "updated"),
        tuple(n for n, state in states.items() if state == "unchanged"),
        tuple(empty),
        tuple(problems),
        tuple(c for c in new.items.columns if c not in recommender.catalog.items.columns),
    )


def load_additions(recommender: Recommender) -> None:
    """Take in what was added to a run's folder before.

    Raises
    ------
    DamagedError
        If a batch is damaged.
    """
    assert recommender.path is not None
    for folder in batch_folders(recommender.path / "added"):
        _take_in(recommender, read_batch(folder, recommender.catalog.text_columns))


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
                    n: vector_digest(store.vectors[r])
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


def _lost(
    recommender: Recommender, names: Sequence[str], digests: Sequence[dict[str, str]]
) -> list[tuple[str, str, str]]:
    """Contents that known items had and come without now."""
    return [
        (name, modality, "had such content before and comes without it now")
        for modality, found in zip(recommender.modalities, digests, strict=True)
        for name in names
        if name in recommender.digests.get(modality, {}) and name not in found
    ]


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
        if note.name not in (*own, *recommender.encoders, *recommender.opened):
            problems += [(n, note.name, _NO_VECTORS) for n in new.vocabulary]
            continue
        names = [n for n in new.vocabulary if n in digests[m]]
        if not names:
            continue
        rows = new.vocabulary.codes(names)
        if note.name in own:
            store = own[note.name]
            found[m][rows] = store.vectors[store.rows(names)]
            present[rows, m] = True
            continue
        encoder = _opened(recommender, note.name)
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
    return _Encoded(found, present, problems)


def _opened(recommender: Recommender, name: str) -> Encoder[Any]:
    """Return a modality's encoder, loaded once."""
    if name not in recommender.opened:
        folder = recommender.encoders[name]
        own = foreign_class(folder)
        if own is not None:
            raise InputError(
                f"Modality {name!r} was made by the encoder class {own!r}, which is not prismrec's, and a "
                "run holds no code: new items cannot be encoded.",
                f"Hand in the encoder, add_items(..., encoders={{{name!r}: {own}(...)}}), or the new items' "
                f"vectors: add_items(..., vectors=...), `prismrec add-items --vectors {name}=FILE`.",
            )
        recommender.opened[name] = load_encoder(folder)
    return recommender.opened[name]


def _take_in(recommender: Recommender, batch: AddedBatch) -> None:
    """Put items into the recommender in memory: known ones in their rows, others at the end."""
    old, new = recommender.catalog, batch.catalog
    fitted = _fit_columns(old, new)
    vocabulary = recommender.item_ids.extended(new.vocabulary.ids)
    rows = vocabulary.codes(new.vocabulary.ids)
    source = np.arange(len(vocabulary))
    source[rows] = len(old) + np.arange(len(new))
    frame = pl.concat([old.items, fitted.items])[source.tolist()]
    media = dict(old.media)
    for kind, added in new.media.items():
        media[kind] = AddedMedia(added, old.media.get(kind))
    recommender.catalog = Catalog(frame, old.text_columns, media)
    recommender.items = recommender.items.replaced(rows, batch.items)
    for modality in recommender.modalities:
        table = recommender.digests.setdefault(modality, {})
        found = batch.digests.get(modality, {})
        for name in new.vocabulary:
            table.pop(name, None)
        table.update({n: found[n] for n in new.vocabulary if n in found})
    recommender.forget_derived()
