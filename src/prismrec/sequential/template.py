"""The wording of the questions: a TOML file that a user can edit, checked when it is read."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError
from prismrec.base.files import digest, write_text
from prismrec.sequential.examples import Task
from prismrec.sequential.titles import DOUBLE_QUOTES

_BRACES = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}|[{}]")
_NAMES = ("noun", "plural")
_CHOICE = (*_NAMES, "history", "candidates")
_ALLOWED = {
    Task.BINARY: (*_NAMES, "history", "listed", "target", "yes", "no"),
    Task.TOP3: _CHOICE,
    Task.NEXT: _CHOICE,
    Task.RERANK: _CHOICE,
}
_REQUIRED = {
    Task.BINARY: ("history", "target"),
    Task.TOP3: ("history", "candidates"),
    # A whole catalogue is too long to be listed.
    Task.NEXT: ("history",),
    Task.RERANK: ("history", "candidates"),
}


@dataclass(frozen=True)
class Template:
    """How questions and answers are worded; placeholders stand in braces, ``{{`` is a brace itself.

    Parameters
    ----------
    binary, top3, next, rerank
        The question of each task; the shipped file lists the placeholders.
    yes, no
        The answers to ``binary``.
    entry
        One item of the history, with ``{title}`` and, where its picture goes, ``{picture}``.
    history_separator, title_separator, answer_separator
        What stands between two items of the history, two listed titles, two titles of an answer.
    system
        Said before everything else; empty for nothing. May hold ``{noun}`` and ``{plural}``.
    source
        What an error calls it: the file it was read from.

    Raises
    ------
    InputError
        If a placeholder is unknown, missing or stands twice, a brace is alone, a separator is empty or holds
        a double quote, or the answers are empty or the same.
    """

    binary: str
    top3: str
    next: str
    rerank: str
    yes: str
    no: str
    entry: str
    history_separator: str
    title_separator: str
    answer_separator: str
    system: str = ""
    source: str = field(default="template", compare=False)

    def __post_init__(self) -> None:
        for task in Task:
            self._check_text(f"{task.value}.prompt", self.prompt(task), _ALLOWED[task], _REQUIRED[task])
        self._check_text("entry", self.entry, ("title", "picture"), ("title",))
        self._check_text("system", self.system, _NAMES, ())
        for key in ("history_separator", "title_separator", "answer_separator"):
            value = getattr(self, key)
            if not value or any(quote in value for quote in DOUBLE_QUOTES):
                raise InputError(
                    f"{self.source}: {key} cannot be {value!r}.",
                    'It needs at least one character, none of them a double quote, such as ", ".',
                )
        for key in ("yes", "no"):
            if not getattr(self, key).strip():
                raise InputError(
                    f"{self.source}: {key} is empty.", f"Write an answer, such as '{key.title()}'."
                )
        if self.yes.strip().casefold() == self.no.strip().casefold():
            raise InputError(
                f"{self.source}: yes and no are both {self.yes!r}.", "Use two different answers."
            )

    def _check_text(self, key: str, text: str, allowed: Sequence[str], required: Sequence[str]) -> None:
        known = ", ".join(f"{{{name}}}" for name in allowed)
        try:
            used = [name for _, name in segments(text) if name is not None]
        except InputError as error:
            raise InputError(f"{self.source}: {key}: {error.problem}", error.hint) from None
        for name in used:
            if name not in allowed:
                near = difflib.get_close_matches(name.strip().lower(), allowed, n=1, cutoff=0.5)
                guess = f"Did you mean {{{near[0]}}}? " if near else ""
                raise InputError(
                    f"{self.source}: {key}: unknown placeholder {{{name}}}.", f"{guess}Known here: {known}."
                )
            if used.count(name) > 1 and name not in (*_NAMES, "yes", "no"):
                raise InputError(f"{self.source}: {key}: {{{name}}} stands twice.", "Leave one of them out.")
        for name in required:
            if name not in used:
                raise InputError(
                    f"{self.source}: {key}: the placeholder {{{name}}} is missing.",
                    f"Put it where it belongs. Known here: {known}.",
                )

    @classmethod
    def default(cls) -> "Template":
        """Return the wording that comes with the package."""
        return cls(**_shipped(), source="the shipped template")

    @classmethod
    def read(cls, path: Path | str) -> "Template":
        """Read a template; what the file leaves out is worded as in the shipped one.

        Raises
        ------
        InputError
            If the file cannot be read, is not TOML, or has a key or placeholder that is wrong; the key and
            the placeholder are named.
        """
        try:
            # Some editors put a byte order mark at the start.
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file.", "Check the path.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as UTF-8 text ({error}).", "Check the file.") from None
        return cls(**{**_shipped(), **_flat(text, str(path))}, source=str(path))

    def write(self, path: Path) -> None:
        """Write all wording, so that a later change of the shipped template does not reach it."""
        tasks = [task.value for task in Task]
        plain = [one.name for one in fields(self) if one.compare and one.name not in tasks]
        lines = [f"{name} = {_quoted(getattr(self, name))}" for name in plain]
        for task in Task:
            lines += ["", f"[{task.value}]", f"prompt = {_quoted(self.prompt(task))}"]
        write_text(path, "\n".join(lines) + "\n")

    def prompt(self, task: Task) -> str:
        """Return the question of a task, with its placeholders."""
        match task:
            case Task.BINARY:
                return self.binary
            case Task.TOP3:
                return self.top3
            case Task.NEXT:
                return self.next
            case Task.RERANK:
                return self.rerank

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of all wording, the same wherever it was read from."""
        wording = {one.name: getattr(self, one.name) for one in fields(self) if one.compare}
        return digest(json.dumps(wording, sort_keys=True).encode())


def segments(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield literal text and the placeholder behind it; the last has none.

    Raises
    ------
    InputError
        At a brace that neither opens nor closes a placeholder.
    """
    literal, end = "", 0
    for found in _BRACES.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        if found[1]:
            literal += found[1][0]
        elif found[2] is not None:
            yield literal, found[2]
            literal = ""
        else:
            raise InputError(
                f"a brace stands alone near {text[max(0, end - 15) : end + 15]!r}.",
                "Write {{ or }} for the character itself.",
            )
    yield literal + text[end:], None


def _shipped() -> dict[str, str]:
    text = files("prismrec.sequential").joinpath("template.toml").read_text(encoding="utf-8")
    return _flat(text, "the shipped template")


def _flat(text: str, source: str) -> dict[str, str]:
    """Return the values of a TOML text by the template's fields, a task's table as its prompt."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{source}: is not TOML ({error}).",
            'Expected lines such as [next] and, below it, prompt = "...".',
        ) from None
    tasks = [task.value for task in Task]
    plain = [one.name for one in fields(Template) if one.name not in (*tasks, "source")]
    found = {}
    for key, value in values.items():
        _known(key, [*plain, *tasks], "", source)
        if key not in tasks:
            found[key] = _as_text(value, key, source)
            continue
        if not isinstance(value, dict):
            raise InputError(
                f"{source}: {key} is not a table.", f'Expected [{key}] and, below it, prompt = "...".'
            )
        for inner, words in value.items():
            _known(inner, ["prompt"], f"{key}.", source)
            found[key] = _as_text(words, f"{key}.{inner}", source).strip()
    return found


def _quoted(text: str) -> str:
    # A JSON string is one of TOML, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _known(key: str, known: Sequence[str], before: str, source: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    guess = f"Did you mean {before + near[0]!r}? " if near else ""
    # Below a [table] every line belongs to it, which is easy to forget.
    above = " Keys that belong to no task stand above the first [table]." if before else ""
    raise InputError(f"{source}: unknown key {before + key!r}.", f"{guess}Known: {', '.join(known)}.{above}")


def _as_text(value: Any, key: str, source: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{source}: {key} is {json.dumps(value, default=str)}.", "Expected text in quotes.")
    return value
