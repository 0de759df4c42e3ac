"""Netflix as LLMRec prepared it: pairs in three parts, films with year and title, posters, and vectors.

What LLMRec's README and its code (github.com/HKUDS/LLMRec) say: ``train.json``, ``val.json`` and
``test.json`` map a user's code to the codes of items. ``item_attribute.csv``, in places called
``item_attribute_filter.csv``, has no header and the columns id, year and title; its row n is the film with
the code n, whatever its id. ``text_feat.npy`` (768 numbers a film) and ``image_feat.npy`` (512) have row n
for item n too. The posters lie in the folder ``Netflix_Posters``. The pairs stand for ratings of the Netflix
Prize; which ratings became pairs is not stated, nor is any order of the lists. So there is neither a time
nor a position here: a task that asks what came next cannot be put to these files.

What is assumed: a poster ``<id>.jpg`` is named after the id of the table. Where the ids are not the codes, it
could as well be named after the code; then posters are an error rather than shown with the wrong films.

What users report: ``val.json`` and ``test.json`` of the release are the same (issue 31 of the repository),
and nobody is listed with half of the films (issue 16). Where the two parts are the same, the pairs are the
test part, on which the published numbers stand, and the validation part is empty.

What a language model added (``augmented_*``, ``candidate_indices``) and the pickles (``train_mat``) are not
read.
"""

import re
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.media import FileMedia, Media
from prismrec.data.report import Refusals
from prismrec.data.sources.numbered_lines import numbered_lines, unquoted
from prismrec.data.sources.picture_folder import pictures_by_item
from prismrec.data.sources.ready_pairs import (
    code_frame,
    named,
    read_lists,
    require_codes,
    settle,
    source_data,
)
from prismrec.data.sources.ready_vectors import count_items, vector_files
from prismrec.data.sources.source import PARTS, Source, SourceData

_FILMS = ("item_attribute_filter.csv", "item_attribute.csv")
_POSTERS = "Netflix_Posters"
# The archive of pictures and texts, unpacked beside the lists.
_ARCHIVE = "netflix_image_text"
_LINE = "Expected a line a film, without a header: its id, its year, its title, separated by commas."
# pandas writes whole numbers like this in a column that lacks some.
_YEAR = re.compile(r"(\d{4})(?:\.0)?")
_NO_YEAR = frozenset(("", "nan", "null"))


def read_llmrec(folder: Path) -> SourceData:
    """Read a folder of LLMRec's.

    Parameters
    ----------
    folder
        Holds the lists; the table of films and the posters lie there or in ``netflix_image_text``. Posters
        and vectors are used where they are there.

    Returns
    -------
    SourceData
        Ids are the codes. An id of the table that is not the code becomes the attribute ``netflix_id``.
        Posters of unknown films are listed as refused.

    Raises
    ------
    InputError
        If a list or the table is missing or damaged, a code has no film, films and vectors differ in number,
        or it cannot be told which film a poster shows.
    """
    folder = Path(folder)
    refused, vectors = Refusals(), vector_files(folder)
    rows = [
        row
        for part, name in zip(PARTS, ("train", "val", "test"), strict=True)
        for row in read_lists(folder / f"{name}.json", part)
    ]
    table = code_frame(rows)
    path = _find(folder, *_FILMS)
    if path is None:
        raise InputError(
            f"{folder / _FILMS[1]}: there is no such file, nor {_FILMS[0]}.",
            f"Copy it there, or into {_ARCHIVE} below.",
        )
    films = _read_films(path)
    counted = count_items(vectors)
    if counted is not None and counted != films.height:
        raise InputError(
            f"{path}: has {films.height:,} films, and the vectors have {counted:,} rows.",
            f"Row n of each belongs to item n. If there is a file {_FILMS[0]}, it is the one that fits.",
        )
    n_users = require_codes(table, "user", None, "users of the files")
    require_codes(table, "item", films.height, f"films of {path.name}")
    item_ids = films["item_id"].to_list()
    pairs = named(table, [str(code) for code in range(n_users)], item_ids)
    pairs, repeated = _without_repeated_part(pairs, refused)
    media: dict[str, Media] = {}
    posters = _find(folder, _POSTERS)
    if posters is not None:
        _require_codes_as_ids(films, path, posters)
        media["image"] = FileMedia(pictures_by_item(posters, set(item_ids), refused))
    notes = {"source": "llmrec/netflix", "films": path.name, "valid_repeats_test": repeated}
    return source_data(settle(pairs, refused), films, vectors, refused, notes, ("title",), media)


