"""Extraction: contents through an encoder into a store, in batches, resumable, never twice.

What an item's vector depends on is its content and the encoder, so the digest of both is the key. Content
that is in the store already (an unchanged item, or another item's identical picture) is not encoded again,
and every finished part is on the disk before the next begins: after a kill the work goes on where it was.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path, digest, digest_file, read_json, storage_errors, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.engine import Engine, LocalEngine, Part, Work
from prismrec.features.store import MANIFEST, FeatureStore

ContentT = TypeVar("ContentT", str, bytes)

ENCODER_FOLDER = "encoder"
LOCAL = LocalEngine()
_FITTED = "fitted.json"


def extract(
    contents: Contents,
    encoder: Encoder[Any],
    folder: Path,
    *,
    name: str,
    dtype: type[np.float16] | type[np.float32] = np.float32,
    part_size: int | None = None,
    fit_on: Sequence[str] | None = None,
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> FeatureStore:
    """Encode contents into a store folder, going on where an earlier call was stopped.

    Parameters
    ----------
    contents
        What to encode. Items that are in the store and not here any more are left out of the new store.
    encoder
        The encoder. One that needs a fit is fitted first, unless it was fitted in the folder before: then
        that state is used again. Another encoder than before replaces the old one and encodes everything.
    folder
        The store's folder.
    name
        The modality's name.
    dtype
        How vectors are stored.
    part_size
        Contents between two points from which a killed extraction resumes; None: as the engine likes it.
    fit_on
        Items whose contents an encoder that needs a fit may learn from; None: all of them.
    progress
        Where to report to.
    engine
        Who reads and encodes; the store does not depend on it. An encoder is fitted here in any case.

    Returns
    -------
    FeatureStore
        Memory-mapped.

    Raises
    ------
    InputError
        If nothing could be encoded.
    StorageError
        If the disk refuses.
    """
    encoder = _prepared(contents, encoder, folder, fit_on, progress)
    key = _encoder_key(encoder, folder, dtype)
    parts = _Parts(folder / f"parts-{key[:12]}", encoder.dim, dtype)
    done = _known(folder, key)
    done.update(parts.read())
    with engine.work(contents, encoder, key) as work:
        digests = _digests(contents, work, progress)
        todo: dict[str, str] = {}
        for item, content_digest in digests.items():
            if content_digest not in done:
                todo.setdefault(content_digest, item)
        with progress.task(f"encode {name}", len(todo)) as task:
            for part, vectors, problems in work.encoded(
                _chunks(list(todo.items()), part_size or engine.part_size)
            ):
                done.update(parts.write([content_digest for content_digest, _ in part], vectors, problems))
                task.advance(len(part))
    store = _assemble(name, digests, done, encoder, key, dtype).write(folder)
    parts.remove()
    return store


def _prepared(
    contents: Contents,
    encoder: Encoder[Any],
    folder: Path,
    fit_on: Sequence[str] | None,
    progress: Progress,
) -> Encoder[Any]:
    """Fit where needed, and leave the encoder in the folder, complete, before anything is encoded."""
    home = folder / ENCODER_FOLDER
    spec = plain_spec(encoder.spec())
    if (home / _FITTED).exists():
        before = read_json(home / _FITTED, "an encoder").get("spec", spec)
        if before == spec:
            return encoder
        # What is learnt stands in the spec too: a part of the old spec is the same encoder without it.
        if encoder.needs_fit and spec.items() <= before.items():
            from prismrec.features.open import load_encoder

            return load_encoder(home)
        with storage_errors(home):
            (home / _FITTED).unlink()
    # What stands there is another encoder's, or half of one.
    shutil.rmtree(home, ignore_errors=True)
    fitted_on = 0
    if encoder.needs_fit:
        allowed = None if fit_on is None else set(fit_on)
        chosen = [n for n in contents.ids if allowed is None or n in allowed]
        if not chosen:
            raise InputError("None of the items to fit the encoder on has such content.")
        progress.say(f"fitting {type(encoder).__name__} on {len(chosen):,} contents")
        encoder.fit([contents.read(item) for item in chosen])
        fitted_on = len(chosen)
    encoder.save(home)
    write_json(home / _FITTED, {"fitted_on": fitted_on, "spec": plain_spec(encoder.spec())})
    return encoder


def plain_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec as it is read back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(spec))
    return plain


def _encoder_key(encoder: Encoder[Any], folder: Path, dtype: type[Any]) -> str:
    """Digest of everything but the content that a stored vector depends on."""
    home = folder / ENCODER_FOLDER
    state = [f"{p.name}={digest_file(p)}" for p in sorted(home.iterdir()) if p.is_file()]
    spec = json.dumps(encoder.spec(), sort_keys=True)
    return digest(spec.encode(), np.dtype(dtype).name.encode(), *map(str.encode, state))


def _digests(contents: Contents, work: Work, progress: Progress) -> dict[str, str]:
    """Digest of each item's content together with the encoder's, in the order of the items."""
    digests = dict.fromkeys(contents.ids, "")
    with progress.task("read contents", len(contents.ids)) as task:
        for item, found in work.digests():
            digests[item] = found
            task.advance()
    return digests


Encoded = tuple[npt.NDArray[Any] | None, str | None]
"""A vector, or why there is none."""


def _known(folder: Path, key: str) -> dict[str, Encoded]:
    """Return what the folder's finished store holds for this encoder, by content digest."""
    if not (folder / MANIFEST).exists():
        return {}
    try:
        store = FeatureStore.read(folder)
    except DamagedError:
        # To encode again is what repairs it.
        return {}
    if store.encoder.get("key") != key:
        return {}
    return {content: (store.vectors[row], None) for row, content in enumerate(store.digests)}


