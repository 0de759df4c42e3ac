"""What a first stage recommends, made into candidates to choose from."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.sequential.pool import ItemPool

Codes = npt.NDArray[np.integer[Any]]

FirstStageLists = Callable[[list[str]], Codes] | Codes
"""Best items of users, best first, shape ``(n, N)``, -1 where there are fewer: a function of ``n`` user ids,
or the array for all users of the data set in the order of `Dataset.users`. It must not have learnt from
validation or test positives; whoever calls has to see to that."""


def first_lists(dataset: Dataset, users: Sequence[str], first_stage: FirstStageLists) -> dict[str, list[int]]:
    """Return the first stage's list of each user.

    Raises
    ------
    InputError
        If it is not one row of item codes for each user.
    """
    if callable(first_stage):
        found, expected = np.asarray(first_stage(list(users))), len(users)
    else:
        found, expected = np.asarray(first_stage), len(dataset.users)
    if found.ndim != 2 or len(found) != expected or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"The first stage gave an array of shape {found.shape} and type {found.dtype}.",
            f"Expected are item codes (integers), one row for each of {expected:,} users.",
        )
    if found.size and (found.min() < -1 or found.max() >= len(dataset.items)):
        raise InputError(
            f"The first stage gave item codes from {found.min()} to {found.max()}.",
            f"The catalogue has the codes 0 to {len(dataset.items) - 1}; -1 stands for none.",
        )
    rows = found if callable(first_stage) else found[dataset.users.codes(users)]
    return dict(zip(users, rows.tolist(), strict=True))


def reranked(
    user: str, positive: int, found: Sequence[int], pool: ItemPool, most: int | None, *, must_hold: bool
) -> list[int]:
    """Return the best of a first stage's list that a user may be asked about.

    Left out are items without a title, those that the user has touched at any time (the positive aside), and
    all but the first of a title.

    Parameters
    ----------
    user
        The user's id.
    positive
        What is to be found.
    found
        The first stage's list, best first; -1 is a gap.
    pool
        Titles, and what the user has touched.
    most
        Candidates that are kept; None: all.
    must_hold
        Put the positive in the last one's place where the first stage has not found it. Otherwise it is a
        miss.

    Raises
    ------
    InputError
        If nothing is left.
    """
    title = int(pool.titles[positive])
    # Another item of the positive's title must not stand in for it.
    found = [code for code in found if code == positive or pool.titles[code] != title]
    candidates = pool.free(found, pool.taken(user) - {title})[:most]
    if must_hold and positive not in candidates:
        # Only a full list loses its last one to the positive.
        full = most is None or len(candidates) == most
        candidates = [*(candidates[:-1] if full else candidates), positive]
    if not candidates:
        raise InputError(
            f"The first stage gives user {user!r} no item that the user has not touched already.",
            "Let it give longer lists: such a user is a miss and cannot be left out.",
        )
    return candidates
