"""The contract of a model.

A model scores an item for a user by the dot product of two vectors, whatever happens inside. So one ranking
engine evaluates all of them, one store serves all of them, and a new item needs no more than its vector.

There are two kinds. A `GradientModel` names its loss terms for a batch and is trained by the loop of
`prismrec.training`. A `ClosedFormModel` computes its parameters at once from the training data.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import DamagedError
from prismrec.data.interactions import Pairs
from prismrec.features.store import ItemFeatures
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TableEpoch, TrainingData
from prismrec.models.plan import TrainingPlan
from prismrec.models.settings import parse_settings
from prismrec.models.team import ALONE, Team


@dataclass(frozen=True)
class Turn:
    """One of the steps that a model takes for each batch in alternation, as adversaries do.

    Parameters
    ----------
    name
        In the log, before the name of a term.
    trains
        Beginnings of the names of the parameters that the step moves; all others stay.
    """

    name: str
    trains: tuple[str, ...]

    def moves(self, parameter: str) -> bool:
        """Whether the step moves a parameter of this name."""
        return parameter.startswith(self.trains)


@dataclass(frozen=True)
class Explanation:
    """Why a model sees items as it does.

    Parameters
    ----------
    modality_weights
        How much each modality counts for each item, shape ``(n, modalities)``; rows add up to 1, or to 0 for
        an item without content.
    expert_weights
        How much each expert counts, shape ``(n, modalities, experts)``.
    """

    modality_weights: Tensor
    expert_weights: Tensor


class ModelConfig(BaseModel):
    """Hyper-parameters of a model: frozen, typed, bounded, documented."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    """How the model is called on the command line."""

    summary: ClassVar[str]
    """One line for people."""

    recommends_cold_items: ClassVar[bool] = True
    """Whether items that nobody has touched get meaningful vectors."""

    uses_content: ClassVar[bool] = True
    """Whether it needs features."""

    phases: ClassVar[tuple[str, ...]] = ("fit",)
    """What its training consists of."""

    @abstractmethod
    def build(self, inputs: ModelInputs) -> "Model":
        """Make an untrained model. Parameters are drawn from torch's global generator."""

    @classmethod
    def presets(cls) -> "dict[str, Preset]":
        """Return named settings. ``"default"`` is always there."""
        return {"default": Preset(cls(), TrainingPlan(), "The defaults.")}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from plain values.

        Raises
        ------
        ConfigError
            Naming the field, what was expected, and for an unknown field the nearest known one.
        """
        return parse_settings(cls, values, cls.name)


@dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Parameters
    ----------
    model
        Hyper-parameters.
    training
        How to train.
    about
        Where they come from.
    """

    model: ModelConfig
    training: TrainingPlan
    about: str


