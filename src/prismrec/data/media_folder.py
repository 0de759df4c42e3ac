"""Pictures and sounds as files in a folder: named by item id, or at paths that a table gives."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from prismrec.base.errors import InputError

EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif"),
}
MAX_FILE_BYTES = 512 * 2**20

Refuse = Callable[[str, str, str | None], None]
"""Told of an item id, a reason, and what stood there."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|data:", re.IGNORECASE)


class FolderIndex:
    """The files of a folder by the id that they are named for.

    A file ``<id>.jpg`` belongs to the item ``<id>``; so does the file whose name is the id percent-encoded,
    and, for an id with slashes, the file in subfolders.

    Parameters
    ----------
    folder
        The folder.
    kind
        ``"image"`` or ``"audio"``: which extensions count.

    Raises
    ------
    InputError
        If there is no such folder.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder.", "Check the path of the files.")
        self.folder = folder
        self._root = folder.resolve()
        self._extensions = EXTENSIONS[kind]
        self._files: dict[str, list[Path]] = {}
        with os.scandir(folder) as entries:
            for name in sorted(entry.name for entry in entries if entry.is_file()):
                stem, extension = _split(name)
                if extension.lower() in self._extensions:
                    self._files.setdefault(stem, []).append(folder / name)

    def __len__(self) -> int:
        """Return how many files there are, subfolders not counted."""
        return sum(map(len, self._files.values()))

    def find(self, item_id: str) -> list[Path]:
        """Return the files of an item, the preferred one first; none if the id leads out of the folder."""
        found = list(self._files.get(item_id, ()))
        encoded = {quote(item_id, safe=""), quote(item_id, safe=" ")} - {item_id}
        for name in sorted(encoded):
            found += self._files.get(name, ())
        stem, extension = _split(item_id)
        if extension.lower() in self._extensions:
            found += [path for path in self._files.get(stem, ()) if path.name == item_id]
        if "/" in item_id and not found:
            nested = (self.inside(item_id + end) for end in self._extensions)
            found = [path for path in nested if isinstance(path, Path)]
        order = {end: place for place, end in enumerate(self._extensions)}
        return sorted(found, key=lambda path: order[path.suffix.lower()])

    def inside(self, relative: str) -> Path | str:
        """Return the file at a path below the folder, or why it cannot be used."""
        if "\0" in relative or Path(relative).is_absolute() or ".." in Path(relative).parts:
            return "the path leads outside the folder"
        return self.usable(self.folder / relative)

    def usable(self, path: Path) -> Path | str:
        """Return a path if it is a file of bearable size within the folder, else why not."""
        try:
            if not path.is_file():
                return "there is no such file"
            if not path.resolve().is_relative_to(self._root):
                return "the path leads outside the folder"
            if path.stat().st_size > MAX_FILE_BYTES:
                return f"the file is larger than {MAX_FILE_BYTES >> 20} MiB"
        except (OSError, ValueError) as error:
            return f"the path cannot be read ({getattr(error, 'strerror', None) or error})"
        return path


def files_by_id(index: FolderIndex, ids: Sequence[str], refuse: Refuse) -> dict[str, Path]:
    """Look the items' files up in a folder, by their ids.

    Parameters
    ----------
    index
        The folder.
    ids
        The items.
    refuse
        Told of files that cannot be used, and of second files of an item.
    """
    paths: dict[str, Path] = {}
    for item_id in ids:
        found = index.find(item_id)
        for spare in found[1:]:
            refuse(item_id, f"a second file of the item; {found[0].name} is used", spare.name)
        if not found:
            continue
        path = index.usable(found[0])
        if isinstance(path, str):
            refuse(item_id, path, found[0].name)
        else:
            paths[item_id] = path
    return paths


def _split(name: str) -> tuple[str, str]:
    """Part a name at its last dot, also where `Path` would see none (".jpg" is the file of the item "")."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if dot else (name, "")


def is_url(text: str) -> bool:
    """Tell whether a cell holds a URL (of any scheme) and not a path."""
    return _URL.match(text) is not None
