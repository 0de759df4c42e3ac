"""A tuned language model as a folder: what it was made of, what was trained, how it went."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import digest_file, read_json, storage_errors, write_json
from prismrec.models.settings import parse_settings
from prismrec.recommender.manifest import FORMAT as TRAINED_FORMAT
from prismrec.recommender.recipe import laid_over
from prismrec.sequential.backbone import Backbone, Origin, load_backbone
from prismrec.sequential.losses import PreferenceConfig
from prismrec.sequential.noise import NoiseConfig
from prismrec.sequential.pairs import PairConfig
from prismrec.sequential.prepared import Prepared, read_prepared
from prismrec.sequential.settings import Tuning, tuning_of
from prismrec.sequential.writer import Writer

MANIFEST, PLAN = "run.json", "plan.json"
_FORMAT, _WHAT = 1, "a run of `prismrec sequential`"


class AlignConfig(BaseModel):
    """How a model is tuned by preference; the defaults are HaNoRec as published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preference: PreferenceConfig = Field(PreferenceConfig(), description="The loss.")
    pairs: PairConfig = Field(PairConfig(), description="Where wrong answers come from.")
    noise: NoiseConfig = Field(NoiseConfig(), description="Noise in the policy's passes (NoDO).")
    tuning: Tuning = Field(Tuning.presets()["published-align"], description="The training.")
    hardness_from: str = Field(
        "model",
        min_length=1,
        description="Vectors in which items are alike: 'model' (its embeddings of title and picture), or the "
        "name of features of the data set.",
    )
    neighbours: int = Field(10, ge=1, le=1000, description="Nearest items that describe an item (HaRS).")


def align_config(loss: str | None, preset: str, changes: Mapping[str, Any]) -> AlignConfig:
    """Return settings of a tuning by preference: a loss, a preset of the training, and changes.

    Parameters
    ----------
    loss
        Name of the loss; None: HaNoRec, or what `changes` say. HaRS and NoDO belong to HaNoRec: with another
        loss there is no noise unless `changes` ask for it.
    preset
        Of the training (`prismrec.sequential.settings.Tuning.presets`).
    changes
        By dotted name: ``preference.beta``, ``pairs.source``, ``noise.sigma``, ``tuning.epochs``.

    Raises
    ------
    ConfigError
        If there is no such loss, preset or setting.
    """
    inner = {name: value for name, value in changes.items() if name.startswith("tuning.")}
    tuning = tuning_of(preset, {name.partition(".")[2]: value for name, value in inner.items()})
    values: dict[str, Any] = AlignConfig(tuning=tuning).model_dump(mode="json")
    if loss is not None:
        values["preference"]["loss"] = loss
        if loss != "hanorec":
            values["noise"]["where"] = "none"
    rest = {name: value for name, value in changes.items() if name not in inner}
    return parse_settings(AlignConfig, laid_over(values, rest), "align")


class Plan(BaseModel):
    """What a run is asked for; a killed run goes on only under the same plan.

    Attributes
    ----------
    step
        ``"sft"`` or ``"align"``.
    prepared, questions
        Folder of the questions, and their digest.
    asked, revision, adapters
        The model that is tuned (`prismrec.sequential.backbone.Origin`).
    adapter_digests
        Of the weights of `adapters`: a run is nothing without the very adapters that it was trained on.
    tuning, align
        Settings; `align` is None for ``"sft"``.
    part
        Examples that are learnt from: always ``"train"``.
    most
        Most examples, None: all.
    seed
        Of adapters, order, dropout and noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Literal["sft", "align"]
    prepared: str
    questions: str
    asked: str
    revision: str | None
    adapters: tuple[str, ...]
    adapter_digests: tuple[str | None, ...] = ()
    tuning: Tuning
    align: AlignConfig | None = None
    most: int | None = None
    seed: int = 0

    @property
    def origin(self) -> Origin:
        """Where the model comes from that is tuned."""
        return Origin(self.asked, self.revision, self.adapters)


class Manifest(BaseModel):
    """A finished run.

    Attributes
    ----------
    format
        Of this file.
    plan
        What was asked for.
    trained
        Adapters that were trained here, or the folder of the whole model, relative to the run.
    steps, loss, examples, parameters, trainable
        Steps, mean loss at the end, examples, sizes.
    seconds
        Wall time of this call's training.
    notes
        What a reader must know.
    versions
        Of the libraries that computed it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = _FORMAT
    plan: Plan
    trained: str
    steps: int
    loss: float
    examples: int
    parameters: int
    trainable: int
    seconds: float
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


