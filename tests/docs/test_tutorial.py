"""The tutorial runs from its first line to its last, as one session in an empty folder."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(?P<kind>python|console)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A piece of code of the page; `line` is that of its first line of code."""

    kind: str
    body: str
    line: int


def blocks(page: str) -> list[Block]:
    return [
        Block(m["kind"], m["body"], page.count("\n", 0, m.start("body")) + 1) for m in FENCE.finditer(page)
    ]


def commands(block: Block) -> list[str]:
    """Return what stands after `$ `, with continued lines joined; other lines show what is printed."""
    joined = block.body.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def run_python(block: Block, names: dict[str, Any]) -> None:
    # Empty lines in front give a traceback the line numbers of the page.
    source = "\n" * (block.line - 1) + block.body
    exec(compile(source, str(TUTORIAL), "exec"), names)


def run_console(block: Block) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    for command in commands(block):
        done = subprocess.run(
            shlex.split(command),
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"{TUTORIAL.name}, line {block.line}: $ {command}\n{done.stdout}{done.stderr}"
        )


def test_blocks_are_found_with_their_lines() -> None:
    page = textwrap.dedent(
        """\
        # A page
        ```python
        a = 1
        ```
        ```text
        not run
        ```
        ```console
        $ prismrec encode \\
            shop
        what it prints
        $ prismrec models
        ```
        """
    )
    python, console = blocks(page)
    assert (python.kind, python.body, python.line) == ("python", "a = 1\n", 3)
    assert console.line == 9
    assert [shlex.split(c) for c in commands(console)] == [
        ["prismrec", "encode", "shop"],
        ["prismrec", "models"],
    ]


def test_every_block_of_the_tutorial_is_well_formed() -> None:
    page = TUTORIAL.read_text(encoding="utf-8")
    found = blocks(page)
    fences = re.findall(r"^\s*```(?:python|console)\b", page, re.MULTILINE)
    assert len(found) == len(fences), (
        "a fence is indented, or has options after its language: it would not run"
    )
    assert {block.kind for block in found} == {"python", "console"}
    for block in found:
        if block.kind == "python":
            ast.parse(block.body)
        else:
            assert commands(block)
            assert {shlex.split(command)[0] for command in commands(block)} == {"prismrec"}


@pytest.mark.skipif(
    importlib.util.find_spec("prismrec.recommender") is None, reason="prismrec.recommender is not written yet"
)
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(TUTORIAL.read_text(encoding="utf-8")):
        if block.kind == "python":
            run_python(block, names)
        else:
            run_console(block)
