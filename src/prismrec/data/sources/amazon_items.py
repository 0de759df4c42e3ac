"""What Amazon's metadata say of an item, in the editions of 2014 and 2018, as attributes."""

import html
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from prismrec.data.media_folder import is_url
from prismrec.data.report import Refusal, Refusals
from prismrec.data.sources.record_lines import Record

_TEXTS = pl.List(pl.String())

ATTRIBUTES = pl.Schema(
    {
        "item_id": pl.String(),
        "title": pl.String(),
        "brand": pl.String(),
        "categories": _TEXTS,
        "features": _TEXTS,
        "description": pl.String(),
        "price": pl.Float64(),
        "image_url": pl.String(),
        "image_urls": _TEXTS,
    }
)
TEXT_COLUMNS = ("title", "brand", "categories", "features", "description")

_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_PRICE = re.compile(r"^\$?\s*(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?$")
_SHOWN = 200


class ItemReader:
    """Reads records of one edition; what it cannot use of a record it lists, and keeps the rest.

    Parameters
    ----------
    path
        The file, for the list of refusals.
    refused
        Told of values that cannot be used.
    """

    def __init__(self, path: Path, refused: Refusals) -> None:
        self._path = path
        self._refused = refused
        self._row = 0
        self._item = ""

    def read_2014(self, item_id: str, row: int, record: Record) -> Record:
        """Return the attributes of a record of the edition of 2014.

        Left out are the sales rank and what else was bought: they tell what people did later.
        """
        self._row, self._item = row, item_id
        urls = self._urls(record.get("imUrl"))
        return {
            "item_id": item_id,
            "title": self._title(record.get("title")),
            "brand": self._text("brand", record.get("brand")),
            "categories": self._texts("categories", record.get("categories")),
            "features": None,
            "description": self._text("description", record.get("description")),
            "price": self._price(record.get("price")),
            "image_url": urls[0] if urls else None,
            "image_urls": urls or None,
        }

    def read_2018(self, item_id: str, row: int, record: Record) -> Record:
        """Return the attributes of a record of the edition of 2018; pictures in their full size first."""
        self._row, self._item = row, item_id
        keys = ("imageURLHighRes", "imageURL", "image")
        urls = self._urls(next((record[key] for key in keys if record.get(key)), None))
        described = self._texts("description", record.get("description"))
        return {
            "item_id": item_id,
            "title": self._title(record.get("title")),
            "brand": self._text("brand", record.get("brand")),
            "categories": self._texts("categories", record.get("category")),
            "features": self._texts("features", record.get("feature")),
            "description": "\n".join(described) if described else None,
            "price": self._price(record.get("price")),
            "image_url": urls[0] if urls else None,
            "image_urls": urls or None,
        }

    def _refuse(self, field: str, reason: str, value: object) -> None:
        self._refused.add(
            Refusal(str(self._path), self._row, field, reason, item_id=self._item, value=str(value)[:_SHOWN])
        )

    def _title(self, value: object) -> str | None:
        # Some pages of 2018 were cut out wrongly: the title is then a script that measures time.
        if isinstance(value, str) and "getTime" in value:
            self._refuse("title", "a script of the page instead of a title", value)
            return None
        return self._text("title", value)

    def _text(self, field: str, value: object) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self._refuse(field, f"a {type(value).__name__}, expected a text", value)
            return None
        return plain_text(str(value)) or None

    def _texts(self, field: str, value: object) -> list[str] | None:
        """Flatten a list of texts, or of lists of them as the categories of 2014 are, each text once."""
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            text = self._text(field, value)
            return [text] if text else None
        found: list[str] = []
        for entry in value:
            found += (self._texts(field, entry) or []) if isinstance(entry, (list, tuple)) else []
            if not isinstance(entry, (list, tuple)):
                text = self._text(field, entry)
                found += [text] if text else []
        return list(dict.fromkeys(found)) or None

    def _price(self, value: object) -> float | None:
        if value is None or value == "":
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            self._refuse("price", "not a finite number", value)
            return None
        match = _PRICE.match(value.strip()) if isinstance(value, str) else None
        if match is None:
            self._refuse("price", "not one price", value)
            return None
        return float(match[1].replace(",", "") + (match[2] or ""))

    def _urls(self, value: object) -> list[str]:
        if value is None or value == "":
            return []
        entries: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        found = []
        for entry in entries:
            if isinstance(entry, str) and is_url(entry.strip()):
                found.append(entry.strip())
            else:
                self._refuse("image", "not a web address", entry)
        return list(dict.fromkeys(found))


ReadItem = Callable[[ItemReader, str, int, Record], Record]


def plain_text(text: str) -> str:
    """Return a text without tags, scripts, character references, and spaces in a row."""
    if "<" in text:
        text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    if "&" in text:
        text = html.unescape(text)
    return " ".join(text.split())
