"""A run's folder: what `save` writes and `load` checks.

``run.json`` (the manifest, written last, with a digest of every file), ``model.safetensors`` (weights),
``vectors.safetensors`` (users' and items' vectors), ``split/``, ``catalog/``, ``encoders/``, and ``added/``
for items that came later. There is no code and no pickle in it.
"""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from prismrec.base.errors import ConfigError, DamagedError, InputError, StorageError
from prismrec.base.files import atomic_path, digest_file, is_leftover, read_json, storage_errors, write_json
from prismrec.data.catalog import MEDIA_KINDS, Catalog
from prismrec.data.dataset import MANIFEST as DATASET_MANIFEST
from prismrec.data.dataset import Dataset
from prismrec.data.media import Media, PackedMedia, pack
from prismrec.data.splits import Split
from prismrec.models.base import ModelConfig
from prismrec.models.batches import Modality, ModelInputs
from prismrec.models.catalogue import config_of
from prismrec.recommender.added_batches import AddedMedia
from prismrec.recommender.additions import load_additions
from prismrec.recommender.manifest import FORMAT, FORMAT_VERSION, RunManifest
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.vectors import ItemVectors

MANIFEST = "run.json"
CHECKPOINT = "checkpoint.safetensors"
RESULTS = (
    *("metrics.json", "evaluation.json", "evaluation.md", "report.html"),
    *("robustness.json", "robustness.md", "robustness.html"),
)
"""What evaluating a run, and damaging what it reads, leaves in its folder."""

_WHAT = "a run (as `prismrec train` writes it)"
# What a killed training or save may have left in a folder without a manifest.
_OWN = {
    CHECKPOINT,
    "split",
    "catalog",
    "encoders",
    "added",
    "tensorboard",
    "model.safetensors",
    "vectors.safetensors",
    *RESULTS,
}


def require_home(folder: Path) -> None:
    """Check that a folder may hold a run: new, empty, or a run's already.

    Raises
    ------
    InputError
        If it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder for a run.")
    if not folder.exists() or (folder / MANIFEST).exists():
        return
    foreign = [p.name for p in folder.iterdir() if p.name not in _OWN and not is_leftover(p.name)]
    if foreign:
        raise InputError(
            f"{folder}: holds something that is not a run ({', '.join(sorted(foreign)[:3])}).",
            "Choose a new folder.",
        )


def save(recommender: Recommender, folder: Path) -> None:
    """Write a recommender into a folder; the manifest comes last, so that a killed save is no run.

    Raises
    ------
    InputError
        If the folder holds something else.
    StorageError
        If the disk refuses.
    """
    require_home(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if recommender.path is None or recommender.path.resolve() != folder.resolve():
            _clear(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
    recommender.split.write(folder / "split")
    _write_catalog(recommender, folder / "catalog")
    with atomic_path(folder / "model.safetensors") as temporary:
        save_tensors(recommender.model.state(), temporary)
    _write_vectors(recommender, folder / "vectors.safetensors")
    encoders = _copy_encoders(recommender, folder / "encoders")
    names = ["model.safetensors", "vectors.safetensors"]
    names += [f"split/{n}.parquet" for n in ("split", "users", "items")]
    names += ["catalog/items.parquet", "catalog/catalog.json"]
    for home in encoders.values():
        names += [p.relative_to(folder).as_posix() for p in sorted(home.rglob("*")) if p.is_file()]
    recommender.manifest.checksums = {name: digest_file(folder / name) for name in names}
    recommender.path, recommender.encoders = folder, encoders
    write_manifest(recommender)


def _clear(folder: Path) -> None:
    """Take away what belongs to another run that stood here: its manifest first, then what was derived.

    Its vectors, added items or numbers must not be met beside the new weights.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    for name in ("added", "encoders"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for kind in MEDIA_KINDS:
        (folder / "catalog" / f"{kind}.parquet").unlink(missing_ok=True)


def write_manifest(recommender: Recommender) -> None:
    """Write the manifest of a recommender that has a folder."""
    assert recommender.path is not None
    write_json(recommender.path / MANIFEST, recommender.manifest.model_dump(mode="json"))


def load(folder: Path, model: type[ModelConfig] | None = None) -> Recommender:
    """Read a run's folder, with the items that were added to it.

    Parameters
    ----------
    folder
        Of the run.
    model
        For a model of the user's own: the class of its configuration. None: one of prismrec's.

    Raises
    ------
    InputError
        If the folder is not a run, was written by a newer version, or is the run of another model.
    DamagedError
        If a file is missing, altered, or does not fit the others.
    """
    manifest = read_manifest(folder)
    config_class = _config_class(folder, manifest, model)
    for name, expected in manifest.checksums.items():
        try:
            found = digest_file(folder / name)
        except FileNotFoundError:
            raise DamagedError(
                f"{folder / name}: the file is missing from the run.", "Train again."
            ) from None
        if found != expected:
            raise DamagedError(f"{folder / name}: the file was altered after it was written.", "Train again.")
    split = Split.read(folder / "split")
    catalog, digests = _read_catalog(folder / "catalog", manifest)
    inputs = ModelInputs(
        len(split.users),
        len(split.items),
        tuple(Modality(note.name, note.dim) for note in manifest.features),
    )
    fitted = config_class.parse(manifest.config).build(inputs)
    try:
        fitted.load_state(load_tensors(folder / "model.safetensors"))
        arrays = load_file(folder / "vectors.safetensors")
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{folder}: the weights cannot be read ({error}).", "Train again.") from error
    fitted.eval()
    items = ItemVectors(arrays["items"], arrays["present"], arrays.get("weights"), arrays.get("experts"))
    homes = {note.name: folder / "encoders" / note.name for note in manifest.features}
    recommender = Recommender(
        fitted,
        manifest,
        split,
        catalog,
        items,
        arrays["users"],
        arrays["folding"],
        {name: home for name, home in homes.items() if home.exists()},
        digests,
        folder,
    )
    load_additions(recommender)
    return recommender


def _config_class(folder: Path, manifest: RunManifest, given: type[ModelConfig] | None) -> type[ModelConfig]:
    if given is None:
        try:
            return config_of(manifest.model)
        except ConfigError:
            raise InputError(
                f"{folder}: is the run of a model {manifest.model!r}, which prismrec does not have.",
                "If it is your own, hand in the class of its configuration: "
                "Recommender.load(folder, model=...).",
            ) from None
    if given.name != manifest.model:
        raise InputError(
            f"{folder}: is the run of a model {manifest.model!r}, not of {given.name!r}.",
            "Hand in the class of its configuration, or none for a model of prismrec.",
        )
    return given


def read_manifest(folder: Path) -> RunManifest:
    """Read a run's manifest alone.

    Raises
    ------
    InputError
        If the folder is not a run.
    DamagedError
        If the manifest is damaged.
    """
    raw = read_json(folder / MANIFEST, _WHAT)
    if raw.get("format") != FORMAT:
        raise InputError(f"{folder}: this is not {_WHAT}.")
    if raw.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(f"{folder}: written by a newer prismrec.", "Install the newer version.")
    try:
        return RunManifest.model_validate(raw)
    except ValidationError as error:
        raise DamagedError(f"{folder / MANIFEST}: the manifest is damaged ({error}).") from None


def _write_vectors(recommender: Recommender, path: Path) -> None:
    items = recommender.items
    arrays = {
        "users": recommender.users,
        "items": items.vectors,
        "present": items.present,
        "folding": recommender.folding,
    }
    if items.weights is not None:
        arrays["weights"] = items.weights
    if items.experts is not None:
        arrays["experts"] = items.experts
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)


