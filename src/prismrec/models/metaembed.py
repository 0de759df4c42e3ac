"""Meta-Embedding: a generator of vectors for new items, taught to be a good start for learning.

F. Pan, S. Li, X. Ao, P. Tang, Q. He: Warm Up Cold-start Advertisements: Improving CTR Predictions via
Learning to Learn ID Embeddings, SIGIR 2019, arXiv 1904.11547. The model that scores is fixed; a linear map of
content is trained so that what it gives a new item fits at once, and fits better after one gradient step.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.als import fold
from prismrec.models.layers.backbone import backbone_of
from prismrec.models.layers.content import Content
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.visitors import Visitors, Visits
from prismrec.models.plan import TrainingPlan

# Two numbers are fitted: more pairs than this make them no better.
_CALIBRATION_PAIRS = 200_000


class MetaEmbedConfig(ModelConfig):
    """Hyper-parameters of Meta-Embedding."""

    name: ClassVar[str] = "metaembed"
    summary: ClassVar[str] = "Generator of vectors for new items by learning to learn (SIGIR 2019)."
    phases: ClassVar[tuple[str, ...]] = ("backbone", "gradient steps")

    dim: int = Field(64, ge=1, le=4096, description="Size of the backbone's vectors.")
    samples: int = Field(
        20,
        ge=2,
        le=4096,
        description="Users K of each of an item's two mini-batches, half of them its own; fewer for an item "
        "that has less than K users.",
    )
    cold_weight: float = Field(
        0.1, ge=0, le=1, description="Weight alpha of the loss at once; the loss after a step has the rest."
    )
    weights: Literal["natural", "even"] = Field(
        "natural",
        description="'natural': an item's users weigh in proportion to their number, as much as others for "
        "the average item, so that the generator learns popularity. 'even': always as much.",
    )
    step: float = Field(0.1, ge=0, description="Length eta of the step between the mini-batches.")
    bias: bool = Field(True, description="Whether the generator's linear map has one.")
    bound: float | None = Field(
        None,
        gt=0,
        description="Largest value of a generated vector's entries. None: `spread` times what is usual.",
    )
    spread: float = Field(
        4.0,
        gt=0,
        description="Without `bound`: largest value of an entry, in root mean squares of the column over the "
        "backbone's vectors.",
    )
    backbone: Literal["als", "svd"] = Field("als", description="Where collaborative vectors come from.")
    alpha: float = Field(10.0, ge=0, description="ALS: additional weight of an interaction.")
    als_penalty: float = Field(50.0, gt=0, description="ALS: penalty on the factors.")
    als_iterations: int = Field(10, ge=1, le=1000, description="ALS: rounds.")

    def build(self, inputs: ModelInputs) -> "MetaEmbed":
        """Make an untrained model."""
        return MetaEmbed(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default`` and ``as_published``."""
        published = cls(dim=256, weights="even", step=1e-4, bias=False, bound=0.2)
        return {
            "default": Preset(
                cls(), TrainingPlan(batch_size=25, epochs=30, patience=5), "Ours, chosen by validation."
            ),
            "as_published": Preset(
                published,
                TrainingPlan(batch_size=25, epochs=3, patience=0),
                "Sizes of the paper; the step, the bound and the epochs of the released code.",
            ),
        }


