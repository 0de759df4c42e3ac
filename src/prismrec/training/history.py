"""What happened in training, epoch by epoch."""

from pydantic import BaseModel, ConfigDict


class EpochRecord(BaseModel):
    """One epoch.

    Attributes
    ----------
    epoch
        From 1.
    seconds
        Wall time, validation included.
    losses
        Mean of each loss term over the epoch's steps, by name.
    metrics
        Validation metrics by name; empty where the epoch was not validated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    seconds: float
    losses: dict[str, float]
    metrics: dict[str, float]


class FitHistory(BaseModel):
    """A training run.

    Attributes
    ----------
    epochs
        In order.
    best_epoch
        The epoch whose weights were kept; the last one without validation; 0: what the model started
        from (always so for closed-form models).
    best_metric
        Its validation metric; None without validation.
    stopped_early
        Whether patience ran out.
    seconds
        Wall time of each phase: ``sample``, ``step``, ``validate``, ``fit``.
    chosen
        What a closed-form model chose by validation.
    """

    model_config = ConfigDict(extra="forbid")

    epochs: list[EpochRecord] = []
    best_epoch: int = 0
    best_metric: float | None = None
    stopped_early: bool = False
    seconds: dict[str, float] = {}
    chosen: dict[str, float] = {}
