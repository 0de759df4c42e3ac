"""Reading an interaction log from a table, with a reason for each row that is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import storage_errors
from prismrec.base.progress import SILENT, Progress
from prismrec.data import values
from prismrec.data.columns import LOG_ROLES, ColumnMapping, Role, find_columns
from prismrec.data.duplicates import repeated
from prismrec.data.interactions import BATCH, ORDER_COLUMNS, Interactions
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
        Rows that can be used, in their order; they lie in the folder that `load_log` was given.
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


def load_log(
    table: Table,
    mapping: ColumnMapping,
    known_items: pl.Series,
    refusals: Refusals,
    folder: Path,
    *,
    rows: int = BATCH,
    progress: Progress = SILENT,
) -> LoadedLog:
    """Read a log piece by piece: it may be larger than memory.

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
    folder
        Where rows that can be used are put; it is made, and holds nothing else.
    rows
        Rows in memory at a time.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If a column is missing, ambiguous or of a type that cannot be used, or no row is left.
    StorageError
        If the disk refuses.
    """
    columns = find_columns(table, LOG_ROLES, mapping, required=("user", "item"))
    reading = _Reading(table, columns, _Known(known_items), refusals, folder)
    with storage_errors(folder), progress.task("Reading interactions", table.rows) as task:
        folder.mkdir(parents=True)
        for raw in table.batches(list(columns.values()), rows):
            reading.take(raw)
            task.advance(raw.height)
        reading.require_rows()
        interactions, duplicates = reading.without_duplicates()
    return LoadedLog(
        interactions=interactions,
        columns=columns,
        left_out=[name for name in table.schema if name not in columns.values()],
        rows_read=reading.rows_read,
        duplicates=duplicates,
        unknown=reading.unknown,
        unknown_items=len(reading.unknown_items),
    )


@dataclass(frozen=True)
class _Known:
    """The catalogue's ids, as they stand and without surrounding spaces."""

    ids: pl.Series

    @cached_property
    def bare(self) -> pl.Series:
        return self.ids.str.strip_chars().unique()


@dataclass
class _Reading:
    """A log that is being read, and what was found so far."""

    table: Table
    columns: dict[Role, str]
    known: _Known
    refusals: Refusals
    folder: Path
    rows_read: int = 0
    parsed: int = 0
    unknown: int = 0
    unknown_items: set[str] = field(default_factory=set)
    first_unknown: str | None = None
    parts: list[Path] = field(default_factory=list)

    def take(self, raw: pl.DataFrame) -> None:
        """Take the next rows: write down which can be used, and list the others."""
        frame = _parse(raw, self.rows_read, self.columns, self.table, self.refusals)
        self.rows_read += raw.height
        self.parsed += frame.height
        known = frame["item_id"].is_in(self.known.ids.implode())
        stray = frame.filter(~known)
        if stray.height:
            self.unknown += stray.height
            self.unknown_items.update(stray["item_id"].unique())
            self.first_unknown = self.first_unknown or stray["item_id"][0]
            listed = _as_refused(stray, "item_id").with_columns(reason=_why_unknown(stray, self.known))
            add_rows(self.refusals, self.table, listed)
            frame = frame.filter(known)
        if frame.height:
            part = self.folder / f"{len(self.parts):06}.parquet"
            frame.write_parquet(part)
            self.parts.append(part)

    def require_rows(self) -> None:
        """Raise an error that says why nothing is left, if so."""
        if self.parts:
            return
        path = self.table.path
        if self.rows_read == 0:
            raise InputError(f"{path}: it has a header and no rows.", "Write it again.")
        if self.parsed == 0:
            reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self.refusals.counts().items())
            raise InputError(
                f"{path}: none of its {self.rows_read:,} rows can be used ({reasons}).",
                "Check the columns; one that is not needed is left out with --column rating= (say).",
            )
        raise InputError(
            f"{path}: none of its items is in the catalogue, e.g. {self.first_unknown!r}.",
            f"The catalogue has ids like {self.known.ids[0]!r}. Check the item columns of both files.",
        )

    def without_duplicates(self) -> tuple[Interactions, int]:
        """Return the rows without those that repeat an earlier one, and how many those are; list them."""
        log = pl.scan_parquet(self.parts)
        order = next((c for c in ORDER_COLUMNS if c in log.collect_schema()), None)
        dropped = []
        for again in repeated(log, ["user_id", "item_id", *([order] if order else [])]):
            differing = pl.when(pl.col("differs")).then(pl.lit(", with other values")).otherwise(pl.lit(""))
            rows = again.select("row", "user_id", "item_id", reason=pl.lit("duplicate") + differing)
            add_rows(self.refusals, self.table, rows.with_columns(field=pl.lit("item_id")))
            dropped.append(again["row"])
        if not dropped:
            return Interactions(log.drop("row")), 0
        gone = pl.concat(dropped)
        return Interactions(log.filter(~pl.col("row").is_in(gone.implode())).drop("row")), len(gone)


def _parse(
    raw: pl.DataFrame, before: int, columns: dict[Role, str], table: Table, refusals: Refusals
) -> pl.DataFrame:
    """Return rows that can be read, with their number in ``row``; list the others with their first reason."""
    parsed: dict[str, pl.Series] = {"row": pl.int_range(before, before + raw.height, eager=True)}
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


def _why_unknown(stray: pl.DataFrame, known: _Known) -> pl.Series:
    bare = stray["item_id"].str.strip_chars().is_in(known.bare.implode())
    reasons = (
        pl.when(bare)
        .then(pl.lit("unknown item; the catalogue has it with other surrounding spaces"))
        .otherwise(pl.lit("unknown item"))
    )
    return pl.select(reasons).to_series()
