"""For whom and for what it works: metrics by groups of users, and by groups of the items to be found.

Users fall into slices whole. Items cut a user's positives apart: in a slice of items only the positives of
the slice count (as if they were all that the user likes), while ranks stay ranks among all candidates. So a
user may count in several slices of items, and the means of slices do not average to the overall mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.evaluation.metrics import UserMetrics, parse_metric, per_user
from prismrec.evaluation.ranking import Ranks
from prismrec.evaluation.result import Interval, SliceRow
from prismrec.evaluation.significance import mean_intervals

Counts = npt.NDArray[np.integer[Any]]

_DEGREES = (0, 1, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Grouping:
    """Which slice each user, or each candidate, falls into.

    Parameters
    ----------
    kind
        What divides, in words.
    labels
        Names of the slices in the order in which they are shown.
    codes
        For each user or candidate the position of its label; -1: in no slice.
    """

    kind: str
    labels: tuple[str, ...]
    codes: npt.NDArray[np.int64]


def by_degree(train_counts: Counts) -> Grouping:
    """Group users by their number of training interactions: 0, 1-4, 5-9, 10-19, 20-49, 50-99, 100+."""
    bins = [f"{low}-{high - 1}" for low, high in pairwise(_DEGREES[1:])]
    labels = ["0", *bins, f"{_DEGREES[-1]}+"]
    return Grouping("user's training interactions", tuple(labels), np.digitize(train_counts, _DEGREES) - 1)


def by_temperature(warm: npt.NDArray[np.bool_]) -> Grouping:
    """Group candidates into those without and with training interactions."""
    return Grouping("cold or warm item", ("cold", "warm"), warm.astype(np.int64))


def by_popularity(train_counts: Counts, candidates: Counts) -> Grouping:
    """Group candidates by tenths of the warm items, from the least to the most popular in training.

    Items with equally many interactions stay together, in the lowest tenth that they reach, so that tenths
    may be of different size or empty. Cold items are a group of their own.

    Parameters
    ----------
    train_counts
        Number of training interactions of every item of the catalogue, shape ``(items,)``.
    candidates
        Codes of the candidates, shape ``(c,)``.
    """
    warm = np.sort(train_counts[train_counts > 0])
    fewer = np.searchsorted(warm, train_counts[candidates], side="left")
    tenth = 1 + (10 * fewer) // max(len(warm), 1)
    codes = np.where(train_counts[candidates] == 0, 0, tenth)
    labels = ["cold", "1 (least)", *(str(n) for n in range(2, 10)), "10 (most)"]
    return Grouping("item popularity, tenths", tuple(labels), codes.astype(np.int64))


def by_modalities(present: Mapping[str, npt.NDArray[np.bool_]]) -> Grouping:
    """Group candidates by what is known of them: "image + text", "text only", "none".

    Parameters
    ----------
    present
        For each modality which candidates have it, shape ``(c,)`` each.

    Raises
    ------
    InputError
        If there is no modality.
    """
    if not present:
        raise InputError("There is no modality to group items by.")
    names = sorted(present)
    bits = sum(present[name].astype(np.int64) << place for place, name in enumerate(names))
    used = sorted(np.unique(bits).tolist(), key=lambda mask: (-mask.bit_count(), mask))
    place_of = np.zeros(1 << len(names), dtype=np.int64)
    place_of[used] = np.arange(len(used))
    return Grouping("item's contents", tuple(_combination(mask, names) for mask in used), place_of[bits])


def slice_users(
    metrics: UserMetrics, positives: Counts, grouping: Grouping, names: Sequence[str], *, seed: int = 0
) -> list[SliceRow]:
    """Average over the users of each slice.

    Parameters
    ----------
    metrics
        Of all users.
    positives
        Number of each user's positives, shape ``(users,)``.
    grouping
        Of the users.
    names
        Metrics to show, e.g. ``["ndcg@10"]``.
    seed
        Of the bootstrap.

    Returns
    -------
    list of SliceRow
        One a slice with a counted user, in the order of the labels.

    Raises
    ------
    InputError
        If there are not as many codes as users, or a metric is unknown or was not computed.
    """
    _require_codes(grouping, len(positives), "users")
    rows = []
    for code, label in enumerate(grouping.labels):
        chosen = (grouping.codes == code) & metrics.counted
        if chosen.any():
            means = _means(metrics, chosen, names, seed)
            rows.append(_row(grouping.kind, label, chosen, int(positives[chosen].sum()), means))
    return rows


def slice_items(ranks: Ranks, grouping: Grouping, names: Sequence[str], *, seed: int = 0) -> list[SliceRow]:
    """Average over the users with a positive in each slice, counting the positives of the slice only.

    Parameters
    ----------
    ranks
        Ranks of all positives among all candidates.
    grouping
        Of the candidates.
    names, seed
        As in `slice_users`.

    Returns
    -------
    list of SliceRow
        One a slice with a positive, in the order of the labels.

    Raises
    ------
    InputError
        If a positive has no code, or a metric is unknown.
    """
    if len(ranks.items):
        _require_codes(grouping, max(len(grouping.codes), int(ranks.items.max()) + 1), "candidates")
    ks = [parse_metric(name)[1] for name in names]
    code_of = grouping.codes[ranks.items]
    rows = []
    for code, label in enumerate(grouping.labels):
        inside = code_of == code
        if inside.any():
            metrics = per_user(_only(ranks, inside), ks)
            means = _means(metrics, metrics.counted, names, seed)
            rows.append(_row(grouping.kind, label, metrics.counted, int(inside.sum()), means))
    return rows


def _only(ranks: Ranks, inside: npt.NDArray[np.bool_]) -> Ranks:
    """Keep the users and some of their positives."""
    before = np.concatenate(([0], np.cumsum(inside)))
    starts = before[ranks.starts]
    return Ranks(starts, ranks.ranks[inside], np.diff(starts), ranks.items[inside])


def _means(
    metrics: UserMetrics, chosen: npt.NDArray[np.bool_], names: Sequence[str], seed: int
) -> dict[str, Interval]:
    values = np.stack([metrics[name][chosen] for name in names])
    return dict(zip(names, mean_intervals(values, seed=seed), strict=True))


def _row(
    kind: str, label: str, users: npt.NDArray[np.bool_], positives: int, means: dict[str, Interval]
) -> SliceRow:
    return SliceRow(kind=kind, value=label, users=int(users.sum()), positives=positives, metrics=means)


def _combination(mask: int, names: Sequence[str]) -> str:
    held = [name for place, name in enumerate(names) if mask >> place & 1]
    if not held:
        return "none"
    return f"{held[0]} only" if len(held) == 1 and len(names) > 1 else " + ".join(held)


def _require_codes(grouping: Grouping, expected: int, what: str) -> None:
    if len(grouping.codes) != expected:
        raise InputError(
            f"The slices by {grouping.kind} hold {len(grouping.codes):,} {what}, but there are {expected:,}."
        )
