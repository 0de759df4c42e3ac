"""The training of a language model: by supervision, and by preference.

The loop is `transformers.Trainer`, for its accumulation, checkpoints, precision and processes; the losses and
what goes into them are ours.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress, Task
from prismrec.features.pretrained_source import quiet
from prismrec.sequential.backbone import Backbone
from prismrec.sequential.lessons import Batch, Collator, Lessons
from prismrec.sequential.losses import (
    AnswerScores,
    LossTerms,
    PreferenceConfig,
    RunningMargin,
    preference_loss,
)
from prismrec.sequential.noise import NoDO, NoiseConfig
from prismrec.sequential.rows import Rows, answer_logits, log_probs
from prismrec.sequential.settings import Tuning
from prismrec.sequential.states import CHECKPOINTS, LOG, WHOLE, keep_log, last_loss, last_whole
from prismrec.sequential.writer import Writer

_STATE = "margin.json"


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Parameters
    ----------
    steps
        Steps in all, those before a restart counted.
    loss
        Mean loss over the last tenth of the log.
    resumed
        Step at which this call went on; 0: from the start.
    """

    steps: int
    loss: float
    resumed: int


def train_supervised(
    backbone: Backbone,
    writer: Writer,
    lessons: Lessons,
    settings: Tuning,
    folder: Path,
    *,
    seed: int,
    progress: Progress = SILENT,
    stop_after: int | None = None,
) -> Trained:
    """Train by supervision: the cross-entropy of the answers' tokens.

    Parameters
    ----------
    backbone
        With what is to be trained around it.
    writer
        Of the model.
    lessons
        Examples with their answers.
    settings
        How to train.
    folder
        For states that can be resumed, and the log.
    seed
        Of the order of examples and of dropout.
    progress
        Where to report to.
    stop_after
        Stop after so many steps, as a kill would; for tests.

    Returns
    -------
    Trained

    Raises
    ------
    InputError
        If there are too few examples for a step, or training diverges.
    """
    arguments = _arguments(settings, folder, seed, backbone.device)
    trainer = _Supervised(backbone.model, arguments, lessons, Collator(writer), settings.prompt_loss)
    return _run(trainer, len(lessons), folder, progress, stop_after)


def train_preference(
    backbone: Backbone,
    writer: Writer,
    lessons: Lessons,
    settings: Tuning,
    preference: PreferenceConfig,
    noise: NoiseConfig,
    folder: Path,
    *,
    seed: int,
    progress: Progress = SILENT,
    stop_after: int | None = None,
) -> Trained:
    """Train by preference: right answers against wrong ones, the model before as the reference.

    Parameters
    ----------
    backbone
        With an adapter around it: the model without it is the reference.
    writer, lessons, settings, folder, seed, progress, stop_after
        As in `train_supervised`; each lesson with equally many wrong answers.
    preference
        The loss.
    noise
        The noise in the policy's passes.

    Returns
    -------
    Trained

    Raises
    ------
    InputError
        As in `train_supervised`.
    """
    arguments = _arguments(settings, folder, seed, backbone.device)
    trainer = _Preference(
        backbone.model, arguments, lessons, Collator(writer), preference, NoDO(backbone.model, noise, seed)
    )
    return _run(trainer, len(lessons), folder, progress, stop_after)


class _Supervised(Trainer):  # type: ignore[misc]
    """Minimises the mean cross-entropy of the answers' tokens, and if asked that of the prompts'."""

    def __init__(
        self, model: Any, arguments: Any, lessons: Lessons, collator: Any, prompt_loss: float = 0.0
    ) -> None:
        super().__init__(model, arguments, data_collator=collator, train_dataset=lessons)
        self.prompt_loss = prompt_loss
        # Means are taken here: with other numbers of answers' tokens, gradients of accumulated passes are
        # averaged as they are.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        rows: Rows = inputs["batch"].to(self.args.device).rows
        whole = rows.ids.shape[1] - 1 if self.prompt_loss > 0 else None
        logits, targets, of_answer = answer_logits(model, rows, longest=whole)
        loss = _mean_loss(logits, targets, of_answer)
        if self.prompt_loss == 0:
            return loss
        # Pictures have no token to foretell, and before the first token there is nothing to foretell it from.
        words = (rows.mask.bool() & ~rows.answer & (rows.seen == 0))[:, 1:] & rows.mask[:, :-1].bool()
        return loss + self.prompt_loss * _mean_loss(logits, targets, words)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Only when every process has written its part the state may be marked as whole.
        self.accelerator.wait_for_everyone()


