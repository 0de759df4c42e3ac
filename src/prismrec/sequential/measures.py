"""How well candidates are scored: AUC for a Yes or No, the rank of the one to find for all other tasks.

Nothing is skipped. A question without a usable answer is a miss, and so is a positive that the first stage
did not put among the candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError
from prismrec.evaluation.metrics import Metric, expected_random, metric_name
from prismrec.evaluation.result import Interval
from prismrec.evaluation.significance import mean_intervals
from prismrec.sequential.auc import auc_interval, auc_of_users
from prismrec.sequential.examples import Example, Task

Values = npt.NDArray[np.float64]

KS = (1, 3, 5, 10)
AUC, MRR = "auc", "mrr"


@dataclass(frozen=True, eq=False)
class Scored:
    """One question and the scores of what it asks about.

    Parameters
    ----------
    example
        The question.
    scores
        The higher, the better, one a candidate in their order, shape ``(len(candidates),)``. For ``binary``
        one, log P(Yes) - log P(No), shape ``(1,)``. Infinities are allowed, NaN is not. None: nothing usable
        was answered, a miss.
    """

    example: Example
    scores: npt.NDArray[np.floating[Any]] | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What one way of scoring reaches.

    Parameters
    ----------
    name
        Of the way of scoring.
    task
        What was asked.
    examples, users
        How many questions, about how many users.
    unanswered
        Questions without a usable answer; they are counted as misses.
    not_found
        Questions whose positive is not among the candidates; they are counted as misses.
    metrics
        Means over users with 95 % intervals, by name: ``auc``, or ``hit_rate@k``, ``ndcg@k`` and ``mrr``.
    per_user
        ``user`` (ascending), ``examples`` (how many) and each metric, one row a user; the mean of a column is
        the metric's. A user's ``auc`` is its share in the whole (`prismrec.sequential.auc.auc_of_users`).
    """

    name: str
    task: Task
    examples: int
    users: int
    unanswered: int
    not_found: int
    metrics: dict[str, Interval]
    per_user: pl.DataFrame

    @property
    def headline(self) -> str:
        """The metric to compare by: the paper's for its tasks, else NDCG of the longest list."""
        if self.task is Task.BINARY:
            return AUC
        published = metric_name(Metric.NDCG, 3)
        if self.task is Task.TOP3 and published in self.metrics:
            return published
        return [name for name in self.metrics if name.startswith(f"{Metric.NDCG}@")][-1]


