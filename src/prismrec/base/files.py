"""Files that are either wholly there or not at all.

A file is written beside its destination, flushed to the disk and renamed over it, so that a kill at any
instant leaves either the old content or the new one. Leftovers of a killed writer carry the suffix
``.partial`` and are ignored by every reader.
"""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import DamagedError, InputError, PrismError, StorageError

PARTIAL = ".partial"
_SAFETENSORS_PARTIAL = re.compile(r"\.tmp\w{6}")

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
# As Polars and safetensors write them, and as NumPy does where less was written than it asked for.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a `StorageError` that names `path`."""
    try:
        yield
    except PrismError:
        raise
    except Exception as error:
        reason = _REASONS.get(_number(error))
        if reason is None:
            raise
        raise StorageError(
            f"{path}: cannot write here, {reason}.",
            "Free some space or choose another folder; what was complete before is untouched.",
        ) from error


def _number(error: Exception) -> int:
    """Return the number of the system's error, 0 if it is none; some writers give it in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) and _SHORT_WRITE.search(str(error)):
        return errno.ENOSPC
    named = _RUST_ERROR.search(str(error))
    return int(named[1]) if named else 0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it over `path` when the block ends without an error.

    Parameters
    ----------
    path
        Destination. Its folder is made if need be.

    Yields
    ------
    Path
        Where to write. A file and nothing else must stand there at the end of the block.

    Raises
    ------
    StorageError
        If the disk is full, read-only or not writable.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed process left of its writing: ours, or safetensors' own."""
    return name.endswith(PARTIAL) or _SAFETENSORS_PARTIAL.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON document atomically, with sorted structure left as given and a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array in NumPy's .npy format atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object that prismrec wrote.

    Parameters
    ----------
    path
        The file.
    what
        What the file belongs to, for the message ("a data set", "a run").

    Raises
    ------
    InputError
        If the file is not there.
    DamagedError
        If it is there and is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path.parent}: this is not {what}, {path.name} is missing.", "Check the path."
        ) from None
    except (NotADirectoryError, IsADirectoryError):
        raise InputError(f"{path.parent}: this is not {what}.", "Check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path}: the file is damaged, it is not JSON ({error}).", _anew(what)) from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path}: the file is damaged, it should hold a JSON object.", _anew(what))
    return value


def _anew(what: str) -> str:
    return f"It is part of {what}: make that anew."


def digest(*parts: bytes) -> str:
    """32 hexadecimal digits of BLAKE2b over the parts, each preceded by its length."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """32 hexadecimal digits of BLAKE2b over a file's content, read in blocks of 1 MiB."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            state.update(block)
    return state.hexdigest()
