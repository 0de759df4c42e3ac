"""The steps of tuning: supervision, then preference."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.files import write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.features.neighbours import nearest_neighbours
from prismrec.features.store import FeatureStore
from prismrec.recommender.train import open_features
from prismrec.sequential.backbone import Backbone, Origin, adapted, load_backbone, save_trained
from prismrec.sequential.encoder import item_vectors
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.hardness import hardness, hardness_weights, neighbour_similarities, spread
from prismrec.sequential.pairs import MadePairs, Pair, make_pairs, write_pairs
from prismrec.sequential.prepared import Prepared
from prismrec.sequential.runs import (
    MANIFEST,
    AlignConfig,
    Manifest,
    Plan,
    adapter_digest,
    begin_together,
    is_main_process,
    open_run,
    settings_of,
    tuned_origin,
    versions,
    writer_of,
)
from prismrec.sequential.scoring import score_examples
from prismrec.sequential.settings import Tuning
from prismrec.sequential.states import CHECKPOINTS
from prismrec.sequential.writer import Writer

Floats = npt.NDArray[np.float32]
PAIRS = "pairs.parquet"


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Parameters
    ----------
    path
        The folder.
    manifest
        What was done.
    already
        Whether it was finished before.
    """

    path: Path
    manifest: Manifest
    already: bool


def supervise(
    prepared: Prepared,
    origin: Origin,
    out: Path,
    tuning: Tuning,
    *,
    most: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    restart: bool = False,
    progress: Progress = SILENT,
) -> Outcome:
    """Tune a language model on the right answers of the training examples (SFT).

    Parameters
    ----------
    prepared
        The questions.
    origin
        The model.
    out
        Folder of the run. A run that was killed goes on; a finished one is left alone.
    tuning
        How to train.
    most
        Most training examples; None: all.
    seed
        Of adapters, order and dropout.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``.
    restart
        Begin anew.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If model, questions or folder do not do.
    """
    from prismrec.sequential.lessons import supervised_lessons
    from prismrec.sequential.tune import train_supervised

    backbone = _load(origin, tuning, device)
    plan = _plan("sft", prepared, backbone.origin, tuning, None, most, seed)
    done = begin_together(out, plan, device=device, restart=restart)
    if done is not None:
        return Outcome(out, done, True)
    backbone = adapted(backbone, tuning.adapter, seed=seed)
    writer = writer_of(prepared, backbone, tuning)
    examples = prepared.train[:most]
    begun = time.perf_counter()
    trained = train_supervised(
        backbone, writer, supervised_lessons(writer, examples), tuning, out, seed=seed, progress=progress
    )
    manifest = _finish(
        backbone, plan, out, trained.steps, trained.loss, len(examples), begun, _remarks(writer)
    )
    return Outcome(out, manifest, False)


def align(
    supervised: Path,
    out: Path,
    config: AlignConfig,
    *,
    most: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    shop: Path | None = None,
    restart: bool = False,
    progress: Progress = SILENT,
) -> Outcome:
    """Tune a supervised run by preference: right answers against wrong ones.

    Parameters
    ----------
    supervised
        The run that is tuned and that is the reference.
    out, most, seed, device, restart, progress
        As in `supervise`.
    config
        Loss, wrong answers, noise, training.
    shop
        Where the data set lies now, if it was moved.

    Raises
    ------
    InputError
        If the settings do not fit each other, or the run or the folder does not do.
    """
    from prismrec.sequential.lessons import preference_lessons
    from prismrec.sequential.tune import train_preference

    if config.tuning.adapter.rank == 0:
        raise InputError(
            "Tuning by preference needs an adapter: the model without it is the reference.",
            "Set tuning.adapter.rank to 1 or more.",
        )
    before, prepared = open_run(supervised, shop)
    # With this training's pictures and precision: so the run is loaded again when it is measured.
    backbone = _load(tuned_origin(supervised, before), config.tuning, device)
    plan = _plan("align", prepared, backbone.origin, config.tuning, config, most, seed)
    done = begin_together(out, plan, device=device, restart=restart)
    if done is not None:
        return Outcome(out, done, True)
    writer = writer_of(prepared, backbone, config.tuning)
    examples = prepared.train[:most]
    made = _pairs(config, prepared, backbone, writer, examples, progress)
    write_pairs(out / PAIRS, made.pairs)
    weights, told = _weights(config, prepared, backbone, writer, made.pairs, progress)
    backbone = adapted(backbone, config.tuning.adapter, seed=seed)
    begun = time.perf_counter()
    lessons = preference_lessons(writer, examples, made.pairs, weights)
    trained = train_preference(
        backbone,
        writer,
        lessons,
        config.tuning,
        config.preference,
        config.noise,
        out,
        seed=seed,
        progress=progress,
    )
    notes = [*told, *_told(made), *_remarks(writer)]
    manifest = _finish(backbone, plan, out, trained.steps, trained.loss, len(lessons), begun, notes)
    return Outcome(out, manifest, False)


def _load(origin: Origin, tuning: Tuning, device: str) -> Backbone:
    return load_backbone(
        origin,
        device=device,
        bf16=tuning.precision == "bf16" and device != "cpu" and tuning.adapter.rank > 0,
        four_bit=tuning.four_bit,
        max_pixels=tuning.max_pixels,
    )


