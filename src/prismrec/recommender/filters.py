"""Conditions on items' attributes, as people type them: ``category=mug``, ``price<20``, ``genres~Drama``."""

import operator
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from prismrec.base.errors import InputError

_CONDITION = re.compile(r"\s*(?P<column>[^=!<>~]+?)\s*(?P<sign>!=|<=|>=|=|<|>|~)\s*(?P<value>.*?)\s*")
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def matching(items: pl.DataFrame, conditions: Sequence[str]) -> pl.Series:
    """Return which items meet all conditions.

    Parameters
    ----------
    items
        A catalogue's attributes.
    conditions
        ``column`` then one of ``= != < <= > >= ~`` then a value. ``~``: a text contains the value (case does
        not matter), or a list has it as an element. An attribute that is missing meets no condition but
        ``!=``.

    Returns
    -------
    Series
        Boolean, one value an item.

    Raises
    ------
    InputError
        If a condition cannot be read, the column does not exist, or the value is not of its type.
    """
    found = pl.repeat(True, items.height, eager=True)
    for condition in conditions:
        found = found & _one(items, condition)
    return found


def _one(items: pl.DataFrame, condition: str) -> pl.Series:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise InputError(
            f"The condition {condition!r} cannot be read.", "Write e.g. 'price<20' or 'category=mug'."
        )
    name, sign, raw = match["column"], match["sign"], match["value"]
    if name not in items.columns:
        raise InputError(
            f"The catalogue has no attribute {name!r} to filter by.",
            f"It has: {', '.join(items.columns)}.",
        )
    column = items[name]
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if isinstance(column.dtype, pl.List):
        if sign not in "~=":
            raise InputError(f"{name!r} is a list: only '~' and '=' apply, not {sign!r}.")
        return column.cast(pl.List(pl.String)).list.contains(raw).fill_null(False)
    if sign == "~":
        lowered = column.cast(pl.String).str.to_lowercase()
        return lowered.str.contains(raw.lower(), literal=True).fill_null(False)
    value = _value(column, name, raw)
    found: pl.Series = _COMPARISONS[sign](column, value)
    return found.fill_null(sign == "!=")


def _value(column: pl.Series, name: str, raw: str) -> object:
    if column.dtype == pl.Boolean:
        if raw.lower() not in _TRUTH:
            raise InputError(f"{name!r} is true or false, not {raw!r}.")
        return _TRUTH[raw.lower()]
    if column.dtype.is_numeric():
        try:
            return float(raw)
        except ValueError:
            raise InputError(f"{name!r} is a number ({column.dtype}), not {raw!r}.") from None
    return _moment(column.dtype, name, raw) if column.dtype.is_temporal() else raw


def _moment(dtype: pl.DataType, name: str, raw: str) -> date:
    try:
        if isinstance(dtype, pl.Date):
            return date.fromisoformat(raw)
        if isinstance(dtype, pl.Datetime):
            moment = datetime.fromisoformat(raw)
            if dtype.time_zone is None or moment.tzinfo is not None:
                return moment
            return moment.replace(tzinfo=ZoneInfo(dtype.time_zone))
    except ValueError:
        pass
    raise InputError(f"{name!r} is a time ({dtype}), not {raw!r}.", "Write e.g. '2024-05-31'.")
