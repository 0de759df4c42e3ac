"""Folders as HaNoRec keeps them: each user's items in order, titles, and a folder of pictures.

What HaNoRec's released code reads (github.com/wangyu0627/HaNoRec; MicroLens, Netflix, MovieLens), and so what
is certain: ``train.tsv``, ``val.tsv`` and ``test.tsv`` have no header and a line a user: the user, a tab, and
items separated by spaces, of which the last is what is to be predicted. ``<Name>_titles.csv`` is a table with
the columns ``item`` and ``title``, quoted where a title holds a comma. ``images/<item>.jpg`` are the
pictures, and not every item has one.

What is assumed: that the items stand in the order of time throughout. The code treats them so, and the owners
of MicroLens say it of theirs; nothing says it of Netflix and MovieLens.

The README also lists a file of pairs. The code does not read it and its columns are not stated; where it is a
table with a header, ``prismrec ingest`` reads it (see docs/research-formats.md). The prepared prompts
(``*_sft_*.json``) are not read: prismrec writes its own.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.media import FileMedia, Media
from prismrec.data.report import Refusals
from prismrec.data.sources.picture_folder import pictures_by_item
from prismrec.data.sources.ready_pairs import lines_of
from prismrec.data.sources.source import Source, SourceData
from prismrec.data.text_files import read_csv

_LISTS = ("train.tsv", "val.tsv", "test.tsv")
_LINE = (
    "Expected a line a user, without a header: the user, a tab, and items separated by spaces; all numbers."
)
_TITLES = "Expected a table with the columns item and title, the item a whole number."


@dataclass(frozen=True)
class _Listed:
    path: Path
    row: int
    items: tuple[str, ...]


def read_hanorec(folder: Path) -> SourceData:
    """Read a folder of HaNoRec's.

    Parameters
    ----------
    folder
        Holds the lists, one ``*_titles.csv`` and, if there are any, the pictures in ``images``.

    Returns
    -------
    SourceData
        ``position`` is the place in the user's list, from 0. There are no parts: the files divide users, not
        pairs. The notes say how many users each file lists. Items without interactions are in the catalogue,
        items without a title as well; pictures of unknown items are listed as refused.

    Raises
    ------
    InputError
        If a list or the titles are missing, a line is no user with items, an item has two titles, or a user
        stands twice with histories of which none begins with the other.
    """
    folder = Path(folder)
    refused = Refusals()
    users: dict[str, _Listed] = {}
    listed = {name: _read_lists(folder / name, users) for name in _LISTS}
    if not users:
        raise InputError(f"{folder / _LISTS[0]}: no user is listed, in the other files neither.", _LINE)
    titles = _read_titles(_titles_file(folder))
    log = pl.DataFrame(
        [(user, item, float(place)) for user, one in users.items() for place, item in enumerate(one.items)],
        schema={"user_id": pl.String, "item_id": pl.String, "position": pl.Float64},
        orient="row",
    )
    ids = sorted({*titles, *log["item_id"].to_list()}, key=lambda item: (int(item), item))
    items = pl.DataFrame(
        {"item_id": ids, "title": [titles.get(item) for item in ids]},
        schema={"item_id": pl.String, "title": pl.String},
    )
    media: dict[str, Media] = {}
    if (folder / "images").is_dir():
        media["image"] = FileMedia(pictures_by_item(folder / "images", set(ids), refused))
    notes = {"source": "hanorec-files", "users_listed": listed}
    return SourceData(
        Dataset(Interactions(log), Catalog(items, ("title",), media), notes=notes), refused=refused
    )


def _read_lists(path: Path, users: dict[str, _Listed]) -> int:
    """Add a file's users to those of the files before; return how many the file lists.

    A user who stands in several files is the same user: of the histories the longest is kept, if it begins
    with the others.
    """
    try:
        lines = lines_of(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text of numbers ({error}).", _LINE) from None
    n_listed = 0
    for row, line in enumerate(lines):
        if not line.strip():
            continue
        user, tab, rest = line.partition("\t")
        items = tuple(rest.split())
        if not tab or not user.isdecimal():
            raise InputError(f"{path}, row {row}: {line[:60]!r} names no user.", _LINE)
        if not items or not all(item.isdecimal() for item in items):
            odd = next((item for item in items if not item.isdecimal()), "")
            raise InputError(f"{path}, row {row}: {odd[:60]!r} is no item of user {user}.", _LINE)
        found, before = _Listed(path, row, items), users.get(user)
        if before is not None and before.path == path:
            raise InputError(f"{path}, row {row}: user {user} stands in row {before.row} too.", _LINE)
        users[user] = found if before is None else _longer(user, before, found)
        n_listed += 1
    return n_listed


def _longer(user: str, before: _Listed, found: _Listed) -> _Listed:
    short, long = sorted((before, found), key=lambda one: len(one.items))
    if long.items[: len(short.items)] != short.items:
        raise InputError(
            f"{found.path}, row {found.row}: user {user} has another history in {before.path.name}, row "
            f"{before.row}.",
            "Where a user stands in two files, one history has to begin with the other.",
        )
    return long


def _titles_file(folder: Path) -> Path:
    found = sorted(folder.glob("*_titles.csv"))
    if len(found) != 1:
        raise InputError(
            f"{folder}: has {len(found)} files *_titles.csv.", "Expected one, e.g. Netflix_titles.csv."
        )
    return found[0]


def _read_titles(path: Path) -> dict[str, str | None]:
    cells = read_csv(path, ",")
    if not {"item", "title"} <= set(cells.columns):
        raise InputError(f"{path}: has the columns {cells.columns}.", _TITLES)
    titles: dict[str, str | None] = {}
    rows: dict[str, int] = {}
    for row, (item, title) in enumerate(cells.select("item", "title").iter_rows()):
        if not (item.isascii() and item.isdecimal()):
            raise InputError(f"{path}, row {row}: item is {item[:60]!r}.", _TITLES)
        if item in rows:
            raise InputError(f"{path}, row {row}: item {item} stands in row {rows[item]} too.", _TITLES)
        titles[item], rows[item] = title.strip() or None, row
    return titles


sources: tuple[Source, ...] = (
    Source(
        name="hanorec-files",
        about="A folder as HaNoRec uses it (MicroLens, Netflix, MovieLens), with each user's items in order. "
        "train.tsv, val.tsv, test.tsv, <Name>_titles.csv and images/<item>.jpg; the README of HaNoRec's "
        "repository names the archive (Google Drive) that its authors offer.",
        licence="Not stated with the files; those of MicroLens, the Netflix Prize and MovieLens apply.",
        citation="Y. Wang, Y. Yang, L. Wu, Y. Zhang, F. Liu, R. Hong, Multimodal Large Language Models with "
        "Adaptive Preference Optimization for Sequential Recommendation, SIGIR 2026, arXiv 2511.18740; and "
        "the data: MicroLens (arXiv 2309.15379), the Netflix Prize, or MovieLens (Harper and Konstan, 2015)",
        files=(),
        read=read_hanorec,
    ),
)