class _Parts:
    """Finished parts of an extraction under way: one file each, so that each is there whole or not at all."""

    def __init__(self, folder: Path, dim: int, dtype: type[Any]) -> None:
        self.folder = folder
        self._dim = dim
        self._dtype = dtype
        self._next = 0

    def read(self) -> dict[str, Encoded]:
        from safetensors import SafetensorError, safe_open

        done: dict[str, Encoded] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as part:
                    vectors = part.get_tensor("vectors")
                    notes = json.loads(part.metadata()["contents"])
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                raise DamagedError(
                    f"{path}: a part of the extraction is damaged ({error}).", "Delete that file; go on."
                ) from error
            for vector, (content_digest, problem) in zip(vectors, notes, strict=True):
                done[content_digest] = (vector, None) if problem is None else (None, problem)
            self._next = int(path.stem) + 1
        return done

    def write(
        self, digests: Sequence[str], vectors: npt.NDArray[np.float32], problems: Sequence[str | None]
    ) -> dict[str, Encoded]:
        from safetensors.numpy import save_file

        stored = vectors.astype(self._dtype)
        if not np.isfinite(stored).all():
            raise InputError(
                f"The encoder gave numbers that {np.dtype(self._dtype)} cannot hold.", "Store as float32."
            )
        notes = json.dumps(list(zip(digests, problems, strict=True)))
        with atomic_path(self.folder / f"{self._next:06d}.safetensors") as temporary:
            save_file({"vectors": stored}, temporary, metadata={"contents": notes})
        self._next += 1
        return {
            content_digest: (vector, None) if problem is None else (None, problem)
            for content_digest, vector, problem in zip(digests, stored, problems, strict=True)
        }

    def remove(self) -> None:
        """Remove these parts and those of encoders that stood here before."""
        for stale in self.folder.parent.glob("parts-*"):
            shutil.rmtree(stale, ignore_errors=True)


def _assemble(
    name: str,
    digests: dict[str, str],
    done: dict[str, Encoded],
    encoder: Encoder[Any],
    key: str,
    dtype: type[Any],
) -> FeatureStore:
    good = {item: content for item, content in digests.items() if done[content][0] is not None}
    problems = {item: str(done[content][1]) for item, content in digests.items() if item not in good}
    if not good:
        raise InputError(
            f"Not one {encoder.kind} could be encoded; the first problem: {next(iter(problems.values()))}."
        )
    vectors = np.empty((len(good), encoder.dim), dtype=dtype)
    for row, content in enumerate(good.values()):
        vectors[row] = done[content][0]
    spec = {**encoder.spec(), "kind": encoder.kind, "key": key}
    return FeatureStore(name, vectors, tuple(good), tuple(good.values()), spec, problems)


def fitted_on(folder: Path) -> int | None:
    """How many contents the encoder in a store's folder was fitted on; None if there is no encoder."""
    path = folder / ENCODER_FOLDER / _FITTED
    return int(read_json(path, "an encoder")["fitted_on"]) if path.exists() else None


def _chunks(pairs: Part, size: int) -> Iterator[Part]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
