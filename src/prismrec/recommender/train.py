"""`train`: from a split and a configuration to a recommender."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from prismrec.base.errors import ConfigError, InputError
from prismrec.base.machine import machine
from prismrec.base.progress import SILENT, Progress
from prismrec.data.dataset import Dataset
from prismrec.data.splits import Candidates, ItemColdStart, Part, Split, TrainOnAll
from prismrec.evaluation.metrics import parse_metric
from prismrec.features.extract import ENCODER_FOLDER
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.base import ClosedFormModel, GradientModel, Model, ModelConfig
from prismrec.models.batches import Modality, ModelInputs, TrainingData
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.folder import CHECKPOINT, require_home
from prismrec.recommender.folding import learn_folding
from prismrec.recommender.manifest import FeatureNote, RunManifest
from prismrec.recommender.part_ranking import Ranking, default_candidates, ranking_device
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.unvalidated import epochs_taken, left_open, settings_taken
from prismrec.recommender.vectors import average_for_unknown, compute_catalog, vector_digest
from prismrec.training.history import FitHistory
from prismrec.training.loop import fit, require_device, require_metric
from prismrec.training.processes import several, team_of


def open_features(dataset: Dataset, modalities: Sequence[str] | None = None) -> list[FeatureStore]:
    """Open the feature stores of a data set's folder.

    Parameters
    ----------
    dataset
        On the disk.
    modalities
        Names in the order wanted; None: all, in alphabetical order.

    Raises
    ------
    InputError
        If the data set is in memory, or a modality was not encoded.
    """
    if dataset.path is None:
        raise InputError("The data set is in memory: hand its features to train(..., features=...).")
    home = dataset.path / "features"
    there = sorted(p.parent.name for p in home.glob("*/manifest.json"))
    wanted = there if modalities is None else list(modalities)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(
            f"{home}: there are no features {', '.join(missing)}.",
            f"There are: {', '.join(there) or 'none'}. Make them with: prismrec encode {dataset.path}",
        )
    return [FeatureStore.read(home / name) for name in wanted]


def train(
    config: ModelConfig,
    split: Split,
    *,
    plan: TrainingPlan | None = None,
    features: Sequence[FeatureStore] | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    preset: str | None = None,
    device: str = "cpu",
    log_dir: Path | None = None,
    progress: Progress = SILENT,
) -> Recommender:
    """Train a model on a split's training part; the validation part stops it and chooses.

    Several processes that Accelerate or torchrun has started train it together: each calls this with the same
    arguments and gets the recommender; the first one writes it.

    Parameters
    ----------
    config
        Which model, and its hyper-parameters.
    split
        Of a data set.
    plan
        How to train; None: the plan of the model's default preset.
    features
        Feature stores; None: those in the data set's folder.
    seed
        Of initial weights, batches, negatives and dropout.
    out
        Folder for the run; what was trained before a kill is resumed from there. None: in memory.
    preset
        Name of the preset that `config` and `plan` started from, for the manifest.
    device
        "cpu", "cuda", "mps" or "auto".
    log_dir
        Folder for TensorBoard.
    progress
        Where to report to.

    Returns
    -------
    Recommender
        Ready to be asked.

    Raises
    ------
    InputError
        If features or validation pairs are missing, or training diverges.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    dataset = split.dataset
    if dataset is None:
        raise InputError("This split was read from a run: train on a split of a data set.")
    folder = Path(out) if out is not None else None
    require_device(device)
    if folder is not None:
        require_home(folder)
    if plan is None:
        plan = type(config).presets()["default"].training
    stores = list(features) if features is not None else _default_features(dataset, config)
    aligned = ItemFeatures(stores, split.items.ids)
    inputs = ModelInputs(
        len(split.users),
        len(split.items),
        tuple(Modality(n, d) for n, d in zip(aligned.names, aligned.dims, strict=True)),
    )
    warm = np.flatnonzero(split.warm_items).astype(np.int32)
    data = TrainingData(split.train, inputs, aligned, warm, seed, split.train_order)
    if isinstance(split.plan, ItemColdStart) and not config.recommends_cold_items:
        progress.say(
            f"{config.name} knows items by their interactions only and cannot rank the items that this split "
            "holds out; the split random-holdout asks what it can answer"
        )
    torch.manual_seed(seed)
    model = config.build(inputs)
    _require_steps(model, plan)
    team = team_of(require_device(device))
    validate = validation_of(split, aligned, plan, device)
    history = _fit(model, data, plan, validate, seed, folder, device, log_dir, progress)
    model.eval()
    seconds = {"fit": time.perf_counter() - began, **history.seconds}
    items = compute_catalog(model, aligned, np.arange(len(split.items)))
    users = _user_vectors(model, len(split.users))
    _require_finite(users, items.vectors)
    manifest = RunManifest(
        model=config.name,
        preset=preset,
        config=config.model_dump(mode="json"),
        training=plan,
        seed=seed,
        split=split.plan.model_dump(mode="json"),
        split_hash=split.hash,
        dataset=dataset.path.name if dataset.path else "in memory",
        dataset_path=str(dataset.path.absolute()) if dataset.path else None,
        dataset_hash=dataset.content_hash,
        min_rating=dataset.min_rating,
        dataset_notes=dict(dataset.notes),
        features=[
            FeatureNote(name=s.name, dim=s.dim, content_hash=s.content_hash, encoder=dict(s.encoder))
            for s in stores
        ],
        history=history,
        machine=machine(),
        started=started,
        seconds=seconds,
    )
    recommender = Recommender(
        model,
        manifest,
        split,
        dataset.catalog,
        items,
        users,
        learn_folding(users, items.vectors, *split.train.by_user(len(split.users))),
        {s.name: s.path / ENCODER_FOLDER for s in stores if s.path and (s.path / ENCODER_FOLDER).exists()},
        {s.name: _digests(s) for s in stores},
    )
    if folder is not None and team.first:
        recommender.save(folder)
        # Only now: until the run is whole, the checkpoint is all there is.
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return recommender


