"""Where a store lies: a folder or an object store; and what is said when it refuses."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prismrec.base.errors import InputError, MissingExtraError, PrismError, StorageError
from prismrec.base.files import storage_errors

if TYPE_CHECKING:
    from lancedb import DBConnection

# What a file system puts into the root of a volume.
_HARMLESS = {"lost+found"}


@dataclass(frozen=True)
class Home:
    """Where a store lies.

    Parameters
    ----------
    address
        As it was given.
    folder
        The folder; None: an object store.
    database
        LanceDB's connection.
    """

    address: str
    folder: Path | None
    database: "DBConnection"


def open_home(address: str | Path, options: Mapping[str, str] | None = None) -> Home:
    """Connect to a folder, which is made if need be, or to an object store.

    Parameters
    ----------
    address
        A folder, or an address with ``://`` in it.
    options
        Credentials and settings of the object store.

    Raises
    ------
    MissingExtraError
        If LanceDB is not installed.
    InputError
        If the folder is a file, or holds something else.
    StorageError
        If the folder cannot be made, or the object store does not answer.
    """
    try:
        import lancedb
    except ImportError:
        raise MissingExtraError("lancedb", "serve", "The store of items") from None
    if "://" in str(address):
        with writing(str(address)):
            return Home(
                str(address), None, lancedb.connect(str(address), storage_options=dict(options or {}))
            )
    folder = Path(address).absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder for a store.", "Choose a new folder.")
    if folder.is_dir() and not (folder / "items.lance").exists():
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name not in _HARMLESS]
        if foreign:
            raise InputError(
                f"{folder}: holds something that is not a store ({', '.join(sorted(foreign)[:3])}).",
                "Choose a new folder.",
            )
    with writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        return Home(str(address), folder, lancedb.connect(folder))


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn what LanceDB says of a disk or an object store that refuses into a `StorageError`."""
    try:
        with storage_errors(Path(where)):
            yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, PrismError):
            raise
        raise StorageError(
            f"{where}: cannot write here ({short(error)}).", "What was acknowledged before is untouched."
        ) from error


def short(error: Exception) -> str:
    """Return LanceDB's message without the place in its source code."""
    return re.sub(r",? /\S+\.rs:\d+:\d+", "", str(error).splitlines()[0] if str(error) else repr(error))
