"""How often items were taken, as far as it may be known before validation and test."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prismrec.sequential.examples import Example


def popularity(examples: Sequence[Example], n_items: int) -> npt.NDArray[np.int64]:
    """Count the users that took each item, by their histories and positives.

    Windows of a user overlap; a pair of user and item counts once. What was only asked about (``binary`` with
    the label False) was not taken.

    Parameters
    ----------
    examples
        Of the training part: examples of the other parts would give away what is to be found.
    n_items
        Number of items of the catalogue.

    Returns
    -------
    ndarray
        Shape ``(n_items,)``: users an item. As it stands it is the baseline's score of each item.
    """
    taken: dict[str, set[int]] = {}
    for example in examples:
        items = taken.setdefault(example.user, set())
        items.update(example.history)
        if example.label is not False:
            items.update(example.positives)
    codes = np.fromiter((code for items in taken.values() for code in items), dtype=np.int64)
    return np.bincount(codes, minlength=n_items).astype(np.int64)