def _plan(
    step: str,
    prepared: Prepared,
    origin: Origin,
    tuning: Tuning,
    config: AlignConfig | None,
    most: int | None,
    seed: int,
) -> Plan:
    return Plan.model_validate(
        {
            "step": step,
            "prepared": str(prepared.path.absolute()),
            "questions": prepared.digest,
            "asked": origin.asked,
            "revision": origin.revision,
            "adapters": origin.adapters,
            "adapter_digests": [adapter_digest(Path(folder)) for folder in origin.adapters],
            "tuning": settings_of(tuning),
            "align": None if config is None else settings_of(config),
            "most": most,
            "seed": seed,
        }
    )


def _pairs(
    config: AlignConfig,
    prepared: Prepared,
    backbone: Backbone,
    writer: Writer,
    examples: Sequence[Example],
    progress: Progress,
) -> MadePairs:
    neighbours = scores = None
    if config.pairs.source == "neighbours":
        vectors, present = _vectors(config, prepared, backbone, writer, progress)
        neighbours = _nearest(vectors, present, prepared, config.neighbours)
    if config.pairs.source == "policy":
        scores = score_examples(backbone, writer, examples, progress=progress)
    return make_pairs(examples, config.pairs, prepared.dataset, neighbours=neighbours, scores=scores)


def _weights(
    config: AlignConfig,
    prepared: Prepared,
    backbone: Backbone,
    writer: Writer,
    pairs: Sequence[Pair],
    progress: Progress,
) -> tuple[Floats, list[str]]:
    """Hardness weights of the pairs, equation (6), and what to say of them."""
    wrong = len(pairs[0].rejected) if pairs else 0
    plain = np.ones((len(pairs), max(wrong, 1)), dtype=np.float32)
    if config.preference.loss != "hanorec" or not config.preference.hars:
        return plain, []
    if prepared.task is Task.BINARY:
        return plain, ["HaRS: both answers are words, so that no pair is harder than another."]
    vectors, present = _vectors(config, prepared, backbone, writer, progress)
    alike = neighbour_similarities(vectors, present, config.neighbours, progress=progress)
    delta = hardness(
        alike, [p.chosen for p in pairs], [p.rejected for p in pairs], config.preference.temperature
    )
    weights = hardness_weights(delta, config.preference.direction)
    found = spread(weights)
    line = f"HaRS: weights of the pairs from {found.low:.4f} to {found.high:.4f}"
    if found.inert:
        line += ", so nearly the same for all: a lower temperature sets them apart"
    return weights, [f"{line}."]


def _vectors(
    config: AlignConfig, prepared: Prepared, backbone: Backbone, writer: Writer, progress: Progress
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    if config.hardness_from == "model":
        return item_vectors(backbone, writer, progress=progress)
    (store,) = open_features(prepared.dataset, (config.hardness_from,))
    rows = store.rows(prepared.ids)
    vectors = np.zeros((len(rows), store.dim), dtype=np.float32)
    vectors[rows >= 0] = store.vectors[rows[rows >= 0]]
    return vectors, rows >= 0


def _nearest(
    vectors: Floats, present: npt.NDArray[np.bool_], prepared: Prepared, k: int
) -> npt.NDArray[np.int32]:
    known = tuple(name for name, there in zip(prepared.ids, present, strict=True) if there)
    store = FeatureStore("items", vectors[present], known, ("",) * len(known), {})
    return nearest_neighbours(store, prepared.ids, k).indices


def _finish(
    backbone: Backbone,
    plan: Plan,
    out: Path,
    steps: int,
    loss: float,
    examples: int,
    begun: float,
    notes: Sequence[str],
) -> Manifest:
    saved = save_trained(backbone, out.absolute()) if is_main_process() else backbone.origin
    place = Path(saved.adapters[-1] if saved.adapters and plan.tuning.adapter.rank else saved.asked)
    manifest = Manifest(
        plan=plan,
        trained=place.name,
        steps=steps,
        loss=loss,
        examples=examples,
        parameters=backbone.size,
        trainable=sum(p.numel() for p in backbone.model.parameters() if p.requires_grad),
        seconds=round(time.perf_counter() - begun, 3),
        notes=tuple(notes),
        versions=versions(),
    )
    if is_main_process():
        write_json(out / MANIFEST, manifest.model_dump(mode="json"))
        # Nobody goes on with a finished run; each of its states is as large as what was trained, and more.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return manifest


def _told(made: MadePairs) -> list[str]:
    lines = [f"Left out: {one.count:,} {one.reason}." for one in made.dropped]
    if made.filled:
        lines.append(
            f"Wrong answers: {made.filled:,} of {made.titles:,} titles were drawn from the catalogue."
        )
    return lines


def _remarks(writer: Writer) -> list[str]:
    remarks, lines = writer.remarks, []
    if remarks.shortened:
        lines.append(f"Histories cut to fit: {remarks.shortened:,} times.")
    if remarks.unreadable:
        lines.append(f"Pictures that cannot be read: {len(remarks.unreadable):,} items.")
    if remarks.without_eyes:
        lines.append("The model reads text only: pictures were left out.")
    return lines
