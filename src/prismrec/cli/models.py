"""`prismrec models`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.models.base import ModelConfig


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("models", epilog="Example: prismrec models mamex")(models)


def models(
    name: Annotated[str | None, typer.Argument(help="A model: all its settings.", show_default=False)] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the models with their capabilities and defaults, or the settings of one."""
    from prismrec.models.catalogue import MODELS, config_of

    answer = Output(json, quiet)
    if name is not None:
        _one(config_of(name), answer)
        return
    columns = ("model", "", "cold items", "needs content", "training", "presets")
    rows = [
        (
            m.name,
            m.summary,
            m.recommends_cold_items,
            m.uses_content,
            ", ".join(m.phases),
            ", ".join(m.presets()),
        )
        for m in MODELS
    ]
    answer.finish(
        {"models": [_document(m) for m in MODELS]},
        table(columns, rows),
        "`prismrec models NAME` shows the settings of one.",
    )


def _document(config: "type[ModelConfig]") -> dict[str, Any]:
    presets = config.presets()
    return {
        "name": config.name,
        "summary": config.summary,
        "recommends_cold_items": config.recommends_cold_items,
        "uses_content": config.uses_content,
        "phases": list(config.phases),
        "presets": {name: preset.about for name, preset in presets.items()},
        "defaults": presets["default"].model.model_dump(mode="json"),
        "training_defaults": presets["default"].training.model_dump(mode="json"),
    }


def _one(config: "type[ModelConfig]", answer: Output) -> None:
    from dataclasses import asdict

    from prismrec.models.describe import describe_fields
    from prismrec.models.plan import TrainingPlan

    preset = config.presets()["default"]
    fields = describe_fields(config, preset.model)
    training = describe_fields(TrainingPlan, preset.training)
    columns = ("setting", "type", "default", "bounds", "")
    shown = [
        table(columns, [(prefix + f.name, f.type, str(f.default), f.bounds, f.description) for f in cards])
        for prefix, cards in (("", fields), ("training.", training))
        if cards
    ]
    presets = [f"preset {name}: {preset.about}" for name, preset in config.presets().items()]
    answer.finish(
        {
            **_document(config),
            "fields": [asdict(f) for f in fields],
            "training_fields": [asdict(f) for f in training],
        },
        f"{config.name}: {config.summary}",
        *presets,
        *shown,
    )
