from pathlib import Path

import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources.numbered_lines import numbered_lines, unquoted


def test_rows_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "titles.csv"
    path.write_text('item,title\n7,One, two\n\n"03","x"\n', encoding="utf-8-sig")
    assert list(numbered_lines(path, "film", "")) == [(1, "7", "One, two"), (3, "03", '"x"')]


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "titles.csv"
    with pytest.raises(InputError, match=r"titles\.csv: there is no such file"):
        list(numbered_lines(path, "film", ""))
    path.write_text("1,a\n2\n")
    with pytest.raises(InputError, match=r"titles\.csv, row 1: '2' names no film"):
        list(numbered_lines(path, "film", ""))
    path.write_text("1,a\n2,b\n1,c\n")
    with pytest.raises(InputError, match=r"titles\.csv, row 2: film 1 stands in row 0 too"):
        list(numbered_lines(path, "film", ""))
    path.write_bytes(b"1,\xff\n")
    with pytest.raises(InputError, match="no UTF-8 text"):
        list(numbered_lines(path, "film", ""))


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (" a, b ", "a, b"),
        ('"a, ""b"""', 'a, "b"'),
        ('"a" and "b"', '"a" and "b"'),
        ('"', '"'),
        ('""', ""),
    ],
)
def test_quotation_marks_around_a_field_and_within_a_title(text: str, title: str) -> None:
    assert unquoted(text) == title