def _find(folder: Path, *names: str) -> Path | None:
    places = [place / name for name in names for place in (folder, folder / _ARCHIVE)]
    return next((place for place in places if place.exists()), None)


def _read_films(path: Path) -> pl.DataFrame:
    """Read the table; row n is the film with the code n."""
    names: list[str] = []
    titles: list[str | None] = []
    years: list[int | None] = []
    for row, number, text in numbered_lines(path, "film", _LINE):
        year, comma, title = text.partition(",")
        if not comma:
            raise InputError(f"{path}, row {row}: {text[:60]!r} is no year and title.", _LINE)
        names.append(number)
        years.append(_read_year(year.strip().strip('"'), path, row))
        titles.append(unquoted(title) or None)
    codes = [str(code) for code in range(len(names))]
    films = pl.DataFrame(
        {"item_id": codes, "title": titles, "year": years},
        schema={"item_id": pl.String, "title": pl.String, "year": pl.Int32},
    )
    return films if names == codes else films.with_columns(netflix_id=pl.Series(names, dtype=pl.String))


def _read_year(text: str, path: Path, row: int) -> int | None:
    if text.lower() in _NO_YEAR:
        return None
    year = _YEAR.fullmatch(text)
    if year is None:
        raise InputError(f"{path}, row {row}: the year is {text[:60]!r}.", _LINE)
    return int(year[1])


def _require_codes_as_ids(films: pl.DataFrame, path: Path, posters: Path) -> None:
    if "netflix_id" not in films.columns:
        return
    other = films.filter(pl.col("netflix_id") != pl.col("item_id"))
    raise InputError(
        f"{path}: the film with the code {other['item_id'][0]} has the id {other['netflix_id'][0]}; "
        f"{other.height:,} of {films.height:,} ids are not the codes. Whether the files in {posters.name} "
        "are named after ids or codes cannot be told.",
        "Name the posters after the codes, 0.jpg for the first film, and put the codes in place of the ids "
        f"in {path.name}; or take {posters.name} away, to do without pictures.",
    )


def _without_repeated_part(pairs: pl.DataFrame, refused: Refusals) -> tuple[pl.DataFrame, bool]:
    """Leave the validation pairs out where they are the test pairs, and list them."""
    valid, test = (
        pairs.filter(part=part).select("user_id", "item_id").unique().sort("user_id", "item_id")
        for part in PARTS[1:]
    )
    if valid.is_empty() or not valid.equals(test):
        return pairs, False
    refused.add_frame(
        pairs.filter(part=PARTS[1]).select(
            "source",
            "row",
            "user_id",
            "item_id",
            field=pl.lit("pair"),
            reason=pl.lit("the validation pairs are the test pairs"),
            value=pl.col("part"),
        )
    )
    return pairs.filter(pl.col("part") != PARTS[1]), True


sources: tuple[Source, ...] = (
    Source(
        name="llmrec/netflix",
        about="Films of the Netflix Prize with titles, years, posters and vectors, as LLMRec prepared them. "
        "train.json, val.json, test.json, item_attribute.csv, Netflix_Posters/ and <modality>_feat.npy; the "
        "README of LLMRec's repository names the shared folder (Google Drive) that its authors offer.",
        licence="Not stated with the files; the posters belong to their owners, the ratings to Netflix.",
        citation="W. Wei, X. Ren, J. Tang, Q. Wang, L. Su, S. Cheng, J. Wang, D. Yin, C. Huang, LLMRec: "
        "Large Language Models with Graph Augmentation for Recommendation, WSDM 2024",
        files=(),
        read=read_llmrec,
    ),
)
