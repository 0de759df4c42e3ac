"""What is said where nothing validates: what was taken unchosen, and how a choice is handed over."""

from collections.abc import Mapping

from prismrec.models.base import ModelConfig
from prismrec.models.plan import TrainingPlan


def left_open(config: ModelConfig) -> list[str]:
    """Return the settings that a model chooses itself, as a person would fix them.

    Those that are None, of models within a model too, and ``tune``, which chooses modalities' weights.
    """
    found = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, ModelConfig):
            found += [f"{name}.{inner}" for inner in left_open(value)]
        elif value is None:
            found.append(name)
        elif name == "tune" and value is True:
            found.append("tune=False")
    return found


def settings_taken(config: ModelConfig, taken: Mapping[str, float]) -> str:
    """Say that a model took settings unchosen, and which settings fix them.

    Parameters
    ----------
    config
        Of the model.
    taken
        What it took, by name, as its training returned it.
    """
    values = ", ".join(f"{name} {value:g}" for name, value in taken.items())
    settings = ", ".join(left_open(config))
    return (
        f"{config.name} chooses settings by validation, and nothing validates here: the first were taken"
        + (f" ({values})" if values else "")
        + ". To hand a choice over, train on a split that validates and set what manifest.history.chosen says"
        + (f": {settings}" if settings else "")
    )


def epochs_taken(config: ModelConfig, plan: TrainingPlan) -> str:
    """Say that all epochs are taken, as no validation stops them."""
    return (
        f"{config.name}: nothing validates here, so that all {plan.epochs} epochs are taken and the last "
        "one's weights kept. To hand a choice over, train on a split that validates, and set training.epochs "
        "to manifest.history.best_epoch, and training.patience to 0"
    )
