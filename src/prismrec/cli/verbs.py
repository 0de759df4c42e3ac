"""What all verbs share: errors become messages and exit codes."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperGroup

from prismrec.base.errors import PrismError

INTERRUPTED = 130
READER_GONE = 141

# Typer brings its own copy of Click in newer versions, so its classes are reached through Typer.
_UsageError = cast(type[Exception], typer.BadParameter.__bases__[0])
ARGUMENTS = "prismrec.arguments"
"""Where the context keeps what was typed."""


class Verbs(TyperGroup):
    """The group of verbs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments as they were typed: an error may come before a verb has read its own."""
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        arguments = ctx.meta[ARGUMENTS]
        as_json = "--json" in arguments
        debug = "--debug" in arguments or os.environ.get("PRISMREC_DEBUG", "0") not in ("", "0")
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, SystemExit):
            raise
        except BaseException as error:
            if isinstance(error, _UsageError):
                if as_json:
                    _write_document("UsageError", cast(Any, error).format_message(), None, 2)
                raise
            raise typer.Exit(report(error, as_json, debug)) from None


def report(error: BaseException, as_json: bool, debug: bool) -> int:
    """Tell of an error on standard error, with `as_json` also as a document on standard output.

    Returns
    -------
    int
        The exit code.
    """
    if isinstance(error, BrokenPipeError) and not isinstance(error, PrismError):
        _silence_output()
        return READER_GONE
    if debug:
        traceback.print_exception(error)
    kind, problem, hint, code = _described(error)
    print(f"Error: {problem}" if hint is None else f"Error: {problem}\n  {hint}", file=sys.stderr)  # noqa: T201
    if as_json:
        _write_document(kind, problem, hint, code)
    # Of several processes that fail alike one is heard (`prismrec.training.launch`).
    note = os.environ.get("PRISMREC_SAID")
    if note is not None and os.environ.get("RANK") == "0":
        Path(note).write_text(problem, encoding="utf-8")
    return code


def _described(error: BaseException) -> tuple[str, str, str | None, int]:
    """Kind, problem, hint and exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted", "interrupted.", "What was complete is kept; the same command goes on.", 130
    if isinstance(error, OSError) and not isinstance(error, PrismError):
        error = _refused(error)
    if isinstance(error, PrismError):
        return type(error).__name__, error.problem, error.hint, error.exit_code
    text = " ".join(str(error).split())
    problem = f"prismrec failed unexpectedly: {type(error).__name__}{f': {text}' if text else ''}"
    hint = "Run the same command with --debug (or PRISMREC_DEBUG=1) for the traceback, and report it."
    return "Unexpected", problem, hint, 1


def _refused(error: OSError) -> OSError:
    """Return the error as one of storage if it is the disk that refused."""
    from prismrec.base.files import storage_errors

    try:
        with storage_errors(Path(str(error.filename or "The disk"))):
            raise error
    except OSError as seen:
        return seen


def _write_document(kind: str, problem: str, hint: str | None, code: int) -> None:
    document = {"error": {"kind": kind, "problem": problem, "hint": hint, "exit_code": code}}
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)  # noqa: T201


def _silence_output() -> None:
    """Nobody reads any more: keep the interpreter from failing when it flushes at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
