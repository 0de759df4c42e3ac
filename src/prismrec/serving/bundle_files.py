"""What stands in a bundle's manifest, and whether the files beside it are those that it lists."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import prismrec
from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import digest, digest_file, read_json

FORMAT = "prismrec-bundle"
FORMAT_VERSION = 1
MANIFEST = "bundle.json"

_WHAT = "a bundle (as `write_bundle` makes it)"
AGAIN = "Make the bundle again from its run, or copy it again from where it came."


class FileNote(BaseModel):
    """A file of a bundle."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(description="In bytes.")
    digest: str = Field(description="32 hexadecimal digits of BLAKE2b.")


class BundleManifest(BaseModel):
    """What stands in ``bundle.json``."""

    model_config = ConfigDict(extra="forbid")

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    version: str = Field(description="Digest of the names and digests of all files.")
    prismrec: str = Field(description="The version of prismrec that wrote it.")
    created: datetime
    model: str
    encoders: dict[str, dict[str, Any]] = Field(description="By modality: name, revision and settings.")
    files: dict[str, FileNote]


def version_of(files: Mapping[str, FileNote]) -> str:
    """Return the version of a bundle of these files."""
    return digest(*(part.encode() for name in sorted(files) for part in (name, files[name].digest)))


def listing(folder: Path) -> dict[str, Path]:
    """Return all files of a folder but the manifest, by name from there."""
    files = [Path(home) / name for home, _, names in os.walk(folder) for name in names]
    listed = {file.relative_to(folder).as_posix(): file for file in files}
    listed.pop(MANIFEST, None)
    return listed


def read_bundle_manifest(path: Path) -> BundleManifest:
    """Read the manifest in a bundle's folder.

    Raises
    ------
    InputError
        If the folder is no bundle, or was written by a newer version.
    DamagedError
        If the manifest is damaged.
    """
    if path.is_dir() and not (path / MANIFEST).exists():
        raise InputError(f"{path}: is neither {_WHAT} nor a run, {MANIFEST} is missing.", "Check the path.")
    raw = read_json(path / MANIFEST, _WHAT)
    if raw.get("format") != FORMAT:
        raise InputError(f"{path}: this is not {_WHAT}.", "Check the path.")
    newer = raw.get("format_version")
    if isinstance(newer, int) and newer > FORMAT_VERSION:
        writer = raw.get("prismrec")
        raise InputError(
            f"{path}: is a bundle of format {newer}, written by prismrec {writer}; this is prismrec "
            f"{prismrec.__version__}, which reads format {FORMAT_VERSION}.",
            f"Install prismrec {writer} or a later one.",
        )
    try:
        return BundleManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedError(
            f"{path / MANIFEST}: the file is damaged, {where}: {first['msg']}.", AGAIN
        ) from None


def check_files(path: Path, files: Mapping[str, FileNote]) -> None:
    """Check that a bundle's folder holds these files, as they were, and no others.

    Raises
    ------
    DamagedError
        If a file is missing, truncated or altered, cannot be read, or does not belong there.
    """
    found = listing(path)
    for name, note in files.items():
        if name not in found:
            raise DamagedError(f"{path / name}: the file is missing from the bundle.", AGAIN)
        try:
            size = found[name].stat().st_size
            if size != note.size:
                raise DamagedError(f"{path / name}: has {size:,} bytes instead of {note.size:,}.", AGAIN)
            altered = digest_file(found[name]) != note.digest
        except OSError as error:
            raise DamagedError(f"{path / name}: cannot be read ({error.strerror}).", AGAIN) from error
        if altered:
            raise DamagedError(f"{path / name}: the file was altered after it was written.", AGAIN)
    for name in sorted(found.keys() - files.keys()):
        raise DamagedError(
            f"{path / name}: does not belong to the bundle.",
            "Move it away; to change what is served, make a new bundle.",
        )
