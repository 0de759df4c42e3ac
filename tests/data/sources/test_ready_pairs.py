import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources.ready_pairs import (
    code_frame,
    lines_of,
    named,
    read_lists,
    require_codes,
    settle,
)
from prismrec.data.sources.source import PARTS


def pairs(rows: list[tuple[int, int, str | None]]) -> pl.DataFrame:
    frame = code_frame(("f", row, user, item, part or "") for row, (user, item, part) in enumerate(rows))
    frame = frame.with_columns(pl.col("part").replace("", None))
    return named(frame, [f"u{code}" for code in range(9)], [f"i{code}" for code in range(9)])


def test_each_pair_stays_once_in_its_earliest_part() -> None:
    refused = Refusals()
    rows = [
        (0, 1, "test"),
        (0, 2, "valid"),
        (0, 1, "train"),
        (0, 2, "test"),
        (1, 1, "train"),
        (1, 1, "train"),
    ]
    kept = settle(pairs(rows), refused)
    assert kept.select("row", "user_id", "item_id", "part").rows() == [
        (1, "u0", "i2", "valid"),
        (2, "u0", "i1", "train"),
        (4, "u1", "i1", "train"),
    ]
    assert [(r.row, r.user_id, r.item_id, r.value, r.reason) for r in refused.listed()] == [
        (0, "u0", "i1", "test", "the pair stands in the part train too"),
        (3, "u0", "i2", "test", "the pair stands in the part valid too"),
        (5, "u1", "i1", "train", "the pair stands twice"),
    ]
    assert {(r.source, r.field) for r in refused.listed()} == {("f", "pair")}


def test_without_parts_the_first_of_a_pair_stays() -> None:
    refused = Refusals()
    kept = settle(pairs([(0, 1, None), (0, 1, None), (0, 2, None)]), refused)
    assert kept["row"].to_list() == [0, 2]
    assert [(r.row, r.reason) for r in refused.listed()] == [(1, "the pair stands twice")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(PARTS)), min_size=1, max_size=30)
)
def test_settling_agrees_with_a_plain_loop(rows: list[tuple[int, int, str]]) -> None:
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for row, (user, item, part) in enumerate(rows):
        now = (PARTS.index(part), row)
        best[user, item] = min(best.get((user, item), now), now)
    refused = Refusals()
    kept = settle(pairs(list(rows)), refused)
    assert kept["row"].to_list() == sorted(row for _, row in best.values())
    assert kept["part"].to_list() == [rows[row][2] for row in kept["row"]]
    assert refused.frame().height + kept.height == len(rows)


def test_codes_out_of_range_name_file_and_row() -> None:
    table = code_frame([("a", 0, 0, 4, "train"), ("b", 7, 1, 6, "test"), ("b", 9, 2, 5, "test")])
    assert require_codes(table, "item", None, "x") == 7
    assert require_codes(table, "user", 3, "x") == 3
    with pytest.raises(
        InputError, match=r"b, row 7: item 6 is out of range; 2 rows are(.|\n)*0 to 4 \(rows of v"
    ):
        require_codes(table, "item", 5, "rows of v")
    negative = code_frame([("a", 3, -1, 4, "train")])
    with pytest.raises(InputError, match="a, row 3: user -1"):
        require_codes(negative, "user", None, "x")
    with pytest.raises(InputError, match="no pair"):
        require_codes(code_frame([]), "user", None, "x")


def test_lists_by_user(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"3": [5, 6], "1": [], "0": [2]}))
    assert read_lists(path, "valid") == [
        (str(path), 0, 3, 5, "valid"),
        (str(path), 0, 3, 6, "valid"),
        (str(path), 2, 0, 2, "valid"),
    ]


def test_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    for content, said in (
        ("[1, 2]", "holds a list"),
        ('{"0": [1], "x": [2]}', "row 1: user 'x'"),
        ('{"-1": [2]}', "row 0: user '-1'"),
        ('{"²": [2]}', "row 0: user '²'"),
        ('{"0": 3}', "row 0: user '0' with 3"),
        ('{"0": [1], "1": [2.5]}', "row 1: item 2.5"),
        ('{"0": [true]}', "row 0: item True"),
        ('{"0": [-1]}', "row 0: item -1"),
        ('{"0": [99999999999999999999]}', "row 0: item 99999999999999999999"),
        ('{"0": [1}', "is not JSON"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            read_lists(path, "train")
    with pytest.raises(InputError, match="no such file"):
        read_lists(tmp_path / "none.json", "train")


def test_lines_end_where_they_end() -> None:
    assert lines_of("a\u2028b\r\nc\x85d\n") == ["a\u2028b", "c\x85d"]
    assert lines_of("") == []
    assert lines_of("\n") == [""]
