import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources.record_lines import RecordLines, json_record, literal_record

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_python_printed_is_read_back(record: dict[str, object]) -> None:
    assert literal_record(repr(record) + "\n") == record


@pytest.mark.parametrize("line", ["__import__('os')", "{'a': print()}", "(lambda: 1)()", "{'a': b}"])
def test_nothing_is_executed(line: str) -> None:
    with pytest.raises((ValueError, SyntaxError), match=r"."):
        literal_record(line)


def test_json_is_understood_where_literals_are_expected() -> None:
    assert literal_record('{"a": null, "b": true}') == {"a": None, "b": True}


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_rows_count_every_line(tmp_path: Path, name: str) -> None:
    content = b'{"a": 1}\n\nbad\n{"skip": 1}\n[]\n{"a": 2}'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    refused = Refusals()
    lines = RecordLines(tmp_path / name, json_record, refused, skip=lambda line: "skip" in line)
    assert list(lines) == [(0, {"a": 1}), (5, {"a": 2})]
    assert lines.rows_read == 6
    assert [(r.row, r.value) for r in refused.listed()] == [(2, "bad"), (4, "[]")]


def test_a_line_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 200_000 + '\n{"a": 1}\n')
    for parse in (json_record, literal_record):
        refused = Refusals()
        assert list(RecordLines(tmp_path / "x.json", parse, refused)) == [(1, {"a": 1})]
        assert [r.row for r in refused.listed()] == [0]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(RecordLines(tmp_path / "x.json", json_record, Refusals()))
