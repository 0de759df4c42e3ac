"""How sure a number is, and whether two differ: intervals, paired tests, Holm's correction, effect sizes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.errors import InputError
from prismrec.evaluation.result import Interval

Values = npt.NDArray[np.float64]

ALPHA = 0.05
_RESAMPLED_USERS = 2_000
_BLOCK = 1 << 22


def mean_intervals(values: Values, *, resamples: int = 1000, seed: int = 0) -> list[Interval]:
    """Return the mean of each row with its 95 % interval over users.

    Percentile bootstrap up to 2,000 users: users are drawn with replacement, the same draws for every row.
    Above, the quantiles of that same bootstrap distribution are taken from its Cornish-Fisher expansion
    (normal quantile corrected for skewness, error of order 1 / users), because drawing 200,000 users a
    thousand times would cost more than the ranking and change no shown digit.

    Parameters
    ----------
    values
        Shape ``(rows, users)``; no NaN (leave out the users that are not counted).
    resamples
        Number of bootstrap samples.
    seed
        Of the samples.

    Returns
    -------
    list of Interval
        One a row; without bounds for a single user.

    Raises
    ------
    InputError
        If there are no users, or a value is not finite.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    users = values.shape[1]
    if users == 0 or not np.isfinite(values).all():
        raise InputError("There is no mean of no users, or of values that are NaN or infinite.")
    means = values.mean(axis=1)
    if users == 1:
        return [Interval(mean=float(mean)) for mean in means]
    tails = (ALPHA / 2, 1 - ALPHA / 2)
    if users <= _RESAMPLED_USERS:
        low, high = np.quantile(_bootstrap_means(values, resamples, seed), tails, axis=1)
    else:
        low, high = (_expanded_quantile(values, means, tail) for tail in tails)
    return [
        Interval(mean=float(m), low=min(float(a), float(m)), high=max(float(b), float(m)))
        for m, a, b in zip(means, low, high, strict=True)
    ]


