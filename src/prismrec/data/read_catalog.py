"""Reading a catalogue from a table and the places of its pictures and sounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.progress import Progress, Silent
from prismrec.data import values
from prismrec.data.catalog import MEDIA_KINDS, Catalog
from prismrec.data.catalog_media import FetchOptions, MediaPlaces, find_media, only_usable
from prismrec.data.columns import (
    ITEM_ROLES,
    ColumnMapping,
    Role,
    choose_text_columns,
    find_columns,
    is_embedded,
)
from prismrec.data.media import Media
from prismrec.data.media_folder import Refuse
from prismrec.data.readers import Table, open_table
from prismrec.data.report import Refusal, Refusals

_MEDIA_ROLES: tuple[Role, ...] = ("image", "audio")


@dataclass(frozen=True)
class LoadedCatalog:
    """A catalogue with what is known of its making.

    Parameters
    ----------
    catalog
        The items, without content.
    media
        Their content by kind, not checked yet.
    columns
        Column of the table by role.
    left_out
        Columns that were not taken over.
    table, rows
        Where it was read from, and the row there by item id.
    rows_read, duplicates, differing
        Rows of the table; rows whose id stood before; those of them with other values.
    """

    catalog: Catalog
    media: dict[str, Media]
    columns: dict[Role, str]
    left_out: list[str]
    table: Table
    rows: dict[str, int]
    rows_read: int
    duplicates: int
    differing: int


def read_catalog(
    path: Path | str,
    *,
    images: Path | None = None,
    audio: Path | None = None,
    mapping: ColumnMapping | None = None,
    text_columns: Sequence[str] | None = None,
    fetching: FetchOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Catalog, list[Refusal]]:
    """Read a catalogue, checking every picture and sound.

    Parameters
    ----------
    path
        A table, see `open_table`.
    images, audio
        Folders of files named by item id, or below which the table's paths lie.
    mapping
        Which columns are the item's id, picture and sound; by default found by their usual names.
    text_columns
        Which columns make up the text; by default all of strings that are not ids, paths, URLs or dates.
    fetching
        How URLs are fetched, into memory; None: items with URLs are left without content.
    progress
        Where to report to.

    Returns
    -------
    catalog
        Items whose id can be used, each once. Content stays where it is, except for what was fetched.
    refused
        Rows and content that were left out, and why.

    Raises
    ------
    InputError
        If the file or a folder cannot be read, no item is left, or a column is missing or ambiguous.
    """
    refusals = Refusals()
    folders = {kind: Path(f) for kind, f in (("image", images), ("audio", audio)) if f is not None}
    places = MediaPlaces(folders, fetching)
    table = open_table(Path(path))
    loaded = load_catalog(table, mapping or ColumnMapping(), text_columns, places, refusals)
    total = sum(len(source.ids) for source in loaded.media.values())
    kept = {}
    with (progress or Silent()).task("Checking pictures and sounds", total) as task:
        for kind, source in loaded.media.items():
            refuse = media_refuser(table, loaded.rows, kind, refusals)
            kept[kind] = only_usable(kind, source, refuse, task)
    return Catalog(loaded.catalog.items, loaded.catalog.text_columns, kept), refusals.listed()


def load_catalog(
    table: Table,
    mapping: ColumnMapping,
    text_columns: Sequence[str] | None,
    places: MediaPlaces,
    refusals: Refusals,
) -> LoadedCatalog:
    """Read a catalogue, its content unchecked; see `read_catalog`.

    Raises
    ------
    InputError
        If a column is missing or ambiguous, a folder is missing, or no item is left.
    """
    columns = find_columns(table, ITEM_ROLES, mapping, required=("item",))
    key = columns["item"]
    if key != "item_id" and "item_id" in table.schema:
        raise InputError(
            f"{table.path}: {key!r} is taken as the item's id, and there is a column 'item_id' too.",
            "Rename that one.",
        )
    bytes_columns = [name for name, dtype in table.schema.items() if name != key and _holds_bytes(dtype)]
    frame = table.read([name for name in table.schema if name not in bytes_columns])
    rows_read = frame.height
    if rows_read == 0:
        raise InputError(f"{table.path}: it has a header and no rows.", "Write it again.")
    frame, row = _with_ids(frame, key, table, refusals)
    frame, row, differing = _without_duplicates(frame, row, table, refusals)
    if frame.is_empty():
        raise InputError(
            f"{table.path}: no item is left of {rows_read:,} rows.",
            f"Check that {key!r} is the column of the item ids.",
        )
    items = _plain_types(frame, table.textual)
    rows = dict(zip(items["item_id"].to_list(), row.to_list(), strict=True))
    of_media = {columns[role] for role in _MEDIA_ROLES if role in columns}
    texts = choose_text_columns(items.drop(of_media & set(items.columns)), text_columns, table.path)
    media: dict[str, Media] = {}
    for kind, role in zip(MEDIA_KINDS, _MEDIA_ROLES, strict=True):
        refuse = media_refuser(table, rows, kind, refusals)
        source = find_media(kind, table, items, rows, columns.get(role), places, refuse)
        if source is not None:
            media[kind] = source
    return LoadedCatalog(
        catalog=Catalog(items, texts),
        media=media,
        columns=columns,
        left_out=[name for name in bytes_columns if name not in of_media],
        table=table,
        rows=rows,
        rows_read=rows_read,
        duplicates=sum(differing.values()),
        differing=differing[True],
    )


def _holds_bytes(dtype: pl.DataType) -> bool:
    return (
        dtype == pl.Binary or is_embedded(dtype) or (isinstance(dtype, pl.List) and dtype.inner == pl.Binary)
    )


def _with_ids(
    frame: pl.DataFrame, key: str, table: Table, refusals: Refusals
) -> tuple[pl.DataFrame, pl.Series]:
    """Put ``item_id`` in front and refuse rows without a usable id. Return also the rows that are left."""
    cells = frame[key]
    names, reasons = values.ids(cells, f"{table.path}: the column {key!r}")
    frame = frame.drop(key).insert_column(0, names.alias("item_id"))
    row = pl.int_range(frame.height, eager=True).alias("row")
    bad = reasons.is_not_null()
    refused = pl.DataFrame({"row": row, "reason": reasons, "value": cells.cast(pl.String)}).filter(bad)
    add_rows(refusals, table, refused.with_columns(field=pl.lit("item_id")))
    return frame.filter(~bad), row.filter(~bad)


def _without_duplicates(
    frame: pl.DataFrame, row: pl.Series, table: Table, refusals: Refusals
) -> tuple[pl.DataFrame, pl.Series, dict[bool, int]]:
    """Keep the first row of each id. Return also the rows left, and how many of the others did differ."""
    first = frame["item_id"].is_first_distinct()
    kept, spare = frame.filter(first), frame.filter(~first)
    again = kept.filter(pl.col("item_id").is_in(spare["item_id"].unique().implode()))
    by_id = {cells[0]: cells for cells in again.rows()}
    differs = [by_id[cells[0]] != cells for cells in spare.rows()]
    reasons = ["duplicate, with other values" if other else "duplicate" for other in differs]
    refused = spare.select(
        "item_id", row=row.filter(~first), field=pl.lit("item_id"), reason=pl.Series(reasons, dtype=pl.String)
    )
    add_rows(refusals, table, refused)
    return kept, row.filter(first), {True: differs.count(True), False: differs.count(False)}


def _plain_types(items: pl.DataFrame, textual: bool) -> pl.DataFrame:
    """Categories and columns without a type become strings; in a file without types, find the numbers."""
    changed = []
    for column in items.drop("item_id").iter_columns():
        dtype = column.dtype
        if _is_category(dtype) or dtype == pl.Null:
            changed.append(column.cast(pl.String))
        elif isinstance(dtype, pl.List) and _is_category(dtype.inner):
            changed.append(column.cast(pl.List(pl.String)))
        elif textual:
            changed.append(values.recognised(column))
    return items.with_columns(changed)


def _is_category(dtype: object) -> bool:
    return isinstance(dtype, (pl.Categorical, pl.Enum))


def media_refuser(table: Table, rows: dict[str, int], kind: str, refusals: Refusals) -> Refuse:
    """Return a function that lists content of items as refused, with the row of the item."""

    def refuse(item_id: str, reason: str, value: str | None) -> None:
        source, row = table.origin(rows[item_id])
        refusals.add(Refusal(source, row, kind, reason, item_id=item_id, value=value))

    return refuse


def add_rows(refusals: Refusals, table: Table, refused: pl.DataFrame) -> None:
    """Add refused rows of a table: ``row`` counts over all parts and is replaced by file and row in it."""
    if refused.height:
        origin = table.origins(refused["row"])
        refusals.add_frame(refused.with_columns(source=origin["source"], row=origin["row"]))