class MetaEmbed(GradientModel):
    """The model: ``p_u . q_i`` for an item of the training part, ``p_u . h(c_i)`` for any other.

    p and q are the backbone's, fixed; ``h(c) = s tanh(W c + b)``. An item with two training pairs or more is
    a task; a batch's positives are its tasks, its users and negatives are not looked at, since each task
    draws users of its own. Users without training pairs have the zero vector.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes.

    Raises
    ------
    InputError
        If there is no modality.
    """

    users: Tensor
    items: Tensor
    warm: Tensor
    bound: Tensor
    slope: Tensor
    offset: Tensor
    odds: Tensor

    def __init__(self, config: MetaEmbedConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("Meta-Embedding")
        self.config: MetaEmbedConfig = config
        self.content = Content(inputs.modalities)
        self.register_buffer("users", torch.zeros(inputs.n_users, config.dim))
        self.register_buffer("items", torch.zeros(inputs.n_items, config.dim))
        self.register_buffer("warm", torch.zeros(inputs.n_items, dtype=torch.bool))
        self.register_buffer("bound", torch.ones(config.dim))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("odds", torch.ones(inputs.n_items), persistent=False)
        self.generator = nn.Linear(self.content.dim, config.dim, bias=config.bias)
        self.visitors = Visitors()
        self._targets: Pairs | None = None

    @property
    def targets(self) -> Pairs | None:
        """One pair of each item that has two or more, so that an epoch takes each task once."""
        return self._targets

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Fit the backbone, calibrate its scores to log odds and the generator's range to its vectors.

        Raises
        ------
        InputError
            If no item has two training pairs, or the backbone's vectors tell nothing.
        """
        del score
        config = self.config
        codes, first, counts = np.unique(data.pairs.items, return_index=True, return_counts=True)
        tasks = first[counts >= 2]
        if not len(tasks):
            raise InputError(
                "Meta-Embedding learns from items with two users or more, and there is none.",
                "Add interactions, or take another model.",
            )
        self._targets = Pairs(data.pairs.users[tasks], data.pairs.items[tasks])
        found = backbone_of(
            data,
            config.backbone,
            config.dim,
            alpha=config.alpha,
            penalty=config.als_penalty,
            iterations=config.als_iterations,
        )
        warm = torch.from_numpy(codes.astype(np.int64))
        self.users.copy_(found.users)
        self.items.zero_()[warm] = found.items[warm]
        self.warm.zero_()[warm] = True
        usual = self.items[warm].square().mean(dim=0).sqrt()
        self.bound.copy_(
            usual * config.spread if config.bound is None else torch.full_like(usual, config.bound)
        )
        if config.weights == "natural":
            self.odds[warm] = torch.from_numpy(counts / counts.mean()).float()
        self.content.fit(data.features, codes)
        self.visitors.fit(data.pairs, self.inputs.n_items)
        self._calibrate(data.pairs, data.seed)
        return {"tasks": float(len(tasks)), "slope": float(self.slope), "offset": float(self.offset)}

    def _calibrate(self, pairs: Pairs, seed: int) -> None:
        """Regress who touched what on the scores, with as many pairs that were not touched."""
        rng, natural = np.random.default_rng(seed), self.config.weights == "natural"
        chosen = rng.permutation(len(pairs))[:_CALIBRATION_PAIRS]
        users, items = pairs.users[chosen], pairs.items[chosen]
        others = rng.choice(np.unique(pairs.users), size=len(chosen))
        beside = rng.choice(np.unique(pairs.items), size=len(chosen)) if natural else items
        width = np.int64(self.inputs.n_items)
        touched = np.isin(others * width + beside, pairs.users * width + pairs.items)
        positive = self._scores(users, items)
        negative = self._scores(others[~touched], beside[~touched])
        slope, offset = _logistic(positive, negative)
        if not slope > 0:
            raise InputError(
                "The backbone of Meta-Embedding does not tell who touched what.", "Lower als_penalty."
            )
        self.slope.fill_(slope)
        self.offset.fill_(offset)

    def _scores(
        self, users: npt.NDArray[np.integer], items: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        left = self.users[torch.from_numpy(users.astype(np.int64))]
        right = self.items[torch.from_numpy(items.astype(np.int64))]
        scores: npt.NDArray[np.float32] = (left * right).sum(dim=1).numpy()
        return scores

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the backbone's vectors; zeros for users who came later."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the backbone's vectors for items of the training part, generated ones for the others."""
        warm = (items.codes >= 0) & self.warm[items.codes.clamp_min(0)]
        return torch.where(warm.unsqueeze(1), rows_or_zero(self.items, items.codes), self.generate(items))

    def generate(self, items: ItemBatch) -> Tensor:
        """Return ``h(c)`` for any items, shape ``(n, dim)``."""
        vectors: Tensor = self.bound * self.generator(self.content(items)).tanh()
        return vectors

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor:
        """Return the backbone's vector for a user with these items; later items count as generated."""
        del history
        if self.config.backbone == "svd":
            # Columns of the items' table are orthogonal; their squared lengths are the singular values.
            return liked.sum(dim=0) / catalog.square().sum(dim=0).clamp_min(1e-12)
        eye = torch.eye(liked.shape[1], dtype=liked.dtype, device=liked.device)
        base = catalog.T @ catalog + self.config.als_penalty * eye
        return fold(liked.unsqueeze(0), base, self.config.alpha).squeeze(0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``cold``, the loss at once, and ``adapted``, the loss after a step.

        Raises
        ------
        InputError
            If the batch holds whole users.
        """
        if not isinstance(batch, TripletBatch):
            raise InputError("Meta-Embedding is trained on triplets.", "Set sampling='triplets'.")
        rows = torch.unique(batch.positives)
        tasks = _rows(batch.items, rows)
        first, second = self.visitors.draw(tasks.codes, self.config.samples, self.odds[tasks.codes])
        at_once, adapted = self.task_losses(self.generate(tasks), first, second)
        weight = self.config.cold_weight
        return {"cold": weight * at_once.mean(), "adapted": (1.0 - weight) * adapted.mean()}

    def task_losses(self, vectors: Tensor, first: Visits, second: Visits) -> tuple[Tensor, Tensor]:
        """Return each task's loss of its first vector, and of the vector after a step, on other users.

        Parameters
        ----------
        vectors
            ``phi``, shape ``(n, d)``.
        first, second
            The mini-batches a and b of each task.

        Returns
        -------
        tuple
            ``l_a(phi)`` and ``l_b(phi - eta grad l_a(phi))``, shape ``(n,)`` each. Gradients go through the
            step too: it is written out, so that ordinary differentiation gives the second derivatives.
        """
        users = self.users[first.users]
        logits = self._logits(users, vectors)
        errors = (logits.sigmoid() - first.labels) * first.weights
        # Of the loss by `slope * phi`: so the step is as long in log odds whatever the backbone's scale is.
        gradient = (errors.unsqueeze(2) * users).sum(dim=1)
        moved = self._logits(self.users[second.users], vectors - self.config.step / self.slope * gradient)
        return _log_loss(logits, first), _log_loss(moved, second)

    def _logits(self, users: Tensor, vectors: Tensor) -> Tensor:
        """Return log odds, shape ``(n, k)``, of users ``(n, k, d)`` and vectors ``(n, d)``."""
        return self.slope * (users * vectors.unsqueeze(1)).sum(dim=2) + self.offset


def _log_loss(logits: Tensor, visits: Visits) -> Tensor:
    """Return the mean log loss of each item, shape ``(n,)``."""
    each = functional.binary_cross_entropy_with_logits(logits, visits.labels, reduction="none")
    return (each * visits.weights).sum(dim=1)


def _rows(items: ItemBatch, rows: Tensor) -> ItemBatch:
    return ItemBatch(items.codes[rows], tuple(v[rows] for v in items.vectors), items.present[rows])


def _logistic(positive: npt.NDArray[np.float32], negative: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return scale and offset that turn scores into log odds, with a unit penalty on half the squared scale.

    Without a penalty the scale would have no bound where the scores tell both apart without an error.
    """
    if not len(negative):  # Everybody has touched everything.
        return 1.0, 0.0
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([positive, negative]).astype(np.float64)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    fitted = LogisticRegression(C=1.0).fit(scores[:, None], labels)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
