import io

from rich.console import Console

from prismrec.base.progress import SILENT, Bars


def test_on_a_pipe_there_are_lines_and_no_bars() -> None:
    pipe = io.StringIO()
    bars = Bars(Console(file=pipe))
    with bars.task("work", 3) as task:
        task.advance(2, "a note")
        bars.say("a [line] of 100 %")
    assert pipe.getvalue() == "a [line] of 100 %\n"


def test_on_a_terminal_the_bar_shows_name_count_and_note() -> None:
    terminal = io.StringIO()
    bars = Bars(Console(file=terminal, force_terminal=True, width=120))
    with bars.task("work", 3) as task:
        task.advance(2, "a note")
    assert all(part in terminal.getvalue() for part in ("work", "2/3", "a note"))


def test_silent_takes_everything() -> None:
    with SILENT.task("work", None) as task:
        task.advance()
        SILENT.say("nothing")
