"""Rows of the store: from items to the columns of its table, and back.

Each attribute of the catalogue has a column of its type. What does not fit its column, or has none, is kept
in the column ``other`` as JSON, so that an item comes back as it was handed in.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prismrec.base.errors import DamagedError, InputError
from prismrec.serving.storage import StoredItem
from prismrec.serving.store_table import KEY
from prismrec.serving.types import NewItem

_ATTRIBUTE = "attribute:"
_VECTOR = "vector_"
# Characters that LanceDB reads as something else in a column's name, and the sign that stands for them.
_RESERVED = re.compile(r"[.`%]")

_FIXED = [
    pa.field("item_id", pa.string(), nullable=False, metadata=KEY),
    pa.field("number", pa.int64()),
    pa.field("deleted", pa.bool_()),
    pa.field("model", pa.string()),
    pa.field("notes", pa.large_binary()),
    pa.field("picture", pa.large_binary()),
    pa.field("other", pa.large_string()),
]


def schema_of(columns: Mapping[str, pl.DataType]) -> pa.Schema:
    """Return the columns of a table for a catalogue.

    Raises
    ------
    InputError
        If a column of the catalogue is of a type that cannot be stored.
    """
    return pa.schema([*_FIXED, *(_field(name, dtype) for name, dtype in columns.items())])


def vector_field(dim: int) -> pa.Field:
    """Return the column of vectors of one size: models of several sizes may have rows in one table."""
    return pa.field(f"{_VECTOR}{dim}", pa.list_(pa.float32(), dim))


def attributes_of(schema: pa.Schema) -> dict[str, str]:
    """Return the names of the columns that hold attributes, by attribute."""
    names = [name for name in schema.names if name.startswith(_ATTRIBUTE)]
    return {_plain(name): name for name in names}


def vectors_of(schema: pa.Schema) -> list[str]:
    """Return the names of the columns that hold vectors."""
    return [name for name in schema.names if name.startswith(_VECTOR)]


def to_table(rows: Sequence[StoredItem], first: int, schema: pa.Schema) -> pa.Table:
    """Return items as rows of the table.

    Parameters
    ----------
    rows
        The items.
    first
        Number of the first of them.
    schema
        The table's, with a column for each size of vector.

    Raises
    ------
    InputError
        If an attribute is of a kind that cannot be stored.
    """
    columns: dict[str, Any] = {
        "item_id": [row.item.item_id for row in rows],
        "number": range(first, first + len(rows)),
        "deleted": [False] * len(rows),
        "model": [row.model for row in rows],
        "notes": [row.notes for row in rows],
        "picture": [row.item.picture for row in rows],
    }
    for name in vectors_of(schema):
        columns[name] = _vectors([row.vector for row in rows], int(name.removeprefix(_VECTOR)))
    other: list[dict[str, Any]] = [dict(row.item.attributes) for row in rows]
    for attribute, name in attributes_of(schema).items():
        dtype = pl.Series(pa.array([], schema.field(name).type)).dtype
        columns[name] = _column(other, attribute, dtype)
    columns["other"] = [_as_json(row.item.item_id, left) for row, left in zip(rows, other, strict=True)]
    return _table(columns, len(rows), schema)


def to_tombstones(item_ids: Sequence[str], first: int, schema: pa.Schema) -> pa.Table:
    """Return rows that say that items are deleted: an id, and nothing of the item."""
    columns: dict[str, Any] = {
        "item_id": list(item_ids),
        "number": range(first, first + len(item_ids)),
        "deleted": [True] * len(item_ids),
    }
    return _table(columns, len(item_ids), schema)


def to_items(batch: pa.RecordBatch) -> list[StoredItem]:
    """Return the items of rows that are not deleted.

    Raises
    ------
    DamagedError
        If an item has no vector.
    """
    attributes = attributes_of(batch.schema)
    # Polars knows how a value of each type looks in Python; Arrow makes other objects of times.
    values = {n: pl.Series(batch.column(column)).to_list() for n, column in attributes.items()}
    vectors = [batch.column(name) for name in vectors_of(batch.schema)]
    ids, models, notes, pictures, others = (
        batch.column(name).to_pylist() for name in ("item_id", "model", "notes", "picture", "other")
    )
    items = []
    for row, item_id in enumerate(ids):
        found = {n: column[row] for n, column in values.items() if column[row] is not None}
        found |= json.loads(others[row]) if others[row] is not None else {}
        vector = next((column[row].values.to_numpy() for column in vectors if column[row].is_valid), None)
        if vector is None:
            raise DamagedError(f"The store's item {item_id!r} has no vector.", "Hand it in again.")
        item = NewItem(item_id, found, pictures[row])
        items.append(StoredItem(item, models[row], vector.astype(np.float32), notes[row]))
    return items


def to_frame(table: pa.Table) -> pl.DataFrame:
    """Return ids and attributes as a catalogue has them; what does not fit its column is missing."""
    names = {column: attribute for attribute, column in attributes_of(table.schema).items()}
    frame = pl.DataFrame(pl.from_arrow(table.select(["item_id", *names])))
    return frame.rename(names)


def _field(name: str, dtype: pl.DataType) -> pa.Field:
    held = dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        # Codes of categories differ from table to table, words do not.
        held = pl.String()
    elif isinstance(dtype, pl.Array):
        # LanceDB would take it for a vector, and drop it where a number is missing.
        held = pl.List(dtype.inner)
    try:
        kind = pl.Series([], dtype=held).to_arrow(compat_level=pl.CompatLevel.oldest()).type
    except Exception as error:
        raise InputError(
            f"The catalogue's column {name!r} is of type {dtype}, which the store cannot hold ({error}).",
            "Cast it to another type, or leave it out.",
        ) from None
    return pa.field(_ATTRIBUTE + _RESERVED.sub(lambda m: f"%{ord(m[0]):02x}", name), kind)


def _plain(column: str) -> str:
    coded = column.removeprefix(_ATTRIBUTE)
    return re.sub(r"%([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), coded)


def _table(columns: Mapping[str, Any], n: int, schema: pa.Schema) -> pa.Table:
    """Return a table of the columns that are given, and of nulls in the others."""
    arrays = []
    for field in schema:
        given = columns.get(field.name, [None] * n)
        arrays.append(given.cast(field.type) if isinstance(given, pa.Array) else pa.array(given, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def require_storable(rows: Sequence[StoredItem]) -> None:
    """Check ids and vectors.

    Raises
    ------
    InputError
        If an id is empty, or a vector is not a row of finite numbers.
    """
    for row in rows:
        if not row.item.item_id:
            raise InputError("An item has an empty item_id.", "Give each item an id of its own.")
        if row.vector.ndim != 1 or row.vector.size == 0 or not np.isfinite(row.vector).all():
            raise InputError(
                f"Item {row.item.item_id!r}: its vector is not a row of finite numbers.",
                "Train the model again if it is the model's.",
            )


def _vectors(vectors: Sequence[npt.NDArray[np.float32]], dim: int) -> pa.Array:
    """Return the vectors of one size; null where an item's is of another."""
    fits = np.array([len(vector) == dim for vector in vectors], dtype=np.bool_)
    flat = np.zeros((len(vectors), dim), dtype=np.float32)
    for row, vector in enumerate(vectors):
        if fits[row]:
            flat[row] = vector
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dim, mask=pa.array(~fits))


