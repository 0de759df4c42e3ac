"""The catalogue: items with their attributes, texts, pictures and sounds."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.media import Media
from prismrec.data.vocabulary import Vocabulary

MEDIA_KINDS = ("image", "audio")


@dataclass(frozen=True)
class Catalog:
    """Items and what is known of them before anybody has clicked.

    Parameters
    ----------
    items
        One row per item: ``item_id`` (String, unique, never null or empty) and any attributes.
    text_columns
        Which attributes are put together as an item's text, in this order. String or list of strings or
        numbers.
    media
        Encoded content by kind: ``"image"``, ``"audio"``.

    Raises
    ------
    InputError
        If ids are missing or stand twice, or a text column or kind of media is unknown.
    """

    items: pl.DataFrame
    text_columns: tuple[str, ...] = ()
    media: Mapping[str, Media] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "item_id" not in self.items.columns or self.items.schema["item_id"] != pl.String:
            raise InputError(
                "The catalogue has no column 'item_id' of strings.", f"Columns are: {self.items.columns}."
            )
        for column in self.text_columns:
            if column not in self.items.columns:
                raise InputError(
                    f"The catalogue has no column {column!r} to take text from.",
                    f"Columns are: {self.items.columns}.",
                )
        for kind in self.media:
            if kind not in MEDIA_KINDS:
                raise InputError(f"Unknown kind of content {kind!r}.", f"Known: {', '.join(MEDIA_KINDS)}.")
        _ = self.vocabulary

    def __repr__(self) -> str:
        content = [f"text of {', '.join(self.text_columns)}"] if self.text_columns else []
        content += [f"{kind} of {len(media.ids):,}" for kind, media in self.media.items()]
        return f"Catalog({'; '.join([f'{len(self):,} items', *content])})"

    @staticmethod
    def read(
        path: Path | str,
        *,
        images: Path | str | None = None,
        audio: Path | str | None = None,
        text_columns: Sequence[str] | None = None,
    ) -> "Catalog":
        """Read a catalogue from a table, checking every picture and sound.

        Rows and contents that cannot be used are left out with one warning that counts them;
        `prismrec.data.read_catalog.read_catalog` lists them all.

        Parameters
        ----------
        path
            A table (Parquet, CSV, TSV, JSON lines) or a folder of Parquet files.
        images, audio
            Folders of files named by item id, or below which the table's paths lie.
        text_columns
            Which columns make up the text; by default all of strings that are not ids, paths, URLs or dates.

        Raises
        ------
        InputError
            If the file or a folder cannot be read, no item is left, or a column is missing or ambiguous.
        """
        from prismrec.data.read_catalog import read_catalog

        catalog, refused = read_catalog(
            path,
            images=None if images is None else Path(images),
            audio=None if audio is None else Path(audio),
            text_columns=text_columns,
        )
        if refused:
            first = refused[0]
            whom = f"item {first.item_id!r}" if first.item_id is not None else f"row {first.row}"
            warnings.warn(
                f"{path}: {len(refused):,} rows or contents were left out; the first: {whom}, {first.field}: "
                f"{first.reason}.",
                stacklevel=2,
            )
        return catalog

    def __len__(self) -> int:
        return self.items.height

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Item ids in the order of the rows."""
        return Vocabulary(self.items["item_id"].to_list(), "item")

    @property
    def attributes(self) -> list[str]:
        """Names of all columns but ``item_id``."""
        return [c for c in self.items.columns if c != "item_id"]

    def texts(self) -> list[str | None]:
        """Return each item's text: its text columns that are filled, one a line; None where none is."""
        columns = [self.items[c].to_list() for c in self.text_columns]
        if not columns:
            return [None] * len(self)
        return [_join(values) for values in zip(*columns, strict=True)]

    def titles(self) -> list[str]:
        """Return what to call each item: its ``title``, else its first text, else its id."""
        ids = self.items["item_id"].to_list()
        column = "title" if "title" in self.items.columns else next(iter(self.text_columns), None)
        if column is None:
            return ids
        shown = (_as_text(value) for value in self.items[column].to_list())
        return [text or name for text, name in zip(shown, ids, strict=True)]

    def select(self, item_ids: Sequence[str]) -> "Catalog":
        """Return the catalogue of some items, in the order given.

        Raises
        ------
        InputError
            If an id is unknown.
        """
        rows = [self.vocabulary.code(name) for name in item_ids]
        return Catalog(self.items[rows], self.text_columns, self.media)


def _join(values: Sequence[object]) -> str | None:
    lines = [text for text in map(_as_text, values) if text]
    return "\n".join(lines) or None


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(text for text in map(_as_text, value) if text)
    return str(value).strip()
