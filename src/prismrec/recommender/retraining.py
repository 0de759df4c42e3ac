"""Training a run anew on damaged data, as its manifest says it was trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Pairs
from prismrec.data.splits import PLANS, TRAIN, GlobalTime, LeaveLast, Order, RandomHoldout, Split, make_split
from prismrec.evaluation.corruption import Noise, Statistics, as_stores
from prismrec.evaluation.metrics import parse_metric
from prismrec.evaluation.result import Interval
from prismrec.evaluation.robustness import Experiment, Values, Variant
from prismrec.evaluation.robustness_result import Chart, Curve, Point, Protocol
from prismrec.evaluation.significance import seed_interval
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.catalogue import config_of
from prismrec.recommender.part_ranking import default_candidates
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train

SIGMAS = (0.1, 0.3, 0.5, 1.0)
FALSE_EDGES = (0.05, 0.1, 0.2)
REMOVED = (0.2, 0.4, 0.6, 0.8)
_DRAWS = 65_536
_WHEN = 1


@dataclass(frozen=True)
class Again:
    """What a run was trained from, and training it anew.

    Parameters
    ----------
    recommender
        The run.
    split
        Its split, of the data set.
    stores
        Its features.
    device
        Where to train.
    """

    recommender: Recommender
    split: Split
    stores: tuple[FeatureStore, ...]
    device: str = "cpu"

    def trained(
        self, seed: int, split: Split | None = None, stores: Sequence[FeatureStore] | None = None
    ) -> Recommender:
        """Train with the run's model, settings and plan; other data, where given.

        Parameters
        ----------
        seed
            Added to the run's, so that 0 is the run itself.
        split, stores
            In place of the run's.
        """
        manifest = self.recommender.manifest
        return train(
            config_of(manifest.model).parse(manifest.config),
            split or self.split,
            plan=manifest.training,
            features=self.stores if stores is None else stores,
            seed=manifest.seed + seed,
            preset=manifest.preset,
            device=self.device,
        )


def reopen(recommender: Recommender, features: ItemFeatures | None, device: str = "cpu") -> Again:
    """Open what a run was trained from.

    Raises
    ------
    InputError
        If the data set is gone, or is another one by now.
    """
    stores = () if features is None else features.stores
    if recommender.split.dataset is not None:
        return Again(recommender, recommender.split, stores, device)
    home = recommender.manifest.dataset_path
    if home is None:
        raise InputError("This run's data set was in memory: it cannot be trained anew from its folder.")
    dataset = Dataset.read(Path(home))
    split = make_split(dataset, PLANS.validate_python(recommender.manifest.split))
    if split.hash != recommender.manifest.split_hash:
        raise InputError(
            f"{home}: the data set has changed since the run was trained.", "Train the run anew first."
        )
    return Again(recommender, split, stores, device)


def retraining(
    again: Again,
    features: ItemFeatures,
    measure: Callable[[Recommender], Values],
    protocols: Sequence[Protocol],
) -> list[Experiment]:
    """Return what to measure for the protocols that train, apart from "splits".

    Curves start from trainings on sound data with the same seeds: beside them stands what another seed does.

    Parameters
    ----------
    again
        The run.
    features
        Its content, aligned with the split's items.
    measure
        From a recommender to the metric of each user that is counted, on the run's own part and candidates.
    protocols
        Those that are wanted.
    """

    def clean(seed: int) -> Values:
        return measure(again.trained(seed))

    found = []
    if Protocol.TRAIN_NOISE in protocols:
        found.append(_train_noise(again, features, measure, clean))
    if Protocol.FALSE_EDGES in protocols:
        found.append(_false_edges(again, measure, clean))
    if Protocol.DATA_SHARE in protocols:
        found.append(_data_share(again, measure, clean))
    return found


def with_false_edges(split: Split, share: float, seed: int) -> Split:
    """Return a split whose training part has false pairs beside its own.

    A false pair is one of a training user, in proportion to their pairs, and a training item, each as likely;
    it occurs nowhere in the log, so that no held-out truth is told. It happens when one of the user's own
    training pairs did, each as likely.

    Parameters
    ----------
    split
        Sound.
    share
        False pairs, as a share of the training pairs.
    seed
        Of the draws.

    Raises
    ------
    InputError
        If there are not that many.
    """
    rng = np.random.default_rng(seed)
    wanted = round(share * len(split.train))
    warm = np.flatnonzero(split.warm_items)
    known = np.sort(_keys(split.pairs.users, split.pairs.items, split))
    false = np.zeros(0, dtype=np.int64)
    for _ in range(100 + 10 * wanted // _DRAWS):
        # As many at a time whatever is wanted, so that a larger share has the same pairs and more.
        drawn = _keys(rng.choice(split.train.users, _DRAWS), rng.choice(warm, _DRAWS), split)
        together = np.concatenate([false, drawn[~np.isin(drawn, known)]])
        false = together[np.sort(np.unique(together, return_index=True)[1])][:wanted]
        if len(false) == wanted:
            break
    else:
        raise InputError(f"There are no {wanted:,} pairs of a user and an item that are not in the log.")
    users, items = np.divmod(false, len(split.items))
    pairs = Pairs(
        np.concatenate([split.pairs.users, users.astype(np.int32)]),
        np.concatenate([split.pairs.items, items.astype(np.int32)]),
    )
    parts = np.concatenate([split.parts, np.full(wanted, TRAIN, dtype=np.int8)])
    if split.order is None:
        return _changed(split, pairs, parts, None)
    return _changed(split, pairs, parts, np.concatenate([split.order, _when(split, users, seed)]))


def with_less(split: Split, removed: float, seed: int) -> Split:
    """Return a split without a share of its training pairs; the held-out parts stay."""
    train = np.flatnonzero(split.parts == TRAIN)
    gone = np.random.default_rng(seed).permutation(train)[: round(removed * len(train))]
    kept = np.ones(len(split.pairs), dtype=np.bool_)
    kept[gone] = False
    less = split.take(kept)
    return _changed(less, less.pairs, less.parts, less.order)


def measure_splits(
    again: Again, metric: str, repeats: int, advance: Callable[[], None] = lambda: None
) -> Chart:
    """Return the run's model on other divisions of its data, each by its own validation part.

    Parameters
    ----------
    again
        The run.
    metric
        For instance "ndcg@10".
    repeats
        Trainings a division, at least 1; of the random one each with another division.
    advance
        Called after each training.
    """
    from prismrec.recommender.evaluate import evaluate

    points: list[Point] = []
    said: list[str] = []
    for place, (name, plan) in enumerate(
        (
            ("random per user", RandomHoldout()),
            ("last of each user", LeaveLast()),
            ("after a date", GlobalTime()),
        )
    ):
        values, users = [], 0
        for repeat in range(repeats):
            try:
                own = plan.model_copy(update={"seed": repeat}) if isinstance(plan, RandomHoldout) else plan
                assert again.split.dataset is not None
                split = make_split(again.split.dataset, own)
                found = evaluate(
                    again.trained(repeat, split), split, part="valid", ks=[parse_metric(metric)[1]]
                )
            except InputError as error:
                said.append(f"{name}: {error.problem}")
                break
            finally:
                advance()
            part = found.parts[0]
            users = part.users_counted
            values.append(part.metrics[metric])
        if values:
            mean = float(np.mean([value.mean for value in values]))
            over_repeats = seed_interval([v.mean for v in values]) if len(values) > 1 else None
            # Over users only where it is one division: the users of several are not the same.
            interval = values[0] if len(values) == 1 else Interval(mean=mean)
            label = f"{name} ({default_candidates(split)})"
            points.append(Point(level=place, label=label, value=interval, repeats=over_repeats, users=users))
    about = (
        "The same model and settings, trained on three divisions of the data and measured on the validation "
        "part of each: other users, other candidates, so levels are not to be compared pair by pair."
    )
    return Chart(
        protocol=Protocol.SPLITS,
        title="Other divisions of the data",
        axis="division",
        about=" ".join([about, *said]),
        curves=[Curve(name=metric, points=points)] if points else [],
        skipped=None if points else "; ".join(said),
    )


def _train_noise(
    again: Again,
    features: ItemFeatures,
    measure: Callable[[Recommender], Values],
    clean: Callable[[int], Values],
) -> Experiment:
    if not features.names:
        return Experiment(
            Protocol.TRAIN_NOISE, "Noise in training", "", "", skipped="not applicable: there are no features"
        )
    statistics = Statistics.of(features, np.flatnonzero(again.split.warm_items))
    every = range(len(features.names))

    def made(shared: bool) -> Callable[[float, int], Values]:
        def values(sigma: float, seed: int) -> Values:
            noisy = Noise(features, statistics, sigma, every, seed, shared=shared)
            return measure(again.trained(seed, stores=as_stores(noisy, again.split.items.ids)))

        return values

    return Experiment(
        Protocol.TRAIN_NOISE,
        "Noise in training",
        "noise, % of a dimension's standard deviation",
        "Trained and measured with noisy content in all modalities. The control moves each item as far, all "
        "in one direction.",
        SIGMAS,
        (Variant("noise", made(False)), Variant("same shift for all", made(True), control=True)),
        clean=clean,
    )


def _false_edges(
    again: Again, measure: Callable[[Recommender], Values], clean: Callable[[int], Values]
) -> Experiment:
    return Experiment(
        Protocol.FALSE_EDGES,
        "False training pairs",
        "% of the training pairs",
        "Pairs of a user and an item that are nowhere in the log are added to the training part. The control "
        "takes as many true ones away.",
        FALSE_EDGES,
        (
            Variant(
                "added",
                lambda share, seed: measure(again.trained(seed, with_false_edges(again.split, share, seed))),
            ),
            Variant(
                "as many removed",
                lambda share, seed: measure(again.trained(seed, with_less(again.split, share, seed))),
                control=True,
            ),
        ),
        clean=clean,
    )


def _data_share(
    again: Again, measure: Callable[[Recommender], Values], clean: Callable[[int], Values]
) -> Experiment:
    return Experiment(
        Protocol.DATA_SHARE,
        "Less to learn from",
        "% of the training pairs that were taken away",
        "A random share of the training pairs is taken away. The control is the start of the curve: "
        "trainings on all of them with the same seeds. Users and candidates stay the same.",
        REMOVED,
        (
            Variant(
                "less data",
                lambda share, seed: measure(again.trained(seed, with_less(again.split, share, seed))),
            ),
        ),
        clean=clean,
    )


def _when(split: Split, users: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Draw for each of the users when one of their training pairs happened."""
    assert split.train_order is not None
    # A generator of its own, so that with or without an order the same pairs are drawn.
    draws = np.random.default_rng((seed, _WHEN)).random(len(users))
    sizes = np.bincount(split.train.users, minlength=len(split.users))
    starts = np.cumsum(sizes) - sizes
    by_user = np.argsort(split.train.users, kind="stable")
    chosen = starts[users] + (draws * sizes[users]).astype(np.int64)
    drawn: npt.NDArray[np.float64] = split.train_order[by_user[chosen]]
    return drawn


def _changed(split: Split, pairs: Pairs, parts: npt.NDArray[np.int8], when: Order) -> Split:
    order = np.lexsort((pairs.items, pairs.users))
    # Without a ledger: what is damaged is no split whose test part anybody opens.
    return replace(
        split,
        pairs=Pairs(pairs.users[order], pairs.items[order]),
        parts=parts[order],
        order=None if when is None else when[order],
        ledger=None,
        _openings=[],
    )


def _keys(users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], split: Split) -> npt.NDArray[np.int64]:
    return users.astype(np.int64) * len(split.items) + items
