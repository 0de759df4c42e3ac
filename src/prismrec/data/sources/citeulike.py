"""CiteULike-a: researchers' libraries of articles, with titles, abstracts and bags of words.

The files of H. Wang's release (github.com/js05212/citeulike-a): ``users.dat`` has a line a user, how many
articles, then their numbers, counted from 0; ``raw-data.csv`` has ``doc.id`` (counted from 1), ``title``,
``citeulike.id``, ``raw.title`` and ``raw.abstract``; ``mult.dat`` has a line an article, how many words, then
``word:count`` with the word's line in ``vocabulary.dat``. Citations and tags are not read. Neither time nor
rating nor a division comes with the data.

C. Wang and D. M. Blei, Collaborative Topic Modeling for Recommending Scientific Articles, KDD 2011;
H. Wang, B. Chen, W.-J. Li, Collaborative Topic Regression with Social Regularization for Tag Recommendation,
IJCAI 2013.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.ready_pairs import (
    Row,
    code_frame,
    is_code,
    lines_of,
    named,
    require_codes,
    settle,
)
from prismrec.data.sources.source import ReadyVectors, Source, SourceData

_COLUMNS = ("doc.id", "title", "citeulike.id", "raw.title", "raw.abstract")
_USERS = "Expected how many articles the user has, then their numbers, counted from 0."
_WORDS = "Expected how many words the article has, then word:count, words counted from 0."
# The largest count up to which float16 holds every whole number.
_EXACT = 2048


def read_citeulike(folder: Path) -> SourceData:
    """Read the files of CiteULike-a.

    Returns
    -------
    SourceData
        Item ids are the numbers of ``users.dat``. The items have ``title``, ``abstract`` and
        ``citeulike_id``. The features ``words`` are the counts of the bag of words, if ``mult.dat`` is there.

    Raises
    ------
    InputError
        If a file is missing or a line is not as described; file and row are named.
    """
    folder = Path(folder)
    refused = Refusals()
    items = _read_articles(folder / "raw-data.csv")
    rows = list(_read_users(folder / "users.dat"))
    table = code_frame(rows)
    n_users = require_codes(table, "user", None, "lines of users.dat")
    require_codes(table, "item", items.height, "articles of raw-data.csv")
    ids = items["item_id"].to_list()
    pairs = settle(named(table, [str(code) for code in range(n_users)], ids), refused)
    words = (_read_words(folder, ids, refused),) if (folder / "mult.dat").exists() else ()
    dataset = Dataset(
        Interactions(pairs.select("user_id", "item_id")),
        Catalog(items, ("title", "abstract")),
        notes={"source": "citeulike-a"},
    )
    return SourceData(dataset, words, None, refused)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The release is older than the habit of writing UTF-8.
        return content.decode("latin-1")


def _read_articles(path: Path) -> pl.DataFrame:
    lines = csv.reader(io.StringIO(_text(path), newline=""))
    header = next(lines, [])
    if tuple(header) != _COLUMNS:
        raise InputError(f"{path}: has the columns {header}.", f"Expected {', '.join(_COLUMNS)}.")
    articles = []
    try:
        for row, cells in enumerate(lines):
            if len(cells) != len(_COLUMNS) or cells[0] != str(row + 1):
                raise InputError(
                    f"{path}, row {row}: has {len(cells)} cells and the doc.id {''.join(cells[:1])!r}.",
                    f"Expected {len(_COLUMNS)} cells and the doc.id {row + 1}: articles stand in order.",
                )
            _, title, number, raw_title, abstract = (cell.strip() or None for cell in cells)
            articles.append((str(row), raw_title or title, abstract, number))
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: is no CSV ({error}).") from None
    schema = dict.fromkeys(("item_id", "title", "abstract", "citeulike_id"), pl.String)
    return pl.DataFrame(articles, schema=schema, orient="row")


def _numbers(path: Path, row: int, line: str, hint: str) -> list[int]:
    numbers = [int(n) if n.isascii() and n.isdecimal() else -1 for n in line.split()]
    if not numbers or not all(map(is_code, numbers)):
        raise InputError(f"{path}, row {row}: {line[:60]!r} is not only numbers.", hint)
    return numbers


def _read_users(path: Path) -> Iterator[Row]:
    for row, line in enumerate(lines_of(_text(path))):
        count, *items = _numbers(path, row, line, _USERS)
        if count != len(items):
            raise InputError(f"{path}, row {row}: announces {count} articles and has {len(items)}.", _USERS)
        for item in items:
            yield str(path), row, row, item, ""


def _read_words(folder: Path, ids: list[str], refused: Refusals) -> ReadyVectors:
    path = folder / "mult.dat"
    n_words = len(lines_of(_text(folder / "vocabulary.dat")))
    lines = lines_of(_text(path))
    if len(lines) != len(ids):
        raise InputError(
            f"{path}: has {len(lines):,} lines, and raw-data.csv {len(ids):,} articles.",
            "Line n belongs to article n.",
        )
    bags = [_read_bag(path, row, line, n_words) for row, line in enumerate(lines)]
    filled = [row for row, (words, _) in enumerate(bags) if words]
    for row in sorted(set(range(len(ids))) - set(filled)):
        refused.add(Refusal(str(path), row, "words", "no words", item_id=ids[row]))
    if not filled:
        raise InputError(f"{path}: no article has a word.")
    largest = max(max(bags[row][1]) for row in filled)
    kind = np.float16 if largest <= _EXACT else np.float32
    vectors = np.zeros((len(filled), n_words), dtype=kind)
    for place, row in enumerate(filled):
        words, counts = bags[row]
        vectors[place, words] = counts
    return ReadyVectors("words", tuple(ids[row] for row in filled), vectors)


def _read_bag(path: Path, row: int, line: str, n_words: int) -> tuple[list[int], list[int]]:
    count, *numbers = _numbers(path, row, line.replace(":", " "), _WORDS)
    words, counts = numbers[::2], numbers[1::2]
    if line.count(":") != count or len(words) != count or len(counts) != count:
        raise InputError(f"{path}, row {row}: announces {count} words and has {line.count(':')}.", _WORDS)
    if len(set(words)) != count:
        raise InputError(f"{path}, row {row}: a word stands twice.", _WORDS)
    stray = [word for word in words if word >= n_words]
    if stray or 0 in counts:
        what = f"word {stray[0]} is not among the {n_words:,} of vocabulary.dat" if stray else "a count is 0"
        raise InputError(f"{path}, row {row}: {what}.", _WORDS)
    return words, counts


sources: tuple[Source, ...] = (
    Source(
        name="citeulike-a",
        about="5,551 researchers and 16,980 articles with titles, abstracts and bags of words: users.dat, "
        "raw-data.csv and, for the words, mult.dat and vocabulary.dat. Offered at "
        "github.com/js05212/citeulike-a.",
        licence="Not stated; CiteULike is closed.",
        citation="H. Wang, B. Chen, W.-J. Li, Collaborative Topic Regression with Social Regularization for "
        "Tag Recommendation, IJCAI 2013; C. Wang, D. M. Blei, Collaborative Topic Modeling for Recommending "
        "Scientific Articles, KDD 2011",
        files=(),
        read=read_citeulike,
    ),
)