def _write_catalog(recommender: Recommender, folder: Path) -> None:
    with atomic_path(folder / "items.parquet") as temporary:
        recommender.catalog.items.write_parquet(temporary)
    _write_later_media(recommender, folder)
    write_json(
        folder / "catalog.json",
        {"text_columns": list(recommender.catalog.text_columns), "digests": recommender.digests},
    )


def _write_later_media(recommender: Recommender, folder: Path) -> None:
    """Keep the pictures and sounds that came after training, of new items and of replaced ones.

    No data set's folder has them.
    """
    for kind, media in recommender.catalog.media.items():
        if not isinstance(media, AddedMedia):
            continue
        names = [name for name in recommender.item_ids if name in media.added_ids]
        if names:
            pack(folder / f"{kind}.parquet", ((n, c) for n in names if (c := media.read(n)) is not None))


def _read_catalog(folder: Path, manifest: RunManifest) -> tuple[Catalog, dict[str, dict[str, str]]]:
    notes = read_json(folder / "catalog.json", _WHAT)
    media: dict[str, Media] = {}
    # Pictures stay in the data set's folder; a run without it answers all the same, without pictures.
    if manifest.dataset_path is not None and _same_dataset(Path(manifest.dataset_path), manifest):
        media = dict(Dataset.open_media(Path(manifest.dataset_path)))
    for kind in MEDIA_KINDS:
        later = folder / f"{kind}.parquet"
        if later.exists():
            media[kind] = AddedMedia(PackedMedia(later), media.get(kind))
    items = pl.read_parquet(folder / "items.parquet")
    return Catalog(items, tuple(notes["text_columns"]), media), notes["digests"]


def _same_dataset(folder: Path, manifest: RunManifest) -> bool:
    """Whether the data set is still there, and the same: ids of another one would show wrong pictures."""
    try:
        found = read_json(folder / DATASET_MANIFEST, "a data set")
    except (InputError, DamagedError, OSError):
        return False
    return found.get("content_hash") == manifest.dataset_hash


def _copy_encoders(recommender: Recommender, folder: Path) -> dict[str, Path]:
    copied = {}
    for name, home in recommender.encoders.items():
        target = folder / name
        if home.resolve() != target.resolve():
            try:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(home, target)
            except OSError as error:
                raise StorageError(f"{target}: cannot copy the encoder ({error}).") from error
        copied[name] = target
    return copied
