import math
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.values import ids, numbers, recognised, times


def refused(parsed: tuple[pl.Series, pl.Series]) -> list[str | None]:
    values, reasons = parsed
    assert values.is_null().to_list() == reasons.is_not_null().to_list()
    return reasons.to_list()


def test_string_ids_stay_as_they_are() -> None:
    column = pl.Series(["007", " a ", "a/b", "🎬", "", "  ", None])
    values, reasons = ids(column, "t")
    assert values.to_list() == ["007", " a ", "a/b", "🎬", None, None, None]
    assert reasons.to_list() == [None] * 4 + ["missing"] * 3


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int64, pl.UInt64])
def test_integer_ids_become_decimal(dtype: pl.DataType) -> None:
    values, _ = ids(pl.Series([0, 12, None], dtype=dtype), "t")
    assert values.to_list() == ["0", "12", None]


def test_float_ids_must_be_whole() -> None:
    values, reasons = ids(pl.Series([12.0, -3.0, 1.5, math.nan, None, math.inf, 2.0**53, 1e300]), "t")
    assert values.to_list() == ["12", "-3", *[None] * 6]
    whole = "an id that is a number must be a whole one"
    assert reasons.to_list() == [None, None, whole, "missing", "missing", whole, whole, whole]


def test_categories_are_ids_and_dates_are_not() -> None:
    assert ids(pl.Series(["a", "b"], dtype=pl.Categorical), "t")[0].to_list() == ["a", "b"]
    assert ids(pl.Series(["a"], dtype=pl.Enum(["a"])), "t")[0].to_list() == ["a"]
    for column in (pl.Series([date(2020, 1, 1)]), pl.Series([["a"]]), pl.Series([b"a"]), pl.Series([True])):
        with pytest.raises(InputError, match=r"f: the column 'c' is .* can hold no ids"):
            ids(column, "f: the column 'c'")


def test_numbers_from_strings() -> None:
    column = pl.Series(["4", " 4.5 ", "1e2", "-1", "", None, "five", "nan", "inf", "4,5"])
    values, reasons = numbers(column, "t")
    assert values.to_list()[:4] == [4.0, 4.5, 100.0, -1.0]
    assert refused((values, reasons))[4:] == [
        "missing",
        "missing",
        "not a number",
        "not a finite number",
        "not a finite number",
        "not a number",
    ]


def test_numbers_from_numbers() -> None:
    values, reasons = numbers(pl.Series([1.5, None, math.nan, -math.inf]), "t")
    assert values.to_list() == [1.5, None, None, None]
    assert reasons.to_list() == [None, "missing", "not a finite number", "not a finite number"]
    assert numbers(pl.Series([1, 2], dtype=pl.UInt8), "t")[0].to_list() == [1.0, 2.0]
    with pytest.raises(InputError, match="holds no numbers"):
        numbers(pl.Series([[1.0]]), "t")


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=ZONES), st.sampled_from("T "))
def test_iso_times_agree_with_the_standard_library(moment: datetime, between: str) -> None:
    values, reasons = times(pl.Series([moment.isoformat(between)]), "t")
    assert reasons.to_list() == [None]
    assert values[0] == pytest.approx(moment.timestamp(), abs=1e-5)


def test_times_from_strings() -> None:
    column = pl.Series(
        [
            *["1970-01-02", "1970-01-01 00:01", "1970-01-01T00:00:01.5Z", "978300760", "9.5e8"],
            *["2021-02-29", "2021-01-01 25:00", "2021-01-01 10:61:00", "yesterday", "", None, "nan"],
            "01/02/2020",
        ]
    )
    values, reasons = times(column, "t")
    assert values.to_list()[:5] == [86400.0, 60.0, 1.5, 978300760.0, 9.5e8]
    wrong = "neither a number nor an ISO 8601 time"
    assert refused((values, reasons))[5:] == [
        *[wrong] * 4,
        "missing",
        "missing",
        "not a finite number",
        wrong,
    ]


def test_times_from_dates() -> None:
    assert times(pl.Series([date(1970, 1, 2), None]), "t")[0].to_list() == [86400.0, None]
    moment = datetime(2001, 1, 1, 12, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        column = pl.Series([moment]).cast(pl.Datetime(unit, "Europe/Berlin"))
        assert times(column, "t")[0].to_list() == [moment.timestamp()]
    with pytest.raises(InputError, match="holds no times"):
        times(pl.Series([timedelta(1)]), "t")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "", "-20"], [1, None, -20]),
        (["1.5", "2"], [1.5, 2.0]),
        (["1e3", ".5"], [1000.0, 0.5]),
        (["007", "8"], ["007", "8"]),
        (["12345678901234567890"], ["12345678901234567890"]),
        (["1", "x"], ["1", "x"]),
        (["", ""], [None, None]),
        (["nan"], ["nan"]),
        (["1e999"], ["1e999"]),
    ],
)
def test_recognised_numbers(cells: list[str], expected: list[object]) -> None:
    column = recognised(pl.Series("c", cells))
    assert column.to_list() == expected
    assert column.name == "c"
