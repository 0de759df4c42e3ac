"""Settings chosen by validation: Optuna's TPE on the first seed, every trial kept.

The test part takes no part: a trial trains and is measured on validation. The first trial is the row's own
settings, so that a search never ends below them. Trials are written down one by one, and each is drawn with a
seed of its own from those before it, so that a search that was killed goes on as if it had not been.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prismrec.base.errors import ConfigError, InputError, MissingExtraError, PrismError, StorageError
from prismrec.base.files import write_json
from prismrec.data.dataset import Dataset
from prismrec.experiments.measure import validated
from prismrec.experiments.plan import TRAINING, RunSpec, SearchSpec
from prismrec.experiments.recipe import Axis
from prismrec.models.catalogue import config_of
from prismrec.models.plan import TrainingPlan
from prismrec.models.settings import parse_settings
from prismrec.recommender.recipe import laid_over

if TYPE_CHECKING:
    import optuna

SEARCHES = "search"
# So many combinations in a row that cannot be (top_k above experts, say) end a search.
_MOST_IMPOSSIBLE = 200


class Trial(BaseModel):
    """One try."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = Field(description="What was changed; empty: the row's own settings.")
    value: float | None = Field(description="The metric on validation; None: it failed.")
    seconds: float
    problem: str | None = Field(None, description="Why it failed.")
    counts: bool = Field(True, description="False: the combination is not possible, nothing was trained.")


class SearchNote(BaseModel):
    """A search as it stands."""

    model_config = ConfigDict(extra="forbid")

    spec: SearchSpec
    trials: list[Trial] = []

    def counted(self, budget: int) -> list[Trial]:
        """Return the first so many trials that were trained."""
        return [trial for trial in self.trials if trial.counts][:budget]

    def best(self, budget: int) -> Trial | None:
        """Return the best of the first so many, the earlier of equals; None if all have failed."""
        worked = [trial for trial in self.counted(budget) if trial.value is not None]
        return max(worked, key=lambda trial: trial.value or 0.0, default=None)


def read_search(out: Path, spec: SearchSpec) -> SearchNote:
    """Read how far a search has come; a broken file counts as none."""
    path = out / SEARCHES / f"{spec.key}.json"
    try:
        note = SearchNote.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return SearchNote(spec=spec)
    return note.model_copy(update={"spec": spec})


def require_optuna() -> None:
    """Check that searches are possible.

    Raises
    ------
    MissingExtraError
        If Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise MissingExtraError("optuna", "bench", "A search of settings") from None


def search(
    spec: SearchSpec,
    dataset: Dataset,
    out: Path,
    told: Callable[[Trial], None],
    train_and_measure: Callable[[RunSpec, Dataset, str], tuple[float, float]] = validated,
) -> SearchNote:
    """Try settings until the budget is used, going on from what is there.

    Parameters
    ----------
    spec
        What to search.
    dataset
        Its data.
    out
        Folder of the bench.
    told
        Called after each trial that was trained.
    train_and_measure
        From settings to the metric on validation and the seconds it took.

    Raises
    ------
    InputError
        If every trial failed, or the space holds hardly a combination that is possible.
    """
    require_optuna()
    note = read_search(out, spec)
    while len(note.counted(spec.trials)) < spec.trials:
        last = note.trials[-_MOST_IMPOSSIBLE:]
        if len(last) == _MOST_IMPOSSIBLE and not any(trial.counts for trial in last):
            raise InputError(
                f"The search of {spec.start.model} drew {_MOST_IMPOSSIBLE} combinations in a row that are "
                f"not possible; the last: {last[-1].problem}.",
                "Narrow the ranges of [model.search].",
            )
        trial = _try(spec, note, dataset, train_and_measure)
        note.trials.append(trial)
        write_json(out / SEARCHES / f"{spec.key}.json", json.loads(note.model_dump_json()))
        if trial.counts:
            told(trial)
    if note.best(spec.trials) is None:
        raise InputError(
            f"All {spec.trials} trials of the search of {spec.start.model} failed; the first: "
            f"{note.trials[0].problem}."
        )
    return note


def changed(start: RunSpec, settings: dict[str, Any]) -> RunSpec:
    """Return a run with some settings changed.

    Raises
    ------
    ConfigError
        If they are not possible together.
    """
    own = {k: v for k, v in settings.items() if not k.startswith(TRAINING)}
    training = {k.removeprefix(TRAINING): v for k, v in settings.items() if k.startswith(TRAINING)}
    config = config_of(start.model).parse({**start.config, **own})
    plan = parse_settings(TrainingPlan, laid_over(start.training, training), "training")
    return start.model_copy(
        update={"config": config.model_dump(mode="json"), "training": plan.model_dump(mode="json")}
    )


def _try(
    spec: SearchSpec,
    note: SearchNote,
    dataset: Dataset,
    train_and_measure: Callable[[RunSpec, Dataset, str], tuple[float, float]],
) -> Trial:
    settings = _drawn(spec, note) if note.trials else {}
    try:
        run = changed(spec.start, settings)
    except ConfigError as error:
        return Trial(settings=settings, value=None, seconds=0.0, problem=error.problem, counts=False)
    for earlier in note.trials:
        if earlier.counts and changed(spec.start, earlier.settings) == run:
            # Drawn twice: the same settings give the same figure.
            return earlier.model_copy(update={"settings": settings, "seconds": 0.0})
    try:
        value, seconds = train_and_measure(run, dataset, spec.metric)
    except StorageError:
        raise
    except PrismError as error:
        return Trial(settings=settings, value=None, seconds=0.0, problem=error.problem)
    return Trial(settings=settings, value=value, seconds=round(seconds, 3))


def _drawn(spec: SearchSpec, note: SearchNote) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draw = np.random.default_rng((spec.start.seed, len(note.trials))).integers(2**31)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(draw)))
    space = {name: _distribution(axis) for name, axis in sorted(spec.space.items())}
    for trial in note.trials:
        known = trial.settings or _own(spec)
        if all(spec.space[name].holds(value) for name, value in known.items()):
            done = optuna.trial.TrialState.COMPLETE if trial.value is not None else None
            study.add_trial(
                optuna.trial.create_trial(
                    state=done or optuna.trial.TrialState.FAIL,
                    value=trial.value,
                    params={name: _to_optuna(spec.space[name], value) for name, value in known.items()},
                    distributions=space,
                )
            )
    asked = study.ask(fixed_distributions=space)
    return {name: _from_optuna(spec.space[name], value) for name, value in asked.params.items()}


def _own(spec: SearchSpec) -> dict[str, Any]:
    """Values that the row has before the search."""
    return {
        name: _found(spec.start.training, name.removeprefix(TRAINING))
        if name.startswith(TRAINING)
        else spec.start.config.get(name)
        for name in spec.space
    }


def _found(training: Mapping[str, Any], name: str) -> Any:
    field, dot, inner = name.partition(".")
    return training[field].get(inner) if dot else training.get(field)


def _distribution(axis: Axis) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.choices is not None:
        # By position: lists cannot be choices of Optuna's.
        return CategoricalDistribution(list(range(len(axis.choices))))
    assert axis.low is not None
    assert axis.high is not None
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(float(axis.low), float(axis.high), log=axis.log)


def _to_optuna(axis: Axis, value: Any) -> Any:
    if axis.choices is None:
        return value
    return next(place for place, choice in enumerate(axis.choices) if choice == value)


def _from_optuna(axis: Axis, value: Any) -> Any:
    return value if axis.choices is None else axis.choices[int(value)]
