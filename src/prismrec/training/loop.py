"""The training loop: explicit, deterministic, resumable.

Whatever is random in an epoch is drawn from generators that are seeded by the run's seed and the epoch's
number. So a run that was killed and resumed from a checkpoint goes the way of one that was not, to the last
bit on one machine with the same number of threads.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prismrec.base.errors import ConfigError, InputError, MissingExtraError
from prismrec.base.files import digest
from prismrec.base.progress import SILENT, Progress, Task
from prismrec.models.base import GradientModel, Model, Turn
from prismrec.models.batches import Batch, TableEpoch, TrainingData, TripletBatch, UserBatch
from prismrec.models.plan import TrainingPlan
from prismrec.models.strategies import AdversarialFeatures, Plain
from prismrec.models.team import ALONE, Team
from prismrec.training.augmentation import Augmenter
from prismrec.training.batches import Batches
from prismrec.training.checkpoint import Checkpoint
from prismrec.training.history import EpochRecord, FitHistory
from prismrec.training.optimizers import clip, in_half, make_optimizers, parameters_of, row_moments
from prismrec.training.prefetch import ahead
from prismrec.training.processes import join, others_may_go, require_alike
from prismrec.training.strategies.make import make_strategy
from prismrec.training.strategies.passes import Passes

Validate = Callable[[Model], dict[str, float]]

# Writing a checkpoint of a large model takes longer than an epoch of a small one.
_SECONDS_BETWEEN_CHECKPOINTS = 10.0


def fit(
    model: GradientModel,
    data: TrainingData,
    plan: TrainingPlan,
    *,
    seed: int,
    validate: Validate | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = _SECONDS_BETWEEN_CHECKPOINTS,
    log_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> FitHistory:
    """Train a model in place.

    Several processes that Accelerate or torchrun has started train it together: each calls this with the same
    arguments, and each has the trained model in the end. The first one validates, logs and writes the
    checkpoint, which all of them read to go on. `GradientModel.divides` says what that makes faster.

    Parameters
    ----------
    model
        Untrained; at the end it holds the weights of the best epoch by validation (of the last one without).
    data
        The training data.
    plan
        How to train.
    seed
        Of batches, negatives and dropout.
    validate
        Gives validation metrics by name. None: all epochs of the plan are run.
    checkpoint
        File to write to and resume from; None: neither.
    checkpoint_seconds
        Least time between two checkpoints. Resuming from an older one costs time and changes nothing.
    log_dir
        Folder for TensorBoard; None: no log.
    device
        "cpu", "cuda", "mps" or "auto" (the best there is).
    progress
        Where to report to.

    Returns
    -------
    FitHistory
        Losses and metrics of each epoch.

    Raises
    ------
    InputError
        If training diverges, or the checkpoint belongs to another run.
    ConfigError
        If the validation does not give the metric that the plan names.
    """
    accelerator, team = join(require_device(device))
    if not team.first:
        log_dir, progress = None, SILENT
    with _writer(log_dir) as write, others_may_go(team):
        return _Run(model, data, plan, seed, validate, accelerator, team, progress, write).go(
            checkpoint, checkpoint_seconds
        )


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        model: GradientModel,
        data: TrainingData,
        plan: TrainingPlan,
        seed: int,
        validate: Validate | None,
        accelerator: Any,
        team: Team,
        progress: Progress,
        write: Callable[[EpochRecord], None],
    ) -> None:
        torch.manual_seed(seed)
        self.plan = plan
        self.validate = validate
        self.team = team
        progress.say("preparing the model")
        chosen = model.prepare(data, None if validate is None else lambda: self._measure(model)[plan.metric])
        self.seed = seed
        self.data = data
        self.progress = progress
        self.write = write
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        model.lazy_rows = plan.row_updates == "lazy"
        self.half = in_half(plan, self.device)
        self.optimizers = make_optimizers(model.to(self.device), plan)
        self.model = model
        model.team = team
        self.prepared = [accelerator.prepare_optimizer(optimizer) for optimizer in self.optimizers]
        self.strategy = make_strategy(plan.strategy)
        divided = team if self._divides() else ALONE
        self.batches = Batches(data, plan, seed, model.wants_catalog, model.targets, divided)
        self.augmenter = Augmenter(plan.augmentation, data, seed)
        for name in self.augmenter.idle(model):
            progress.say(f"training.augmentation.{name} changes nothing in {model.config.name}")
        self.history = FitHistory(chosen=chosen, seconds={"sample": 0.0, "step": 0.0, "validate": 0.0})
        self.best: dict[str, Tensor] | None = None
        self.bad = 0
        self.steps = 0

    def go(self, checkpoint: Path | None, every: float) -> FitHistory:
        fingerprint = self._fingerprint()
        if checkpoint is not None:
            self._resume(Checkpoint.read(checkpoint, fingerprint))
            self._require_same_start(checkpoint)
        written = time.perf_counter()
        done = len(self.history.epochs)
        if self.validate is not None and self.best is None:
            # A model may start from something better than what training makes of it.
            self.history.best_metric = self._measure(self.model)[self.plan.metric]
            self.best = self._copied()
        with self.progress.task("train", self.plan.epochs) as task:
            task.advance(done)
            while len(self.history.epochs) < self.plan.epochs and not self.history.stopped_early:
                record = self._epoch(len(self.history.epochs) + 1)
                self.history.epochs.append(record)
                self.write(record)
                self._judge(record, task)
                if checkpoint is not None and self.team.first and time.perf_counter() - written >= every:
                    self._checkpoint().write(checkpoint, fingerprint)
                    written = time.perf_counter()
        if checkpoint is not None and self.team.first and len(self.history.epochs) > done:
            self._checkpoint().write(checkpoint, fingerprint)
        if self.best is not None:
            self.model.load_state(self.best)
        else:
            self.history.best_epoch = len(self.history.epochs)
        self.model.team = ALONE
        self.model.to("cpu").eval()
        return self.history

    def _require_same_start(self, checkpoint: Path) -> None:
        """Check that this process goes on from where the first one does."""
        first, own = self.team.told(len(self.history.epochs)), len(self.history.epochs)
        if first != own:
            raise InputError(
                f"{checkpoint}: process {self.team.rank} begins after epoch {own}, "
                f"the first one after {first}.",
                "All processes must see the run's folder, at the same path.",
            )

    def _divides(self) -> bool:
        """Whether each process is given some of a batch's pairs alone.

        What moves content looks at the whole batch: a process that has some of its pairs would move an item
        by a part of its gradient.
        """
        plan = self.plan
        simple = plan.sampling == "triplets" and plan.augmentation == type(plan.augmentation)()
        return simple and self.model.divides and not isinstance(plan.strategy, AdversarialFeatures)

    def _epoch(self, number: int) -> EpochRecord:
        began = time.perf_counter()
        torch.manual_seed(_epoch_seed(self.seed, number))
        self.model.train()
        self.model.start_epoch(number)
        self.augmenter.start_epoch(self.model, number)
        if self.batches.divided:
            # What is drawn for an epoch is drawn alike; what is drawn for its own pairs is each one's own.
            torch.manual_seed(_epoch_seed(self.seed, number) + self.team.rank)
        losses = self._at_once(number) if self._goes_at_once() else self._batch_by_batch(number)
        self.augmenter.end_epoch(self.model)
        require_alike(self.model, self.team)
        if not all(math.isfinite(value) for value in losses.values()):
            raise InputError(
                f"Training diverged in epoch {number}: {_shown(losses)}.",
                "Lower training.learning_rate, or set training.clip_norm.",
            )
        metrics: dict[str, float] = {}
        if self.validate is not None and (
            number % self.plan.evaluate_every == 0 or number == self.plan.epochs
        ):
            mark = time.perf_counter()
            metrics = self._measure(self.model)
            self.history.seconds["validate"] += time.perf_counter() - mark
        return EpochRecord(epoch=number, seconds=time.perf_counter() - began, losses=losses, metrics=metrics)

    def _batch_by_batch(self, number: int) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        mark = time.perf_counter()
        # Closed whatever happens: an error in a step must not leave a thread behind that waits to be read.
        drawn = enumerate(self.batches.epoch(number))
        changed = (self.augmenter.batch(batch, number, place) for place, batch in drawn)
        with closing(ahead(changed)) as batches:
            for place, batch in enumerate(batches):
                moved = _to(batch, self.device)
                self.model.start_batch(place)
                self.history.seconds["sample"] += time.perf_counter() - mark
                mark = time.perf_counter()
                for name, value in self._step(moved, self.batches.weight(place)).items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
                self.history.seconds["step"] += time.perf_counter() - mark
                mark = time.perf_counter()
        return {name: float(total) / len(self.batches) for name, total in sums.items()}

    def _goes_at_once(self) -> bool:
        """Whether the model's own epoch does all that the plan asks for."""
        plan = self.plan
        simple = plan.sampling == "triplets" and plan.clip_norm is None and not self.half
        simple = simple and isinstance(plan.strategy, Plain)
        alone = self.team.size == 1 and self.device.type == "cpu"
        return self.model.trains_epochs and self.model.lazy_rows and simple and alone

    def _at_once(self, number: int) -> dict[str, float]:
        mark = time.perf_counter()
        triplets = self.batches.triplets(number)
        self.history.seconds["sample"] += time.perf_counter() - mark
        mark = time.perf_counter()
        tables = {name: self.model.get_parameter(name) for name in self.model.row_tables}
        states = row_moments(self.optimizers, tables)
        moments = {name: (state["exp_avg"], state["exp_avg_sq"]) for name, state in states.items()}
        before, rates = self.steps, []
        for _ in range(len(self.batches)):
            rates.append(self.plan.learning_rate * self._rate_factor())
            self.steps += 1
        epoch = TableEpoch(*triplets, self.plan.batch_size, np.array(rates), before, moments)
        losses: dict[str, float] = self.model.train_epoch(epoch)
        for state in states.values():
            state["step"] += len(rates)
        self.history.seconds["step"] += time.perf_counter() - mark
        return losses

    def _step(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        rate = self.plan.learning_rate * self._rate_factor()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        if not self.model.turns:
            terms = self._move(batch, None, weight)
        else:
            terms = {}
            for turn in self.model.turns:
                moved = self._move(batch, turn, weight)
                terms |= {f"{turn.name} {name}": value for name, value in moved.items()}
        self.steps += 1
        return terms

    def _move(self, batch: Batch, turn: Turn | None, weight: float) -> dict[str, Tensor]:
        """Take one step down the sum of the terms, with all parameters or those of a turn."""
        passes = Passes(
            self.model,
            batch,
            turn,
            optimizers=self.prepared,
            backward=self.accelerator.backward,
            autocast=self._autocast,
            finish=self._clip,
            rate=self.plan.learning_rate * self._rate_factor(),
            number=self.steps,
            weight=weight,
        )
        return self.strategy.step(passes)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def _clip(self) -> None:
        if self.plan.clip_norm is not None:
            clip(self.model, self.plan.clip_norm)

    @torch.no_grad()
    def _measure(self, model: Model) -> dict[str, float]:
        """Return the validation metrics of a model as it stands; the plan's is among them."""
        assert self.validate is not None
        model.eval()
        # One process measures, so that all of them judge by the same numbers.
        metrics: dict[str, float] = self.team.told(self.validate(model) if self.team.first else None)
        require_metric(self.plan, metrics)
        return metrics

    def _copied(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state().items()}

    def _rate_factor(self) -> float:
        """Learning rate of this step relative to the plan's."""
        if self.steps < self.plan.warmup_steps:
            return (self.steps + 1) / self.plan.warmup_steps
        if self.plan.schedule == "constant":
            return 1.0
        if self.plan.schedule == "decay":
            epoch = self.steps // len(self.batches)
            return float(self.plan.decay ** (epoch / self.plan.decay_epochs))
        all_steps = max(1, self.plan.epochs * len(self.batches) - self.plan.warmup_steps)
        share = min(1.0, (self.steps - self.plan.warmup_steps) / all_steps)
        if self.plan.schedule == "linear":
            return 1.0 - share
        return 0.5 * (1.0 + math.cos(math.pi * share))

    def _judge(self, record: EpochRecord, task: Task) -> None:
        """Keep the best weights by validation, count how long none were better."""
        losses = _shown(record.losses)
        if not record.metrics:
            task.advance(1, losses)
            return
        value = record.metrics[self.plan.metric]
        if self.history.best_metric is None or value > self.history.best_metric:
            self.history.best_metric, self.history.best_epoch, self.bad = value, record.epoch, 0
            self.best = self._copied()
        else:
            self.bad += 1
            self.history.stopped_early = 0 < self.plan.patience <= self.bad
        task.advance(
            1, f"{losses} | valid {self.plan.metric} {value:.4f}, best {self.history.best_metric:.4f}"
        )

    def _fingerprint(self) -> str:
        settings = {
            "model": self.model.config.name,
            "config": self.model.config.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json"),
            "seed": self.seed,
            "features": self.data.features.content_hash,
        }
        pairs, order = self.data.pairs, self.data.order
        return digest(
            json.dumps(settings, sort_keys=True).encode(),
            pairs.users.tobytes(),
            pairs.items.tobytes(),
            *([] if order is None else [order.tobytes()]),
        )

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"model.{name}": t for name, t in self.model.state().items()}
        tensors |= {f"strategy.{name}": t for name, t in self.strategy.state().items()}
        tensors |= {f"best.{name}": t for name, t in (self.best or {}).items()}
        for name, parameter in self.model.named_parameters():
            for optimizer in self.optimizers:
                for moment, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}/{moment}"] = torch.as_tensor(value)
        numbers = {"history": self.history.model_dump(), "bad": self.bad, "steps": self.steps}
        return Checkpoint(tensors, numbers)

    def _resume(self, found: Checkpoint | None) -> None:
        if found is None:
            return
        self.model.load_state(found.group("model"))
        self.model.to(self.device)
        self.best = found.group("best") or None
        self.strategy.load_state({n: t.to(self.device) for n, t in found.group("strategy").items()})
        for key, value in found.group("optimizer").items():
            name, moment = key.rsplit("/", 1)
            parameter = self.model.get_parameter(name)
            owner = next(o for o in self.optimizers if any(parameter is p for p in parameters_of(o)))
            owner.state[parameter][moment] = value if moment == "step" else value.to(self.device)
        self.history = FitHistory.model_validate(found.numbers["history"])
        self.bad, self.steps = int(found.numbers["bad"]), int(found.numbers["steps"])
        self.progress.say(f"resuming after epoch {len(self.history.epochs)}")


