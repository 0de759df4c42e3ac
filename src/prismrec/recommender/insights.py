"""What a recommender attends to, over its whole catalogue, as the report shows it."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from prismrec.data.catalog import Catalog
from prismrec.evaluation.report_inputs import ExpertLoad, ModalityWeights
from prismrec.recommender.recommender import Recommender

# An attribute of one of these names is what people mean by a category.
_NAMES = ("genres", "genre", "category", "categories", "main_category", "department", "tags", "type")
_MOST = 60
# A string of several categories, as many catalogues write them.
_BETWEEN = "|"


def modality_weights(recommender: Recommender) -> ModalityWeights | None:
    """Return each item's modality weights with its categories; None if the model does not weigh."""
    items = recommender.items
    if items.weights is None or not recommender.modalities:
        return None
    shown = items.present.any(axis=1)
    if not shown.any():
        return None
    weights = np.where(items.present, items.weights, np.nan)[shown]
    every = categories(recommender.catalog)
    chosen = None if every is None else [every[row] for row in np.flatnonzero(shown)]
    return ModalityWeights(recommender.modalities, weights, chosen)


def expert_load(recommender: Recommender) -> ExpertLoad | None:
    """Return how much each expert does, over the items that have the modality; None without experts.

    Modalities that the model does not route are left out.
    """
    items = recommender.items
    if items.experts is None:
        return None
    names, rows = [], []
    for place, name in enumerate(recommender.modalities):
        weights = items.experts[items.present[:, place], place].astype(np.float64)
        mean = weights.mean(axis=0) if len(weights) else np.zeros(0)
        if mean.sum() > 0:
            names.append(name)
            rows.append(mean / mean.sum())
    return ExpertLoad(names, np.stack(rows)) if rows else None


def category_column(catalog: Catalog) -> str | None:
    """Return the attribute that groups items for people; None if there is none.

    One that is called like a category; else a list of strings, or a column of strings, with few values.
    """
    by_name = {name.lower(): name for name in reversed(catalog.attributes)}
    candidates = [by_name[name] for name in _NAMES if name in by_name]
    candidates += [name for name in catalog.attributes if name not in candidates]
    for name in candidates:
        column = catalog.items[name]
        if column.dtype not in (pl.String, pl.List(pl.String)):
            continue
        named = name.lower() in _NAMES
        if not named and name in catalog.text_columns and column.dtype == pl.String:
            continue
        distinct = column.explode().n_unique() if column.dtype != pl.String else column.n_unique()
        few = 2 <= distinct <= min(_MOST, max(2, len(column) // 3))
        if few or (named and 2 <= distinct < len(column)):
            return name
    return None


def categories(catalog: Catalog) -> list[Sequence[str]] | None:
    """Return each item's categories; None if no attribute groups items."""
    name = category_column(catalog)
    if name is None:
        return None
    return [_as_list(value) for value in catalog.items[name].to_list()]


def _as_list(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [text for text in value if text]
    return [part.strip() for part in str(value).split(_BETWEEN) if part.strip()]
