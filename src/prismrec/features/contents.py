"""What an extraction reads: the contents of one kind in a catalogue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import Media


@dataclass(frozen=True)
class Contents:
    """The contents of one kind in a catalogue, read when asked for.

    Parameters
    ----------
    ids
        Items that have such content.
    read
        Gives an item's content.
    media
        What `read` reads from; None for texts.
    """

    ids: tuple[str, ...]
    read: Callable[[str], Any]
    media: Media | None = None

    @staticmethod
    def of(catalog: Catalog, kind: str) -> "Contents":
        """Return the texts, pictures or sounds of a catalogue.

        Raises
        ------
        InputError
            If the catalogue has none of that kind.
        """
        if kind == "text":
            texts = {n: t for n, t in zip(catalog.vocabulary, catalog.texts(), strict=True) if t is not None}
            contents = Contents(tuple(texts), texts.__getitem__)
        elif kind in catalog.media:
            media = catalog.media[kind]
            has = set(media.ids)
            contents = Contents(tuple(n for n in catalog.vocabulary if n in has), media.read, media)
        else:
            contents = Contents((), str)
        if not contents.ids:
            raise InputError(f"The catalogue has no {kind} to encode.", f"Columns: {catalog.items.columns}.")
        return contents
