"""Errors that a person can act on: where it happened, what was expected, what to do.

Every error that prismrec raises on purpose derives from `PrismError` and carries the exit code that the
command line returns for it.
"""

from typing import ClassVar


class PrismError(Exception):
    """Base of all errors that prismrec raises on purpose.

    Parameters
    ----------
    problem
        What is wrong, naming the file, row or field.
    hint
        What was expected, or what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, hint: str | None = None) -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(problem if hint is None else f"{problem}\n  {hint}")


class InputError(PrismError, ValueError):
    """Data, arguments or files from outside are not usable as they are. Exit code 3."""

    exit_code = 3


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of its bounds. Exit code 3."""


class MissingExtraError(PrismError, ImportError):
    """An optional dependency is needed and not installed. Exit code 4.

    Parameters
    ----------
    package
        The package that could not be imported.
    extra
        The extra of prismrec that brings it.
    needed_for
        What it is needed for.
    """

    exit_code = 4

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed.",
            f"Install it with: pip install 'prismrec[{extra}]'",
        )


class DamagedError(PrismError):
    """A folder or file that prismrec wrote is incomplete, altered, or not prismrec's. Exit code 5."""

    exit_code = 5


class StorageError(PrismError, OSError):
    """The disk refused: full, read-only, no permission. Exit code 6."""

    exit_code = 6


class SealedError(PrismError):
    """The sealed test part was about to be read outside of `evaluate`. Exit code 7."""

    exit_code = 7


class ProcessLostError(PrismError):
    """One of several processes that work together is gone. Exit code 8."""

    exit_code = 8