def mean_interval(values: Values, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the mean of one array with its 95 % interval over users (see `mean_intervals`)."""
    return mean_intervals(np.asarray(values)[None], resamples=resamples, seed=seed)[0]


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its 95 % interval by Student's t; without bounds for a single seed.

    Raises
    ------
    InputError
        If there is no value, or one is not finite.
    """
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError("There is no mean over no seeds, or of values that are NaN or infinite.")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean=mean)
    half = float(stats.t.ppf(1 - ALPHA / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def wilcoxon(differences: Values) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; zeros are dropped, 1 if all are zero."""
    from scipy import stats

    moved = differences[differences != 0]
    return float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0


def sign_flip(differences: Values, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the paired randomisation test of the mean difference.

    Under the null hypothesis each user's difference might as well have the other sign. Up to 2,000 users that
    differ, signs are drawn and ``(1 + as extreme) / (1 + resamples)`` is returned; above, the sum of flipped
    differences is normal to all practical purposes, and its exact variance, the sum of squares, is used.
    """
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0
    observed = abs(float(moved.sum()))
    if len(moved) > _RESAMPLED_USERS:
        return math.erfc(observed / math.sqrt(2.0 * float((moved**2).sum())))
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(moved))
    extreme = 0
    for first in range(0, resamples, rows):
        height = min(rows, resamples - first)
        signs = random.integers(0, 2, size=(height, len(moved)), dtype=np.int8) * 2.0 - 1.0
        # Sums in another order differ in the last digits; equally extreme ones must count.
        extreme += int((np.abs(signs @ moved) >= observed * (1 - 1e-12)).sum())
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def cohen_d(differences: Values) -> float | None:
    """Return the mean difference in units of its standard deviation; None where all differences are equal."""
    if len(differences) < 2 or float(np.ptp(differences)) == 0.0:
        return None
    return float(differences.mean() / differences.std(ddof=1))


def rank_biserial(differences: Values) -> float:
    """Return the matched-pairs rank-biserial correlation, -1 to 1.

    The share of the rank sum of absolute differences that is positive, minus the negative share; zeros are
    dropped, 0 if all are zero.
    """
    from scipy import stats

    moved = differences[differences != 0]
    if len(moved) == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


class Comparison(BaseModel):
    """Whether ``a`` is better than ``b`` for the same users."""

    model_config = ConfigDict(frozen=True)

    users: int = Field(description="Users counted for both.")
    a: float = Field(description="Mean of a.")
    b: float = Field(description="Mean of b.")
    difference: Interval = Field(description="Of a - b, over users.")
    wilcoxon_p: float
    randomisation_p: float
    wilcoxon_holm: float = Field(description="Adjusted for the number of comparisons.")
    randomisation_holm: float = Field(description="Adjusted for the number of comparisons.")
    cohen_d: float | None = Field(description="Mean difference / its standard deviation; None: no spread.")
    rank_biserial: float
    tie: bool = Field(description="The interval holds 0, or an adjusted p-value is at least 0.05.")


def compare(a: npt.ArrayLike, b: npt.ArrayLike, *, seed: int = 0) -> Comparison:
    """Compare one metric of two runs over the same users; see `compare_all` for more than two."""
    return compare_all(a, {"b": b}, seed=seed)["b"]


def compare_all(
    a: npt.ArrayLike, others: Mapping[str, npt.ArrayLike], *, seed: int = 0
) -> dict[str, Comparison]:
    """Compare one run with others over the same users, p-values adjusted by Holm for their number.

    Wilcoxon's test asks whether users' differences lean to one side, the randomisation test whether their
    mean is other than 0. Each is adjusted over the comparisons; a difference counts only if both agree and
    the interval leaves out 0.

    Parameters
    ----------
    a
        The metric of each user, shape ``(users,)``; NaN for those that are not counted.
    others
        The same of other runs, by name, users in the same order.
    seed
        Of the bootstrap and the randomisation test.

    Returns
    -------
    dict
        By name.

    Raises
    ------
    InputError
        If the users are not the same.
    """
    ours = np.asarray(a, dtype=np.float64)
    pairs = {
        name: _paired(ours, np.asarray(values, dtype=np.float64), name) for name, values in others.items()
    }
    ranked = [wilcoxon(x - y) for x, y in pairs.values()]
    flipped = [sign_flip(x - y, seed=seed) for x, y in pairs.values()]
    found = {}
    adjusted = zip(holm(ranked), holm(flipped), strict=True)
    for place, ((name, (x, y)), (by_rank, by_flip)) in enumerate(zip(pairs.items(), adjusted, strict=True)):
        difference = mean_interval(x - y, seed=seed)
        holds_zero = (
            difference.low is None or difference.high is None or difference.low <= 0 <= difference.high
        )
        found[name] = Comparison(
            users=len(x),
            a=float(x.mean()),
            b=float(y.mean()),
            difference=difference,
            wilcoxon_p=ranked[place],
            randomisation_p=flipped[place],
            wilcoxon_holm=by_rank,
            randomisation_holm=by_flip,
            cohen_d=cohen_d(x - y),
            rank_biserial=rank_biserial(x - y),
            tie=holds_zero or max(by_rank, by_flip) >= ALPHA,
        )
    return found


def _paired(a: Values, b: Values, name: str) -> tuple[Values, Values]:
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(
            f"Cannot compare with {name!r}: {a.shape} and {b.shape} values.", "Both need one value per user."
        )
    counted = np.isfinite(a)
    if not np.array_equal(counted, np.isfinite(b)):
        raise InputError(
            f"Cannot compare with {name!r}: other users are counted.",
            "Evaluate both with the same split, part and candidates.",
        )
    if not counted.any():
        raise InputError(f"Cannot compare with {name!r}: no user is counted.")
    return a[counted], b[counted]


def _bootstrap_means(values: Values, resamples: int, seed: int) -> Values:
    """Means of each row over resampled users, shape ``(rows, resamples)``."""
    users = values.shape[1]
    random = np.random.default_rng(seed)
    height = max(1, _BLOCK // users)
    means = []
    for first in range(0, resamples, height):
        rows = min(height, resamples - first)
        drawn = random.integers(0, users, size=(rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means.append(values @ counts.T / users)
    return np.concatenate(means, axis=1)


def _expanded_quantile(values: Values, means: Values, tail: float) -> npt.NDArray[Any]:
    from scipy import stats

    z = float(stats.norm.ppf(tail))
    users = values.shape[1]
    deviation = values.std(axis=1)
    away = values - means[:, None]
    cubes = (away * away * away).mean(axis=1)
    skewness = np.divide(cubes, deviation**3, out=np.zeros_like(cubes), where=deviation > 0)
    step = z + skewness * (z * z - 1) / (6 * math.sqrt(users))
    # A mean of resampled values cannot leave their range.
    quantile = means + step * deviation / math.sqrt(users)
    return np.asarray(np.clip(quantile, values.min(axis=1), values.max(axis=1)))
