"""Pictures and sounds that stay where they are: files below an address of an object store, or a folder."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa

from prismrec.base.errors import InputError
from prismrec.data.media_folder import EXTENSIONS, MAX_FILE_BYTES

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class ObjectMedia:
    """Content in files below an address, each read when it is asked for.

    Parameters
    ----------
    address
        ``s3://bucket/folder``, ``gs://...``, whatever else `pyarrow.fs.FileSystem.from_uri` opens with the
        credentials of the process, or a folder.
    names
        Name of the file below the address by item id.
    """

    def __init__(self, address: str, names: Mapping[str, str]) -> None:
        self.address = address
        self._names = dict(names)

    def __reduce__(self) -> "tuple[type[ObjectMedia], tuple[str, dict[str, str]]]":
        """Open the store again in another process."""
        return ObjectMedia, (self.address, self._names)

    @staticmethod
    def below(address: str, kind: str, ids: Sequence[str]) -> "ObjectMedia":
        """Find the files that are named by item id.

        Parameters
        ----------
        address
            Where; a folder may be relative.
        kind
            ``"image"`` or ``"audio"``: which extensions count.
        ids
            Items. A file ``<id>.jpg`` belongs to the item ``<id>``, also with the id percent-encoded.

        Raises
        ------
        InputError
            If the address cannot be opened or listed, an item has two files, a file is too large, or not one
            belongs to an item.
        """
        from pyarrow.fs import FileSelector

        # A folder gets a form that holds in every process.
        address = address if "://" in address else str(Path(address).absolute())
        filesystem, root = _opened(address)
        try:
            listed = filesystem.get_file_info(FileSelector(root))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{address}: cannot be listed ({error}).", "Check address and rights."
            ) from error
        files = [info for info in listed if info.is_file and f".{info.extension.lower()}" in EXTENSIONS[kind]]
        items = {name: item for item in ids for name in (item, quote(item, safe=""), quote(item, safe=" "))}
        names: dict[str, str] = {}
        for info in sorted(files, key=lambda info: info.base_name):
            item = items.get(info.base_name[: -len(info.extension) - 1])
            if item is None:
                continue
            if item in names:
                raise InputError(
                    f"{address}: item {item!r} has two files, {names[item]!r} and {info.base_name!r}.",
                    "Leave one there.",
                )
            if info.size is not None and info.size > MAX_FILE_BYTES:
                raise InputError(f"{address}: {info.base_name!r} is larger than {MAX_FILE_BYTES >> 20} MiB.")
            names[item] = info.base_name
        if not names:
            found = f"the first of {len(files):,} is {files[0].base_name!r}" if files else "there is none"
            raise InputError(
                f"{address}: no file is named by the id of an item; {found}.",
                f"An item's file is called by its id, {ids[0]!r} say, and an extension.",
            )
        return ObjectMedia(address, names)

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""
        return tuple(self._names)

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        name = self._names.get(item_id)
        if name is None:
            return None
        filesystem, root = self._store
        try:
            with filesystem.open_input_stream(f"{root.rstrip('/')}/{name}") as stream:
                return bytes(stream.read())
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.address}/{name}: cannot read the content of item {item_id!r} ({error})."
            ) from error

    @cached_property
    def _store(self) -> "tuple[FileSystem, str]":
        return _opened(self.address)


def _opened(address: str) -> "tuple[FileSystem, str]":
    from pyarrow.fs import FileSystem

    try:
        filesystem, root = FileSystem.from_uri(address)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{address}: cannot be opened ({error}).", "Give a folder, or an address like s3://bucket/folder."
        ) from error
    return filesystem, root
