"""From items that are handed in to rows of a snapshot, by the run's encoders and model.

`Recommender.add_items` does the work, on a recommender in memory that holds nothing but the items in
question, as they are known now, so that it sees what changed. What it costs depends on the batch alone.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.recommender.additions import AddReport
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.vectors import ItemVectors
from prismrec.serving.storage import StoredItem
from prismrec.serving.types import Item, NewItem

Problem = tuple[str, str, str]


@dataclass(frozen=True)
class Known:
    """What is known of an item beside its vector.

    Parameters
    ----------
    item
        As it is shown.
    folded_title
        For search without regard to letter case.
    handed_in
        Whether its picture lies in the store; else with the run.
    present, weights, experts
        Its row of `ItemVectors`.
    digests
        Of its contents, by modality.
    """

    item: Item
    folded_title: str
    handed_in: bool
    present: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32] | None
    experts: npt.NDArray[np.float32] | None
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """Items that are ready for a snapshot.

    Parameters
    ----------
    frame
        Their attributes, with the run's columns and types.
    vectors
        Shape ``(n, d)``.
    known
        The rest, in the same order.
    """

    frame: pl.DataFrame
    vectors: npt.NDArray[np.float32]
    known: tuple[Known, ...]

    @property
    def ids(self) -> list[str]:
        """Item ids."""
        return [one.item.item_id for one in self.known]

    def take(self, places: Sequence[int]) -> "Rows":
        """Return some of them."""
        chosen = tuple(self.known[place] for place in places)
        return Rows(self.frame[list(places)], self.vectors[list(places)], chosen)


def run_rows(run: Recommender, pictures: frozenset[str]) -> Rows:
    """Return the items that a run has.

    Parameters
    ----------
    run
        The run.
    pictures
        Items that have a picture there.
    """
    return _rows(run, pictures, handed_in=False)


def as_catalog(run: Recommender, items: Sequence[NewItem]) -> tuple[Catalog, list[Problem]]:
    """Give items the columns and types of a run's catalogue.

    Returns
    -------
    catalog
        The items that fit, with their pictures.
    problems
        Item, field and reason: of attributes that the catalogue does not have, which are left out, and of
        values that do not fit their column; an item with such a value is left out whole.

    Raises
    ------
    InputError
        If an id is empty or stands twice.
    """
    for name, count in Counter(item.item_id for item in items).items():
        if not name:
            raise InputError("An item has an empty item_id.", "Give each item an id of its own.")
        if count > 1:
            raise InputError(f"The item id {name!r} stands {count} times.", "Hand in each item once.")
    schema = {name: dtype for name, dtype in run.catalog.items.schema.items() if name != "item_id"}
    problems: list[Problem] = []
    kept: list[dict[str, Any]] = []
    for item in items:
        wrong = False
        values: dict[str, Any] = {"item_id": item.item_id}
        for column, value in item.attributes.items():
            if column not in schema:
                problems.append((item.item_id, column, "the catalogue has no such column; it was left out"))
                continue
            try:
                values[column] = _fitting(value, schema[column])
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
                expected = f"expected {schema[column]}, not {value!r}; the item was not taken"
                problems.append((item.item_id, column, expected))
                wrong = True
        if not wrong:
            kept.append(values)
    frame = pl.DataFrame(kept, schema=run.catalog.items.schema, strict=True)
    there = set(frame["item_id"])
    found = {i.item_id: i.picture for i in items if i.picture is not None and i.item_id in there}
    media = {"image": MemoryMedia(found)} if found else {}
    return Catalog(frame, run.catalog.text_columns, media), problems


def _fitting(value: Any, dtype: pl.DataType) -> Any:
    """Return a value as its column holds it; raise if it cannot."""
    if isinstance(value, str) and isinstance(dtype, pl.Date):
        value = date.fromisoformat(value)
    elif isinstance(value, str) and isinstance(dtype, pl.Datetime):
        value = datetime.fromisoformat(value)
    elif isinstance(value, bool) and dtype.is_numeric():
        raise TypeError("true and false are no numbers")
    elif isinstance(dtype, pl.List) and not isinstance(value, list | tuple | None):
        raise TypeError("not a list")
    return pl.Series([value], dtype=dtype, strict=True)[0]


def encode(run: Recommender, now: Rows, new: Catalog) -> tuple[Rows, AddReport]:
    """Encode items and send them through the model.

    Parameters
    ----------
    run
        The run; it stays as it is.
    now
        Those of the items that are known, as they are now.
    new
        The items, of the run's columns.

    Returns
    -------
    rows
        All the items, unchanged ones as they were, in the order of `new`.
    report
        What became of them.

    Raises
    ------
    InputError
        If an encoder cannot be used any more.
    """
    scratch = replace(
        run,
        catalog=Catalog(now.frame, run.catalog.text_columns),
        items=_item_vectors(run, now),
        digests={
            modality: {
                one.item.item_id: one.digests[modality] for one in now.known if modality in one.digests
            }
            for modality in run.modalities
        },
        # Nothing is written to the run's folder: the store keeps what is handed in.
        path=None,
    )
    report = scratch.add_items(new)
    pictures = frozenset(new.media["image"].ids) if "image" in new.media else frozenset()
    made = _rows(scratch, pictures, handed_in=True)
    return made.take(scratch.item_ids.codes(new.vocabulary.ids).tolist()), report


def stored(rows: Rows, items: Mapping[str, NewItem], model: str) -> list[StoredItem]:
    """Return rows as the store keeps them, made by a version `model` of the bundle."""
    return [
        StoredItem(items[one.item.item_id], model, vector, _pack(one))
        for one, vector in zip(rows.known, rows.vectors, strict=True)
    ]


def unstored(run: Recommender, found: Sequence[StoredItem]) -> Rows:
    """Return rows that the store kept, made by the version that runs.

    Raises
    ------
    DamagedError
        If an item does not fit the run.
    """
    catalog, problems = as_catalog(run, [row.item for row in found])
    wrong = [row.item.item_id for row in found if row.vector.shape != (run.items.vectors.shape[1],)]
    if len(catalog) < len(found) or wrong:
        raise DamagedError(
            f"The store's items do not fit the run whose version they name: {wrong or problems[:1]}.",
            "Give each bundle a version of its own.",
        )
    known = []
    titles = catalog.titles()
    for row, title, attributes in zip(found, titles, _attributes(catalog), strict=True):
        present, weights, experts, digests = _unpack(row)
        item = _item(run, row.item.item_id, title, attributes, row.item.picture is not None, present)
        known.append(Known(item, title.casefold(), True, present, weights, experts, digests))
    vectors = np.stack([row.vector for row in found]).astype(np.float32)
    return Rows(catalog.items, vectors, tuple(known))


def _rows(run: Recommender, pictures: frozenset[str], *, handed_in: bool) -> Rows:
    items, known = run.items, []
    titles = run.catalog.titles()
    of_item: dict[str, dict[str, str]] = {}
    for modality, table in run.digests.items():
        for name, value in table.items():
            of_item.setdefault(name, {})[modality] = value
    rows = zip(run.item_ids.ids, titles, _attributes(run.catalog), strict=True)
    for code, (name, title, attributes) in enumerate(rows):
        item = _item(run, name, title, attributes, name in pictures, items.present[code])
        weights = None if items.weights is None else items.weights[code]
        experts = None if items.experts is None else items.experts[code]
        known.append(
            Known(
                item,
                title.casefold(),
                handed_in,
                items.present[code],
                weights,
                experts,
                of_item.get(name, {}),
            )
        )
    return Rows(run.catalog.items, items.vectors, tuple(known))


def _attributes(catalog: Catalog) -> list[dict[str, Any]]:
    if not catalog.attributes:
        return [{} for _ in range(len(catalog))]
    return catalog.items.select(catalog.attributes).to_dicts()


def _item(
    run: Recommender,
    name: str,
    title: str,
    attributes: Mapping[str, Any],
    has_picture: bool,
    present: npt.NDArray[np.bool_],
) -> Item:
    """Return an item as it is shown; whether it is ranked is said as `Recommender.can_recommend` does."""
    config = run.model.config
    code = int(run.split.items.codes([name])[0])
    warm = code >= 0 and bool(run.split.warm_items[code])
    has_content = not config.uses_content or bool(present.any())
    ranked = has_content if config.recommends_cold_items else warm
    return Item(name, title, attributes, has_picture, not warm, ranked)


def _item_vectors(run: Recommender, now: Rows) -> ItemVectors:
    whole, n = run.items, len(now.known)

    def gathered(like: npt.NDArray[Any] | None, values: Sequence[Any]) -> Any:
        if like is None:
            return None
        return np.array(values, dtype=like.dtype).reshape(n, *like.shape[1:])

    return ItemVectors(
        now.vectors,
        gathered(whole.present, [one.present for one in now.known]),
        gathered(whole.weights, [one.weights for one in now.known]),
        gathered(whole.experts, [one.experts for one in now.known]),
    )


def _pack(one: Known) -> bytes:
    notes = {
        "present": one.present.tolist(),
        "weights": None if one.weights is None else one.weights.tolist(),
        "experts": None if one.experts is None else one.experts.tolist(),
        "digests": dict(one.digests),
    }
    return json.dumps(notes).encode()


def _unpack(row: StoredItem) -> tuple[npt.NDArray[np.bool_], Any, Any, dict[str, str]]:
    try:
        notes = json.loads(row.notes)
        weights, experts = (
            None if notes[name] is None else np.array(notes[name], dtype=np.float32)
            for name in ("weights", "experts")
        )
        return np.array(notes["present"], dtype=np.bool_), weights, experts, notes["digests"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"The store's notes on item {row.item.item_id!r} are damaged ({error}).",
            "Hand the item in again.",
        ) from error
