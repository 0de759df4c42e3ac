"""Area under the ROC curve for questions answered by Yes or No: exact, with ties, by user."""

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.evaluation.result import Interval
from prismrec.evaluation.significance import ALPHA

Values = npt.NDArray[np.float64]


def auc(scores: npt.ArrayLike, taken: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: how often a taken item scores above another, ties counted half.

    Exact over all pairs. Each question counts as often as its weight says. NaN without both answers.
    """
    taken = np.asarray(taken, dtype=np.bool_)
    keys = np.unique(np.asarray(scores), return_inverse=True)[1]
    weight = np.ones(len(taken)) if weights is None else np.asarray(weights, dtype=np.float64)
    return _auc(keys, taken, weight)


def auc_interval(
    scores: npt.ArrayLike, taken: npt.ArrayLike, user: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the AUC with its 95 % interval, by drawing users with replacement.

    A user comes with all its questions, because they are not independent. Draws that lack one of the two
    answers have no AUC and are left out. A single user, or users of whom no draw has one, gives no bounds.

    Raises
    ------
    InputError
        If one of the two answers is missing.
    """
    taken, user = np.asarray(taken, dtype=np.bool_), np.asarray(user)
    if taken.all() or not taken.any():
        raise InputError(
            "There is no AUC: all questions have the same answer.", "It takes both items taken and not taken."
        )
    keys = np.unique(np.asarray(scores), return_inverse=True)[1]
    mean = _auc(keys, taken, np.ones(len(taken)))
    n_users = int(user.max()) + 1
    random = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for turn in range(resamples):
        often = np.bincount(random.integers(0, n_users, n_users), minlength=n_users)
        drawn[turn] = _auc(keys, taken, often[user].astype(np.float64))
    drawn = drawn[np.isfinite(drawn)]
    if n_users == 1 or len(drawn) == 0:
        return Interval(mean=mean)
    low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2))
    return Interval(mean=mean, low=min(float(low), mean), high=max(float(high), mean))


def auc_of_users(
    keys: npt.NDArray[np.int64], taken: npt.NDArray[np.bool_], user: npt.NDArray[np.int64]
) -> Values:
    """Each user's share in the AUC, so that their mean is the AUC.

    A taken item's placement is the share of the others that it beats, another item's the share of the taken
    ones that beat it (DeLong et al., Biometrics 1988); the mean over either kind is the AUC. A user has half
    of what its questions contribute to each mean, times the number of users.
    """
    if taken.all() or not taken.any():
        return np.full(int(user.max()) + 1, np.nan)
    group = np.unique(keys, return_inverse=True)[1]
    yes, no = np.bincount(group, weights=taken), np.bincount(group, weights=~taken)
    beats = (np.cumsum(no) - no / 2) / no.sum()
    beaten = (yes.sum() - np.cumsum(yes) + yes / 2) / yes.sum()
    placement = np.where(taken, beats[group] / yes.sum(), beaten[group] / no.sum())
    shares: Values = np.bincount(user, weights=placement) * (int(user.max()) + 1) / 2
    return shares


def _auc(keys: npt.NDArray[np.int64], taken: npt.NDArray[np.bool_], weights: Values) -> float:
    """`keys` are whole numbers from 0, equal for equal scores."""
    yes = np.bincount(keys, weights=weights * taken)
    no = np.bincount(keys, weights=weights * ~taken)
    pairs = yes.sum() * no.sum()
    return float(yes @ (np.cumsum(no) - no / 2) / pairs) if pairs > 0 else np.nan
