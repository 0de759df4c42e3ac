"""Accuracy of ranked lists, per user, from exact ranks: all metrics at all K in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError

if TYPE_CHECKING:
    from prismrec.evaluation.ranking import Ranks

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


class Metric(StrEnum):
    """What is measured on the first K places of a user's list; P is the number of the user's positives.

    ``recall``: share of the P that is found. ``ndcg``: sum of ``1 / log2(rank + 1)`` over the found ones,
    divided by the largest sum possible, that of ranks 1 to min(K, P). ``precision``: found ones / K.
    ``hit_rate``: 1 if any is found, else 0. ``map``: the precisions at the found ones' ranks, summed,
    divided by P (as ranx defines it). ``mrr``: 1 / rank of the first found one, 0 without any.
    """

    RECALL = "recall"
    NDCG = "ndcg"
    PRECISION = "precision"
    HIT_RATE = "hit_rate"
    MAP = "map"
    MRR = "mrr"


def metric_name(metric: Metric, k: int) -> str:
    """Return what a metric is called in results, ``"ndcg@10"``."""
    return f"{metric}@{k}"


def parse_metric(name: str) -> tuple[Metric, int]:
    """Read a name such as ``"ndcg@10"``.

    Raises
    ------
    InputError
        If there is no such metric, or K is not a whole number above 0.
    """
    metric, _, k = name.partition("@")
    if metric not in list(Metric) or not (k.isascii() and k.isdigit()) or int(k) < 1:
        raise InputError(
            f"There is no metric {name!r}.",
            f"Write one of {', '.join(Metric)}, then @ and the length of the list, e.g. 'ndcg@10'.",
        )
    return Metric(metric), int(k)


@dataclass(frozen=True)
class UserMetrics:
    """Metrics of each user. Users without a positive have NaN and are not counted.

    Parameters
    ----------
    ks
        Lengths of the lists, ascending, each once.
    values
        Shape ``(metrics, len(ks), users)``, metrics in the order of `Metric`.
    counted
        Which users have a positive, shape ``(users,)``.
    """

    ks: tuple[int, ...]
    values: Values
    counted: npt.NDArray[np.bool_]

    @property
    def n_counted(self) -> int:
        """Number of users with a positive."""
        return int(self.counted.sum())

    @property
    def names(self) -> list[str]:
        """Names of all metrics, ``"recall@5"`` first."""
        return [metric_name(metric, k) for metric in Metric for k in self.ks]

    def get(self, metric: Metric, k: int) -> Values:
        """Return one metric of each user, shape ``(users,)``.

        Raises
        ------
        InputError
            If it was not computed at this K.
        """
        if k not in self.ks:
            raise InputError(
                f"{metric_name(metric, k)} was not computed.",
                f"Lengths K are: {', '.join(map(str, self.ks))}.",
            )
        found: Values = self.values[list(Metric).index(metric), self.ks.index(k)]
        return found

    def __getitem__(self, name: str) -> Values:
        return self.get(*parse_metric(name))

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over the counted users, by name.

        Raises
        ------
        InputError
            If no user is counted.
        """
        if not self.counted.any():
            raise InputError(
                "No user has a positive item among the candidates, so there is nothing to average.",
                "Choose another part, other candidates or larger held-out shares.",
            )
        means = self.values[:, :, self.counted].mean(axis=2).ravel()
        return dict(zip(self.names, means.tolist(), strict=True))