def begin(out: Path, plan: Plan, *, restart: bool = False) -> Manifest | None:
    """Take a folder for a run.

    Returns
    -------
    Manifest or None
        Of the run, if it is finished already.

    Raises
    ------
    InputError
        If the folder holds something else, or a run under another plan.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PLAN).is_file())):
        raise InputError(f"{out}: this is not an empty folder, nor one of a run.", "Choose another folder.")
    if (out / PLAN).is_file() and not restart:
        known = read_json(out / PLAN, _WHAT)
        if known != plan.model_dump(mode="json"):
            different = sorted(k for k, v in plan.model_dump(mode="json").items() if known.get(k) != v)
            raise InputError(
                f"{out}: a run with other settings lies here ({', '.join(different)} differ).",
                "Choose another folder, or --restart to lose it.",
            )
        return read_manifest(out) if (out / MANIFEST).is_file() else None
    if out.exists():
        clear(out)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / PLAN, plan.model_dump(mode="json"))
    return None


def begin_together(out: Path, plan: Plan, *, device: str, restart: bool = False) -> Manifest | None:
    """Take a folder for a run, as `begin`; where several processes train together, once for all of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return begin(out, plan, restart=restart)
    from accelerate import PartialState

    with PartialState(cpu=device == "cpu").main_process_first():
        # The others find what the first has begun, and must not clear it away.
        return begin(out, plan, restart=restart and is_main_process())


def clear(out: Path) -> None:
    """Remove what a run wrote, its plan last: a kill meanwhile leaves a folder that is known as a run's."""
    import shutil

    for path in sorted(out.iterdir(), key=lambda p: p.name == PLAN):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_manifest(path: Path) -> Manifest:
    """Read a finished run's manifest.

    Raises
    ------
    InputError
        If the folder is no run, or one of another kind.
    DamagedError
        If the run is not finished, or its manifest broken.
    """
    if (path / PLAN).is_file() and not (path / MANIFEST).is_file():
        raise DamagedError(f"{path}: this run is not finished.", "Give the command that began it again.")
    known = read_json(path / MANIFEST, _WHAT)
    if known.get("format") == TRAINED_FORMAT:
        raise InputError(
            f"{path}: this is a run of `prismrec train`, not {_WHAT}.",
            "Name the folder of a step of `prismrec sequential`: sft or align.",
        )
    try:
        return Manifest.model_validate(known)
    except ValidationError as error:
        raise DamagedError(f"{path / MANIFEST}: not as prismrec writes it.", "Train it again.") from error


def tuned_origin(path: Path, manifest: Manifest) -> Origin:
    """Where a finished run's model comes from."""
    trained = str((path / manifest.trained).absolute())
    if manifest.plan.tuning.adapter.rank == 0:
        return Origin(trained)
    before = manifest.plan.origin
    return Origin(before.asked, before.revision, (*before.adapters, trained))


def open_run(path: Path, shop: Path | None = None) -> tuple[Manifest, Prepared]:
    """Read a finished run without its model.

    Parameters
    ----------
    path, shop
        As in `load_run`.

    Returns
    -------
    manifest, prepared

    Raises
    ------
    DamagedError
        If the run is not finished or broken.
    InputError
        If its questions, their words, their data set or the adapters under it are not those of its training.
    """
    manifest = read_manifest(path)
    plan = manifest.plan
    prepared = read_prepared(Path(plan.prepared), shop)
    if prepared.digest != plan.questions:
        raise InputError(
            f"{plan.prepared}: the questions or their words were changed since {path} was trained.",
            "Put them back, or train again.",
        )
    for folder, known in zip(plan.adapters, plan.adapter_digests, strict=False):
        if adapter_digest(Path(folder)) not in (known, None):
            raise InputError(
                f"{folder}: the adapter under {path} was trained again since.",
                "Put the old one back, or train this run again.",
            )
    return manifest, prepared


def adapter_digest(folder: Path) -> str | None:
    """Return a digest of an adapter's weights; None where there are none."""
    weights = folder / "adapter_model.safetensors"
    return digest_file(weights) if weights.is_file() else None


def load_run(
    path: Path, *, device: str = "cpu", shop: Path | None = None
) -> tuple[Manifest, Prepared, Backbone, Writer]:
    """Load a finished run: its model, ready to answer.

    Parameters
    ----------
    path
        The run.
    device
        Where to put the model.
    shop
        Where the data set lies now, if it was moved.

    Returns
    -------
    manifest, prepared, backbone, writer

    Raises
    ------
    DamagedError, InputError
        As in `open_run`; and if the model cannot be loaded.
    """
    manifest, prepared = open_run(path, shop)
    plan = manifest.plan
    backbone = load_backbone(
        tuned_origin(path, manifest),
        device=device,
        bf16=plan.tuning.precision == "bf16" and device != "cpu",
        max_pixels=plan.tuning.max_pixels,
    )
    return manifest, prepared, backbone, writer_of(prepared, backbone, plan.tuning)


def writer_of(prepared: Prepared, backbone: Backbone, tuning: Tuning) -> Writer:
    """Return what writes the prompts of some questions for a model."""
    config = prepared.config
    return Writer(
        prepared.task,
        prepared.template,
        config.noun,
        config.plural,
        prepared.shelf,
        backbone.processor,
        tuning.max_tokens,
    )


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}


def is_main_process() -> bool:
    """Whether this process writes files, where several train together."""
    return int(os.environ.get("RANK", "0")) == 0


def settings_of(value: Any) -> dict[str, Any]:
    """Return settings as plain values, for manifests and tables."""
    plain: dict[str, Any] = value.model_dump(mode="json")
    return plain
