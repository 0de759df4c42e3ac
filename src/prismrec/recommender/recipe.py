"""What to train, written down: a TOML file, overridden by what was typed, resolved to typed settings.

A recipe looks like this; everything but the model's name may be left out::

    seed = 0
    modalities = ["image", "text"]

    [model]
    name = "mamex"
    preset = "paper"
    top_k = 3

    [training]
    batch_size = 512

    [split]
    kind = "item-cold-start"
    test = 0.2
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.splits import (
    GivenSplit,
    GlobalTime,
    ItemColdStart,
    LeaveLast,
    RandomHoldout,
    SplitPlan,
    TrainOnAll,
)
from prismrec.models.base import ModelConfig
from prismrec.models.catalogue import config_of
from prismrec.models.plan import TrainingPlan
from prismrec.models.settings import parse_settings

SPLITS: tuple[type[SplitPlan], ...] = (
    ItemColdStart,
    RandomHoldout,
    LeaveLast,
    GlobalTime,
    GivenSplit,
    TrainOnAll,
)
DEFAULT_MODEL = "holo"
"""What is trained where no model is named and new items are the question."""

_SECTIONS = ("model", "training", "split")


class ModelSection(BaseModel):
    """``[model]``: which one, and any of its settings."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name of the model.")
    preset: str = Field("default", description="Settings to start from.")


class Recipe(BaseModel):
    """A recipe as it was written, its sections not checked yet (see `resolve`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSection = Field(description="Which model, and its settings.")
    training: dict[str, Any] = Field({}, description="Settings of the training loop.")
    split: dict[str, Any] = Field({}, description="The split: its kind and its settings.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the training.")
    modalities: tuple[str, ...] | None = Field(None, description="Features to use; left out: all.")


@dataclass(frozen=True)
class Job:
    """A recipe, resolved.

    Parameters
    ----------
    config, training, split, seed
        Of the run.
    preset
        What `config` and `training` started from; None where the model has one set of defaults only.
    modalities
        Features to use; None: all.
    """

    config: ModelConfig
    training: TrainingPlan
    split: SplitPlan
    seed: int
    preset: str | None
    modalities: tuple[str, ...] | None


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    InputError
        If the file is missing or not TOML.
    ConfigError
        If a key is unknown or of the wrong type.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: is not TOML ({error}).",
            'Expected UTF-8 text with lines such as [model] and, below it, name = "mamex".',
        ) from None
    return parse_settings(Recipe, values, str(path))


def overridden(
    recipe: Recipe | None,
    *,
    model: str | None = None,
    preset: str | None = None,
    assignments: Iterable[str] = (),
    split: Mapping[str, Any] | None = None,
    strategy: str | None = None,
    seed: int | None = None,
    modalities: Iterable[str] | None = None,
) -> Recipe:
    """Return a recipe with what was typed put over it.

    Parameters
    ----------
    recipe
        What to start from; None: nothing.
    model, preset, strategy, seed, modalities
        Replace those of the recipe; None leaves them.
    assignments
        ``field=value`` for the model, ``training.field=value``, ``split.field=value``; a setting that has
        settings of its own takes them after another dot, as ``training.strategy.rho=0.1``.
    split
        Settings of the split; those that are None are left. Another kind drops the recipe's settings.

    Raises
    ------
    ConfigError
        If no model is named where there is no default, or an assignment cannot be read.
    """
    values: dict[str, Any] = {"model": {}} if recipe is None else recipe.model_dump()
    if model is not None:
        values["model"]["name"] = model
    typed = {key: value for key, value in (split or {}).items() if value is not None}
    if typed.get("kind", values.get("split", {}).get("kind")) != values.get("split", {}).get("kind"):
        values["split"] = {}
    values["split"] = {**values.get("split", {}), **typed}
    if "name" not in values["model"]:
        values["model"]["name"] = _default_model(values["split"].get("kind", ItemColdStart().kind))
    if preset is not None:
        values["model"]["preset"] = preset
    if strategy is not None:
        values.setdefault("training", {})["strategy"] = strategy
    if seed is not None:
        values["seed"] = seed
    if modalities is not None:
        values["modalities"] = tuple(modalities)
    for text in assignments:
        section, field, value = parse_assignment(text)
        values.setdefault(section, {})[field] = value
    return parse_settings(Recipe, values, "recipe")


def _default_model(split: str) -> str:
    """Return what `docs/models/holo.md` found best for new items; for other splits nothing was compared."""
    if split == ItemColdStart().kind:
        return DEFAULT_MODEL
    raise ConfigError(
        f"No model is named, and the split {split!r} has no default.",
        "Name one with --model; `prismrec models` lists them.",
    )


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """Read ``[section.]field=value``; the value as TOML, ``none`` as None, anything else as a string.

    Raises
    ------
    ConfigError
        If it is of another form.
    """
    name, equals, raw = text.partition("=")
    section, dot, field = name.strip().partition(".")
    if not dot:
        section, field = "", name.strip()
    section = section if dot else "model"
    if not equals or not field or section not in _SECTIONS:
        raise ConfigError(
            f"--set {text!r} is not understood.",
            "Write field=value for the model, training.field=value or split.field=value.",
        )
    return section, field, _value(raw.strip())


def assigned(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``field=value`` and ``field.inner=value``, values as in `parse_assignment`; for `laid_over`.

    Raises
    ------
    ConfigError
        If one is of another form.
    """
    found = {}
    for text in texts:
        name, equals, raw = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text!r} is not understood.", "Write field=value.")
        found[name.strip()] = _value(raw.strip())
    return found


