"""Reading an interaction log from a table, with a reason for each row that is refused."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data import values
from prismrec.data.columns import LOG_ROLES, ColumnMapping, Role, find_columns
from prismrec.data.interactions import Interactions
from prismrec.data.read_catalog import add_rows
from prismrec.data.readers import Table
from prismrec.data.report import Refusals

_NAMES: dict[Role, str] = {"user": "user_id", "item": "item_id"}
_PARSERS: dict[Role, Callable[[pl.Series, str], values.Parsed]] = {
    "user": values.ids,
    "item": values.ids,
    "rating": values.numbers,
    "weight": values.numbers,
    "timestamp": values.times,
    "position": values.numbers,
}


@dataclass(frozen=True)
class LoadedLog:
    """A log with what is known of its making.

    Parameters
    ----------
    interactions
        Rows that can be used, in their order.
    columns
        Column of the table by role.
    left_out
        Columns that were not taken over.
    rows_read, duplicates, unknown, unknown_items
        Rows of the table; repeated ones; those with items that the catalogue lacks, and how many such items.
    """

    interactions: Interactions
    columns: dict[Role, str]
    left_out: list[str]
    rows_read: int
    duplicates: int
    unknown: int
    unknown_items: int


def load_log(table: Table, mapping: ColumnMapping, known_items: pl.Series, refusals: Refusals) -> LoadedLog:
    """Read a log.

    Rows are refused whose ids are missing, whose numbers or times cannot be read, whose item is not known,
    and those that repeat the user, item and time of an earlier one (the position where there are no times;
    user and item alone where there is neither).

    Parameters
    ----------
    table
        The log.
    mapping
        Which columns to take.
    known_items
        Ids of the catalogue, each once.
    refusals
        Where rows that are refused are listed.

    Raises
    ------
    InputError
        If a column is missing, ambiguous or of a type that cannot be used, or no row is left.
    """
    columns = find_columns(table, LOG_ROLES, mapping, required=("user", "item"))
    raw = table.read(list(columns.values()))
    frame = _parse(raw, columns, table, refusals)
    _check_left(frame, raw.height, table, refusals)
    known = frame["item_id"].is_in(known_items.implode())
    stray = frame.filter(~known)
    if stray.height == frame.height:
        raise InputError(
            f"{table.path}: none of its items is in the catalogue, e.g. {stray['item_id'][0]!r}.",
            f"The catalogue has ids like {known_items[0]!r}. Check the item columns of both files.",
        )
    add_rows(
        refusals, table, _as_refused(stray, "item_id").with_columns(reason=_why_unknown(stray, known_items))
    )
    frame = frame.filter(known)
    frame, again = _without_duplicates(frame)
    add_rows(refusals, table, again)
    return LoadedLog(
        interactions=Interactions(frame.drop("row")),
        columns=columns,
        left_out=[name for name in table.schema if name not in columns.values()],
        rows_read=raw.height,
        duplicates=again.height,
        unknown=stray.height,
        unknown_items=stray["item_id"].n_unique(),
    )


def _parse(raw: pl.DataFrame, columns: dict[Role, str], table: Table, refusals: Refusals) -> pl.DataFrame:
    """Return rows that can be read, with their number in ``row``; list the others with their first reason."""
    parsed: dict[str, pl.Series] = {"row": pl.int_range(raw.height, eager=True)}
    verdicts = []
    for role, column in columns.items():
        name = _NAMES.get(role, role)
        cells, reasons = _PARSERS[role](raw[column], f"{table.path}: the column {column!r}")
        parsed[name] = cells
        verdicts.append((name, raw[column], reasons))
    frame = pl.DataFrame(parsed)
    refused = pl.Series([False]).new_from_index(0, raw.height)
    for name, cells, reasons in verdicts:
        bad = reasons.is_not_null() & ~refused
        refused = refused | bad
        if bad.any():
            rows = _as_refused(frame.filter(bad), name)
            add_rows(
                refusals,
                table,
                rows.with_columns(reason=reasons.filter(bad), value=cells.filter(bad).cast(pl.String)),
            )
    return frame.filter(~refused)


def _as_refused(rows: pl.DataFrame, field: str) -> pl.DataFrame:
    return rows.select("row", "user_id", "item_id", field=pl.lit(field))


def _check_left(frame: pl.DataFrame, rows_read: int, table: Table, refusals: Refusals) -> None:
    if rows_read == 0:
        raise InputError(f"{table.path}: it has a header and no rows.", "Write it again.")
    if frame.is_empty():
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in refusals.counts().items())
        raise InputError(
            f"{table.path}: none of its {rows_read:,} rows can be used ({reasons}).",
            "Check the columns; one that is not needed is left out with --column rating= (say).",
        )


def _why_unknown(stray: pl.DataFrame, known: pl.Series) -> pl.Series:
    bare = stray["item_id"].str.strip_chars().is_in(known.str.strip_chars().unique().implode())
    reasons = (
        pl.when(bare)
        .then(pl.lit("unknown item; the catalogue has it with other surrounding spaces"))
        .otherwise(pl.lit("unknown item"))
    )
    return pl.select(reasons).to_series() if len(bare) else pl.Series([], dtype=pl.String)


def _without_duplicates(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the first of rows with the same user, item and time; return the others as refusals."""
    order = next((c for c in ("timestamp", "position") if c in frame.columns), None)
    key = ["user_id", "item_id", *([order] if order else [])]
    kept = frame.unique(key, keep="first", maintain_order=True)
    if kept.height == frame.height:
        return frame, _as_refused(frame.clear(), "").with_columns(reason=pl.lit(""))
    spare = frame.join(kept.select("row"), on="row", how="anti", maintain_order="left")
    rest = [c for c in frame.columns if c not in (*key, "row")]
    first = spare.select(key).join(kept, on=key, how="left", maintain_order="left")
    differs = pl.any_horizontal(pl.lit(False), *(spare[c] != first[c] for c in rest))
    reason = pl.when(differs).then(pl.lit("duplicate, with other values")).otherwise(pl.lit("duplicate"))
    return kept, _as_refused(spare, "item_id").with_columns(reason=reason)
