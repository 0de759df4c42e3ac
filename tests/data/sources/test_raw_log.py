from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.report import Refusals
from prismrec.data.sources.raw_log import RAW, parse_cells, settle_log

CELLS = st.sampled_from([None, "", " ", "1", "2", "x", "inf"])
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=30)


def number(cell: str | None) -> bool:
    return cell in ("1", "2")


@given(ROWS, st.integers(1, 5))
def test_every_row_is_kept_or_listed_once(
    rows: list[tuple[str | None, str | None, str | None, str | None]], chunk: int
) -> None:
    # Written again in plain Python.
    kept, seen = [], set()
    for row, (user, item, rating, time) in enumerate(rows):
        there = all(cell is not None and cell.strip() for cell in (user, item))
        if there and number(rating) and number(time) and (user, item, time) not in seen:
            seen.add((user, item, time))
            kept.append((row, user, item, float(rating or 0), float(time or 0)))
    rows = [*rows, ("last", "1", "1", "1")]
    kept.append((len(rows) - 1, "last", "1", 1.0, 1.0))

    path, refused, frames = Path("log"), Refusals(), []
    for start in range(0, len(rows), chunk):
        cells = [(start + place, *row) for place, row in enumerate(rows[start : start + chunk])]
        frames.append(parse_cells(pl.DataFrame(cells, schema=RAW, orient="row"), path, refused))
    found = settle_log(frames, path, len(rows), refused)
    assert found.rows() == [row[1:] for row in kept]
    listed = sorted(refusal.row for refusal in refused.listed() if refusal.row is not None)
    assert listed == sorted(set(range(len(rows))) - {row[0] for row in kept})


def test_the_first_reason_is_given_with_what_stood_there() -> None:
    refused = Refusals()
    raw = pl.DataFrame([(4, "u", "i", "good", "never")], schema=RAW, orient="row")
    assert parse_cells(raw, Path("log"), refused).is_empty()
    (refusal,) = refused.listed()
    assert (refusal.row, refusal.field, refusal.reason, refusal.value) == (
        4,
        "rating",
        "not a number",
        "good",
    )
    assert (refusal.user_id, refusal.item_id) == ("u", "i")
