"""What a language model is asked: the tasks, and one question with what is known of its answer.

Tasks as in Y. Wang et al., Hardness-Aware and Noise-Regularized Preference Optimization for Multimodal
Sequential Recommendation (SIGIR 2026, arXiv 2511.18740), and two that a shop needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prismrec.base.errors import DamagedError
from prismrec.base.files import atomic_path


class Task(StrEnum):
    """What is asked.

    Attributes
    ----------
    BINARY
        Whether the user will take an item: Yes or No.
    TOP3
        The three next items, latest first, among candidates.
    NEXT
        The next item, among the catalogue or a sample of it.
    RERANK
        The next item, among the best of a first stage.
    """

    BINARY = "binary"
    TOP3 = "top3"
    NEXT = "next"
    RERANK = "rerank"


@dataclass(frozen=True)
class Example:
    """One question about a user; items are codes of the catalogue.

    Parameters
    ----------
    user
        The user's id.
    history
        What the user took before, oldest first.
    positives
        What the user took then: one item, or for ``top3`` three, latest first. For ``binary`` the item
        that is asked about, whatever the answer. ``top3`` counts the first as the one to find.
    candidates
        Items to choose from, positives among them, shuffled; for ``binary`` none. For ``rerank`` the positive
        is missing where the first stage did not find it.
    listed
        For ``binary``: items that the user has not taken and whose titles are shown. Otherwise none.
    label
        For ``binary``: whether the user took the item. Otherwise None.
    """

    user: str
    history: tuple[int, ...]
    positives: tuple[int, ...]
    candidates: tuple[int, ...] = ()
    listed: tuple[int, ...] = ()
    label: bool | None = None


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as Parquet, one row each, in their order."""
    items = pa.list_(pa.int32())
    table = pa.table(
        {
            "user": pa.array([e.user for e in examples], pa.string()),
            "history": pa.array([list(e.history) for e in examples], items),
            "positives": pa.array([list(e.positives) for e in examples], items),
            "candidates": pa.array([list(e.candidates) for e in examples], items),
            "listed": pa.array([list(e.listed) for e in examples], items),
            "label": pa.array([e.label for e in examples], pa.bool_()),
        }
    )
    with atomic_path(path) as partial:
        pq.write_table(table, partial)


def read_examples(path: Path) -> list[Example]:
    """Read what `write_examples` wrote.

    Raises
    ------
    DamagedError
        If the file is missing or broken.
    """
    try:
        rows = pl.read_parquet(path).rows(named=True)
        return [
            Example(
                str(row["user"]),
                tuple(row["history"]),
                tuple(row["positives"]),
                tuple(row["candidates"]),
                tuple(row["listed"]),
                row["label"],
            )
            for row in rows
        ]
    except (OSError, pl.exceptions.PolarsError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path}: these are not examples that can be read ({error}).", "Run `sequential prepare` again."
        ) from error
