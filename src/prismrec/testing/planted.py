"""Small data with a planted signal: what a user likes and what an item looks like have one cause."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prismrec.data.interactions import Pairs
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.base import ClosedFormModel, GradientModel, Model, ModelConfig
from prismrec.models.batches import Modality, ModelInputs, TrainingData
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.training.loop import fit

TWO_MODALITIES = (Modality("image", 12), Modality("text", 9))
_FACTORS = 4
_LIKES = 24


@dataclass(frozen=True)
class Planted:
    """The data, and what was held out.

    Parameters
    ----------
    data
        Training data; its last user has no interaction, two training items and a cold one no content.
    valid, test
        Pairs of the cold items of each part; no item of them occurs in training.
    """

    data: TrainingData
    valid: Pairs
    test: Pairs

    @property
    def cold(self) -> npt.NDArray[np.int32]:
        """Codes of the cold items of both parts, ascending."""
        return np.union1d(self.valid.items, self.test.items).astype(np.int32)


def planted(
    modalities: Sequence[Modality] = TWO_MODALITIES,
    *,
    n_users: int = 60,
    n_items: int = 160,
    missing: float = 0.1,
    seed: int = 0,
) -> Planted:
    """Make data.

    Items have hidden factors. Their content is an affine function of the factors plus noise, and a user
    takes the items that agree best with a hidden taste, plus noise. So content tells about taste, and
    nothing else does: the order of a user's pairs is drawn at random.

    Parameters
    ----------
    modalities
        Names and sizes of the vectors.
    n_users, n_items
        Sizes; at least 3 users and 40 items.
    missing
        Share of the items that lack a modality, drawn for each modality.
    seed
        Of everything.

    Returns
    -------
    Planted
        A tenth of the items validate, a tenth test, the others train.
    """
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_items, _FACTORS))
    queue = rng.permutation(n_items)
    part = np.zeros(n_items, dtype=np.int8)
    part[queue[: n_items // 10]] = 1
    part[queue[n_items // 10 : n_items // 5]] = 2
    bare = [*np.flatnonzero(part == 0)[:2], np.flatnonzero(part == 1)[0]]
    ids = [f"item-{code}" for code in range(n_items)]
    stores = []
    for modality in modalities:
        there = rng.random(n_items) >= missing
        there[bare] = False
        stores.append(_store(modality, factors, there, ids, rng))
    pairs = _pairs(factors, n_users, rng)
    train = pairs.take(part[pairs.items] == 0)
    data = TrainingData(
        train,
        ModelInputs(n_users, n_items, tuple(modalities)),
        ItemFeatures(stores, ids),
        np.unique(train.items).astype(np.int32),
        seed,
        # Of a generator of its own: everything else is drawn as it was before there was an order.
        np.random.default_rng((seed, 1)).permutation(len(train)).astype(np.float64),
    )
    return Planted(data, pairs.take(part[pairs.items] == 1), pairs.take(part[pairs.items] == 2))


def fitted(config: ModelConfig, plan: TrainingPlan, source: Planted, *, seed: int = 0) -> Model:
    """Build a model and fit it, whichever kind it is, on the CPU.

    Torch's global generator is left as it was found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build(source.data.inputs)
        if isinstance(model, GradientModel):
            fit(model, source.data, plan, seed=seed)
        elif isinstance(model, ClosedFormModel):
            model.fit(source.data, lambda: cold_auc(model, source.data, source.valid))
    return model.eval()


@torch.no_grad()
def cold_auc(model: Model, data: TrainingData, pairs: Pairs) -> float:
    """Return how often a user's held-out item scores above another item of the part; chance is 0.5.

    Parameters
    ----------
    model
        Fitted.
    data
        What holds the features.
    pairs
        Held-out pairs; their items are the candidates.
    """
    candidates = np.unique(pairs.items)
    users = np.unique(pairs.users)
    vectors = model.user_vectors(torch.from_numpy(users.astype(np.int64)))
    scores = (vectors @ model.item_vectors(item_batch(data.features, candidates)).T).numpy()
    liked = np.zeros(scores.shape, dtype=np.bool_)
    liked[np.searchsorted(users, pairs.users), np.searchsorted(candidates, pairs.items)] = True
    shares = []
    for row, mask in zip(scores, liked, strict=True):
        if mask.all():
            continue
        gap = row[mask][:, None] - row[~mask]
        shares.append(float(((gap > 0) + 0.5 * (gap == 0)).mean()))
    return float(np.mean(shares))


def _store(
    modality: Modality,
    factors: npt.NDArray[Any],
    there: npt.NDArray[np.bool_],
    ids: Sequence[str],
    rng: np.random.Generator,
) -> FeatureStore:
    offset = rng.normal(size=modality.dim)
    noise = 0.3 * rng.normal(size=(len(factors), modality.dim))
    vectors = factors @ rng.normal(size=(factors.shape[1], modality.dim)) + offset + noise
    chosen = tuple(name for name, kept in zip(ids, there, strict=True) if kept)
    return FeatureStore(
        modality.name, vectors[there].astype(np.float32), chosen, ("",) * len(chosen), {"name": "planted"}
    )


def _pairs(factors: npt.NDArray[Any], n_users: int, rng: np.random.Generator) -> Pairs:
    tastes = rng.normal(size=(n_users - 1, factors.shape[1]))
    appeal = tastes @ factors.T + 0.5 * rng.normal(size=(n_users - 1, len(factors)))
    likes = min(_LIKES, len(factors) // 4)
    items = np.sort(np.argsort(-appeal, axis=1)[:, :likes], axis=1)
    users = np.repeat(np.arange(n_users - 1), likes)
    return Pairs(users.astype(np.int32), items.ravel().astype(np.int32))
