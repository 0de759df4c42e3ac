"""From a data set's contents to its feature stores: which encoder, what is there already, what is left."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import ConfigError, DamagedError, InputError
from prismrec.base.files import digest, read_json, storage_errors, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.encoder_file import read_encoder_file
from prismrec.features.engine import Engine
from prismrec.features.extract import ENCODER_FOLDER, LOCAL, extract, fitted_on
from prismrec.features.open import DEFAULT, foreign_class, load_encoder, make_encoder
from prismrec.features.store import MANIFEST, MISSING, FeatureStore

KINDS = ("image", "text", "audio")
NONE = "none"
_FITTED_ON = "fitted_on_ids.json"
_BLOCK = 8192


@dataclass(frozen=True)
class EncodePlan:
    """What to encode, and with what.

    Parameters
    ----------
    encoders
        Encoder by kind of content: ``"default"``, a pretrained model's hub id or local folder, or ``"none"``
        to leave that kind alone. A kind that is not named is encoded, if the catalogue has it, as it was
        before; the first time by the default encoder. Vectors of your own, and those of an encoder of your
        own, stay until one is named.
    vectors
        Vectors of your own (`prismrec.features.own`), one store a modality.
    revision
        Branch, tag or commit of the pretrained model, where one alone is named.
    dtype
        How vectors are stored.
    device, batch_size
        Where and how pretrained models run.
    refit
        Fit and encode again, whatever is there.
    fit_on
        Items whose contents an encoder may learn from; None: all of them.
    """

    encoders: Mapping[str, str] = field(default_factory=dict)
    vectors: Sequence[FeatureStore] = ()
    revision: str | None = None
    dtype: Literal["float16", "float32"] = "float32"
    device: str = "cpu"
    batch_size: int = 32
    refit: bool = False
    fit_on: Sequence[str] | None = None


@dataclass(frozen=True)
class EncodedModality:
    """What became of one modality.

    Parameters
    ----------
    store
        As it lies in the data set's folder.
    encoded, reused
        Items with a vector that is new, and with one that was there.
    unknown
        Items of your own vectors that the catalogue does not have; they were left out.
    seconds
        What it took.
    """

    store: FeatureStore
    encoded: int
    reused: int
    unknown: tuple[str, ...]
    seconds: float


def encode(
    dataset: Dataset,
    *,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    vectors: Sequence[FeatureStore] = (),
    progress: Progress = SILENT,
) -> list[FeatureStore]:
    """Encode a data set's contents, as `prismrec encode` does; see `encode_modalities`.

    Parameters
    ----------
    dataset
        On the disk.
    image, text, audio
        Encoder of that kind of content: ``"default"``, a pretrained model's hub id or local folder, or
        ``"none"`` to leave it alone; None: as before, the first time by the default encoder.
    vectors
        Vectors of your own, one store a modality.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If the data set is in memory, there is nothing to encode, or a kind that was named is missing.
    StorageError
        If the disk refuses.
    """
    named = {"image": image, "text": text, "audio": audio}
    encoders = {kind: name for kind, name in named.items() if name is not None}
    return encode_catalog(dataset, EncodePlan(encoders, vectors), progress)


def encode_catalog(dataset: Dataset, plan: EncodePlan, progress: Progress = SILENT) -> list[FeatureStore]:
    """Encode a data set's contents; see `encode_modalities`."""
    return [modality.store for modality in encode_modalities(dataset, plan, progress)]


def encode_modalities(
    dataset: Dataset, plan: EncodePlan, progress: Progress = SILENT, engine: Engine = LOCAL
) -> list[EncodedModality]:
    """Encode a data set's contents into ``features/<name>`` of its folder.

    Parameters
    ----------
    dataset
        On the disk.
    plan
        What to encode.
    progress
        Where to report to.
    engine
        Who reads and encodes.

    Returns
    -------
    list
        One for each kind of content (image, text, audio), then one for each store of your own vectors.

    Raises
    ------
    InputError
        If the data set is in memory, there is nothing to encode, a kind that was named is missing, or an
        encoder of your own was stopped half-way and its kind is not named.
    ConfigError
        If the plan contradicts itself.
    StorageError
        If the disk refuses.
    """
    if dataset.path is None:
        raise InputError("The data set is in memory: write it into a folder before it is encoded.")
    own = [store.name for store in plan.vectors]
    _check(plan, own, dataset.catalog)
    home = dataset.path / "features"
    kinds = [k for k in KINDS if k not in own and _wanted(k, plan, dataset.catalog)]
    if not kinds and not own:
        raise InputError(
            f"{dataset.path}: there is nothing to encode, the catalogue has no text, picture or sound.",
            "Name text columns or a folder of pictures at ingest, or give vectors of your own.",
        )
    done = [_encode(dataset.catalog, kind, plan, home / kind, progress, engine) for kind in kinds]
    return done + [_take_over(dataset, store, plan, home / store.name) for store in plan.vectors]