def _column(rows: list[dict[str, Any]], attribute: str, dtype: pl.DataType) -> pa.Array:
    """Take an attribute out of the rows, where it fits, into a column."""
    given = [row.get(attribute) for row in rows]
    series = _series(given, dtype)
    if series is None:
        # One by one: those that fit go into the column, the others stay where they are.
        single = [_series([value], dtype) for value in given]
        fits = [found is not None for found in single]
        series = pl.concat([pl.Series([None], dtype=dtype) if one is None else one for one in single])
    else:
        fits = [True] * len(rows)
    for row, taken in zip(rows, fits, strict=True):
        if taken:
            row.pop(attribute, None)
    return series.to_arrow(compat_level=pl.CompatLevel.oldest())


def _series(values: list[Any], dtype: pl.DataType) -> pl.Series | None:
    """Return values as a column of a type; None if one of them does not fit or would change."""
    try:
        series = pl.Series(values, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return None
    # A float of half the size is what the catalogue wants; a word made into a list of words is not.
    if dtype.is_temporal() or dtype == pl.Float32:
        return series
    same = all(_same(old, new) for old, new in zip(values, series.to_list(), strict=True))
    return series if same else None


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, bool) != isinstance(new, bool):
        return False
    return bool(old == new) or (isinstance(old, float) and math.isnan(old) and math.isnan(new))


def _as_json(item_id: str, left: Mapping[str, Any]) -> str | None:
    kept = {name: value for name, value in left.items() if value is not None}
    try:
        return json.dumps(kept, ensure_ascii=False) if kept else None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Item {item_id!r}: an attribute of {', '.join(sorted(kept))} cannot be stored ({error}).",
            "Give texts, numbers, true or false, or lists of them.",
        ) from None
