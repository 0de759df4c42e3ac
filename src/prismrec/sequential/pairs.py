"""Preference pairs: the answer that was right beside answers that were not.

Where wrong answers come from decides what is learnt: any item (easy), popular ones, ones that are like the
right one (hard), or what the supervised model itself would have answered (SPRec, arXiv 2412.09243).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path
from prismrec.data.dataset import Dataset
from prismrec.models.settings import Settings
from prismrec.sequential.examples import Example
from prismrec.sequential.histories import Dropped
from prismrec.sequential.pool import ItemPool, keyed
from prismrec.sequential.popularity import popularity
from prismrec.sequential.wrong_answers import Alike, Codes, Scores, checked_neighbours, ranked_wrong


@dataclass(frozen=True)
class Pair:
    """A right answer and wrong ones to the same question; items are codes of the catalogue.

    Parameters
    ----------
    example
        Number of the example.
    chosen
        The right answer: its positives. For ``binary``, where the answer is a word, none.
    rejected
        The wrong answers, each as long as `chosen` and aligned with it. For ``binary`` none.
    """

    example: int
    chosen: tuple[int, ...]
    rejected: tuple[tuple[int, ...], ...]


class PairConfig(Settings):
    """Where wrong answers come from."""

    source: Literal["candidates", "uniform", "popularity", "neighbours", "genre", "policy"] = Field(
        "candidates",
        description="'candidates': the example's own; 'uniform', 'popularity': the catalogue; 'neighbours': "
        "items like the right one; 'genre': items that share its 'attribute'; 'policy': the wrong candidates "
        "that the supervised model scores best.",
    )
    rejected: int = Field(1, ge=1, le=64, description="Wrong answers of a pair; binary has one.")
    attribute: str | None = Field(
        None, min_length=1, description="Attribute of the catalogue, for source='genre'."
    )
    seed: int = Field(0, ge=0, description="Of all draws.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.source == "genre") != (self.attribute is not None):
            raise ValueError("source='genre' needs 'attribute', and no other source takes it")
        return self


@dataclass(frozen=True)
class MadePairs:
    """Pairs, and how they came about.

    Parameters
    ----------
    pairs
        In the order of the examples.
    titles
        Wrong titles in all of them.
    filled
        How many of these were drawn uniformly because the source had too few.
    dropped
        Examples without a pair.
    """

    pairs: list[Pair]
    titles: int
    filled: int
    dropped: tuple[Dropped, ...]


def make_pairs(
    examples: Sequence[Example],
    config: PairConfig,
    dataset: Dataset,
    *,
    neighbours: Codes | None = None,
    scores: Sequence[Scores] | None = None,
) -> MadePairs:
    """Put wrong answers beside the right one of each example.

    A wrong title is never one that the user touched at any time, and no two of a pair are called alike. Where
    the source has too few, the rest is drawn uniformly from the catalogue, and counted. (``top3`` beside 4
    negatives has candidates for one wrong answer; more of them need more negatives.) Draws depend on the seed
    and the example's content, not on its number.

    Parameters
    ----------
    examples
        Of training: popularity is counted in them.
    config
        What to make.
    dataset
        That the examples come from.
    neighbours
        For ``neighbours``: codes of the items nearest to each, nearest first, -1 where there are fewer, shape
        ``(n_items, k)``. The nearest ones are taken, nothing is drawn.
    scores
        For ``policy``: of each example the scores of its candidates, in their order, higher is better. The
        best wrong ones make the first wrong answer, the next ones the second.

    Raises
    ------
    InputError
        If what the source needs is missing or does not fit, a user is unknown, or binary examples are asked
        for several wrong answers.
    """
    _check_given(config, neighbours, scores)
    if config.rejected > 1 and any(example.label is not None for example in examples):
        raise InputError(
            f"{config.rejected} wrong answers were asked for, and Yes or No has one.", "Set 'rejected' to 1."
        )
    _check_codes(examples, len(dataset.items))
    pool = ItemPool.of(dataset)
    source = _source(examples, config, dataset, pool, neighbours, scores)
    pairs: list[Pair] = []
    titles = filled = short = 0
    for number, example in enumerate(examples):
        if example.label is not None:
            pairs.append(Pair(number, (), ()))
            continue
        random = keyed(config.seed, "pair", example.user, *example.positives, *example.history)
        found, drawn = _wrong(example, source(number, random), config.rejected, pool, random)
        if found is None:
            short += 1
            continue
        pairs.append(Pair(number, example.positives, found))
        titles += config.rejected * len(example.positives)
        filled += drawn
    reason = "examples of users who have touched too many items for wrong answers to be left"
    return MadePairs(pairs, titles, filled, (Dropped(reason, short),) if short else ())


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as Parquet, one row each, in their order."""
    items = pa.list_(pa.int32())
    table = pa.table(
        {
            "example": pa.array([pair.example for pair in pairs], pa.int64()),
            "chosen": pa.array([list(pair.chosen) for pair in pairs], items),
            "rejected": pa.array([[list(one) for one in pair.rejected] for pair in pairs], pa.list_(items)),
        }
    )
    with atomic_path(path) as partial:
        pq.write_table(table, partial)