def per_user(ranks: "Ranks", ks: Sequence[int]) -> UserMetrics:
    """Compute every metric at every K for every user.

    Parameters
    ----------
    ranks
        Exact ranks of each user's positives; a rank beyond the number of candidates is never found.
    ks
        Lengths of the lists, in any order.

    Returns
    -------
    UserMetrics
        K ascending.

    Raises
    ------
    InputError
        If there is no K or one is below 1.
    """
    ks = tuple(sorted(set(ks)))
    if not ks or ks[0] < 1:
        raise InputError(f"{list(ks)} are no lengths of lists.", "Give whole numbers of at least 1.")
    n_users = len(ranks.positives)
    positives = ranks.positives.astype(np.float64)
    user = np.repeat(np.arange(n_users), np.diff(ranks.starts))
    # 1 for a user's best positive, 2 for the next: how many are found down to its rank.
    found = np.arange(1, len(ranks.ranks) + 1) - ranks.starts[user]
    values = np.full((len(Metric), len(ks), n_users), np.nan)
    counted = ranks.positives > 0
    at = {metric: row for row, metric in enumerate(Metric)}
    ideal = np.concatenate(([0.0], np.cumsum(_gain(np.arange(1, ks[-1] + 1)))))

    def total(weights: Values) -> Values:
        sums = np.bincount(user, weights=weights, minlength=n_users).astype(np.float64)
        return sums[counted]

    for column, k in enumerate(ks):
        hit = (ranks.ranks <= k).astype(np.float64)
        hits = total(hit)
        p = positives[counted]
        values[at[Metric.RECALL], column, counted] = hits / p
        values[at[Metric.NDCG], column, counted] = (
            total(hit * _gain(ranks.ranks)) / ideal[np.minimum(k, ranks.positives[counted])]
        )
        values[at[Metric.PRECISION], column, counted] = hits / k
        values[at[Metric.HIT_RATE], column, counted] = np.minimum(hits, 1.0)
        values[at[Metric.MAP], column, counted] = total(hit * found / ranks.ranks) / p
        values[at[Metric.MRR], column, counted] = total(hit * (found == 1) / ranks.ranks)
    return UserMetrics(ks, values, counted)


def expected_random(metric: Metric, k: int, positives: Counts, candidates: Counts | int) -> Values:
    """Return what a ranking drawn at random reaches on average, for each user.

    The exact expectation over all orders of the candidates, without drawing any.

    Parameters
    ----------
    metric, k
        Which one, and the length of the list.
    positives
        Number of each user's positives, none of them masked, shape ``(users,)``.
    candidates
        Number of candidates, or that of each user after masking, shape ``(users,)``.

    Returns
    -------
    expected
        Shape ``(users,)``; NaN for users without a positive.

    Raises
    ------
    InputError
        If a user has more positives than candidates.
    """
    n = np.broadcast_to(np.asarray(candidates, dtype=np.int64), np.shape(positives))
    if (np.asarray(positives) > n).any():
        raise InputError("A user has more positive items than there are candidates.")
    # Few pairs are distinct, however many users there are.
    pairs, place = np.unique(np.stack((positives, n), axis=1), axis=0, return_inverse=True)
    expected = [_expected_one(metric, k, int(p), int(c)) if p > 0 else np.nan for p, c in pairs]
    by_user: Values = np.asarray(expected, dtype=np.float64)[place.reshape(-1)]
    return by_user


def _expected_one(metric: Metric, k: int, positives: int, candidates: int) -> float:
    p, n = positives, candidates
    rank = np.arange(1, min(k, n) + 1, dtype=np.float64)
    share = p / n
    if metric is Metric.RECALL:
        return len(rank) / n
    if metric is Metric.PRECISION:
        return share * len(rank) / k
    if metric is Metric.NDCG:
        return float(share * _gain(rank).sum() / _gain(np.arange(1, min(k, p) + 1)).sum())
    if metric is Metric.MAP:
        # A positive stands at `rank`; so does each of the other p - 1 above it with equal chance.
        above = (rank - 1) * (p - 1) / max(n - 1, 1)
        return float((share * (1 + above) / rank).sum() / p)
    # The chance that none of the first r is a positive, r from 0.
    none = np.concatenate(([1.0], np.cumprod(np.maximum(n - p - rank + 1, 0) / (n - rank + 1))))
    if metric is Metric.HIT_RATE:
        return float(1 - none[-1])
    return float(((none[:-1] - none[1:]) / rank).sum())


def _gain(ranks: npt.NDArray[Any]) -> Values:
    gains: Values = 1.0 / np.log2(np.asarray(ranks, dtype=np.float64) + 1.0)
    return gains
