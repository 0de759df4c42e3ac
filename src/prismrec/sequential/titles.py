"""Titles as a language model is shown them: one line, no quote, nothing that looks like a chat format.

A prompt lists titles in double quotes and an answer is read back from between them. So a title must not hold
a double quote or a line break, no two items may share one, and none may look like a marker of a chat format.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from prismrec.base.errors import InputError

LONGEST = 120
"""Most characters of a title that is shown."""

# Straight, high, low and reversed, guillemets, CJK, full width, ornaments.
DOUBLE_QUOTES = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u301d\u301e\u301f\uff02\u275d\u275e'
"""What counts as a double quote: none is left in a title, and each may stand around one in an answer."""

_LONGEST_MARK = 40
_SINGLE_QUOTES = str.maketrans(dict.fromkeys(DOUBLE_QUOTES, "'"))
# Fillers and variation selectors: they have no shape either, and Unicode does not class them as format.
_SHAPELESS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_OPEN, _CLOSE = "\u2039", "\u203a"  # look like < and >, and no chat format uses them
# The second bar is the full-width one of some chat formats.
_BAR_OPEN, _BAR_CLOSE = re.compile("<(?=[|\uff5c])"), re.compile("(?<=[|\uff5c])>")
_ANGLES = re.compile(r"<(/?\w[\w.:-]*/?)>")
# Only known words: "[REC]" is a film.
_SQUARES = re.compile(
    r"\[(/?(?:INST|IMG|IMG_BREAK|IMG_END|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT"
    r"|ARGS|CALL_ID|CLS|SEP|PAD|UNK|MASK|BOS|EOS))\]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TitleReport:
    """How many titles were changed, and by what; a title may count under several.

    Parameters
    ----------
    items
        All items.
    untitled
        Without a title, or with nothing in it that can be seen: called by their id.
    spacing
        White space put right, or characters brought into Unicode's normal form C.
    invisible
        Control characters, and others that take no space, removed; zero-width joiners are among them.
    quotes
        Double quotes turned into single ones.
    markers
        What looks like a marker of a chat format, broken.
    cut
        Shortened to `LONGEST` characters.
    told_apart
        Shared with another item: a year or the id was added.
    """

    items: int
    untitled: int
    spacing: int
    invisible: int
    quotes: int
    markers: int
    cut: int
    told_apart: int

    def lines(self) -> list[str]:
        """Return a line for each kind of change that took place."""
        said = (
            (self.untitled, "have no title and are called by their id"),
            (self.spacing, "had white space or composed characters put right"),
            (self.invisible, "lost characters that cannot be seen"),
            (self.quotes, "had double quotes turned into single ones"),
            (self.markers, "held a marker of a chat format, which was broken"),
            (self.cut, f"were cut to {LONGEST} characters"),
            (self.told_apart, "share a title and got a year or their id behind it"),
        )
        return [f"{count:,} of {self.items:,} items {what}." for count, what in said if count]


@dataclass(frozen=True)
class _Cleaned:
    text: str
    spacing: bool
    invisible: bool
    quotes: bool
    markers: bool


def clean_title(text: str) -> str:
    """Return a title on one line, without double quotes, invisible characters and markers; not shortened.

    White space is collapsed, the text brought into Unicode's normal form C, and control, format and other
    characters without a shape are removed. Double quotes become single ones. A marker is broken by another
    sign of like look: ``<|im_end|>`` becomes ``‹|im_end|›``, ``<image>`` and ``</s>`` become ``‹image›`` and
    ``‹/s›``, and ``[INST]`` becomes ``(INST)``. Cleaning twice is cleaning once.
    """
    return _clean(text).text


def _clean(text: str) -> _Cleaned:
    # White space first: a line break is a control character too, and removing it would join two words.
    spaced = "".join(" " if char.isspace() else char for char in text)
    seen = "".join(char for char in spaced if not _is_invisible(char))
    neat = " ".join(unicodedata.normalize("NFC", seen).split())
    single = neat.translate(_SINGLE_QUOTES)
    broken = _BAR_CLOSE.sub(_CLOSE, _BAR_OPEN.sub(_OPEN, single))
    broken = _SQUARES.sub(r"(\1)", _ANGLES.sub(rf"{_OPEN}\1{_CLOSE}", broken))
    return _Cleaned(
        broken,
        spacing=neat != seen or spaced != text,
        invisible=seen != spaced,
        quotes=single != neat,
        markers=broken != single,
    )


def _is_invisible(char: str) -> bool:
    # Surrogates (Cs) are no characters and cannot be written as UTF-8.
    return unicodedata.category(char) in ("Cc", "Cf", "Cs") or _SHAPELESS.match(char) is not None


def display_titles(
    titles: Sequence[str | None],
    ids: Sequence[str],
    noun: str = "item",
    years: Sequence[int | str | None] | None = None,
    taken: Collection[str] = (),
) -> tuple[list[str], TitleReport]:
    """Return what to call each item in a prompt: cleaned, at most `LONGEST` characters, no two the same.

    An item without a title is called ``untitled <noun> <id>``. Items of one title are told apart by their
    year in parentheses where no other of them has it, else by their id, else by a number behind the id.

    Parameters
    ----------
    titles
        One an item, or None.
    ids
        Of the items, in the same order.
    noun
        What an item is called.
    years
        One an item, or None; whatever tells items of one title apart will do.
    taken
        Titles that are shown already, of other items: they stay, and none of them is given again.

    Returns
    -------
    titles
        Each a fixed point of `clean_title`.
    report
        What was changed.

    Raises
    ------
    InputError
        If there is not one id, and one year, for each title.
    """
    for name, values in (("ids", ids), ("years", years)):
        if values is not None and len(values) != len(titles):
            raise InputError(
                f"{len(titles):,} titles, but {len(values):,} {name}.",
                f"Give {name} in the order of the items.",
            )
    cleaned = [_clean(title or "") for title in titles]
    marks = [_cut(clean_title(name), _LONGEST_MARK) for name in ids]
    bases = []
    for one, mark in zip(cleaned, marks, strict=True):
        unnamed = " ".join(word for word in ("untitled", clean_title(noun), mark) if word)
        bases.append(_cut(one.text or unnamed, LONGEST))
    shown = _told_apart(bases, marks, _years(years, len(bases)), taken)
    report = TitleReport(
        items=len(titles),
        untitled=sum(not one.text for one in cleaned),
        spacing=sum(one.spacing for one in cleaned),
        invisible=sum(one.invisible for one in cleaned),
        quotes=sum(one.quotes for one in cleaned),
        markers=sum(one.markers for one in cleaned),
        cut=sum(len(one.text) > LONGEST for one in cleaned),
        told_apart=sum(name != base for name, base in zip(shown, bases, strict=True)),
    )
    return shown, report


def _years(years: Sequence[int | str | None] | None, items: int) -> list[str]:
    if years is None:
        return [""] * items
    return ["" if year is None else _cut(clean_title(str(year)), _LONGEST_MARK) for year in years]


def _told_apart(
    bases: Sequence[str], marks: Sequence[str], years: Sequence[str], before: Collection[str]
) -> list[str]:
    uses = Counter([*bases, *before])
    same_year = Counter(zip(bases, years, strict=True))
    # "Heat (2)" may be a title of its own, so that a name that is made must also differ from all of these.
    taken = {*bases, *before}
    names = []
    for base, mark, year in zip(bases, marks, years, strict=True):
        name = base
        if uses[base] > 1:
            own_year = year if same_year[base, year] == 1 else ""
            name = next(one for one in _names(base, mark, own_year) if one not in taken)
            taken.add(name)
        names.append(name)
    return names


def _names(base: str, mark: str, year: str) -> Iterator[str]:
    number = 1
    for extra in (year, mark):
        if extra:
            yield _with(base, extra)
    while True:
        number += 1
        yield _with(base, f"{mark} #{number}".strip())


def _with(base: str, extra: str) -> str:
    return f"{_cut(base, LONGEST - len(extra) - 3)} ({extra})"


def _cut(text: str, most: int) -> str:
    """Shorten at a word, or within one that is longer than half of the room."""
    if len(text) <= most:
        return text
    head = text[: most - 1]
    if text[most - 1] != " ":
        whole = head.rpartition(" ")[0]
        head = whole if len(whole) >= most // 2 else head
    return head.rstrip() + "…"
