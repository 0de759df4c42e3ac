"""Questions as text and pictures, the answers that belong to them, and answers read back.

The tasks are those of Y. Wang et al., Hardness-Aware and Noise-Regularized Preference Optimization for
Multimodal Sequential Recommendation (SIGIR 2026, arXiv 2511.18740); the wording is this package's own.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.template import Template, segments
from prismrec.sequential.titles import DOUBLE_QUOTES, clean_title

__all__ = ["Picture", "Prompt", "Template", "Text", "answer", "build_prompt", "read_answer"]

_QUOTED = re.compile(f"[{DOUBLE_QUOTES}]([^{DOUBLE_QUOTES}]*)[{DOUBLE_QUOTES}]")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Text:
    """Words of a prompt; never empty."""

    text: str


@dataclass(frozen=True)
class Picture:
    """Where an item's picture stands in a prompt."""

    item: int


@dataclass(frozen=True)
class Prompt:
    """A question to a language model.

    Parameters
    ----------
    parts
        Text and pictures as they are to be read; no two texts beside each other.
    system
        Said before everything else; empty for nothing.
    """

    parts: tuple[Text | Picture, ...]
    system: str


def build_prompt(
    template: Template,
    task: Task,
    example: Example,
    titles: Sequence[str],
    pictures: Sequence[bool] | npt.NDArray[np.bool_],
    noun: str,
    plural: str,
    history: int | None = None,
) -> Prompt:
    """Put an example into words.

    Placeholders are filled in one pass: braces in a title are text. A paragraph of the template whose
    ``{listed}`` or ``{candidates}`` has nothing to show is left out. The answer is nowhere in the result.

    Parameters
    ----------
    template
        The wording.
    task
        What is asked.
    example
        About whom and what.
    titles
        Of all items by code, from `display_titles`.
    pictures
        Whether an item has a picture, by code.
    noun, plural
        What an item is called, and several.
    history
        Most items of the history, the latest ones; by default all.

    Raises
    ------
    InputError
        If the example lacks what the task needs, ``history`` is below 1, a title holds a double quote or a
        line break, an item has no title, or there is not one of ``pictures`` for each title.
    """
    if history is not None and history < 1:
        raise InputError(f"A history of {history} items is none.", "Keep at least 1.")
    if len(pictures) != len(titles):
        raise InputError(f"{len(titles):,} titles, but {len(pictures):,} pictures.", "Give both by item.")
    _check_example(task, example)
    took = example.history if history is None else example.history[-history:]
    listed, candidates = (_listed(template, items, titles) for items in (example.listed, example.candidates))
    target = _quoted(titles, example.positives[0]) if task is Task.BINARY else ""
    words = {
        "noun": noun,
        "plural": plural,
        "yes": template.yes,
        "no": template.no,
        "listed": listed,
        "candidates": candidates,
        "target": target,
    }
    pieces: list[str | Picture] = []
    for paragraph in _BLANK_LINES.split(template.prompt(task)):
        holes = list(segments(paragraph))
        if _is_left_out(template, task, [name for _, name in holes], words):
            continue
        pieces.append("\n\n" if pieces else "")
        for literal, name in holes:
            pieces.append(literal)
            if name == "history":
                pieces.extend(_history(template, took, titles, pictures))
            elif name is not None:
                pieces.append(words[name])
    system = "".join(
        literal + ("" if name is None else words[name]) for literal, name in segments(template.system)
    )
    return Prompt(_merged(pieces), system)


def _check_example(task: Task, example: Example) -> None:
    lacks = [
        name
        for name, missing in (
            ("history", not example.history),
            ("positives", task is Task.BINARY and not example.positives),
            ("candidates", task in (Task.TOP3, Task.RERANK) and not example.candidates),
        )
        if missing
    ]
    if lacks:
        raise InputError(
            f"{task.value!r} cannot be asked about user {example.user!r}: no {' and no '.join(lacks)}.",
            "Leave such users out, or choose another task.",
        )


def _is_left_out(template: Template, task: Task, names: Sequence[str | None], words: dict[str, str]) -> bool:
    empty = [name for name in ("listed", "candidates") if name in names and not words[name]]
    if empty and ("history" in names or "target" in names):
        raise InputError(
            f"{template.source}: {task.value}.prompt: {{{empty[0]}}} has nothing to show, and the paragraph "
            "that would be left out holds {history} or {target}.",
            f"Set {{{empty[0]}}} off by blank lines, or remove it.",
        )
    return bool(empty)


