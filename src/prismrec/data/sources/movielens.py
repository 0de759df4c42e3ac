"""MovieLens: films and what people thought of them, read from the archives as GroupLens offers them.

Licence: for research; not to be redistributed, and no commercial use without permission (see the README in
each archive). Cite: F. M. Harper, J. A. Konstan, "The MovieLens Datasets: History and Context", ACM
Transactions on Interactive Intelligent Systems 5(4), 2015.

Films have a title, a year and genres; plots and pictures are not part of the archives. Tags are left out:
users gave them, so that a new film has none. Ratings are kept, and no threshold is set.
"""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.raw_log import RAW, parse_cells, settle_log
from prismrec.data.sources.source import RemoteFile, Source, SourceData

_HOME = "https://files.grouplens.org/datasets/movielens"
_LICENCE = "research use; no redistribution, no commercial use without permission of GroupLens"
_CITATION = (
    "F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM Transactions on "
    "Interactive Intelligent Systems 5(4), 2015"
)

ITEMS = pl.Schema(
    {
        "item_id": pl.String(),
        "title": pl.String(),
        "year": pl.Int32(),
        "genres": pl.List(pl.String()),
    }
)
_NO_GENRES = "(no genres listed)"
# "Toy Story (1995)", "Doctor Who (2005-)", "Planet Earth (2006-2007)"
_YEAR = re.compile(r"^(?P<title>.*?)\s*\((?P<year>\d{4})(?:\s*[-\u2013]\s*(?:\d{4})?\s*)?\)\s*$", re.DOTALL)
# Of lines that are Python objects for a moment.
_BLOCK = 1 << 24
_SHOWN = 200


@dataclass(frozen=True)
class Edition:
    """How an archive is written.

    Parameters
    ----------
    ratings, films
        Names of the members, whatever folder of the archive they are in.
    separator
        Between fields.
    encoding
        Of the text.
    header
        Whether the first line names the columns.
    """

    ratings: str
    films: str
    separator: str
    encoding: str
    header: bool


CSV = Edition("ratings.csv", "movies.csv", ",", "utf-8", header=True)
DAT = Edition("ratings.dat", "movies.dat", "::", "latin-1", header=False)


def read_movielens(archive: str, edition: Edition, folder: Path) -> SourceData:
    """Read an archive without unpacking it.

    Rows that cannot be read, repeated ones, and ratings of films that the archive does not describe are left
    out and listed.

    Parameters
    ----------
    archive
        Name of the file.
    edition
        How it is written.
    folder
        Where it is.

    Returns
    -------
    SourceData
        Without vectors and parts.

    Raises
    ------
    InputError
        If the archive is missing, damaged or lacks a member, or no film or no rating is left.
    """
    path = folder / archive
    refused = Refusals()
    try:
        with zipfile.ZipFile(path) as opened:
            films, films_read = _read_films(opened, path, edition, refused)
            log, ratings_read = _read_ratings(opened, path, edition, films["item_id"], refused)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the folder of the raw files.") from None
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: cannot be unpacked ({error}).", "It is cut off or no archive; get it again."
        ) from error
    notes = {"rows_read": {edition.ratings: ratings_read, edition.films: films_read}}
    dataset = Dataset(Interactions(log), Catalog(films, ("title", "genres")), notes=notes)
    return SourceData(dataset, refused=refused)


