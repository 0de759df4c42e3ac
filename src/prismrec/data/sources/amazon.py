"""Amazon's reviews and products by category, in the editions of 2014 and 2018 (5-core).

Published by J. McAuley's group at UC San Diego for research; no licence is stated. Reviews, texts and
pictures belong to their authors, sellers and photographers.

- 2014: R. He, J. McAuley, "Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class
  Collaborative Filtering", WWW 2016; J. McAuley, C. Targett, Q. Shi, A. van den Hengel, "Image-Based
  Recommendations on Styles and Substitutes", SIGIR 2015.
- 2018: J. Ni, J. Li, J. McAuley, "Justifying Recommendations Using Distantly-Labeled Reviews and Fine-Grained
  Aspects", EMNLP 2019.

The metadata cover a whole category; the catalogue takes the items that have a review in the 5-core. Ratings
are kept, and no threshold is set. The address of an item's picture becomes the attribute ``image_url``.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from prismrec.base.files import digest
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.amazon_items import ATTRIBUTES, TEXT_COLUMNS, ItemReader, ReadItem
from prismrec.data.sources.raw_log import RAW, parse_cells, settle_log
from prismrec.data.sources.record_lines import Record, RecordLines, json_record, literal_record
from prismrec.data.sources.source import RemoteFile, Source, SourceData

CATEGORIES_2014 = (
    "Baby",
    "Beauty",
    "Clothing_Shoes_and_Jewelry",
    "Electronics",
    "Office_Products",
    "Pet_Supplies",
    "Sports_and_Outdoors",
    "Toys_and_Games",
)
# Baby is no category of its own in this edition.
CATEGORIES_2018 = (
    "All_Beauty",
    "Clothing_Shoes_and_Jewelry",
    "Electronics",
    "Office_Products",
    "Pet_Supplies",
    "Sports_and_Outdoors",
    "Toys_and_Games",
)

_HOME_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_HOME_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
_LICENCE = "none stated; offered for research. Reviews, texts and pictures belong to their owners"
_CITE_2014 = (
    "R. He, J. McAuley: Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class "
    "Collaborative Filtering. WWW 2016"
)
_CITE_2018 = (
    "J. Ni, J. Li, J. McAuley: Justifying Recommendations Using Distantly-Labeled Reviews and Fine-Grained "
    "Aspects. EMNLP 2019"
)

_FIELDS = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
_ASIN = re.compile(r"""["']asin["']\s*:\s*["']([^"']*)["']""")
_CHUNK = 200_000
_SHOWN = 200


@dataclass(frozen=True)
class Edition:
    """How one edition is written.

    Parameters
    ----------
    parse
        Reads a line of the metadata.
    read_item
        Turns its record into attributes.
    """

    parse: Callable[[str], object]
    read_item: ReadItem


EDITION_2014 = Edition(literal_record, ItemReader.read_2014)
EDITION_2018 = Edition(json_record, ItemReader.read_2018)


def read_amazon(reviews: str, metadata: str, edition: Edition, folder: Path) -> SourceData:
    """Read a category.

    Lines that are broken, lack an id, a rating or a time, and repeated ones are left out and listed. An item
    without metadata stays, without attributes.

    Parameters
    ----------
    reviews, metadata
        Names of the files.
    edition
        How they are written.
    folder
        Where they are.

    Returns
    -------
    SourceData
        Without vectors and parts.

    Raises
    ------
    InputError
        If a file is missing or damaged, or no review is left.
    """
    refused = Refusals()
    log, reviews_read = _read_reviews(folder / reviews, refused)
    found, metadata_read, outside = _read_items(
        folder / metadata, edition, set(log["item_id"].unique()), refused
    )
    bare = sorted(set(log["item_id"].unique()) - set(found))
    rows = [*found.values(), *({"item_id": name} for name in bare)]
    items = pl.DataFrame(rows, schema=ATTRIBUTES)
    unused = [name for name in ("features",) if items[name].null_count() == items.height]
    texts = tuple(name for name in TEXT_COLUMNS if name not in unused)
    notes = {
        "rows_read": {reviews: reviews_read, metadata: metadata_read},
        "metadata_of_items_without_a_review": outside,
        "items_without_metadata": len(bare),
    }
    dataset = Dataset(Interactions(log), Catalog(items.drop(unused), texts), notes=notes)
    return SourceData(dataset, refused=refused)


def _read_reviews(path: Path, refused: Refusals) -> tuple[pl.DataFrame, int]:
    lines = RecordLines(path, json_record, refused)
    frames = [parse_cells(chunk, path, refused) for chunk in _chunks(path, lines, refused)]
    return settle_log(frames, path, lines.rows_read, refused), lines.rows_read


def _chunks(path: Path, lines: RecordLines, refused: Refusals) -> Iterator[pl.DataFrame]:
    """Yield raw logs of bounded size: as Python objects, a category may not fit into memory."""
    cells: list[tuple[int, str | None, str | None, str | None, str | None]] = []
    for row, record in lines:
        odd = next((key for key in _FIELDS.values() if isinstance(record.get(key), (bool, list, dict))), None)
        if odd is not None:
            reason = f"a {type(record[odd]).__name__}, expected a text or a number"
            refused.add(Refusal(str(path), row, odd, reason, value=str(record[odd])[:_SHOWN]))
            continue
        user, item, rating, time = (_cell(record.get(key)) for key in _FIELDS.values())
        cells.append((row, user, item, rating, time))
        if len(cells) == _CHUNK:
            yield pl.DataFrame(cells, schema=RAW, orient="row")
            cells = []
    yield pl.DataFrame(cells, schema=RAW, orient="row")


def _cell(value: object) -> str | None:
    return None if value is None else str(value)


def _read_items(
    path: Path, edition: Edition, wanted: set[str], refused: Refusals
) -> tuple[dict[str, Record], int, int]:
    """Return attributes by item id, the rows of the file, and how many of them concern other items."""
    reader = ItemReader(path, refused)
    found: dict[str, Record] = {}
    digests: dict[str, str] = {}
    outside = 0

    def skip(line: str) -> bool:
        # Parsing is what takes time, and most of a category's items have no review in the 5-core.
        nonlocal outside
        names = _ASIN.findall(line)
        strange = bool(names) and not any(name in wanted for name in names)
        outside += strange
        return strange

    lines = RecordLines(path, edition.parse, refused, skip)
    for row, record in lines:
        name = record.get("asin")
        if not isinstance(name, str) or not name.strip():
            refused.add(Refusal(str(path), row, "item_id", "missing", value=str(name)[:_SHOWN]))
            continue
        if name not in wanted:
            outside += 1
            continue
        content = digest(repr(record).encode())
        if name in found:
            reason = "duplicate" if content == digests[name] else "duplicate, with other values"
            refused.add(Refusal(str(path), row, "item_id", reason, item_id=name))
            continue
        digests[name] = content
        found[name] = edition.read_item(reader, name, row, record)
    return found, lines.rows_read, outside


def _source(year: int, category: str) -> Source:
    spoken = category.replace("_", " ")
    if year == 2014:
        names = f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"
        urls = tuple(f"{_HOME_2014}/{name}" for name in names)
        edition, citation = EDITION_2014, _CITE_2014
    else:
        names = f"{category}_5.json.gz", f"meta_{category}.json.gz"
        urls = f"{_HOME_2018}/categoryFilesSmall/{names[0]}", f"{_HOME_2018}/metaFiles2/{names[1]}"
        edition, citation = EDITION_2018, _CITE_2018
    about = ("reviews, users and items with at least 5", "metadata of the whole category")
    return Source(
        name=f"amazon-{year}/{category.lower().replace('_', '-')}",
        about=f"Amazon reviews of {year}, {spoken}, 5-core: ratings, times, texts, addresses of pictures",
        licence=_LICENCE,
        citation=citation,
        files=tuple(
            RemoteFile(name, url, about=text) for name, url, text in zip(names, urls, about, strict=True)
        ),
        read=partial(read_amazon, *names, edition),
    )


sources: tuple[Source, ...] = (
    *(_source(2014, category) for category in CATEGORIES_2014),
    *(_source(2018, category) for category in CATEGORIES_2018),
)
