"""Progress of long work, handed in as an argument: silent by default, bars on standard error for people."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Tell that `steps` more are done; `note` replaces the text beside the bar."""


class Progress(Protocol):
    """Where work reports to."""

    def task(self, name: str, total: int | None) -> AbstractContextManager[Task]:
        """Open a piece of work of `total` steps (None: unknown)."""

    def say(self, text: str) -> None:
        """Print one line for people."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Do nothing."""


class Silent:
    """Reports nothing: the default of every function that takes a progress."""

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Task]:
        """Open a silent task."""
        yield _SilentTask()

    def say(self, text: str) -> None:
        """Say nothing."""


SILENT = Silent()
"""Shared by all that have nothing to report: it holds no state."""


class _BarTask:
    def __init__(self, progress: RichProgress, name: str, total: int | None) -> None:
        self._progress = progress
        self._id = progress.add_task(name, total=total, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move the bar."""
        if note is None:
            self._progress.update(self._id, advance=steps)
        else:
            self._progress.update(self._id, advance=steps, note=note)


class Bars:
    """Progress bars and lines on standard error; on a pipe the lines only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Task]:
        """Open a bar that stays until the block ends."""
        if not self.console.is_terminal:
            yield _SilentTask()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=self.console, transient=True) as progress:
            yield _BarTask(progress, name, total)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