def _check(plan: EncodePlan, own: Sequence[str], catalog: Catalog) -> None:
    unknown = [kind for kind in plan.encoders if kind not in KINDS]
    if unknown:
        raise ConfigError(f"There is no kind of content {unknown[0]!r}.", f"Kinds: {', '.join(KINDS)}.")
    for name in own:
        if own.count(name) > 1:
            raise ConfigError(f"Two stores of your own vectors are called {name!r}.")
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            raise ConfigError(f"A modality cannot be called {name!r}.", "Its name becomes that of a folder.")
        if plan.encoders.get(name, NONE) != NONE:
            raise ConfigError(f"{name!r} is to be encoded and given as vectors.", "Choose one.")
    pretrained = [name for name in plan.encoders.values() if name not in (DEFAULT, NONE)]
    if plan.revision is not None and len(pretrained) != 1:
        raise ConfigError(
            f"A revision belongs to one pretrained encoder, and {len(pretrained)} are named.",
            "Encode them one after the other.",
        )
    strange = [name for name in plan.fit_on or () if name not in catalog.vocabulary]
    if strange:
        raise InputError(
            f"{len(strange):,} of the items to fit on are not in the catalogue, e.g. {strange[0]!r}."
        )


def _wanted(kind: str, plan: EncodePlan, catalog: Catalog) -> bool:
    asked = plan.encoders.get(kind)
    if asked is not None:
        return asked != NONE
    if kind == "text":
        return any(text is not None for text in catalog.texts())
    return kind in catalog.media and len(catalog.media[kind].ids) > 0


def _encode(
    catalog: Catalog, kind: str, plan: EncodePlan, home: Path, progress: Progress, engine: Engine
) -> EncodedModality:
    began = time.perf_counter()
    there = fitted_on(home) is not None
    own = foreign_class(home / ENCODER_FOLDER) if there and kind not in plan.encoders else None
    if plan.refit and (kind in plan.encoders or (there and own is None)):
        with storage_errors(home):
            (home / MANIFEST).unlink(missing_ok=True)
    before = _stored(home)
    contents = Contents.of(catalog, kind)
    if own is not None and before is None:
        raise InputError(
            f"{home}: the encoder {own!r}, which is not prismrec's, has left no whole store there.",
            f"Run it again (`extract`), or leave it alone (--{kind} none), or replace it (--{kind} default).",
        )
    if before is not None and kind not in plan.encoders and (own is not None or not there):
        # Vectors of your own stand here: only naming an encoder replaces them.
        progress.say(_staying(before, own, kind, contents))
        return EncodedModality(before, 0, len(before.ids), (), time.perf_counter() - began)
    encoder = _encoder(kind, plan, home)
    store = extract(
        contents,
        encoder,
        home,
        name=kind,
        dtype=np.float16 if plan.dtype == "float16" else np.float32,
        fit_on=plan.fit_on,
        progress=progress,
        engine=engine,
    )
    return _counted(store, before, (), began)


def _staying(store: FeatureStore, own: str | None, kind: str, contents: Contents) -> str:
    """Say that vectors of the user's own stay, and how many contents they leave out."""
    whose = "vectors of your own" if own is None else f"the vectors of your encoder {own!r}"
    without = len(set(contents.ids) - set(store.ids) - set(store.problems))
    lacking = f"; items with such content that have none: {without:,}" if without else ""
    return f"{kind}: {whose} stay as they are (--{kind} default replaces them){lacking}"


def _encoder(kind: str, plan: EncodePlan, home: Path) -> Encoder[Any]:
    """Return the encoder to use; what lies in the folder afterwards is that encoder, or none."""
    saved = home / ENCODER_FOLDER
    there = fitted_on(home) is not None
    name, revision = plan.encoders.get(kind), plan.revision
    if name is None:
        name, revision = _used_before(saved) if there else (DEFAULT, None)
    wanted = make_encoder(
        kind,
        name,
        revision=None if name == DEFAULT else revision,
        device=plan.device,
        batch_size=plan.batch_size,
    )
    if there and not plan.refit and _same(wanted, saved):
        if not wanted.needs_fit:
            return wanted
        if _fitted_alike(home, plan.fit_on):
            return load_encoder(saved)
    _clear(home)
    write_json(home / _FITTED_ON, {"digest": _ids_digest(plan.fit_on)})
    return wanted


