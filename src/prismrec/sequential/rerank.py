"""A tuned language model as the second stage: it puts the best of a first stage in its own order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress
from prismrec.data.media_sources import FirstMedia
from prismrec.data.vocabulary import UNKNOWN
from prismrec.recommender.recommender import Recommender
from prismrec.sequential.backbone import Backbone
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.histories import sequences
from prismrec.sequential.prepared import Prepared
from prismrec.sequential.runs import load_run
from prismrec.sequential.scoring import score_examples
from prismrec.sequential.titles import display_titles
from prismrec.sequential.writer import Shelf, Writer


@dataclass(frozen=True)
class Reranker:
    """Puts candidates in the order of a language model.

    Parameters
    ----------
    backbone, writer
        The model.
    prepared
        The questions that it was tuned on.
    """

    backbone: Backbone
    writer: Writer
    prepared: Prepared

    @staticmethod
    def load(run: Path, *, device: str = "cpu", shop: Path | None = None) -> "Reranker":
        """Load a finished run of `prismrec sequential`.

        Raises
        ------
        InputError
            If the run does not rank: its task is ``binary``.
        """
        _, prepared, backbone, writer = load_run(run, device=device, shop=shop)
        if prepared.task is Task.BINARY:
            raise InputError(
                f"{run}: this run answers Yes or No about one item and ranks nothing.",
                "Use a run of the task rerank, next or top3.",
            )
        return Reranker(backbone, writer, prepared)

    def history(self, user: str) -> list[str]:
        """Return what a user took, oldest first, as far as the model's data set knows; empty: nothing."""
        return self._histories.get(user, [])

    @cached_property
    def _histories(self) -> dict[str, list[str]]:
        ids = self.prepared.ids
        return {one.user: [ids[item] for item in one.items] for one in sequences(self.prepared.dataset)}

    def rerank(
        self,
        lists: pl.DataFrame,
        histories: Mapping[str | None, Sequence[str]],
        *,
        new: Shelf | None = None,
        progress: Progress = SILENT,
    ) -> pl.DataFrame:
        """Put recommendations in the model's order.

        Parameters
        ----------
        lists
            As `Recommender.recommend` returns them: ``user_id``, ``rank``, ``item_id``, ``score``, and more
            columns, which stay.
        histories
            What each user took, item ids, oldest first; of None, who has no id. A user without a history
            keeps the order of the first stage.
        new
            Items that the model's data set does not know, with title and picture: they are all it needs.
        progress
            Where to report to.

        Returns
        -------
        DataFrame
            The rows of `lists`, by user and new rank: ``rank`` anew, ``score`` the mean log-probability of a
            title's tokens, and ``first_rank``, the rank before. Where a user keeps the first stage's order,
            ``score`` is null.

        Raises
        ------
        InputError
            If an item is known neither to the data set nor among `new`.
        """
        writer = self._with(new) if new is not None else self.writer
        codes = {name: code for code, name in enumerate(writer.shelf.ids)}
        blocks = lists.partition_by("user_id", maintain_order=True)
        examples, asked = [], []
        for number, block in enumerate(blocks):
            user = block["user_id"][0]
            known = [codes[i] for i in histories.get(user, []) if i in codes][-self.prepared.config.shown :]
            if known:
                name = "anonymous" if user is None else str(user)
                candidates = _codes(block["item_id"].to_list(), codes)
                examples.append(Example(name, tuple(known), (), candidates))
                asked.append(number)
        scores = score_examples(self.backbone, writer, examples, progress=progress)
        found = dict(zip(asked, scores, strict=True))
        # The rows of nobody have the new columns, too.
        return pl.concat(
            [_ordered(lists.clear(), None), *(_ordered(b, found.get(n)) for n, b in enumerate(blocks))]
        )

    def _with(self, new: Shelf) -> Writer:
        old, known = self.writer, self.writer.shelf
        there = set(known.ids)
        fresh = [(i, t) for i, t in zip(new.ids, new.titles, strict=True) if i not in there]
        if not fresh:
            return old
        titles, _ = display_titles(
            [title for _, title in fresh], [name for name, _ in fresh], old.noun, taken=known.titles
        )
        pictures = [shelf.pictures for shelf in (known, new) if shelf.pictures is not None]
        shelf = Shelf(
            [*known.ids, *(name for name, _ in fresh)], [*known.titles, *titles], FirstMedia(pictures)
        )
        return Writer(old.task, old.template, old.noun, old.plural, shelf, old.processor, old.max_tokens)


def _codes(names: Sequence[str], codes: dict[str, int]) -> tuple[int, ...]:
    found = [codes.get(name, UNKNOWN) for name in names]
    if UNKNOWN in found:
        raise InputError(
            f"The language model's data set does not know the item {names[found.index(UNKNOWN)]!r}.",
            "Rank with runs of one data set, or give the new items with their titles.",
        )
    return tuple(found)


def _ordered(block: pl.DataFrame, scores: np.ndarray | None) -> pl.DataFrame:
    first = block.with_columns(first_rank=pl.col("rank"))
    if scores is None:
        return first.with_columns(score=pl.lit(None, pl.Float64))
    order = np.argsort(-scores, kind="stable")
    return first.with_columns(score=pl.Series(scores))[order].with_columns(rank=_ranks(block))


def _ranks(block: pl.DataFrame) -> pl.Series:
    return pl.Series(np.sort(block["rank"].to_numpy()))


def rerank_lists(
    lists: pl.DataFrame,
    first: Recommender,
    reranker: Reranker,
    *,
    k: int,
    liked: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """Put what a first stage recommends in the language model's order and keep the best.

    Parameters
    ----------
    lists
        What `first` recommends: as many items as the model is to read.
    first
        The first stage. Items that were added to it need no more than their title and picture.
    reranker
        The second.
    k
        Length of the lists.
    liked
        Instead of users: what one anonymous person likes, oldest first.
    progress
        Where to report to.

    Returns
    -------
    DataFrame
        As `Reranker.rerank` returns it, ranks 1 to k.
    """
    if liked is not None:
        histories: dict[str | None, list[str]] = {None: list(liked)}
    else:
        users = lists["user_id"].unique(maintain_order=True).to_list()
        histories = {user: reranker.history(user) or first.history(user) for user in users}
    again = reranker.rerank(lists, histories, new=shelf_of(first), progress=progress)
    return again.filter(pl.col("rank") <= k)


def shelf_of(recommender: Recommender) -> Shelf:
    """Return a run's items, those that were added later too, with what a prompt needs of them."""
    catalog = recommender.catalog
    items = catalog.items
    raw = items["title"].to_list() if "title" in items.columns else catalog.titles()
    titles = ["" if title is None else str(title) for title in raw]
    return Shelf(catalog.vocabulary.ids, titles, catalog.media.get("image"))
