"""Are the raw files those that the publisher offers? Their checksums, or what was found the first time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prismrec.base.errors import InputError
from prismrec.base.files import read_json, write_json
from prismrec.data.sources.source import RemoteFile

RECORD = "checksums.json"
"""Beside the raw files: what was found of those for which the publisher gives no checksum."""

Trust = Literal["publisher", "first use", "nothing"]


@dataclass(frozen=True)
class CheckedFile:
    """A raw file that is as it should be.

    Parameters
    ----------
    name, path
        What it is called, and where it lies.
    size, sha256
        Bytes and checksum, as found.
    trust
        What it was compared with: the publisher's checksum, that of its first download, or nothing.
    """

    name: str
    path: Path
    size: int
    sha256: str
    trust: Trust


def missing_files(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    """Return those that are not in the folder."""
    return [file for file in files if not (folder / file.name).is_file()]


def check_files(files: Sequence[RemoteFile], folder: Path) -> tuple[CheckedFile, ...]:
    """Check all files of a source, in their order.

    Raises
    ------
    InputError
        If files are missing (each is named, with where to get it), or one is not what it should be.
    """
    missing = missing_files(files, folder)
    if missing:
        listed = "".join(f"\n    {how_to_get(file, folder)}" for file in missing)
        raise InputError(
            f"{folder}: {len(missing)} of {len(files)} files are missing: "
            f"{', '.join(file.name for file in missing)}.",
            f"Put them there yourself, or say --download where they have an address:{listed}",
        )
    return tuple(check_file(file, folder) for file in files)


def how_to_get(file: RemoteFile, folder: Path) -> str:
    """Return where a file is to be had by hand, and where it belongs."""
    return f"{file.url or file.about or file.name} -> {folder / file.name}"


def check_file(file: RemoteFile, folder: Path, path: Path | None = None) -> CheckedFile:
    """Check one file.

    Parameters
    ----------
    file
        What it should be.
    folder
        Of the raw files, with their record.
    path
        Where it lies; by default where it belongs.

    Raises
    ------
    InputError
        If size or checksum differ from the publisher's or from those of the first download, or the file of
        that name was downloaded from another address.
    DamagedError
        If the record is damaged.
    """
    path = path or folder / file.name
    size, sha256, md5 = _sums(path)
    record = _record(folder).get(file.name)
    if file.size is not None and size != file.size:
        raise _wrong(file, folder, f"has {size:,} bytes, expected {file.size:,}")
    for kind, found, expected in (("sha256", sha256, file.sha256), ("md5", md5, file.md5)):
        if expected is not None and found != expected.lower():
            raise _wrong(file, folder, f"has the {kind} {found}, its publisher gives {expected.lower()}")
    if file.sha256 is not None or file.md5 is not None:
        return CheckedFile(file.name, path, size, sha256, "publisher")
    if record is None:
        return CheckedFile(file.name, path, size, sha256, "nothing")
    if record.get("url") != file.url:
        raise InputError(
            f"{path}: it came from {record.get('url')}, and this source has its file of that name from "
            f"{file.url}.",
            f"Keep the files of each source in a folder of their own. If the publisher has only moved the "
            f"file, remove its entry from {folder / RECORD}.",
        )
    if record.get("sha256") != sha256:
        first = f"at its first download it had {record.get('sha256')}"
        raise _wrong(file, folder, f"has the sha256 {sha256}, {first}, which was trusted on first use")
    return CheckedFile(file.name, path, size, sha256, "first use")


def remember(file: RemoteFile, folder: Path, checked: CheckedFile) -> None:
    """Write down what a file was like at its first download; afterwards it has to stay like that."""
    record = _record(folder)
    record[file.name] = {"sha256": checked.sha256, "size": checked.size, "url": file.url}
    write_json(folder / RECORD, {"about": "trusted on first use", "files": record})


def _record(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / RECORD
    if not path.exists():
        return {}
    files = read_json(path, "the checksums of raw files").get("files")
    return files if isinstance(files, dict) else {}


def _wrong(file: RemoteFile, folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder / file.name}: {what}.",
        "It was altered, cut off, or changed by its publisher. Remove it and get it again: "
        f"{how_to_get(file, folder)}",
    )


def _sums(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5 of a file."""
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            size += len(block)
            sha256.update(block)
            md5.update(block)
    return size, sha256.hexdigest(), md5.hexdigest()
