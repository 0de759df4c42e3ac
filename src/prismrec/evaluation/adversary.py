"""Content moved a little, in the direction that does the most harm.

Projected gradient ascent (A. Madry et al., ICLR 2018, arXiv 1706.06083) on the BPR loss, as adversarial
multimedia recommendation has it (J. Tang et al., TKDE 2020, arXiv 1809.07062), each item within a ball around
its own content. It never reads a held-out pair: training items are attacked through triplets of training
pairs; items without training pairs through the model's own mind, by triplets of two such items of which the
model prefers the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.features.store import ItemFeatures
from prismrec.models.base import Model
from prismrec.models.batches import ItemBatch, TrainingData
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.held_content import holders
from prismrec.models.layers.losses import bpr
from prismrec.training.negatives import Negatives

Floats = npt.NDArray[np.float32]

_BLOCK = 2048
# Triplets for each item that is attacked: enough that its gradient is no accident of a few users.
_TRIPLETS = 64
_NO_WAY = "not applicable: no gradient leads from the vectors of the ranked items to their content"


@dataclass(frozen=True)
class Attack:
    """What was found.

    Parameters
    ----------
    codes
        Items that were moved, ascending.
    shifts
        What to add to their content, one array a modality, shape ``(len(codes), dim)``; 0 for missing content
        and where no gradient came.
    loss_before, loss_after
        Mean BPR loss of the attack's triplets.
    """

    codes: npt.NDArray[np.int32]
    shifts: tuple[Floats, ...]
    loss_before: float
    loss_after: float

    def random_twin(self, seed: int) -> tuple[Floats, ...]:
        """Return the control: for each item a random direction, as long as the shift."""
        rng = np.random.default_rng(seed)
        twins = []
        for shift in self.shifts:
            drawn = rng.standard_normal(shift.shape, dtype=np.float32)
            lengths = np.linalg.norm(shift, axis=1, keepdims=True)
            twins.append(drawn * (lengths / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)))
        return tuple(twins)


@dataclass(frozen=True)
class _Triplets:
    """Users' vectors and the places of a better and a worse item among those attacked."""

    users: Tensor
    better: Tensor
    worse: Tensor

    def loss(self, vectors: Tensor) -> Tensor:
        products = (
            (self.users * vectors[self.better]).sum(dim=1),
            (self.users * vectors[self.worse]).sum(dim=1),
        )
        return bpr(*products).mean()


def why_not(model: Model, features: ItemFeatures, codes: npt.NDArray[np.int32]) -> str | None:
    """Return why a model cannot be attacked through its items' content, None if it can.

    Parameters
    ----------
    model
        Fitted, on the CPU.
    features
        Sound.
    codes
        Items that are to be attacked.
    """
    if holders(model):
        return (
            "not applicable: the model keeps the content of training items in tables or graphs, "
            "through which no gradient reaches it"
        )
    some = codes[features.present[codes].any(axis=1)][:64]
    if len(some) == 0:
        return "not applicable: no item that is ranked has content"
    items, leaves = _with_gradient(item_batch(features, some))
    with torch.enable_grad():
        try:
            vectors = model.item_vectors(items)
        except RuntimeError:
            # What torch raises where a model computes in place, without regard to gradients.
            return _NO_WAY
        if not vectors.requires_grad:
            return _NO_WAY
        found = torch.autograd.grad(vectors.square().sum(), leaves, allow_unused=True)
    if not any(gradient is not None and bool((gradient != 0).any()) for gradient in found):
        return _NO_WAY
    return None


