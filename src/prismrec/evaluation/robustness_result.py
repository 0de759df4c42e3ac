"""What damage did to a recommender: curves with intervals, for people and for programs."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from prismrec.evaluation.result import Interval
from prismrec.evaluation.significance import Comparison


class Protocol(StrEnum):
    """What is done to a run. Those from ``train-noise`` on train it anew."""

    NOISE = "noise"
    SWAP = "swap"
    MISSING = "missing"
    ADVERSARIAL = "adversarial"
    DEGREE = "degree"
    FLATNESS = "flatness"
    TRAIN_NOISE = "train-noise"
    FALSE_EDGES = "false-edges"
    DATA_SHARE = "data-share"
    SPLITS = "splits"

    @property
    def retrains(self) -> bool:
        """Whether it takes trainings."""
        return self in (Protocol.TRAIN_NOISE, Protocol.FALSE_EDGES, Protocol.DATA_SHARE, Protocol.SPLITS)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(_Frozen):
    """One level of damage."""

    level: float = Field(description="How much; where there are groups instead, the group's number from 0.")
    label: str = Field(description="The level for people, e.g. '30 %'.")
    value: Interval = Field(description="Mean over users of each user's mean over repeats; over users.")
    repeats: Interval | None = Field(
        None, description="Mean over repeats of the mean over users; Student's t."
    )
    users: int
    kept: float | None = Field(None, description="Value / value without damage; None where that is 0.")
    against_clean: Comparison | None = Field(
        None, description="Without damage (a) against with it (b), the same users; Holm over the chart."
    )
    against_control: Comparison | None = Field(
        None, description="The control (a) against the damage (b), likewise; of damage curves only."
    )


class Curve(_Frozen):
    """One kind of damage, or its control, over its levels."""

    name: str
    control: bool = False
    points: list[Point]


class Chart(_Frozen):
    """A protocol, or one modality of it."""

    protocol: Protocol
    title: str
    axis: str = Field(description="What the levels are.")
    about: str = Field(description="What was done, and what the control is.")
    curves: list[Curve] = []
    skipped: str | None = Field(None, description="Why there are no curves.")


class GapRow(_Frozen):
    """How much the training loss rises by a step uphill, and by random ones as long."""

    radius: float
    relative: bool
    gap: float
    random: float


class CurvatureRow(_Frozen):
    """The Hessian of the training loss."""

    relative: bool
    largest: float
    trace: float
    trace_error: float


class Flatness(_Frozen):
    """How flat the training loss is around the weights (see `prismrec.evaluation.flatness`)."""

    batches: int
    loss: float
    by_differences: bool = Field(description="Whether Hessian-vector products are differences of gradients.")
    gaps: list[GapRow]
    curvatures: list[CurvatureRow]
    along: list[float] = Field(description="Steps of the surface along both directions, in rows' lengths.")
    surface: list[list[float]]


class RobustnessResult(_Frozen):
    """All that was found about a run."""

    run: str
    model: str
    dataset: str
    part: str
    candidates: str
    n_candidates: int
    metric: str
    repeats: int
    seed: int
    users: int = Field(description="Users counted.")
    clean: Interval = Field(description="Without damage, over users.")
    charts: list[Chart]
    flatness: Flatness | None = None
    notes: list[str] = []
    test_openings_before: int | None = None