def laid_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others put over them; ``strategy.rho`` is the rho of the strategy.

    A setting that has settings of its own may stand as its name alone, as in ``strategy = "bsam+"``.
    """
    found = dict(values)
    # Whoever names another strategy and its rho means the rho of that strategy, in whatever order.
    for name in sorted(changes, key=lambda name: name.count(".")):
        field, dot, inner = name.partition(".")
        found[field] = laid_over(_inner(found.get(field)), {inner: changes[name]}) if dot else changes[name]
    return found


def _inner(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return _fields(value)
    return dict(value) if isinstance(value, Mapping) else {"name": value} if isinstance(value, str) else {}


def _value(raw: str) -> Any:
    if raw.lower() == "none":
        return None
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    return parsed["value"] if len(parsed) == 1 else raw


def resolve(recipe: Recipe) -> Job:
    """Check a recipe and give it its types: the preset's settings with the recipe's put over them.

    Raises
    ------
    ConfigError
        If the model, the preset, the split or a setting is unknown, or a value out of its bounds. For an
        unknown setting the message names the nearest.
    """
    kind = config_of(recipe.model.name)
    presets = kind.presets()
    name = recipe.model.preset
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1, cutoff=0.5)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{kind.name} has no preset {name!r}.", f"{guess}There are: {', '.join(presets)}.")
    settings = recipe.model.model_extra or {}
    _require_in_place(kind, settings)
    start = presets[name]
    return Job(
        config=kind.parse({**_fields(start.model), **settings}),
        training=parse_settings(
            TrainingPlan, laid_over(_fields(start.training), recipe.training), "training"
        ),
        split=resolve_split(recipe.split),
        seed=recipe.seed,
        preset=_own_name(name, kind),
        modalities=recipe.modalities,
    )


def resolve_split(values: Mapping[str, Any]) -> SplitPlan:
    """Return the plan of a split from plain values; ``kind`` left out: item-cold-start.

    Raises
    ------
    ConfigError
        If the kind or a setting is unknown, or a value out of its bounds.
    """
    kinds = {str(plan.model_fields["kind"].default): plan for plan in SPLITS}
    kind = str(values.get("kind", "item-cold-start"))
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1, cutoff=0.5)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"There is no split {kind!r}.", f"{guess}There are: {', '.join(kinds)}.")
    return parse_settings(kinds[kind], {**values, "kind": kind}, f"split {kind}")


def _fields(settings: BaseModel) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in type(settings).model_fields}


def _require_in_place(kind: type[ModelConfig], settings: Mapping[str, Any]) -> None:
    for field in settings:
        if field not in kind.model_fields and field in TrainingPlan.model_fields:
            raise ConfigError(
                f"{field!r} is a setting of the training, not of {kind.name}.",
                f"Write training.{field}, in a recipe below [training].",
            )


def _own_name(name: str, kind: type[ModelConfig]) -> str | None:
    """Name of a preset; of the default the name that it has besides, None if it has none."""
    if name != "default":
        return name
    presets = kind.presets()
    same = (n for n, p in presets.items() if n != "default" and p is presets["default"])
    return next(same, None)