def require_metric(plan: TrainingPlan, metrics: Mapping[str, float]) -> None:
    """Check that a validation gives the metric that the plan names.

    Raises
    ------
    ConfigError
        If it does not.
    """
    if plan.metric not in metrics:
        raise ConfigError(
            f"training.metric is {plan.metric!r}, which the validation does not give.",
            f"It gives: {', '.join(metrics)}.",
        )


def require_device(device: str) -> str:
    """Return the kind of a device, "cpu", "cuda" or "mps"; the best there is for "auto".

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    known = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not known.get(device, False):
        have = ", ".join(name for name, there in known.items() if there)
        raise ConfigError(f"There is no device {device!r} here.", f"There is: {have}; or 'auto'.")
    return device


@dataclass
class _writer:  # noqa: N801
    """TensorBoard's writer as a context manager that gives a function; without a folder it does nothing."""

    folder: Path | None

    def __enter__(self) -> Callable[[EpochRecord], None]:
        if self.folder is None:
            return lambda record: None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "Logging for TensorBoard") from error
        self.summary: Any = SummaryWriter(str(self.folder))
        return self._record

    def _record(self, record: EpochRecord) -> None:
        for name, value in record.losses.items():
            self.summary.add_scalar(f"loss/{name}", value, record.epoch)
        for name, value in record.metrics.items():
            self.summary.add_scalar(f"valid/{name}", value, record.epoch)

    def __exit__(self, *error: object) -> None:
        if self.folder is not None:
            self.summary.close()


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    items, users = batch.items.to(device), batch.users.to(device)
    if isinstance(batch, UserBatch):
        return UserBatch(users, items, batch.rows.to(device), batch.columns.to(device))
    assert isinstance(batch, TripletBatch)
    return replace(
        batch,
        users=users,
        items=items,
        positives=batch.positives.to(device),
        negatives=batch.negatives.to(device),
    )


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(digest(f"{seed}/{epoch}".encode())[:15], 16)


def _shown(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