def measure(
    name: str,
    task: Task,
    scored: Sequence[Scored],
    *,
    ks: Sequence[int] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Measured:
    """Measure scores of candidates.

    The first positive is the one to find; for ``top3`` the other two are competitors like any candidate, as
    the released code measures it. Equal scores count against it: its rank is 1 + the number of other
    candidates with at least its score. So a constant score finds nothing, and the order of the candidates
    has no say. Metrics are averaged over a user's questions, then over users.

    For ``binary`` an unusable answer is wrong against all others: an item that was taken goes below all, one
    that was not goes above all. Equal scores count half, as in any AUC.

    Parameters
    ----------
    name
        Of what gave the scores.
    task
        What was asked.
    scored
        Questions with their scores.
    ks
        Lengths of the lists; None: those of 1, 3, 5 and 10 that are below the number of candidates.
    resamples, seed
        Of the bootstrap over users.

    Raises
    ------
    InputError
        If there is no question, one does not fit the task or its scores, a k is larger than a number of
        candidates, or ``binary`` lacks one of the two answers.
    """
    examples = [one.example for one in scored]
    users, user = _users(task, examples)
    for number, one in enumerate(scored):
        _require_fit(task, number, one)
    sizes = np.bincount(user)
    unanswered = sum(one.scores is None for one in scored)
    if task is Task.BINARY:
        taken = np.array([one.example.label for one in scored], dtype=np.bool_)
        keys = _keys(scored, taken)
        columns = {AUC: auc_of_users(keys, taken, user)}
        intervals = [auc_interval(keys, taken, user, resamples=resamples, seed=seed)]
        not_found = 0
    else:
        ranks = np.array([_rank(one) for one in scored])
        by_example = _of_ranks(ranks, lengths(examples, ks))
        columns = {n: np.bincount(user, weights=v) / sizes for n, v in by_example.items()}
        intervals = mean_intervals(np.stack(list(columns.values())), resamples=resamples, seed=seed)
        not_found = sum(e.positives[0] not in e.candidates for e in examples)
    return Measured(
        name=name,
        task=task,
        examples=len(scored),
        users=len(users),
        unanswered=unanswered,
        not_found=not_found,
        metrics=dict(zip(columns, intervals, strict=True)),
        per_user=pl.DataFrame({"user": users, "examples": sizes, **columns}),
    )


def random_expectation(
    task: Task, examples: Sequence[Example], ks: Sequence[int] | None = None
) -> dict[str, float]:
    """Return what scores drawn at random reach on average, exactly, under the names that `measure` uses.

    With n candidates the rank is each of 1 to n with the same chance, so HR@k is k / n (3/7 for ``top3``
    with 7 candidates). A positive that is not among the candidates cannot be found.

    Raises
    ------
    InputError
        As `measure` does.
    """
    _, user = _users(task, examples)
    if task is Task.BINARY:
        return {AUC: 0.5}
    found = np.array([e.positives[0] in e.candidates for e in examples])
    n = np.array([len(e.candidates) for e in examples])[found]
    one = np.ones(len(n), dtype=np.int64)

    def mean(metric: Metric, k: int) -> float:
        values = np.zeros(len(examples))
        values[found] = expected_random(metric, k, one, n)
        return float((np.bincount(user, weights=values) / np.bincount(user)).mean())

    ks = lengths(examples, ks)
    expected = {metric_name(m, k): mean(m, k) for m in (Metric.HIT_RATE, Metric.NDCG) for k in ks}
    return {**expected, MRR: mean(Metric.MRR, int(n.max(initial=1)))}


def lengths(examples: Sequence[Example], ks: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the lengths of lists to measure, ascending.

    The smallest number of candidates is the bound; questions whose first stage found nothing are left out of
    it. By default k stays below it, because with k candidates everybody has a hit; 1 always stays.

    Raises
    ------
    InputError
        If no question has candidates, or one of `ks` is below 1 or above the bound.
    """
    least = min((len(e.candidates) for e in examples if e.candidates), default=0)
    if least == 0:
        raise InputError("No question has a candidate to choose from.", "Prepare the examples anew.")
    if ks is None:
        return tuple(k for k in KS if k == 1 or k < least)
    if not ks or min(ks) < 1 or max(ks) > least:
        raise InputError(
            f"Lists of the lengths {list(ks)} cannot be measured: a question has only {least} candidates.",
            f"Give whole numbers from 1 to {least}.",
        )
    return tuple(sorted(set(ks)))


def _users(task: Task, examples: Sequence[Example]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Users' ids ascending, and the place of each question's user among them."""
    if not examples:
        raise InputError(f"There is no question of the task '{task}' to measure.", "Prepare examples first.")
    users = sorted({example.user for example in examples})
    place = {name: number for number, name in enumerate(users)}
    return users, np.array([place[example.user] for example in examples])


def _require_fit(task: Task, number: int, one: Scored) -> None:
    example = one.example
    where = f"Question {number} (user {example.user!r})"
    if (task is Task.BINARY) != (example.label is not None) or not example.positives:
        raise InputError(f"{where} is none of the task '{task}'.", "Use examples prepared for this task.")
    if len(set(example.candidates)) < len(example.candidates):
        raise InputError(f"{where} has a candidate twice.", "Prepare the examples anew.")
    if one.scores is None:
        return
    wanted = 1 if task is Task.BINARY else len(example.candidates)
    if one.scores.shape != (wanted,) or np.isnan(one.scores).any():
        bad = int(np.isnan(one.scores).sum())
        raise InputError(
            f"{where} has scores of the shape {one.scores.shape}, {bad} of them NaN.",
            f"Expected {wanted}, none of them NaN; None where there is no usable answer.",
        )


def _rank(one: Scored) -> float:
    example, scores = one.example, one.scores
    if scores is None or example.positives[0] not in example.candidates:
        return np.inf
    # The positive itself has at least its own score, which makes the best rank 1.
    return float((scores >= scores[example.candidates.index(example.positives[0])]).sum())


def _of_ranks(ranks: Values, ks: Sequence[int]) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for k in ks:
        found[metric_name(Metric.HIT_RATE, k)] = (ranks <= k).astype(np.float64)
    for k in ks:
        # With one item to find the ideal is 1, and the gain itself the NDCG.
        found[metric_name(Metric.NDCG, k)] = np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)
    return {**found, MRR: 1.0 / ranks}


def _keys(scored: Sequence[Scored], taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Places of the scores in their order; an unusable answer is wrong against every other question."""
    answered = np.array([one.scores is not None for one in scored])
    values = np.array([float(one.scores[0]) for one in scored if one.scores is not None])
    keys = np.where(taken, -1, len(scored))
    keys[answered] = np.unique(values, return_inverse=True)[1]
    return keys