def _require_steps(model: Model, plan: TrainingPlan) -> None:
    """Check that a plan which changes steps of training is given to a model that takes any."""
    if isinstance(model, GradientModel):
        return
    if several():
        raise InputError(
            f"{model.config.name} is computed at once: there are no steps that processes could share.",
            "Train it in one process; its products use all threads.",
        )
    unused = TrainingPlan()
    for name in ("strategy", "augmentation"):
        if getattr(plan, name) != getattr(unused, name):
            raise InputError(
                f"{model.config.name} is computed at once and takes no gradient steps, so that "
                f"training.{name} has nothing to change.",
                f"Leave training.{name} out, or choose a model with gradient steps (`prismrec models`).",
            )


def _digests(store: FeatureStore) -> dict[str, str]:
    """Digest of each item's content; of the vector itself where a store does not know the content."""
    return {
        name: known or vector_digest(store.vectors[row])
        for row, (name, known) in enumerate(zip(store.ids, store.digests, strict=True))
    }


def _require_finite(*vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    if not all(np.isfinite(v).all() for v in vectors):
        raise InputError(
            "Training diverged: a user's or an item's vector is not finite.",
            "Lower training.learning_rate, or set training.clip_norm.",
        )


def _default_features(dataset: Dataset, config: ModelConfig) -> list[FeatureStore]:
    if dataset.path is None and not config.uses_content:
        return []
    stores = open_features(dataset)
    if not stores and config.uses_content:
        raise InputError(
            f"{dataset.path}: there are no features yet.", f"Make them with: prismrec encode {dataset.path}"
        )
    return stores


def validation_of(
    split: Split, features: ItemFeatures, plan: TrainingPlan, device: str = "cpu"
) -> Callable[[Model], dict[str, float]] | None:
    """Return the validation of a split: a function from a model to its metrics; None without a part for it.

    Vectors are computed on the processor. Where `device` is "cuda" (or "auto", and there is one), they are
    ranked there, with the same results.

    Raises
    ------
    ConfigError
        If the plan's metric asks for more items than there are candidates, or there is no such device here.
    """
    there = ranking_device(device)
    if isinstance(split.plan, TrainOnAll) or len(split.valid) == 0:
        return None
    mode = default_candidates(split) if plan.candidates == "auto" else Candidates(plan.candidates)
    ranking = Ranking.of(split, split.valid, mode, Part.VALID)
    _, k = parse_metric(plan.metric)
    n_candidates = len(ranking.candidates)
    if k > n_candidates:
        raise ConfigError(
            f"training.metric is {plan.metric!r}, and the validation part has {n_candidates:,} candidates "
            f"('{mode}').",
            "Choose a K of at most that (--set training.metric=ndcg@5, say), or let a larger share validate.",
        )
    ks = [k for k in sorted({10, 20, k}) if k <= n_candidates]
    known = np.bincount(split.train.users, minlength=len(split.users)) > 0

    def validate(model: Model) -> dict[str, float]:
        home = next((p.device for p in model.parameters()), torch.device("cpu"))
        model.to("cpu")
        items = compute_catalog(model, features, ranking.candidates, explained=False)
        users = average_for_unknown(_user_vectors(model, len(split.users)), known)
        model.to(home)
        return ranking.metrics(users, items.vectors, ks, device=there).means()

    return validate


def _fit(
    model: Model,
    data: TrainingData,
    plan: TrainingPlan,
    validate: Callable[[Model], dict[str, float]] | None,
    seed: int,
    folder: Path | None,
    device: str,
    log_dir: Path | None,
    progress: Progress,
) -> FitHistory:
    if isinstance(model, GradientModel):
        if validate is None and plan.patience:
            progress.say(epochs_taken(model.config, plan))
        history = fit(
            model,
            data,
            plan,
            seed=seed,
            validate=validate,
            checkpoint=folder / CHECKPOINT if folder else None,
            log_dir=log_dir,
            device=device,
            progress=progress,
        )
        # What such a model returns is called as the field that would have fixed it.
        if validate is None and set(left_open(model.config)) & set(history.chosen):
            progress.say(settings_taken(model.config, history.chosen))
        return history
    assert isinstance(model, ClosedFormModel)
    asked = False

    def score() -> float:
        nonlocal asked
        asked = True
        if validate is None:
            return 0.0
        found = validate(model)
        require_metric(plan, found)
        return found[plan.metric]

    chosen = model.fit(data, score)
    if asked and validate is None:
        progress.say(settings_taken(model.config, chosen))
    return FitHistory(best_metric=None if validate is None else score(), chosen=chosen)


@torch.no_grad()
def _user_vectors(model: Model, n_users: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    blocks = [
        model.user_vectors(torch.arange(first, min(first + 16_384, n_users))).float().cpu().numpy()
        for first in range(0, n_users, 16_384)
    ]
    return np.concatenate(blocks)
