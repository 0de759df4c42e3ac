"""What may be said of two rows: paired tests over users, and how much seeds differ.

Each seed divides the data anew and draws initial weights, and a user may be measured under several seeds.
Treating each of these as another user would count the same person several times, so a user's differences are
averaged over seeds first, and tests go over users. They cannot see how much a result depends on the seed:
that says the interval of the mean difference over seeds (Student's t). A difference counts only if both tests
(adjusted by Holm over all comparisons of a table), the interval over users and, from three seeds on, the
interval over seeds agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.evaluation.result import Interval
from prismrec.evaluation.significance import (
    ALPHA,
    cohen_d,
    holm,
    mean_interval,
    rank_biserial,
    seed_interval,
    sign_flip,
    wilcoxon,
)

Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Verdict = Literal["better", "worse", "tie"]

# With two seeds Student's t is 12.7 standard errors wide: it would call anything a tie.
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Measured:
    """One metric of a row under one seed.

    Parameters
    ----------
    users
        Codes of the users that are counted, ascending.
    values
        The metric of each, shape ``(len(users),)``.
    """

    users: Codes
    values: Values


BySeed = Mapping[int, Measured]


@dataclass(frozen=True)
class Versus:
    """A row against another.

    Parameters
    ----------
    other
        Label of the other.
    seeds, users
        What both were measured on.
    difference
        Mean over seeds of the difference of the seeds' means, with the interval over seeds; without bounds
        for one seed.
    over_users
        Mean of users' differences, each averaged over its seeds, with the interval over users.
    wilcoxon_p, randomisation_p
        Of the users' differences.
    wilcoxon_holm, randomisation_holm
        Adjusted over all comparisons of the table.
    cohen_d, rank_biserial
        Effect sizes over users.
    verdict
        Of the row, seen from it.
    why
        For a tie, what it rests on.
    """

    other: str
    seeds: int
    users: int
    difference: Interval
    over_users: Interval
    wilcoxon_p: float
    randomisation_p: float
    wilcoxon_holm: float
    randomisation_holm: float
    cohen_d: float | None
    rank_biserial: float
    verdict: Verdict
    why: str

    @property
    def p(self) -> float:
        """The larger of the two adjusted p-values."""
        return max(self.wilcoxon_holm, self.randomisation_holm)

    def turned(self, label: str) -> "Versus":
        """Return the same comparison seen from the other row; `label` is this row's."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "tie": "tie"}
        return replace(
            self,
            other=label,
            difference=_negative(self.difference),
            over_users=_negative(self.over_users),
            cohen_d=None if self.cohen_d is None else -self.cohen_d,
            rank_biserial=-self.rank_biserial,
            verdict=turned[self.verdict],
        )


def over_seeds(row: BySeed) -> Interval:
    """Return the mean over seeds of the means over users, with its interval over seeds."""
    return seed_interval([float(one.values.mean()) for one in row.values()])


def paired(a: BySeed, b: BySeed) -> tuple[Values, Values]:
    """Return differences a - b on the seeds that both have.

    Returns
    -------
    over_users
        For each user that is counted under a common seed, its mean difference over those seeds.
    over_seeds
        For each common seed the mean difference.

    Raises
    ------
    InputError
        If they have no seed in common, or other users are counted under one.
    """
    common = [seed for seed in a if seed in b]
    if not common:
        raise InputError("Two rows have no seed in common, so that nothing can be compared.")
    top = 1 + max(int(one.users.max()) for seed in common for one in (a[seed], b[seed]))
    sums, counts, means = np.zeros(top), np.zeros(top), []
    for seed in common:
        if not np.array_equal(a[seed].users, b[seed].users):
            raise InputError(f"Two rows count other users under seed {seed}, so that they cannot be paired.")
        gaps = a[seed].values - b[seed].values
        sums[a[seed].users] += gaps
        counts[a[seed].users] += 1
        means.append(float(gaps.mean()))
    return sums[counts > 0] / counts[counts > 0], np.array(means)


def compare_table(
    rows: Mapping[str, BySeed], pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> dict[tuple[str, str], Versus]:
    """Compare pairs of a table's rows; p-values are adjusted for the number of all of them together.

    Parameters
    ----------
    rows
        By label.
    pairs
        Labels of a row and of what it is compared with.
    seed
        Of the bootstrap and the randomisation test.
    """
    gaps = {pair: paired(rows[pair[0]], rows[pair[1]]) for pair in pairs}
    by_rank = [wilcoxon(users) for users, _ in gaps.values()]
    by_flip = [sign_flip(users, seed=seed) for users, _ in gaps.values()]
    adjusted = zip(holm(by_rank), holm(by_flip), strict=True)
    found = {}
    for place, ((pair, (users, seeds)), (ranked, flipped)) in enumerate(
        zip(gaps.items(), adjusted, strict=True)
    ):
        difference, spread = seed_interval(seeds.tolist()), mean_interval(users, seed=seed)
        verdict, why = _judge(difference, len(seeds), spread, max(ranked, flipped))
        found[pair] = Versus(
            other=pair[1],
            seeds=len(seeds),
            users=len(users),
            difference=difference,
            over_users=spread,
            wilcoxon_p=by_rank[place],
            randomisation_p=by_flip[place],
            wilcoxon_holm=ranked,
            randomisation_holm=flipped,
            cohen_d=cohen_d(users),
            rank_biserial=rank_biserial(users),
            verdict=verdict,
            why=why,
        )
    return found


def _judge(difference: Interval, seeds: int, spread: Interval, p: float) -> tuple[Verdict, str]:
    doubts = []
    if p >= ALPHA or _holds_zero(spread):
        doubts.append(f"not significant over users (p = {p:.2g})")
    if seeds >= LEAST_SEEDS and _holds_zero(difference):
        doubts.append("inside the interval over seeds")
    # The mean over seeds and the mean over users weigh users differently; both must point one way.
    if difference.mean * spread.mean <= 0 and not doubts:
        doubts.append("seeds and users point to different sides")
    if doubts:
        return "tie", " and ".join(doubts)
    return ("better" if difference.mean > 0 else "worse"), ""


def _negative(interval: Interval) -> Interval:
    if interval.low is None or interval.high is None:
        return Interval(mean=-interval.mean)
    return Interval(mean=-interval.mean, low=-interval.high, high=-interval.low)


def _holds_zero(interval: Interval) -> bool:
    return interval.low is None or interval.high is None or interval.low <= 0 <= interval.high
