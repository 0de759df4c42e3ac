"""Logs in memory and on the disk, and their pairs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.interactions import Interactions, first_of_pairs
from prismrec.data.vocabulary import Vocabulary

FRAME = pl.DataFrame(
    {
        "user_id": ["v", "u", "v", "u", "w"],
        "item_id": ["b", "a", "a", "b", "c"],
        "rating": [5.0, 1.0, 3.0, 4.0, 2.0],
        "timestamp": [9.0, 8.0, 7.0, 6.0, 5.0],
    }
)


@pytest.fixture(params=["in memory", "on the disk"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Interactions:
    if request.param == "in memory":
        return Interactions(FRAME)
    FRAME.write_parquet(tmp_path / "log.parquet")
    return Interactions.read(tmp_path / "log.parquet")


def test_a_log_answers_the_same_wherever_it_lies(log: Interactions) -> None:
    assert (len(log), log.columns, log.order_column) == (5, FRAME.columns, "timestamp")
    assert log.frame.equals(FRAME)
    assert (log.users.to_list(), log.items.to_list()) == (["u", "v", "w"], ["a", "b", "c"])
    assert log.highest("rating") == 5
    assert log.counts(pl.col("rating") > 2).rows() == [(False, 2), (True, 3)]
    assert log.at_least(3).frame.equals(FRAME.filter(pl.col("rating") >= 3))
    assert len(log.at_least(3).where(pl.col("user_id") == "v")) == 2
    assert [batch.height for batch in log.batches(2)] == [2, 2, 1]
    assert pl.concat(log.batches(2)).equals(FRAME)


def test_codes(log: Interactions) -> None:
    rows = log.coded(Vocabulary(["u", "v", "w"]), Vocabulary(["c", "b", "a", "new"]))
    assert rows.schema == {"user": pl.Int32, "item": pl.Int32, "order": pl.Float64}
    assert sorted(rows.rows()) == [(0, 1, 6), (0, 2, 8), (1, 1, 9), (1, 2, 7), (2, 0, 5)]
    with pytest.raises(InputError, match="2 interactions name a user that is not known"):
        log.coded(Vocabulary(["u", "w"]), Vocabulary(["c", "b", "a"]))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismrec.data.interactions.BATCH", 7)
    numbers = np.random.default_rng(0).integers(0, 5, (50, 2)).astype(str)
    frame = pl.DataFrame({"user_id": numbers[:, 0], "item_id": numbers[:, 1]})
    (tmp_path / "parts").mkdir()
    for place, first in enumerate(range(0, 50, 11)):
        frame[first : first + 11].write_parquet(tmp_path / "parts" / f"{place}.parquet")
    for name, log in (
        ("memory", Interactions(frame)),
        ("disk", Interactions(pl.scan_parquet(tmp_path / "parts" / "*.parquet"))),
    ):
        log.write(tmp_path / f"{name}.parquet")
        assert Interactions.read(tmp_path / f"{name}.parquet").frame.equals(frame)
    assert (tmp_path / "memory.parquet").read_bytes() == (tmp_path / "disk.parquet").read_bytes()


def test_what_is_no_log(log: Interactions) -> None:
    with pytest.raises(InputError, match="no column 'item_id'"):
        Interactions(log.lazy.drop("item_id"))
    with pytest.raises(InputError, match="'user_id' of the interactions is Int64, expected String"):
        Interactions(log.lazy.with_columns(user_id=pl.lit(1, pl.Int64)))
    with pytest.raises(InputError, match="'item_id' of the interactions holds nulls"):
        Interactions(log.lazy.with_columns(item_id=pl.lit(None, pl.String)))
    with pytest.raises(InputError, match="no column 'rating'"):
        Interactions(log.lazy.drop("rating")).at_least(3)


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.none() | st.integers(-3, 3)), min_size=1, max_size=60
)


@given(ROWS, st.booleans())
def test_each_pair_once_with_its_first_time(rows: list[tuple[int, int, int | None]], timed: bool) -> None:
    frame = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "order": pl.Float64}, orient="row")
    pairs, order = first_of_pairs(frame if timed else frame.drop("order"), 6, 5)
    expected: dict[tuple[int, int], float] = {}
    for user, item, time in rows:
        now = np.inf if time is None else time
        expected[user, item] = min(expected.get((user, item), np.inf), now)
    assert list(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)) == sorted(expected)
    assert pairs.users.dtype == pairs.items.dtype == np.int32
    if timed:
        assert order is not None
        found = [np.inf if np.isnan(value) else value for value in order.tolist()]
        assert found == [expected[pair] for pair in sorted(expected)]
    else:
        assert order is None
