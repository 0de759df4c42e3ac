"""Cells of foreign tables to ids, numbers and times, with a reason for each cell that is refused."""

import polars as pl

from prismrec.base.errors import InputError

MISSING = "missing"

# Above this a float no longer holds every integer, so that an id may have been altered already.
_EXACT = 2.0**53

_ISO = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2}(?:[.,]\d+)?))?)?"
    r"\s*(?<zone>Z|z|[+-]\d{2}:?\d{2})?$"
)

Parsed = tuple[pl.Series, pl.Series]
"""Values, null where refused, and reasons (String), null where not refused. Both as long as the input."""


def ids(column: pl.Series, where: str) -> Parsed:
    """Read ids: strings as they stand, integers in decimal, floats if they are whole.

    Parameters
    ----------
    column
        The cells.
    where
        File and column, for messages.

    Raises
    ------
    InputError
        If the column's type can hold no ids.
    """
    dtype = column.dtype
    if dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum)):
        text = column.cast(pl.String)
        blank = text.str.strip_chars().str.len_bytes() == 0
        return _parsed(text, blank.fill_null(True), MISSING)
    if dtype.is_integer():
        text = column.cast(pl.String)
        return _parsed(text, text.is_null(), MISSING)
    if dtype.is_float():
        return _float_ids(column)
    if dtype == pl.Null:
        return _parsed(column.cast(pl.String), column.is_null(), MISSING)
    raise InputError(f"{where} is {dtype} and can hold no ids.", "Ids are strings or integers.")


def _float_ids(column: pl.Series) -> Parsed:
    values = column.cast(pl.Float64)
    missing = values.is_null() | values.is_nan().fill_null(False)
    whole = ((values == values.floor()) & (values.abs() < _EXACT)).fill_null(False) & ~missing
    text = _where(values, whole).cast(pl.Int64).cast(pl.String)
    return text, _reasons((missing, MISSING), (~whole, "an id that is a number must be a whole one"))


def numbers(column: pl.Series, where: str) -> Parsed:
    """Read finite numbers, from numeric columns or from strings.

    Raises
    ------
    InputError
        If the column's type can hold no numbers.
    """
    if column.dtype == pl.String:
        text = column.str.strip_chars()
        missing = text.is_null() | (text.str.len_bytes() == 0).fill_null(False)
        values = text.cast(pl.Float64, strict=False)
        wrong = values.is_null()
    elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        missing = column.is_null()
        values = column.cast(pl.Float64)
        wrong = missing
    else:
        raise InputError(f"{where} is {column.dtype} and holds no numbers.", "Map another column, or none.")
    infinite = ~values.is_finite().fill_null(True)
    values = _where(values, ~infinite)
    return values, _reasons((missing, MISSING), (wrong, "not a number"), (infinite, "not a finite number"))


def times(column: pl.Series, where: str) -> Parsed:
    """Read times as seconds: numbers as they stand, dates and ISO 8601 strings since 1970 in UTC.

    A date without a zone is taken as UTC.

    Raises
    ------
    InputError
        If the column's type can hold no times.
    """
    dtype = column.dtype
    if dtype.is_numeric() or dtype == pl.Null:
        return numbers(column, where)
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        seconds = column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
        return _parsed(seconds, column.is_null(), MISSING)
    if dtype != pl.String:
        raise InputError(f"{where} is {dtype} and holds no times.", "Map another column, or none.")
    text = column.str.strip_chars()
    missing = text.is_null() | (text.str.len_bytes() == 0).fill_null(False)
    plain = text.cast(pl.Float64, strict=False)
    seconds = plain.zip_with(plain.is_not_null(), _iso_seconds(text))
    infinite = ~seconds.is_finite().fill_null(True)
    wrong = (seconds.is_null(), "neither a number nor an ISO 8601 time")
    return _where(seconds, ~infinite), _reasons((missing, MISSING), wrong, (infinite, "not a finite number"))


def _iso_seconds(text: pl.Series) -> pl.Series:
    part = text.str.extract_groups(_ISO).struct
    day = part.field("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Float64)
    hour = part.field("hour").cast(pl.Float64).fill_null(0.0)
    minute = part.field("minute").cast(pl.Float64).fill_null(0.0)
    second = part.field("second").str.replace(",", ".", literal=True).cast(pl.Float64).fill_null(0.0)
    zone = part.field("zone").str.replace_all(r"[:Zz]", "")
    zone_hour = zone.str.slice(0, 3).cast(pl.Float64, strict=False).fill_null(0.0)
    zone_minute = zone.str.slice(3, 2).cast(pl.Float64, strict=False).fill_null(0.0)
    sign = pl.select(
        pl.when(zone.str.starts_with("-").fill_null(False)).then(-1.0).otherwise(1.0)
    ).to_series()
    offset = zone_hour * 3600.0 + sign * zone_minute * 60.0
    seconds = day * 86400.0 + hour * 3600.0 + minute * 60.0 + second - offset
    # A second of 60 is a leap second.
    return _where(seconds, (hour < 24) & (minute < 60) & (second < 61))


def recognised(column: pl.Series) -> pl.Series:
    """Turn a column of strings from a file without types into integers or floats if every filled cell is one.

    Numbers with leading zeros, and integers beyond 64 bits, leave the column a string. Empty cells become
    null.
    """
    text = pl.select(pl.when(column.str.len_bytes() > 0).then(column)).to_series().rename(column.name)
    filled = text.drop_nulls()
    if filled.is_empty():
        return text
    if filled.str.contains(r"^-?(?:0|[1-9]\d{0,17})$").all():
        return text.cast(pl.Int64)
    if filled.str.contains(r"^-?(?:0|[1-9]\d{0,17})?(?:\.\d+)?(?:[eE][+-]?\d+)?$").all():
        values = text.cast(pl.Float64, strict=False)
        return values if values.null_count() == text.null_count() and _all_finite(values) else text
    return text


def _all_finite(values: pl.Series) -> bool:
    return bool(values.drop_nulls().is_finite().all())


def _where(values: pl.Series, keep: pl.Series) -> pl.Series:
    """Null where `keep` is not true."""
    return pl.select(pl.when(keep).then(values)).to_series()


def _parsed(values: pl.Series, refused: pl.Series, reason: str) -> Parsed:
    return _where(values, ~refused), _reasons((refused, reason))


def _reasons(*cases: tuple[pl.Series, str]) -> pl.Series:
    """Reason of the first case that holds, null where none does."""
    chosen = pl.coalesce(*(pl.when(mask).then(pl.lit(reason)) for mask, reason in cases))
    return pl.select(chosen).to_series()