def attack(
    model: Model,
    data: TrainingData,
    candidates: npt.NDArray[np.int32],
    radius: float,
    *,
    steps: int = 10,
    seed: int = 0,
) -> Attack:
    """Look for harmful shifts of the content of the items that are ranked.

    Each modality of each item stays within a ball (L2) of `radius` times the length of its own vector. A step
    goes 2.5 radius / steps along the item's gradient, brought to length 1, and is projected onto the ball.
    Users' vectors stay. Memory: the shifts, of the size of the candidates' content.

    Parameters
    ----------
    model
        Fitted, on the CPU.
    data
        Training part and sound features.
    candidates
        Codes of the items that are ranked, ascending.
    radius
        Above 0.
    steps
        At least 1.
    seed
        Of the triplets.

    Raises
    ------
    InputError
        If the model cannot be attacked, or radius or steps are not positive.
    """
    if radius <= 0 or steps < 1:
        raise InputError(f"An attack of radius {radius} in {steps} steps is none.", "Both are above 0.")
    reason = why_not(model, data.features, candidates)
    if reason is not None:
        raise InputError(f"Adversarial content is {reason}.")
    lengths = _lengths(data.features, candidates)
    clean = _vectors(model, data.features, candidates, None)
    triplets = _triplets(model, data, candidates, clean, seed)
    before = float(triplets.loss(clean))
    shifts = [torch.zeros(len(candidates), dim) for dim in data.features.dims]
    for _ in range(steps):
        vectors = _vectors(model, data.features, candidates, shifts).requires_grad_(True)
        (wanted,) = torch.autograd.grad(triplets.loss(vectors), vectors)
        for first in range(0, len(candidates), _BLOCK):
            rows = slice(first, first + _BLOCK)
            gradients = _content_gradients(model, data.features, candidates[rows], shifts, rows, wanted[rows])
            for shift, gradient, length in zip(shifts, gradients, lengths, strict=True):
                ball = radius * length[rows].unsqueeze(1)
                moved = shift[rows] + 2.5 / steps * ball * _directions(gradient)
                shift[rows] = moved * (ball / moved.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    after = float(triplets.loss(_vectors(model, data.features, candidates, shifts)))
    return Attack(candidates, tuple(shift.numpy() for shift in shifts), before, after)


def _triplets(
    model: Model, data: TrainingData, candidates: npt.NDArray[np.int32], clean: Tensor, seed: int
) -> _Triplets:
    """Draw triplets among the candidates, in proportion to how many of them occur in training."""
    place = np.full(data.inputs.n_items, -1, dtype=np.int64)
    place[candidates] = np.arange(len(candidates))
    rng = np.random.default_rng(seed)
    warm = candidates[np.isin(candidates, data.warm)].astype(np.int32)
    cold = candidates[~np.isin(candidates, data.warm)].astype(np.int32)
    who: list[npt.NDArray[np.int32]] = []
    better: list[npt.NDArray[np.int32]] = []
    worse: list[npt.NDArray[np.int32]] = []
    if len(warm) > 1:
        users, positives, negatives = _training_triplets(data, warm, rng)
        who.append(users)
        better.append(positives)
        worse.append(negatives)
    if len(cold) > 1:
        users = rng.choice(np.unique(data.pairs.users), size=_TRIPLETS * len(cold))
        one, other = rng.choice(cold, size=len(users)), rng.choice(cold, size=len(users))
        first = _scores(model, users, clean[place[one]]) >= _scores(model, users, clean[place[other]])
        who.append(users)
        better.append(np.where(first, one, other))
        worse.append(np.where(first, other, one))
    if not who:
        raise InputError("Fewer than two items are ranked: there is nothing to confuse.")
    return _Triplets(
        _user_vectors(model, np.concatenate(who)),
        torch.from_numpy(place[np.concatenate(better)]),
        torch.from_numpy(place[np.concatenate(worse)]),
    )


def _training_triplets(
    data: TrainingData, warm: npt.NDArray[np.int32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], ...]:
    pairs = data.pairs.take(np.isin(data.pairs.items, warm))
    drawn = rng.integers(len(pairs), size=min(len(pairs), _TRIPLETS * len(warm)))
    users, positives = pairs.users[drawn], pairs.items[drawn]
    starts, touched = data.pairs.by_user(data.inputs.n_users)
    negatives = Negatives(starts, touched, warm).draw(users, count=1, seed=int(rng.integers(1 << 62)))
    return users, positives, negatives[:, 0]


@torch.no_grad()
def _user_vectors(model: Model, users: npt.NDArray[np.int32]) -> Tensor:
    return model.user_vectors(torch.from_numpy(users.astype(np.int64))).float()


def _scores(model: Model, users: npt.NDArray[np.int32], items: Tensor) -> npt.NDArray[np.float32]:
    return (_user_vectors(model, users) * items).sum(dim=1).numpy()


@torch.no_grad()
def _vectors(
    model: Model, features: ItemFeatures, codes: npt.NDArray[np.int32], shifts: Sequence[Tensor] | None
) -> Tensor:
    found = []
    for first in range(0, len(codes), _BLOCK):
        rows = slice(first, first + _BLOCK)
        found.append(model.item_vectors(_shifted(item_batch(features, codes[rows]), shifts, rows)).float())
    return torch.cat(found)


def _content_gradients(
    model: Model,
    features: ItemFeatures,
    codes: npt.NDArray[np.int32],
    shifts: Sequence[Tensor],
    rows: slice,
    wanted: Tensor,
) -> list[Tensor]:
    """Gradients of the loss by content, from those by the items' vectors."""
    with torch.enable_grad():
        items, leaves = _with_gradient(_shifted(item_batch(features, codes), shifts, rows))
        vectors = model.item_vectors(items)
        found = torch.autograd.grad(vectors, leaves, wanted.to(vectors.dtype), allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    return [
        torch.where(there.unsqueeze(1), g, 0.0) for g, there in zip(gradients, items.present.T, strict=True)
    ]


def _shifted(items: ItemBatch, shifts: Sequence[Tensor] | None, rows: slice) -> ItemBatch:
    if shifts is None:
        return items
    moved = tuple(v + shift[rows] for v, shift in zip(items.vectors, shifts, strict=True))
    return ItemBatch(items.codes, moved, items.present)


def _with_gradient(items: ItemBatch) -> tuple[ItemBatch, list[Tensor]]:
    leaves = [vectors.detach().requires_grad_(True) for vectors in items.vectors]
    return ItemBatch(items.codes, tuple(leaves), items.present), leaves


def _directions(gradients: Tensor) -> Tensor:
    units: Tensor = gradients / gradients.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return units


def _lengths(features: ItemFeatures, codes: npt.NDArray[np.int32]) -> list[Tensor]:
    lengths = [torch.zeros(len(codes)) for _ in features.dims]
    for first in range(0, len(codes), _BLOCK):
        rows = slice(first, first + _BLOCK)
        for length, vectors in zip(lengths, item_batch(features, codes[rows]).vectors, strict=True):
            length[rows] = vectors.norm(dim=1)
    return lengths