def _member(opened: zipfile.ZipFile, path: Path, name: str) -> IO[bytes]:
    found = [entry for entry in opened.namelist() if entry.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        raise InputError(
            f"{path}: the archive has {len(found) or 'no'} files called {name!r}.",
            f"It holds {opened.namelist()[:10]}. Check that it is the archive of this edition.",
        )
    return opened.open(found[0])


def _where(path: Path, name: str) -> Path:
    """Return the place of a member as it is named in refusals: ``ml-1m.zip/ratings.dat``."""
    return path / name


def _read_films(
    opened: zipfile.ZipFile, path: Path, edition: Edition, refused: Refusals
) -> tuple[pl.DataFrame, int]:
    where = str(_where(path, edition.films))
    films: dict[str, dict[str, Any]] = {}
    row = -1
    for row, fields in _film_rows(opened, path, edition):
        if len(fields) != 3 or not fields[0].strip():
            reason = "missing" if len(fields) == 3 else f"{len(fields)} fields, expected 3"
            refused.add(Refusal(where, row, "item_id", reason, value=edition.separator.join(fields)[:_SHOWN]))
        elif fields[0] in films:
            refused.add(Refusal(where, row, "item_id", "duplicate", item_id=fields[0]))
        else:
            films[fields[0]] = _film(*fields)
    if not films:
        raise InputError(f"{where}: none of its {row + 1:,} rows can be used.", "Get the archive again.")
    return pl.DataFrame(list(films.values()), schema=ITEMS), row + 1


def _film_rows(opened: zipfile.ZipFile, path: Path, edition: Edition) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with their fields; a title may hold the separator, in quotes or between the outer two."""
    with _member(opened, path, edition.films) as stream:
        text = io.TextIOWrapper(stream, encoding=edition.encoding, newline="")
        try:
            if edition.header:
                rows = csv.reader(text, strict=True)
                next(rows, None)
                yield from enumerate(fields for fields in rows if fields)
                return
            for row, line in enumerate(filter(None, (line.rstrip("\r\n") for line in text))):
                first, _, rest = line.partition(edition.separator)
                title, found, genres = rest.rpartition(edition.separator)
                yield row, [first, title, genres] if found else line.split(edition.separator)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{_where(path, edition.films)}: cannot be read as {edition.encoding} text ({error}).",
                "Check that it is the archive of this edition.",
            ) from error


def _film(item_id: str, title: str, genres: str) -> dict[str, Any]:
    dated = _YEAR.match(title)
    names = [name for name in genres.split("|") if name and name != _NO_GENRES]
    return {
        "item_id": item_id,
        "title": (dated["title"] if dated else title).strip() or None,
        "year": int(dated["year"]) if dated else None,
        "genres": names or None,
    }


def _read_ratings(
    opened: zipfile.ZipFile, path: Path, edition: Edition, known: pl.Series, refused: Refusals
) -> tuple[pl.DataFrame, int]:
    where = _where(path, edition.ratings)
    frames, rows = [], 0
    with _member(opened, path, edition.ratings) as stream:
        for lines in _line_blocks(stream, edition):
            raw = _split(lines, rows, where, edition, refused)
            rows += len(lines)
            parsed = parse_cells(raw, where, refused)
            strange = ~parsed["item_id"].is_in(known.implode())
            refused.add_frame(
                parsed.filter(strange).select(
                    "row",
                    "user_id",
                    "item_id",
                    source=pl.lit(str(where)),
                    field=pl.lit("item_id"),
                    reason=pl.lit("unknown item"),
                )
            )
            frames.append(parsed.filter(~strange))
    return settle_log(frames, where, rows, refused), rows


def _line_blocks(stream: IO[bytes], edition: Edition) -> Iterator[pl.Series]:
    """Yield lines, a block at a time: the largest log is a gigabyte of text."""
    if edition.header:
        stream.readline()
    rest = b""
    while block := stream.read(_BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield _lines(whole, edition)
    if rest.strip():
        yield _lines(rest, edition)


def _lines(block: bytes, edition: Edition) -> pl.Series:
    # What is not text of this encoding becomes a mark, and its row is refused as no number.
    text = block.decode(edition.encoding, errors="replace")
    return pl.Series("line", [line.rstrip("\r") for line in text.split("\n")], dtype=pl.String)


def _split(lines: pl.Series, before: int, where: Path, edition: Edition, refused: Refusals) -> pl.DataFrame:
    """Split lines into the columns of a raw log; list lines with another number of fields."""
    names = ("user_id", "item_id", "rating", "timestamp")
    fields = lines.str.split(edition.separator)
    frame = pl.DataFrame(
        {
            "row": pl.int_range(before, before + len(lines), eager=True),
            "line": lines,
            **{name: fields.list.get(place, null_on_oob=True) for place, name in enumerate(names)},
            "fields": fields.list.len().cast(pl.Int64),
        }
    )
    odd = frame.filter(pl.col("fields") != len(names))
    refused.add_frame(
        odd.select(
            "row",
            source=pl.lit(str(where)),
            field=pl.lit("line"),
            reason=pl.format("{} fields, expected 4", "fields"),
            value=pl.col("line").str.head(_SHOWN),
        )
    )
    return frame.filter(pl.col("fields") == len(names)).select(*RAW)


def _source(
    name: str, archive: str, edition: Edition, about: str, md5: str | None = None, size: int | None = None
) -> Source:
    return Source(
        name=f"movielens/{name}",
        about=about,
        licence=_LICENCE,
        citation=_CITATION,
        files=(RemoteFile(archive, f"{_HOME}/{archive}", md5=md5, size=size),),
        read=partial(read_movielens, archive, edition),
    )


# The checksums are those of the .md5 files that GroupLens puts beside the archives. The small one changes.
sources: tuple[Source, ...] = (
    _source(
        "small", "ml-latest-small.zip", CSV, "MovieLens, the latest small edition: about 100,000 ratings"
    ),
    _source(
        "1m",
        "ml-1m.zip",
        DAT,
        "MovieLens 1M: a million ratings of 3,900 films, of 2000",
        "c4d9eecfca2ab87c1945afe126590906",
    ),
    _source(
        "20m",
        "ml-20m.zip",
        CSV,
        "MovieLens 20M: ratings of 27,000 films, up to 2015",
        "cd245b17a1ae2cc31bb14903e1204af3",
        198_702_078,
    ),
    _source(
        "32m",
        "ml-32m.zip",
        CSV,
        "MovieLens 32M: ratings of 87,000 films, up to 2023",
        "d472be332d4daa821edc399621853b57",
        238_950_008,
    ),
)
