"""What a run learns from: the division, thinned where that is asked for, and features, with gaps torn in."""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.data.splits import PLANS, TRAIN, Split
from prismrec.experiments.plan import RunSpec
from prismrec.features.store import FeatureStore
from prismrec.recommender.train import open_features

# What is drawn must not depend on anything else that is drawn from the same seed.
_THIN, _MISSING, _USERS, _KEPT = 1, 2, 3, 4


def prepare(spec: RunSpec, dataset: Dataset) -> tuple[Split, list[FeatureStore]]:
    """Return the split and the features of a run.

    Raises
    ------
    InputError
        If the data lack what is asked for.
    """
    split = dataset.split(PLANS.validate_python(spec.split))
    if spec.data.users is not None:
        split = of_users(split, spec.data.users, spec.seed)
    if spec.data.max_per_user is not None:
        split = thinned(split, spec.data.max_per_user, spec.seed)
    stores = open_features(dataset, spec.modalities)
    if spec.data.missing > 0:
        stores = with_gaps(stores, split.items.ids, spec.data.missing, spec.seed, spec.data.keep_one)
    return split, stores


def of_users(split: Split, keep: int, seed: int) -> Split:
    """Return the split with the pairs of at most so many users, drawn at random, in all parts.

    The items keep their parts. Held-out items that none of these users met are no candidates.

    Parameters
    ----------
    split
        What to take from.
    keep
        Most users.
    seed
        Of the draw.

    Raises
    ------
    InputError
        If a part is left without a pair.
    """
    found = np.unique(split.pairs.users)
    chosen = np.random.default_rng((seed, _KEPT)).permutation(found)[:keep]
    kept = np.isin(split.pairs.users, chosen)
    smaller = split.take(kept)
    for name, pairs in (("training", smaller.train), ("validation", smaller.valid)):
        if not len(pairs):
            raise InputError(
                f"The {len(chosen):,} users that were drawn have nothing in the {name} part.",
                "Raise 'users' in the recipe.",
            )
    return smaller


def thinned(split: Split, keep: int, seed: int) -> Split:
    """Return the split with at most so many training pairs of each user, drawn at random.

    Validation and test stay whole. Where all items are ranked, a user's pairs that were left out are neither
    masked nor counted as right.

    Parameters
    ----------
    split
        What to thin.
    keep
        Most training pairs of a user.
    seed
        Of the draw.
    """
    train = np.flatnonzero(split.parts == TRAIN)
    noise = np.random.default_rng((seed, _THIN)).random(len(train))
    users = split.pairs.users[train]
    order = np.lexsort((noise, users))
    starts = np.concatenate(([0], np.cumsum(np.bincount(users, minlength=len(split.users)))[:-1]))
    rank = np.empty(len(train), dtype=np.int64)
    rank[order] = np.arange(len(train)) - starts[users[order]]
    kept = np.ones(len(split.pairs), dtype=np.bool_)
    kept[train[rank >= keep]] = False
    return split.take(kept)


def with_gaps(
    stores: Sequence[FeatureStore], items: Sequence[str], share: float, seed: int, keep_one: bool = False
) -> list[FeatureStore]:
    """Return the features with vectors taken away: of each modality the same share of those that have it.

    Parameters
    ----------
    stores
        One a modality.
    items
        All items.
    share
        Of the items that have a modality; each modality is drawn on its own, rounded to whole items.
    seed
        Of the draw.
    keep_one
        Give an item that would lose everything one of its modalities back, drawn at random.

    Returns
    -------
    list of FeatureStore
        In memory.

    Raises
    ------
    InputError
        If nothing is left of a modality.
    """
    present = np.stack([store.rows(items) >= 0 for store in stores], axis=1)
    lost = np.zeros_like(present)
    for column, store in enumerate(stores):
        # By name, so that a modality loses the same items whichever others are used.
        random = np.random.default_rng((seed, _MISSING, zlib.crc32(store.name.encode())))
        having = np.flatnonzero(present[:, column])
        lost[random.permutation(having)[: round(share * len(having))], column] = True
    if keep_one:
        _give_back(present, lost, np.random.default_rng((seed, _MISSING)))
    return [_without(store, items, lost[:, column]) for column, store in enumerate(stores)]


def _give_back(
    present: npt.NDArray[np.bool_], lost: npt.NDArray[np.bool_], random: np.random.Generator
) -> None:
    noise = np.where(present, random.random(present.shape), -1.0)
    bare = np.flatnonzero(present.any(axis=1) & ~(present & ~lost).any(axis=1))
    lost[bare, noise[bare].argmax(axis=1)] = False


def _without(store: FeatureStore, items: Sequence[str], lost: npt.NDArray[np.bool_]) -> FeatureStore:
    gone = {items[code] for code in np.flatnonzero(lost).tolist()}
    kept = np.array([name not in gone for name in store.ids], dtype=np.bool_)
    if not kept.any():
        raise InputError(
            f"Nothing is left of the features {store.name!r}: too large a share of the items loses them.",
            "Lower 'missing' in the recipe.",
        )
    return FeatureStore(
        store.name,
        np.asarray(store.vectors[kept]),
        tuple(name for name in store.ids if name not in gone),
        tuple(stamp for stamp, there in zip(store.digests, kept, strict=True) if there),
        store.encoder,
        store.problems,
    )


def drawn_users(users: npt.NDArray[np.int32], most: int | None, seed: int) -> npt.NDArray[np.int32]:
    """Return at most so many users, ascending; the same for every model of a seed."""
    found = np.unique(users)
    if most is None or len(found) <= most:
        return found
    return np.sort(np.random.default_rng((seed, _USERS)).permutation(found)[:most])
