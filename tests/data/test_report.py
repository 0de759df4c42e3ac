import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.interactions import Interactions
from prismrec.data.report import (
    Refusal,
    Refusals,
    gini,
    look_alikes,
    rating_distribution,
    time_range,
)


def log(**column: list[float]) -> Interactions:
    ((name, values),) = column.items()
    ids = ["x"] * len(values)
    schema = {"user_id": pl.String, "item_id": pl.String, name: pl.Float64}
    return Interactions(pl.DataFrame({"user_id": ids, "item_id": ids, name: values}, schema=schema))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    values = np.array(counts, dtype=float)
    total = values.sum()
    differences = np.abs(values[:, None] - values[None, :]).sum()
    expected = differences / (2 * len(values) * total) if total else 0.0
    assert gini(pl.Series(counts)) == pytest.approx(expected, abs=1e-12)


def test_gini_of_nothing() -> None:
    assert gini(pl.Series([], dtype=pl.UInt32)) == 0.0


def test_ratings_by_value_or_in_ranges() -> None:
    few = rating_distribution(log(rating=[5.0, 0.5, 5.0]))
    assert few is not None
    assert (few.counts, few.mean) == ({"0.5": 1, "5": 2}, 3.5)
    many = rating_distribution(log(rating=[number / 10 for number in range(101)]))
    assert many is not None
    assert many.counts["0 to 1"] == 10
    assert many.counts["9 to 10"] == 11
    assert sum(many.counts.values()) == 101
    assert rating_distribution(log(rating=[])) is None
    assert rating_distribution(log(timestamp=[1.0])) is None
    between = rating_distribution(log(rating=[float(number) for number in range(30)]))
    assert between is not None
    assert list(between.counts.values()) == [3] * 10


def test_times_are_dates_only_where_they_look_like_it() -> None:
    seconds = time_range(log(timestamp=[978300760.0, 1577836800.0]))
    assert seconds is not None
    assert (seconds.first_date, seconds.last_date) == ("2000-12-31 22:12", "2020-01-01 00:00")
    for other in ([1.0, 5.0], [1577836800000.0] * 2):
        found = time_range(log(timestamp=other))
        assert found is not None
        assert (found.first, found.first_date) == (other[0], None)
    assert time_range(log(rating=[1.0])) is None
    assert time_range(log(timestamp=[])) is None


def test_look_alikes() -> None:
    assert look_alikes(pl.Series(["a", " a", "b", "a", "c ", "\tc"])) == ["' a' / 'a'", "'\\tc' / 'c '"]


def test_refusals_as_json_lines(tmp_path: Path) -> None:
    refusals = Refusals()
    refusals.add(Refusal("items.csv", 3, "image", 'not "a" picture', item_id="🎬/1", value="a\nb"))
    refusals.add_frame(
        pl.DataFrame({"source": "log", "row": [1, 2], "field": "rating", "reason": "missing", "user_id": "u"})
    )
    assert refusals.write(tmp_path / "refused.jsonl") == 3
    lines = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text("utf-8").splitlines()]
    assert lines[0] == {
        "source": "log",
        "row": 1,
        "user_id": "u",
        "item_id": None,
        "field": "rating",
        "reason": "missing",
        "value": None,
    }
    assert (lines[2]["item_id"], lines[2]["value"]) == ("🎬/1", "a\nb")
    assert refusals.counts() == {"rating: missing": 2, 'image: not "a" picture': 1}
    assert refusals.listed()[2].reason == 'not "a" picture'


def test_many_refusals_are_put_away_and_none_is_lost(tmp_path: Path) -> None:
    held, put_away = Refusals(), Refusals(tmp_path / "refused", held=5)
    for number in range(7):
        rows = pl.DataFrame({"source": "log", "row": [number, 100 + number], "field": "rating"})
        for refusals in (held, put_away):
            refusals.add_frame(rows.with_columns(reason=pl.lit("missing"), item_id=pl.lit(f"i{number % 3}")))
            refusals.add(Refusal("items.csv", number, "image", "broken", item_id=f"i{number % 2}"))
    assert len(list((tmp_path / "refused").iterdir())) == 2
    assert put_away.frame().equals(held.frame())
    assert put_away.counts() == held.counts() == {"rating: missing": 14, "image: broken": 7}
    assert (put_away.items("image"), put_away.items("rating"), put_away.items("audio")) == (2, 3, 0)
    assert put_away.write(tmp_path / "a.jsonl") == held.write(tmp_path / "b.jsonl") == 21
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_many_kinds_of_reasons_are_counted_together() -> None:
    refusals = Refusals()
    for number in range(100):
        refusals.add(Refusal("f", None, "image", f"reason {number}"))
    counts = refusals.counts()
    assert (len(counts), counts["other reasons"], sum(counts.values())) == (41, 60, 100)


def test_nothing_refused_leaves_an_empty_file(tmp_path: Path) -> None:
    assert Refusals().write(tmp_path / "refused.jsonl") == 0
    assert (tmp_path / "refused.jsonl").read_text() == ""
