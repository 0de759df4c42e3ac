"""What a language model has to beat: scores at random, by popularity, and by a run of this toolkit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.data.vocabulary import UNKNOWN
from prismrec.recommender.recommender import Recommender
from prismrec.sequential.examples import Example
from prismrec.sequential.measures import Scored

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


def random_scores(examples: Sequence[Example], *, seed: int) -> list[Scored]:
    """Score at random, evenly between 0 and 1."""
    random = np.random.default_rng(seed)
    return [Scored(example, random.random(len(asked(example)))) for example in examples]


def popularity_scores(
    examples: Sequence[Example], counts: npt.NDArray[np.integer[Any]], *, seed: int = 0
) -> list[Scored]:
    """Score by how often items were taken in training.

    Among candidates, equally popular ones come in an order drawn by the seed: `measure` counts equal scores
    against the positive, which would make a baseline of whole numbers look worse than it is. For ``binary``,
    where the AUC counts them half, they stay equal.

    Parameters
    ----------
    examples
        Questions.
    counts
        Interactions of each item in the training part, by code, shape ``(n_items,)``.
    seed
        Of the order of equals.

    Raises
    ------
    InputError
        If an item has no count.
    """
    random = np.random.default_rng(seed)
    _require_items(examples, len(counts), "counts")
    scored = []
    for example in examples:
        scores = counts[_codes(example)].astype(np.float64)
        if example.label is None:
            scores += random.random(len(scores))
        scored.append(Scored(example, scores))
    return scored


@dataclass(frozen=True, eq=False)
class FirstStage:
    """Scores by a trained run, and what it could not answer as it should.

    Parameters
    ----------
    scored
        The questions with their scores.
    folded
        Questions that were answered by a vector from the shown history, not the user's trained one.
    averaged
        Questions about users whom the training did not see and whose history has no item that the run has a
        vector for; the average of all users answered.
    without_vector
        Items among those asked about that the run does not know or has no vector for; they have the worst
        score.
    validated
        Questions whose positive is in the run's validation part: it chose when to stop by them.
    """

    scored: list[Scored]
    folded: int
    averaged: int
    without_vector: int
    validated: int

    def notes(self) -> list[str]:
        """Say what a reader must know; empty where nothing is."""
        lines = {
            "questions answered from the shown history, not by the user's trained vector": self.folded,
            "questions about users and histories that it does not know, answered by the average user": (
                self.averaged
            ),
            "items that it has no vector for, given the worst score": self.without_vector,
            "questions whose positive is in its validation part, which chose its weights": self.validated,
        }
        return [f"First stage: {count:,} {what}." for what, count in lines.items() if count]


def first_stage_scores(
    examples: Sequence[Example],
    recommender: Recommender,
    item_ids: Sequence[str],
    *,
    from_history: bool = False,
) -> FirstStage:
    """Score by a trained run: its user vector times its item vectors.

    Parameters
    ----------
    examples
        Questions.
    recommender
        The run. It must not have been trained on what is asked.
    item_ids
        Id of each item code of the examples.
    from_history
        False: users have the vectors that the training gave them, and those whom it did not see one from the
        shown history. True: everybody has one from the shown history, so that the run knows what the language
        model is told, no more and nothing newer.

    Raises
    ------
    InputError
        If the run's training part holds a positive of the examples, none of the items is known to the run, or
        a code has no id.
    """
    _require_items(examples, len(item_ids), "ids")
    rows = recommender.item_ids.codes(item_ids).astype(np.int64)
    if examples and (rows == UNKNOWN).all():
        raise InputError(
            f"The run {_name(recommender)} knows none of the {len(rows):,} items.",
            "Give a run that was trained on the same data set.",
        )
    positives = _Positives.of(examples, recommender, rows)
    _require_unseen(positives, examples, recommender, item_ids)
    usable = np.zeros(len(rows), dtype=np.bool_)
    usable[rows != UNKNOWN] = recommender.can_recommend()[rows[rows != UNKNOWN]]
    scored, folded, averaged = [], 0, 0
    lacking: set[int] = set()
    for example in examples:
        vector, fallback = recommender.user_vector(example.user)
        if fallback or from_history:
            liked = [item_ids[code] for code in example.history if usable[code]]
            folded, averaged = folded + bool(liked), averaged + (fallback and not liked)
            vector = recommender.fold_in(liked) if liked else vector
        codes = _codes(example)
        lacking.update(codes[~usable[codes]].tolist())
        scores = _products(vector, recommender.items.vectors, rows[codes], usable[codes])
        scored.append(Scored(example, scores))
    valid = positives.among(recommender.split.valid, len(recommender.catalog))
    validated = len(np.unique(positives.question[valid]))
    return FirstStage(scored, folded, averaged, len(lacking), validated)


def asked(example: Example) -> tuple[int, ...]:
    """Return the items that are to be scored: the candidates, or for ``binary`` the one asked about."""
    return example.candidates if example.label is None else example.positives[:1]


def _codes(example: Example) -> Codes:
    return np.asarray(asked(example), dtype=np.int64)


def _products(vector: Floats, vectors: Floats, rows: Codes, usable: npt.NDArray[np.bool_]) -> Floats:
    scores = np.full(len(rows), -np.inf, dtype=np.float32)
    # Sums in double precision, rounded: equal vectors get equal scores wherever they stand in the product.
    scores[usable] = vectors[rows[usable]].astype(np.float64) @ vector.astype(np.float64)
    return scores


def _require_items(examples: Sequence[Example], n_items: int, what: str) -> None:
    for number, example in enumerate(examples):
        codes = (*asked(example), *example.history, *example.positives)
        if codes and not 0 <= min(codes) <= max(codes) < n_items:
            raise InputError(
                f"Question {number} (user {example.user!r}) names the items {min(codes)} to {max(codes)}, "
                f"and there are {what} of {n_items:,} items.",
                "Give those of the catalogue that the examples were prepared from.",
            )


@dataclass(frozen=True)
class _Positives:
    """What users took in the examples, one row each: question, item, and both as the run's codes."""

    question: Codes
    item: Codes
    user_code: Codes
    row: Codes

    @staticmethod
    def of(examples: Sequence[Example], recommender: Recommender, rows: Codes) -> "_Positives":
        # An item that is asked about and was not taken is no secret.
        taken = [(n, i) for n, e in enumerate(examples) if e.label is not False for i in e.positives]
        question, item = np.asarray(taken, dtype=np.int64).reshape(-1, 2).T
        users = recommender.split.users.codes([e.user for e in examples]).astype(np.int64)
        return _Positives(question, item, users[question], rows[item])

    def among(self, pairs: Pairs, n_items: int) -> npt.NDArray[np.bool_]:
        """Return which of them are among pairs."""
        known = (self.user_code != UNKNOWN) & (self.row != UNKNOWN)
        keys = pairs.users.astype(np.int64) * n_items + pairs.items
        found: npt.NDArray[np.bool_] = known & np.isin(self.user_code * n_items + self.row, keys)
        return found


def _require_unseen(
    positives: _Positives, examples: Sequence[Example], recommender: Recommender, item_ids: Sequence[str]
) -> None:
    seen = np.flatnonzero(positives.among(recommender.split.train, len(recommender.catalog)))
    if len(seen) == 0:
        return
    user, item = examples[positives.question[seen[0]]].user, item_ids[positives.item[seen[0]]]
    questions = len(np.unique(positives.question[seen]))
    raise InputError(
        f"The run {_name(recommender)} was trained on what it is asked: that user {user!r} took item "
        f"{item!r} stands in its training part (so it is with {questions:,} of {len(examples):,} questions).",
        "Train the first stage on a split that holds out the positives of these examples.",
    )


def _name(recommender: Recommender) -> str:
    return "in memory" if recommender.path is None else str(recommender.path)