def read_pairs(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote.

    Raises
    ------
    DamagedError
        If the file is missing or broken.
    """
    try:
        rows = pl.read_parquet(path).rows(named=True)
        return [
            Pair(int(row["example"]), tuple(row["chosen"]), tuple(tuple(one) for one in row["rejected"]))
            for row in rows
        ]
    except (OSError, pl.exceptions.PolarsError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path}: these are not pairs that can be read ({error}).", "Make the pairs again."
        ) from error


# Of an example and a generator: for each place of the answer a stream of items, the preferred ones first. The
# streams of several places may be one and the same.
_Source = Callable[[int, np.random.Generator], Sequence[Iterator[int]]]


def _wrong(
    example: Example,
    streams: Sequence[Iterator[int]],
    count: int,
    pool: ItemPool,
    random: np.random.Generator,
) -> tuple[tuple[tuple[int, ...], ...] | None, int]:
    """Return the wrong answers, None where the catalogue has too few, and how many titles were filled in."""
    shown = pool.titles[[*example.positives, *example.history]].tolist()
    avoid = set(pool.taken(example.user)).union(shown)
    answers: list[list[int]] = []
    gaps: list[tuple[int, int]] = []
    for row in range(count):
        answers.append([])
        for place, stream in enumerate(streams):
            item = next((code for code in stream if _may(code, pool, avoid)), -1)
            answers[row].append(item)
            if item < 0:
                gaps.append((row, place))
            else:
                avoid.add(int(pool.titles[item]))
    filling = pool.draw(random, len(gaps), avoid) if gaps else []
    if len(filling) < len(gaps):
        return None, 0
    for (row, place), item in zip(gaps, filling, strict=True):
        answers[row][place] = item
    return tuple(tuple(answer) for answer in answers), len(gaps)


def _may(code: int, pool: ItemPool, avoid: set[int]) -> bool:
    return code >= 0 and pool.titles[code] >= 0 and int(pool.titles[code]) not in avoid


def _source(
    examples: Sequence[Example],
    config: PairConfig,
    dataset: Dataset,
    pool: ItemPool,
    neighbours: Codes | None,
    scores: Sequence[Scores] | None,
) -> _Source:
    if config.source == "candidates":
        return lambda number, random: _one_for_all(examples[number], _mixed(examples[number], random))
    if config.source == "policy":
        assert scores is not None
        ranked = ranked_wrong(examples, scores)
        return lambda number, random: _one_for_all(examples[number], ranked(number))
    if config.source == "neighbours":
        assert neighbours is not None
        rows = checked_neighbours(neighbours, len(dataset.items))
        return lambda number, random: [iter(rows[code].tolist()) for code in examples[number].positives]
    if config.source == "genre":
        assert config.attribute is not None
        like = Alike(dataset, config.attribute)
        return lambda number, random: [like.stream(code, random) for code in examples[number].positives]
    if config.source == "popularity":
        pool = pool.by_popularity(popularity(examples, len(dataset.items)))
    needed = config.rejected

    def draw(number: int, random: np.random.Generator) -> Sequence[Iterator[int]]:
        example = examples[number]
        found = pool.draw(random, needed * len(example.positives), pool.taken(example.user))
        return _one_for_all(example, found)

    return draw


def _one_for_all(example: Example, codes: Sequence[int]) -> Sequence[Iterator[int]]:
    """Let all places of an answer take from one stream, so that the first answer gets the first items."""
    return [iter(codes)] * len(example.positives)


def _mixed(example: Example, random: np.random.Generator) -> list[int]:
    return [example.candidates[place] for place in random.permutation(len(example.candidates)).tolist()]


def _check_given(config: PairConfig, neighbours: object, scores: object) -> None:
    for name, given, source in (("neighbours", neighbours, "neighbours"), ("scores", scores, "policy")):
        if (given is not None) != (config.source == source):
            raise InputError(
                f"The source of wrong answers is {config.source!r}, and {name} were "
                f"{'given' if given is not None else 'not given'}.",
                f"Give {name} for source={source!r}, and for no other.",
            )


def _check_codes(examples: Sequence[Example], n_items: int) -> None:
    for number, example in enumerate(examples):
        for code in (*example.positives, *example.history, *example.candidates):
            if not 0 <= code < n_items:
                raise InputError(
                    f"Example {number} (user {example.user!r}) holds item code {code}, and the catalogue has "
                    f"{n_items:,} items.",
                    "Give the data set that the examples were made of.",
                )
