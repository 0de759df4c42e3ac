"""Runs the pages of the documentation: each is one session, in an empty folder."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prismrec.cli.app import app

KINDS = "python|console|toml"
FENCE = re.compile(
    rf'^```(?P<kind>{KINDS})(?: title="(?P<file>[\w.-]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    `line` is that of its first line of code. A block with a `file` is what the reader saves under that name.
    """

    kind: str
    body: str
    line: int
    file: str | None = None

    def commands(self) -> list[str]:
        """Return what stands after `$ `, with continued lines joined; other lines show what is printed."""
        joined = self.body.replace("\\\n", " ")
        return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


@dataclass(frozen=True)
class Page:
    """A page and its code."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> "Page":
        return cls(path.name, path.read_text(encoding="utf-8"))

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(m["kind"], m["body"], self.text.count("\n", 0, m.start("body")) + 1, m["file"])
            for m in FENCE.finditer(self.text)
        ]

    def check(self, programs: set[str]) -> None:
        """Check that every block is found and can be run, with no other programs than these."""
        found = self.blocks
        fences = re.findall(rf"^\s*```(?:{KINDS})\b", self.text, re.MULTILINE)
        assert len(found) == len(fences), (
            f"{self.name}: a fence is indented, or has options that are not known: it would not run"
        )
        for block in found:
            where = f"{self.name}, line {block.line}"
            if block.kind == "python":
                ast.parse(block.body, where)
            elif block.kind == "toml":
                assert block.file, f"{where}: nobody reads this, it has no title"
            else:
                assert block.commands(), f"{where}: no command"
                assert {shlex.split(command)[0] for command in block.commands()} <= programs, where

    def run(self) -> str:
        """Run all blocks in the working folder; return what the commands have printed."""
        names: dict[str, Any] = {"__name__": "__main__"}
        try:
            return "".join(told for block in self.blocks for told in self._run(block, names))
        finally:
            for value in names.values():
                # A page that fails half-way leaves no service behind.
                if isinstance(value, subprocess.Popen) and value.poll() is None:
                    value.kill()
                    value.wait()

    def _run(self, block: Block, names: dict[str, Any]) -> Iterator[str]:
        if block.file is not None:
            Path(block.file).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            # Empty lines in front give a traceback the line numbers of the page.
            exec(compile("\n" * (block.line - 1) + block.body, self.name, "exec"), names)
        else:
            for command in block.commands():
                code, printed, problem = carried_out(shlex.split(command))
                assert code == 0, f"{self.name}, line {block.line}: $ {command}\n{printed}{problem}"
                yield printed


def carried_out(words: list[str]) -> tuple[int, str, str]:
    """Return a command's exit code and what it printed on standard output and standard error."""
    if words[0] == "prismrec":
        # In this process: most of a command's time is the import of its libraries.
        done = CliRunner().invoke(app, words[1:], prog_name="prismrec")
        return done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}"
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def page_of() -> Callable[[str, str], Page]:
    """Return how a page is made of its name and its text."""
    return Page


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Page]:
    """Return how a page is read."""
    return Page.read


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to an empty folder, as a reader does: its modules can be imported, `prismrec` is on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        # Another page may have a file of the same name.
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