class Model(nn.Module, ABC):
    """A fitted or trainable model."""

    config: ModelConfig

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__()
        self.inputs = inputs

    @abstractmethod
    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the vectors of users.

        Parameters
        ----------
        users
            User codes, shape ``(n,)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``.
        """

    @abstractmethod
    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the vectors of items, seen in training or not, shape ``(n, d)``."""

    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor | None:
        """Return a vector for a user who is known by a few items only.

        Parameters
        ----------
        liked
            Vectors of the items, shape ``(h, d)``.
        catalog
            Vectors of the training items, shape ``(n, d)``.
        history
            Which rows of `catalog` the liked ones are, shape ``(h,)``; -1 for items that came later.

        Returns
        -------
        Tensor or None
            Shape ``(d,)``. None: the model has no way of its own, the general one is used.
        """
        del liked, catalog, history
        return None

    def explain(self, items: ItemBatch) -> Explanation | None:
        """Return what the model attends to in items, None if it does not attend."""
        del items
        return None

    def see(self, features: ItemFeatures, before: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take other content of the training items, in place.

        For models that keep it in tables or graphs; content of a batch changes nothing there. The layers of
        `prismrec.models.layers` are served; a model that keeps content elsewhere has a method of its own.

        Parameters
        ----------
        features
            The new content of all items; rows of `warm` are read only.
        before
            What the model was trained on.
        warm
            Codes of the training items, ascending.
        """
        from prismrec.models.layers.held_content import replace_content

        replace_content(self, features, before, warm)

    def state(self) -> dict[str, Tensor]:
        """Return everything learnt, by name."""
        return {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises
        ------
        DamagedError
            If names or shapes do not fit.
        """
        try:
            self.load_state_dict(dict(state))
        except RuntimeError as error:
            raise DamagedError(f"The weights do not fit the model {self.config.name!r}: {error}.") from error


class GradientModel(Model):
    """A model that is trained by gradient steps on batches."""

    undecayed: ClassVar[tuple[str, ...]] = ("users", "item_bias")
    """Names of the parameters that weight decay leaves alone."""

    row_tables: ClassVar[tuple[str, ...]] = ()
    """Names of the tables that `losses` reads through `rows` alone, so that lazy updates may serve them."""

    lazy_rows: bool = False
    """Whether gradients of `row_tables` hold the touched rows only; the training loop sets it."""

    team: Team = ALONE
    """The processes that train it together; the training loop sets it.

    `losses` may divide what is expensive (`Team.whole`), by the rule of `prismrec.models.team`. A model that
    does not know of it computes everything in every process, which is right, and no faster.
    """

    @property
    def divides(self) -> bool:
        """Whether `losses` of a triplet batch, without dropout, is the mean of that of its pairs.

        Then each of several processes is given some of the pairs alone. Terms that compare the batch's items
        with each other, or that are not linear in means over them, cannot be divided so.
        """
        return False

    def rows(self, table: Tensor, codes: Tensor) -> Tensor:
        """Return rows of a table for a loss.

        Parameters
        ----------
        table
            Shape ``(rows, d)``.
        codes
            Any shape, all of them rows of the table.

        Returns
        -------
        Tensor
            Shape ``(*codes.shape, d)``.
        """
        return functional.embedding(codes, table, sparse=self.lazy_rows)

    trains_epochs: ClassVar[bool] = False
    """Whether the model has `train_epoch`: its parameters are `row_tables` and nothing else."""

    def train_epoch(self, epoch: TableEpoch) -> dict[str, float]:
        """Take the steps of a whole epoch on the CPU, in float32, instead of one by one.

        The steps must be, up to rounding, those of `losses` batch by batch with lazy Adam
        (`prismrec.training.row_adam.RowAdam` with its defaults) on the tables, or with plain SGD where the
        epoch holds no moments: tables and moments are changed in place, and any number of threads gives the
        same result. The training loop calls it where `trains_epochs` says so and the plan asks for nothing
        that it does not know: triplets, lazy rows, no clipping, full precision.

        Parameters
        ----------
        epoch
            Triplets, learning rates, moments.

        Returns
        -------
        dict
            Each term of the loss by name, mean over the batches; not a number where training has diverged.
        """
        raise NotImplementedError(f"{type(self).__name__} has no epochs of its own.")

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss by name, each a weighted scalar; their sum is minimised.

        Where there is a `team`, their mean over the processes is.
        """

    def start_epoch(self, number: int) -> None:
        """Renew what holds for one epoch, such as sampled edges, before its first batch.

        Whatever is drawn here comes from torch's global generator, which the loop has seeded by run and
        epoch, and depends on nothing that earlier epochs drew: a resumed run goes the same way.

        Parameters
        ----------
        number
            Of the epoch, from 1.
        """
        del number

    def start_batch(self, number: int) -> None:
        """Learn which batch of the epoch comes, from 0; `losses` may be called for it more than once."""
        del number

    turns: ClassVar[tuple[Turn, ...]] = ()
    """The steps that are taken one after the other for each batch; none: a single step for all parameters."""

    def turn_losses(self, turn: Turn, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of one of `turns`; `losses` is not called in training where there are turns."""
        raise NotImplementedError(f"{type(self).__name__} takes no turns.")

    @property
    def targets(self) -> Pairs | None:
        """Pairs that triplets are made of, known after `prepare`. None: the training pairs, as mostly.

        Negatives are verified against the training pairs either way.
        """
        return None

    @property
    def wants_catalog(self) -> bool:
        """Whether a `TripletBatch` must hold every item, cold ones included (transductive terms)."""
        return False

    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take statistics of the training part, once, before the first step. Most models need none.

        Parameters
        ----------
        data
            The training data.
        score
            Validation metric of the model as it stands, higher is better; None without validation.

        Returns
        -------
        dict
            What was chosen and found, for the log.
        """
        del data, score
        return {}


class ClosedFormModel(Model):
    """A model whose parameters are computed at once."""

    @abstractmethod
    def fit(self, data: TrainingData, score: Callable[[], float]) -> dict[str, float]:
        """Compute the parameters.

        Parameters
        ----------
        data
            The training data.
        score
            Validation metric of the model as it stands, higher is better: to choose regularisation.

        Returns
        -------
        dict
            What was chosen and found, for the log.
        """

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; sizes of buffers depend on the data, so they are replaced."""
        if set(state) != set(self.state_dict()):
            raise DamagedError(
                f"The weights do not fit the model {self.config.name!r}: found {sorted(state)}, "
                f"expected {sorted(self.state_dict())}."
            )
        for name, tensor in state.items():
            module, _, buffer = name.rpartition(".")
            setattr(self.get_submodule(module), buffer, tensor)
