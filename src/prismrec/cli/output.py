"""What a verb gives: a document for programs or tables for people, and the options that choose."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from prismrec.base.progress import Progress

_PANEL = "Output"

Json = Annotated[
    bool,
    typer.Option("--json", help="Write one JSON document to standard output.", rich_help_panel=_PANEL),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes.", rich_help_panel=_PANEL)
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_PANEL)
]

# Where nobody's window limits the width: wide enough for a title.
_WIDTH_OF_A_PIPE = 160


@dataclass(frozen=True)
class Output:
    """Where a verb's answer goes.

    Parameters
    ----------
    as_json
        Write the document, else the tables.
    quiet
        No progress, no notes.
    """

    as_json: bool
    quiet: bool

    @property
    def progress(self) -> "Progress":
        """Bars on standard error, or silence."""
        from prismrec.base.progress import SILENT, Bars

        return SILENT if self.quiet else Bars()

    def note(self, text: str) -> None:
        """Say something on standard error."""
        if not self.quiet:
            print(text, file=sys.stderr)  # noqa: T201

    def finish(self, document: Mapping[str, Any] | Sequence[Any], *shown: "RenderableType") -> None:
        """Write the answer to standard output.

        Parameters
        ----------
        document
            For programs, JSON-able.
        shown
            The same for people: lines and tables. Strings are shown as they are.
        """
        if self.as_json:
            print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False), flush=True)  # noqa: T201
            return
        from rich.console import Console

        width = None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE
        console = Console(width=width, highlight=False)
        # Captured: if nobody reads any more, the console would end the process in its own way.
        with console.capture() as captured:
            for part in shown:
                if isinstance(part, str):
                    console.print(printable(part, keep="\n"), markup=False, soft_wrap=True)
                else:
                    console.print(part)
        print(captured.get(), end="", flush=True)  # noqa: T201


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> "Table":
    """Return a table; columns whose cells are all numbers are set to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, show_header=any(columns), title=title, title_justify="left", pad_edge=False)
    for place, name in enumerate(columns):
        cells = [row[place] for row in rows]
        numeric = bool(cells) and all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in cells)
        made.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def printable(text: str, keep: str = "") -> str:
    """Replace what is not printable by spaces: a title may hold anything, terminal commands too."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))
