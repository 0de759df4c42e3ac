"""Repeated rows of a log, against looking at each row after the other."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data import duplicates
from prismrec.data.duplicates import repeated

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=40)


def one_by_one(rows: list[tuple[int, int, int]]) -> list[tuple[int, bool]]:
    """Return the number of each row that repeats an earlier user and item, and whether its value differs."""
    first: dict[tuple[int, int], int] = {}
    found = []
    for number, (user, item, value) in enumerate(rows):
        if (user, item) in first:
            found.append((number, value != first[user, item]))
        else:
            first[user, item] = value
    return found


def log(rows: list[tuple[int, int, int]]) -> pl.LazyFrame:
    schema = {"user": pl.Int64, "item": pl.Int64, "value": pl.Int64}
    return pl.LazyFrame(rows, schema=schema, orient="row").with_row_index("row")


@given(ROWS, st.integers(1, 50))
def test_every_repetition_is_found_once_whatever_the_pieces(
    rows: list[tuple[int, int, int]], piece: int
) -> None:
    found = [again.select("row", "differs") for again in repeated(log(rows), ["user", "item"], rows=piece)]
    for again in found:
        assert again["row"].is_sorted()
    assert sorted(pair for again in found for pair in again.rows()) == one_by_one(rows)


def test_pieces_are_of_about_the_rows_asked_for() -> None:
    rows = [(user, 0, 0) for user in range(100) for _ in range(3)]
    sizes = [again.height for again in repeated(log(rows), ["user", "item"], rows=30)]
    # Two of three rows repeat the first.
    assert sum(sizes) == 200
    assert max(sizes) <= 22
    assert len(sizes) == 10


def test_hashes_that_are_alike_by_chance_drop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_alike(hashes: np.ndarray, rows: int) -> list[pl.Series]:
        return [pl.Series(np.unique(hashes), dtype=pl.UInt64)]

    monkeypatch.setattr(duplicates, "_pieces", all_alike)
    rows = [(1, 1, 0), (1, 2, 0), (2, 1, 0), (1, 2, 5)]
    (again,) = repeated(log(rows), ["user", "item"])
    assert again.select("row", "differs").rows() == [(3, True)]
