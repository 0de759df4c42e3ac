"""What the page on the command line says, against the command line."""

import re
import shlex
from pathlib import Path

from typer.main import get_command

from prismrec.cli import verbs
from prismrec.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_all_verbs_are_in_the_table_with_a_command_that_exists() -> None:
    commands = get_command(app).commands
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| `(prismrec .*)` \|$", PAGE, re.MULTILINE)
    assert {verb for verb, _ in rows} == set(commands)
    for verb, example in rows:
        words = shlex.split(example)
        assert words[1] == verb
        # A verb may have verbs of its own.
        inner = getattr(commands[verb], "commands", {})
        command = inner[words[2]] if inner else commands[verb]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def test_exit_codes_that_belong_to_no_error_are_there() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert {0, 1, 2, verbs.INTERRUPTED, verbs.READER_GONE} <= codes
