"""Where the pictures and sounds of a catalogue lie: in a column of its table, in a folder, behind URLs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.progress import Task
from prismrec.data.fetch import MAX_BYTES, TIMEOUT_S, fetch
from prismrec.data.media import FileMedia, Media, MemoryMedia, PackedMedia
from prismrec.data.media_folder import FolderIndex, Refuse, files_by_id, is_url
from prismrec.data.media_sources import Check, CheckedMedia, ColumnMedia, FirstMedia, UrlMedia
from prismrec.data.object_media import ObjectMedia
from prismrec.data.readers import Table

_OPTION = {"image": "--images", "audio": "--audio"}


@dataclass(frozen=True)
class FetchOptions:
    """How content behind URLs is fetched.

    Parameters
    ----------
    max_bytes, timeout_s
        Limits of each.
    workers
        How many at a time.
    allow_private
        Also from addresses that are not public: for servers of your own only.
    """

    max_bytes: int = MAX_BYTES
    timeout_s: float = TIMEOUT_S
    workers: int = 8
    allow_private: bool = False


@dataclass(frozen=True)
class MediaPlaces:
    """Where pictures and sounds may be looked for, apart from the table.

    Parameters
    ----------
    folders
        Folder by kind of content: of files named by item id, or below which paths of the table lie.
    fetching
        How URLs are fetched; None: they are refused.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    fetching: FetchOptions | None = None


def find_media(
    kind: str,
    table: Table,
    items: pl.DataFrame,
    rows: Mapping[str, int],
    column: str | None,
    places: MediaPlaces,
    refuse: Refuse,
) -> Media | None:
    """Find one kind of content: first the table's column, then files named by item id.

    Parameters
    ----------
    kind
        ``"image"`` or ``"audio"``.
    table
        The table of the catalogue.
    items
        What was read of it: ``item_id`` and every column that does not hold bytes.
    rows
        Row of the table by item id.
    column
        Column of the content, None if the table has none.
    places
        Where else to look.
    refuse
        Told of cells and files that cannot be used.

    Returns
    -------
    Media or None
        Unchecked, in the order of the items; None if there is none of this kind.

    Raises
    ------
    InputError
        If a folder is missing, or the column holds paths and no folder was given.
    """
    folder = places.folders.get(kind)
    index = FolderIndex(folder, kind) if folder is not None else None
    sources: list[Media] = []
    if column is not None and column in items.columns:
        cells = _filled(items, column)
        urls = {item_id: cell for item_id, cell in cells.items() if is_url(cell)}
        paths = {item_id: cell for item_id, cell in cells.items() if item_id not in urls}
        if paths and index is None:
            raise InputError(
                f"{table.path}: the column {column!r} holds paths, e.g. {next(iter(paths.values()))!r}.",
                f"Name the folder that they start from with {_OPTION[kind]}, or leave the column out with "
                f"--column {kind}=",
            )
        if index is not None:
            sources.append(FileMedia(_files_at(paths, index, refuse)))
        sources += _behind(urls, places.fetching, refuse)
    elif column is not None:
        sources.append(ColumnMedia(table.parts, table.sizes, column, rows, index))
    if index is not None:
        sources.append(FileMedia(files_by_id(index, items["item_id"].to_list(), refuse)))
    sources = [source for source in sources if source.ids]
    if len(sources) < 2:
        return sources[0] if sources else None
    return FirstMedia(sources)


def _filled(items: pl.DataFrame, column: str) -> dict[str, str]:
    cells = items.select("item_id", cell=pl.col(column).cast(pl.String).str.strip_chars())
    return dict(cells.filter(pl.col("cell").str.len_bytes() > 0).iter_rows())


def _files_at(paths: Mapping[str, str], index: FolderIndex, refuse: Refuse) -> dict[str, Path]:
    found = {}
    for item_id, relative in paths.items():
        path = index.inside(relative)
        if isinstance(path, str):
            refuse(item_id, path, relative)
        else:
            found[item_id] = path
    return found


def _behind(urls: Mapping[str, str], fetching: FetchOptions | None, refuse: Refuse) -> list[Media]:
    if fetching is None:
        for item_id, url in urls.items():
            refuse(item_id, "it is at a URL, and fetching was not asked for", url)
        return []
    get = partial(
        fetch,
        max_bytes=fetching.max_bytes,
        timeout_s=fetching.timeout_s,
        allow_private=fetching.allow_private,
    )
    return [UrlMedia(urls, get, fetching.workers)]


def checker(kind: str, max_pixels: int | None = None) -> Check:
    """Return the check of a kind of content; `max_pixels` bounds pictures, None is the decoder's default."""
    if kind == "audio":
        from prismrec.data.sounds import check_sound

        return check_sound
    from prismrec.data.pictures import MAX_PIXELS, check_image

    return partial(check_image, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)


def only_usable(kind: str, source: Media, refuse: Refuse, task: Task, max_pixels: int | None = None) -> Media:
    """Check all content of a source.

    Returns
    -------
    Media
        What can be used. It is read again from where it lies, except for what was fetched: that is kept in
        memory, since a second answer may differ from the one that was checked.
    """
    checked = CheckedMedia(source, checker(kind, max_pixels), refuse, task)
    parts: Sequence[Media] = source.sources if isinstance(source, FirstMedia) else [source]
    if any(isinstance(part, UrlMedia) for part in parts):
        contents = ((name, checked.read(name)) for name in checked.ids)
        return MemoryMedia({name: content for name, content in contents if content is not None})
    return _SomeMedia(source, [name for name in checked.ids if checked.read(name) is not None])


def lies_outside(source: Media) -> bool:
    """Tell whether another process can read a source's content from where it lies, rather than from here."""
    if isinstance(source, FirstMedia):
        return all(map(lies_outside, source.sources))
    if isinstance(source, _SomeMedia):
        return lies_outside(source.source)
    return isinstance(source, (FileMedia, PackedMedia, ColumnMedia, ObjectMedia))


class _SomeMedia:
    """The content of some items of a source."""

    def __init__(self, source: Media, ids: Sequence[str]) -> None:
        self.source = source
        self._ids = dict.fromkeys(ids)

    @property
    def ids(self) -> Sequence[str]:
        """Items that have content."""
        return tuple(self._ids)

    def read(self, item_id: str) -> bytes | None:
        """Return the encoded bytes of an item's content, None if it has none."""
        return self.source.read(item_id) if item_id in self._ids else None