class _Preference(_Supervised):
    """Minimises a preference loss; the reference is the model without its adapter."""

    def __init__(
        self,
        model: Any,
        arguments: Any,
        lessons: Lessons,
        collator: Any,
        preference: PreferenceConfig,
        noise: NoDO,
    ) -> None:
        super().__init__(model, arguments, lessons, collator)
        self.preference, self.noise = preference, noise
        self.margin = RunningMargin()
        self._passes, self._pass_of_step = 0, -1
        self._terms: list[LossTerms] = []

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Keep the noise until the gradient is there: activations that are computed again need it."""
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        finally:
            self.noise.stop()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        batch: Batch = inputs["batch"].to(self.args.device)
        reference = self._reference(model, batch) if self.preference.loss != "simpo" else None
        self.noise.start(self._draw())
        logits, targets, mask = answer_logits(model, batch.rows)
        policy = _scores(*log_probs(self.noise.logits(logits), targets, mask), len(batch.weights))
        terms = preference_loss(
            self.preference, policy, reference, batch.weights, self.margin, self._gathered
        )
        self.margin = terms.state
        self._terms.append(terms)
        return terms.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the log what the loss saw since the last line."""
        if self._terms and "loss" in logs:
            for name in ("margin", "accuracy", "beta", "eta"):
                logs[name] = float(np.mean([getattr(t, name) for t in self._terms]))
            if self.noise.ratio() is not None:
                logs["noise"] = float(self.noise.ratio() or 0.0)
            self._terms.clear()
        super().log(logs, start_time)

    def _reference(self, model: Any, batch: Batch) -> AnswerScores:
        inner = getattr(model, "module", model)
        inner.eval()
        try:
            with torch.no_grad(), inner.disable_adapter():
                return _scores(*log_probs(*answer_logits(inner, batch.rows)), len(batch.weights))
        finally:
            inner.train()

    def _draw(self) -> int:
        """Return the number of this pass; the same after a restart."""
        step = self.state.global_step
        self._passes = self._passes + 1 if step == self._pass_of_step else 0
        self._pass_of_step = step
        passes: int = step * self.args.gradient_accumulation_steps + self._passes
        draw: int = passes * self.args.world_size + self.args.process_index
        return draw

    def _gathered(self, values: Tensor) -> Tensor:
        gathered: Tensor = self.accelerator.gather(values.detach())
        return gathered

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            place = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / _STATE
            place.write_text(json.dumps(vars(self.margin)))

    def _load_rng_state(self, checkpoint: Any) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / _STATE).is_file():
            self.margin = RunningMargin(**json.loads((Path(checkpoint) / _STATE).read_text()))


def _mean_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    sums, counts = log_probs(logits, targets, mask)
    return -sums.sum() / counts.sum()


def _scores(sums: Tensor, counts: Tensor, examples: int) -> AnswerScores:
    sums, counts = sums.view(examples, -1), counts.view(examples, -1)
    return AnswerScores(sums[:, 0], sums[:, 1:], counts[:, 0], counts[:, 1:])


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes the log, marks states that are whole, reports steps."""

    def __init__(self, folder: Path, advance: Callable[[], None], stop_after: int | None) -> None:
        self.folder, self.advance, self.stop_after = folder, advance, stop_after

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"Training diverged before step {state.global_step:,}: the loss is {logs['loss']}.",
                "Lower learning_rate; for noise on weights, lower sigma.",
            )
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, **{k: float(v) for k, v in logs.items()}}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance()
        # The last steps are told of too, however few they are.
        control.should_log = control.should_log or state.global_step >= state.max_steps
        if self.stop_after is not None and state.global_step >= self.stop_after:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def _run(trainer: Trainer, lessons: int, folder: Path, progress: Progress, stop_after: int | None) -> Trained:
    _require_enough(trainer.args, lessons)
    start = last_whole(folder / CHECKPOINTS)
    done = int(start.name.rpartition("-")[2]) if start is not None else 0
    with quiet(), progress.task("train", _steps(trainer)) as task:
        if trainer.is_world_process_zero():
            keep_log(folder / LOG, done)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Reporter(folder, _advancer(task, done), stop_after))
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    return Trained(trainer.state.global_step, last_loss(folder / LOG), done)


def _require_enough(arguments: Any, lessons: int) -> None:
    batch = arguments.per_device_train_batch_size * arguments.world_size
    needed = batch if arguments.dataloader_drop_last else 1
    if lessons < needed:
        raise InputError(
            f"There are {lessons:,} examples to learn from, and a step needs {needed:,}.",
            "Lower batch_size or set whole_batches to false; where there is none, prepare other questions.",
        )


def _advancer(task: Task, done: int) -> Callable[[], None]:
    if done:
        task.advance(done)
    return task.advance


def _steps(trainer: Trainer) -> int:
    arguments: Any = trainer.args
    passes = len(trainer.get_train_dataloader())
    each = max(1, passes // arguments.gradient_accumulation_steps)
    each += (
        passes % arguments.gradient_accumulation_steps > 0 and passes > arguments.gradient_accumulation_steps
    )
    return int(np.ceil(arguments.num_train_epochs * each))


def _arguments(settings: Tuning, folder: Path, seed: int, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm,
        bf16=settings.precision == "bf16",
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.checkpointing else None,
        dataloader_drop_last=settings.whole_batches,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=10,
        # A loss that is no number has to be seen.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        log_level="error",
        report_to="none",
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
        label_names=[],
    )
    # Otherwise several devices are used by copies of the model within this process, which know of no noise.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
