import pytest

from prismrec.cli.output import Output, printable, table


def test_the_document_alone_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True, quiet=False).finish({"name": "Ümlaut ☕"}, "for people")
    assert capsys.readouterr().out == '{\n  "name": "Ümlaut ☕"\n}\n'


def test_a_number_that_is_none_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Output(as_json=True, quiet=False).finish({"score": float("nan")})


def test_notes_go_to_standard_error_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False, quiet=False).note("one")
    Output(as_json=False, quiet=True).note("two")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "one\n")


def test_titles_are_shown_as_they_are_and_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    title = "[bold]x[/bold] [/oops] \x1b[2Jend"
    Output(as_json=False, quiet=False).finish({}, table(("title", "n"), [(title, 1)]), title)
    printed = capsys.readouterr().out
    assert printed.count("[bold]x[/bold] [/oops]") == 2
    assert "\x1b" not in printed


def test_printable_keeps_what_it_is_told_to_keep() -> None:
    assert printable("a\tb\nc☕", keep="\n") == "a b\nc☕"
