"""The tutorial runs from its first line to its last, as one session in an empty folder."""

import shlex
import textwrap
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def test_blocks_are_found_with_their_lines(page_of) -> None:
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
        ```toml title="a.toml"
        b = 2
        ```
        """
    )
    python, text, console, toml = page_of("a.md", page).blocks
    assert (python.kind, python.body, python.line, python.file) == ("python", "a = 1\n", 3, None)
    assert (text.kind, text.body, text.commands()) == ("text", "not run\n", [])
    assert console.line == 9
    assert [shlex.split(c) for c in console.commands()] == [
        ["prismrec", "encode", "shop"],
        ["prismrec", "models"],
    ]
    assert (toml.kind, toml.body, toml.file) == ("toml", "b = 2\n", "a.toml")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (" ```python\n a = 1\n ```\n", "it would not run"),
        ("```python hl_lines='1'\na = 1\n```\n", "it would not run"),
        ("- a point\n\n  ```python\n  a = 1\n  ```\n", "it would not run"),
        ("A line\n    ```python\n    a = 1\n    ```\n", "it would not run"),
        ("A line\n\n    $ prismrec models\n", "it would not run"),
        ("> ```python\n> a = 1\n> ```\n", "it would not run"),
        ("```\na = 1\n```\n", "it would not run"),
        ("~~~python\na = 1\n~~~\n", "it would not run"),
        ("```ruby\na = 1\n```\n", "it would not run"),
        ("```python\na = 1\n\nA line\n", "it would not run"),
        ("```python\na =\n```\n", "invalid syntax"),
        ("```toml\na = 1\n```\n", "no title"),
        ("```console\nprismrec models\n```\n", "no command"),
        ("```console\n$ rm -r shop\n```\n", "line 2"),
    ],
)
def test_a_block_that_would_not_run_is_found(page_of, body, said) -> None:
    with pytest.raises((AssertionError, SyntaxError), match=said):
        page_of("a.md", body).check({"prismrec"})


def test_a_page_is_one_session(page_of, session) -> None:
    page = page_of(
        "a.md",
        '```python title="mine.py"\nn = 2\n```\n```python\nimport mine\nm = mine.n\n```\n'
        "```python\nopen('m.txt', 'w').write(str(m))\n```\n```console\n$ cat m.txt\n```\n",
    )
    assert page.run() == "2"
    with pytest.raises(AssertionError, match=r"line 2: \$ cat nothing\.txt"):
        page_of("b.md", "```console\n$ cat nothing.txt\n```\n").run()


def test_every_block_of_the_tutorial_is_well_formed(read_page) -> None:
    page = read_page(TUTORIAL)
    page.check({"prismrec"})
    assert {block.kind for block in page.blocks} == {"python", "console"}


def test_the_tutorial_runs(read_page, session) -> None:
    read_page(TUTORIAL).run()