def _title(titles: Sequence[str], item: int) -> str:
    if not 0 <= item < len(titles):
        raise InputError(f"There is no title of item {item}: {len(titles):,} titles.", "Give one an item.")
    title = titles[item]
    # Such a title could end the list it stands in, and an answer could not be read back.
    if len(title.splitlines()) != 1 or any(quote in title for quote in DOUBLE_QUOTES):
        raise InputError(
            f"The title of item {item} cannot be quoted: {title!r}.",
            "It must be one line without double quotes; 'display_titles' makes it so.",
        )
    return title


def _quoted(titles: Sequence[str], item: int) -> str:
    return f'"{_title(titles, item)}"'


def _listed(template: Template, items: Sequence[int], titles: Sequence[str]) -> str:
    return template.title_separator.join(_quoted(titles, item) for item in items)


def _history(
    template: Template,
    items: Sequence[int],
    titles: Sequence[str],
    pictures: Sequence[bool] | npt.NDArray[np.bool_],
) -> list[str | Picture]:
    with_picture = list(segments(template.entry))
    without = _without_picture(with_picture)
    pieces: list[str | Picture] = []
    for place, item in enumerate(items):
        pieces.append(template.history_separator if place else "")
        for literal, name in with_picture if pictures[item] else without:
            pieces.append(literal)
            if name == "picture":
                pieces.append(Picture(item))
            elif name == "title":
                pieces.append(_title(titles, item))
    return pieces


def _without_picture(entry: Sequence[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Take the placeholder out, with the white space before it; at the start, with that behind it."""
    left: list[tuple[str, str | None]] = []
    for literal, name in entry:
        is_first = bool(left) and all(part == ("", None) for part in left)
        text = literal.lstrip() if is_first else literal
        left.append((text.rstrip(), None) if name == "picture" else (text, name))
    return left


def _merged(pieces: Iterable[str | Picture]) -> tuple[Text | Picture, ...]:
    parts: list[Text | Picture] = []
    words = ""
    for piece in pieces:
        if isinstance(piece, str):
            words += piece
            continue
        if words:
            parts.append(Text(words))
        parts.append(piece)
        words = ""
    if words:
        parts.append(Text(words))
    return tuple(parts)


def answer(
    template: Template, task: Task, items: Sequence[int], titles: Sequence[str], label: bool | None = None
) -> str:
    """Return an answer, right or wrong, as the model is to write it.

    Parameters
    ----------
    template
        The wording.
    task
        What is asked.
    items
        What is answered: for ``top3`` three items, latest first; for ``next`` and ``rerank`` one; not read
        for ``binary``.
    titles
        Of all items by code, from `display_titles`.
    label
        For ``binary``: whether to answer yes.

    Raises
    ------
    InputError
        If the number of items is another, the label is missing, or a title cannot be quoted.
    """
    if task is Task.BINARY:
        if label is None:
            raise InputError("An answer to 'binary' needs a label.", "Give True or False.")
        return template.yes if label else template.no
    wanted = 3 if task is Task.TOP3 else 1
    if len(items) != wanted:
        raise InputError(f"An answer to {task.value!r} of {len(items)} items.", f"Expected {wanted}.")
    return template.answer_separator.join(_quoted(titles, item) for item in items)


def read_answer(text: str, titles: Sequence[str], candidates: Iterable[int] | None = None) -> list[int]:
    """Return the items whose quoted titles stand in a generated answer, in the order they are named.

    Quotes, straight or typographic, are paired from the left within each line, because no title goes over
    two. What they hold is cleaned as titles are and must then be the same, letter by letter. Anything else is
    passed over; an item that is named again counts once.

    Parameters
    ----------
    text
        What the model wrote.
    titles
        Of all items by code, from `display_titles`.
    candidates
        The items that may be named; by default all, for which a table of the catalogue is made each time.

    Returns
    -------
    list of int
        Codes; empty where nothing could be read, which is a miss and must be counted as one.
    """
    codes = {titles[item]: item for item in (range(len(titles)) if candidates is None else candidates)}
    found: dict[int, None] = {}
    for line in text.splitlines():
        for match in _QUOTED.finditer(line):
            item = codes.get(clean_title(match[1]))
            if item is not None:
                found[item] = None
    return list(found)