def _used_before(saved: Path) -> tuple[str, str | None]:
    """Name and revision of the encoder that was saved."""
    _, settings = read_encoder_file(saved)
    asked, revision = settings.get("asked"), settings.get("revision")
    return (asked, revision) if isinstance(asked, str) and isinstance(revision, str) else (DEFAULT, None)


def _same(wanted: Encoder[Any], saved: Path) -> bool:
    """Whether an encoder with these settings was saved."""
    if wanted.needs_fit:
        name, settings = read_encoder_file(saved)
        return name == type(wanted).__name__ and settings.get("dim") == wanted.spec().get("dim")
    with tempfile.TemporaryDirectory() as folder:
        wanted.save(Path(folder))
        return read_encoder_file(Path(folder)) == read_encoder_file(saved)


def _fitted_alike(home: Path, fit_on: Sequence[str] | None) -> bool:
    """Whether the saved encoder learnt from the items that are named now; none named: whatever it was."""
    if fit_on is None:
        return True
    note = home / _FITTED_ON
    return note.exists() and read_json(note, "an encoder")["digest"] == _ids_digest(fit_on)


def _ids_digest(ids: Sequence[str] | None) -> str | None:
    return None if ids is None else digest(json.dumps(sorted(set(ids))).encode())


def _clear(home: Path) -> None:
    """Remove the store before its encoder: vectors must never stand beside an encoder that is not theirs."""
    with storage_errors(home):
        (home / MANIFEST).unlink(missing_ok=True)
        if (home / ENCODER_FOLDER).exists():
            shutil.rmtree(home / ENCODER_FOLDER)
        (home / _FITTED_ON).unlink(missing_ok=True)


def _take_over(dataset: Dataset, own: FeatureStore, plan: EncodePlan, home: Path) -> EncodedModality:
    """Write vectors of your own, those of the catalogue's items only."""
    began = time.perf_counter()
    known = dataset.items.codes(own.ids) != MISSING
    if not known.any():
        raise InputError(
            f"Vectors {own.name!r}: not one of their {len(own.ids):,} ids is in the catalogue, "
            f"the first is {own.ids[0]!r}.",
            f"The catalogue's first id is {dataset.items.ids[0]!r}.",
        )
    before = _stored(home)
    rows = np.flatnonzero(known).tolist()
    store = replace(
        own,
        vectors=_rows_of(own.vectors, rows, np.dtype(plan.dtype), home),
        ids=tuple(own.ids[row] for row in rows),
        digests=tuple(own.digests[row] for row in rows),
        path=None,
    )
    if (home / ENCODER_FOLDER).exists():
        _clear(home)
    unknown = tuple(name for name, there in zip(own.ids, known.tolist(), strict=True) if not there)
    return _counted(store.write(home), before, unknown, began)


def _rows_of(
    vectors: npt.NDArray[Any], rows: Sequence[int], dtype: np.dtype[Any], home: Path
) -> npt.NDArray[Any]:
    """Return some rows in another precision, on the disk where the whole is: it may not fit into memory."""
    if len(rows) == len(vectors) and vectors.dtype == dtype:
        return vectors
    blocks = (_converted(vectors[rows[n : n + _BLOCK]], dtype) for n in range(0, len(rows), _BLOCK))
    if not isinstance(vectors, np.memmap):
        return np.concatenate(list(blocks))
    with storage_errors(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        # Without a name: it is gone with the process, however that ends.
        with tempfile.TemporaryFile(dir=home.parent) as file:
            for block in blocks:
                file.write(block.tobytes())
            file.flush()
            return np.memmap(file, dtype, "r", shape=(len(rows), vectors.shape[1]))


def _converted(block: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    # What is too large becomes infinite, which the store then refuses by name.
    with np.errstate(over="ignore"):
        return block.astype(dtype)


def _stored(home: Path) -> FeatureStore | None:
    """Return the store that stands in a folder; None also if it is damaged, for it is made again."""
    if not (home / MANIFEST).exists():
        return None
    try:
        return FeatureStore.read(home)
    except DamagedError:
        return None


def _counted(
    store: FeatureStore, before: FeatureStore | None, unknown: tuple[str, ...], began: float
) -> EncodedModality:
    old = set() if before is None else set(before.digests)
    reused = sum(found in old for found in store.digests)
    return EncodedModality(store, len(store.ids) - reused, reused, unknown, time.perf_counter() - began)
