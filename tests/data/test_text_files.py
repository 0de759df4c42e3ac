import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data import text_files
from prismrec.data.readers import open_table, read_table
from prismrec.data.text_files import csv_batches, json_line_batches, json_lines_schema, read_csv


def write(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_ids_are_not_mangled(tmp_path: Path) -> None:
    path = write(tmp_path, "id,x\n007,1\n1e5, 2\n12345678901234567890123,\nNA,null\ntrue,2020-01-01\n")
    assert read_csv(path, ",").to_dict(as_series=False) == {
        "id": ["007", "1e5", "12345678901234567890123", "NA", "true"],
        "x": ["1", " 2", "", "null", "2020-01-01"],
    }


def test_csv_quotes_newlines_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffid,text\r\n1,"a ""b"",\r\nc"\r\n2,\r\n')
    assert read_csv(path, ",").rows() == [("1", 'a "b",\r\nc'), ("2", "")]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from([",", "\t"]))
def test_any_cell_survives_quoting(tmp_path: Path, rows: list[tuple[str, str]], separator: str) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    lines = [separator.join(map(quoted, row)) for row in [("a", "b"), *rows]]
    assert read_csv(write(tmp_path, "\n".join(lines) + "\n"), separator).rows() == rows


@pytest.mark.parametrize(
    ("row", "fields"), [("7,8,9", 3), ("7", 1)], ids=["too many fields", "too few fields"]
)
def test_ragged_row_is_named(tmp_path: Path, row: str, fields: int) -> None:
    path = write(tmp_path, f"a,b\n1,2\n3,4\n{row}\n5,6\n")
    with pytest.raises(InputError, match=rf"t\.csv: data row 2 .* has {fields} fields, the header has 2"):
        read_csv(path, ",")


def test_bad_utf8_is_located(tmp_path: Path) -> None:
    path = write(tmp_path, b"a,b\n1,2\n3,caf\xe9\n")
    with pytest.raises(InputError, match=r"line 3 is not UTF-8: byte 0xe9 at offset 13") as caught:
        read_csv(path, ",")
    assert "iconv" in str(caught.value)


def test_bad_utf8_in_the_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1 is not UTF-8"):
        read_csv(write(tmp_path, b"a,\xff\n1,2\n"), ",")


def test_utf16_is_not_taken_for_a_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1 is not UTF-8"):
        read_csv(write(tmp_path, "a,b\n1,2\n".encode("utf-16")), ",")


def test_quote_that_is_never_closed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data row 1 opens a quote that is never closed"):
        read_csv(write(tmp_path, 'a,b\n1,2\n3,"x\n4,5\n6,7\n'), ",")


def test_last_field_may_hold_lines(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, 'a,b\n1,"x\ny"\n'), ",").rows() == [("1", "x\ny")]


def test_header_that_repeats_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\['a'\] stand twice"):
        read_csv(write(tmp_path, "a,b,a\n1,2,3\n"), ",")


def test_header_without_rows(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, "a,b\n"), ",").shape == (0, 2)


def test_truncated_gzip(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(["a,b", *(f"{i},{i * i}" for i in range(5000))]).encode())
    path = write(tmp_path, packed[: len(packed) // 2], "t.csv.gz")
    with pytest.raises(InputError, match=r"t\.csv\.gz: cannot be read"):
        read_table(path)
    with pytest.raises(InputError, match=r"t\.jsonl\.gz: cannot be read"):
        read_table(write(tmp_path, packed[: len(packed) // 2], "t.jsonl.gz"))


def test_json_types_and_missing_fields(tmp_path: Path) -> None:
    path = write(tmp_path, '{"id":"007","n":1}\n\n{"id":"8","tags":["a"]}\n', "t.jsonl")
    frame = read_table(path)
    assert frame.schema == {"id": pl.String, "n": pl.Int64, "tags": pl.List(pl.String)}
    assert frame.rows() == [("007", 1, None), ("8", None, ["a"])]


def test_json_ids_of_mixed_types_become_strings(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, '{"id":7}\n{"id":"007"}\n', "t.jsonl"))
    assert frame["id"].to_list() == ["7", "007"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"a":1}\n{"a":\n', "line 2 is not a JSON object"),
        (b'{"a":1}\n[1]\n', r"line 2 is not a JSON object \(a list\)"),
        (b'{"a":1}\n{"a":NaN}\n', r"line 2 is not a JSON object \(NaN is not allowed"),
        (b'[{"a":1},\n{"a":2}]', "JSON array"),
        (b'{"a":"\xff"}\n', "line 1 is not UTF-8: byte 0xff at offset 6"),
        (b"\n \n", "the file is empty"),
    ],
)
def test_bad_json_lines(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_table(write(tmp_path, content, "t.jsonl"))


TEXT = "".join(["id,text\n", *(f'{number},"a\n{"é" * (number % 7)},"\n' for number in range(400))])
LINES = "".join(f'{{"id":{number},"{"xy"[number % 2]}":"{number}"}}\n' for number in range(400))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz"])
def test_blocks_are_the_whole(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK", 300)
    content = (TEXT if ".csv" in name else LINES).encode()
    path = write(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    table = open_table(path)
    pieces = list(table.batches(["id"], 1000))
    assert len(pieces) > 5
    assert pl.concat(pieces).equals(table.read(["id"]))
    assert [int(value) for value in table.read()["id"]] == list(range(400))
    assert table.sizes == [400]
    assert max(piece.height for piece in table.batches(["id"], 3)) == 3


def test_types_of_json_fit_all_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK", 20)
    path = write(tmp_path, '{"id":7}\n{"id":8,"n":1}\n\n\n{"id":"9","n":1.5}\n{"n":null}', "t.jsonl")
    schema = json_lines_schema(path)
    assert schema == {"id": pl.String, "n": pl.Float64}
    assert pl.concat(json_line_batches(path, schema)).rows() == [
        ("7", None),
        ("8", 1.0),
        ("9", 1.5),
        (None, None),
    ]


def test_a_bad_line_in_a_later_block_is_named_by_its_own_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_BLOCK", 20)
    path = write(tmp_path, '{"id":7}\n\n{"id":8}\n{"id":9}\n{"id":\n', "t.jsonl")
    with pytest.raises(InputError, match="line 5 is not a JSON object"):
        json_lines_schema(path)
    csv = write(tmp_path, "a,b\n" + "1,2\n" * 30 + "1\n", "t.csv")
    with pytest.raises(InputError, match=r"data row 30 .* has 1 fields"):
        list(csv_batches(csv, ",", ["a"]))
    with pytest.raises(InputError, match="data row 2 opens a quote that is never closed"):
        list(csv_batches(write(tmp_path, 'a,b\n1,2\n3,4\n3,"x\n4,5\n'), ",", ["a"]))
    with pytest.raises(InputError, match="line 31 is not UTF-8"):
        list(csv_batches(write(tmp_path, b"a,b\n" + b"1,2\n" * 29 + b"\xff,2\n"), ",", ["a"]))
