"""One way of scoring against others: paired tests over users, and what may be said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prismrec.base.errors import InputError
from prismrec.evaluation.significance import Comparison, compare_all
from prismrec.sequential.measures import Measured

Verdict = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Against:
    """One way of scoring against another, on the same questions.

    Parameters
    ----------
    name
        Of the other.
    metric
        By which.
    comparison
        The paired tests over users; ``a`` is ours. P-values are adjusted for the number of comparisons.
    """

    name: str
    metric: str
    comparison: Comparison

    @property
    def p(self) -> float:
        """The larger of the two adjusted p-values."""
        return max(self.comparison.wilcoxon_holm, self.comparison.randomisation_holm)

    @property
    def verdict(self) -> Verdict:
        """Of ours: a difference counts only if both tests and the interval agree, else it is a tie."""
        if self.comparison.tie:
            return "tie"
        return "better" if self.comparison.difference.mean > 0 else "worse"


def compare(
    ours: Measured, others: Sequence[Measured], metric: str | None = None, *, seed: int = 0
) -> list[Against]:
    """Compare over users by Wilcoxon's and the sign-flip test, with Holm's correction and effect sizes.

    Parameters
    ----------
    ours, others
        Measured on the same questions.
    metric
        By which; None: the headline.
    seed
        Of the bootstrap and the sign flips.

    Raises
    ------
    InputError
        If the metric was not measured, the questions are not the same, or a name stands twice.
    """
    metric = metric or ours.headline
    names = [ours.name, *(other.name for other in others)]
    if len(set(names)) < len(names):
        raise InputError(f"A name stands twice among {', '.join(names)}.", "Give each its own name.")
    same = ours.per_user.select("user", "examples")
    for one in (ours, *others):
        if metric not in one.metrics:
            raise InputError(
                f"{metric} was not measured for {one.name!r}.", f"There are: {', '.join(one.metrics)}."
            )
        if not one.per_user.select("user", "examples").equals(same):
            raise InputError(
                f"{ours.name!r} and {one.name!r} were not asked about the same users.",
                "Score the same examples with both.",
            )
    columns = {one.name: one.per_user[metric].to_numpy() for one in others}
    found = compare_all(ours.per_user[metric].to_numpy(), columns, seed=seed)
    return [Against(name, metric, comparison) for name, comparison in found.items()]
