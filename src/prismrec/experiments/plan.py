"""What has to be run: data x model x setting x seed, each run known by a digest of all that it depends on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from prismrec import __version__
from prismrec.base.files import digest
from prismrec.data.splits import Candidates, SplitPlan
from prismrec.experiments.recipe import Axis, BenchSection, ModelSection
from prismrec.recommender.recipe import Job, Recipe, resolve, resolve_split

# Raised when a result's content or meaning changes: older ones are then computed again.
RESULT_VERSION = 1
TRAINING = "training."


class _Plain(BaseModel):
    """Goes to another process and into files as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSpec(_Plain):
    """A data set as runs take it.

    Attributes
    ----------
    name, path
        What it is called, and its folder; a result does not depend on them.
    content
        Digest of interactions, catalogue, features, and of what a given split was read from.
    modalities, users, max_per_user, missing, keep_one
        See `prismrec.experiments.recipe.DataSection`.
    """

    name: str
    path: str
    content: str
    modalities: tuple[str, ...] | None
    users: int | None
    max_per_user: int | None
    missing: float
    keep_one: bool


class RunSpec(_Plain):
    """One run: everything that its result depends on, and nothing that it does not but the data's address."""

    data: DataSpec
    split: dict[str, Any]
    model: str
    preset: str | None
    config: dict[str, Any]
    training: dict[str, Any]
    modalities: tuple[str, ...] | None
    oracle: bool
    seed: int
    candidates: tuple[Candidates, ...]
    ks: tuple[int, ...]
    users: int | None

    @property
    def key(self) -> str:
        """Digest that names the run's result."""
        # The preset is only a name for the settings that stand here in full.
        return self._digest({"preset"})

    @property
    def trial_key(self) -> str:
        """Digest of what a validation figure depends on: all but how the test part is measured."""
        return self._digest({"preset", "users", "oracle"})

    def _digest(self, leave_out: set[str]) -> str:
        values = self.model_dump(
            mode="json", exclude={"data": {"name", "path"}} | dict.fromkeys(leave_out, True)
        )
        values |= {"code": __version__, "result": RESULT_VERSION}
        return digest(json.dumps(values, sort_keys=True).encode())


class SearchSpec(_Plain):
    """A search: a run's settings, what may be changed, and how often it may be tried."""

    start: RunSpec
    space: dict[str, Axis]
    metric: str
    trials: int

    @property
    def key(self) -> str:
        """Digest that names the search; a longer search goes on from a shorter one."""
        space = {name: axis.model_dump(mode="json") for name, axis in sorted(self.space.items())}
        return digest(self.start.trial_key.encode(), json.dumps(space).encode(), self.metric.encode())


@dataclass(frozen=True)
class Row:
    """A row of the table: a model on a data set.

    Parameters
    ----------
    label
        What it is called.
    model
        What the recipe says, the grid's values put in.
    data
        On what.
    split
        Settings of the split; the seed is the run's unless it stands here.
    bench
        How it is measured.
    candidates
        Items that are ranked.
    """

    label: str
    model: ModelSection
    data: DataSpec
    split: Mapping[str, Any]
    bench: BenchSection
    candidates: tuple[Candidates, ...]

    @property
    def searched(self) -> bool:
        """Whether its settings are chosen by a search."""
        return bool(self.model.search) and self.bench.budget > 0

    def run(self, seed: int, chosen: Mapping[str, Any]) -> RunSpec:
        """Return the run of a seed with some settings put over those of the recipe.

        Raises
        ------
        ConfigError
            If a setting is unknown, or a value or a combination of values is not possible.
        """
        job = resolve_row(self.model, chosen)
        return RunSpec(
            data=self.data,
            split=split_plan(self.split, seed).model_dump(mode="json"),
            model=self.model.name,
            preset=job.preset,
            config=job.config.model_dump(mode="json"),
            training=job.training.model_dump(mode="json"),
            modalities=self.model.modalities if self.model.modalities is not None else self.data.modalities,
            oracle=self.model.oracle,
            seed=seed,
            candidates=self.candidates,
            ks=self.bench.lengths,
            users=self.bench.users,
        )

    def search(self) -> SearchSpec | None:
        """Return the search that chooses its settings, on the first seed; None if there is none."""
        if not self.searched:
            return None
        start = self.run(self.bench.seeds[0], {})
        return SearchSpec(
            start=start, space=self.model.search, metric=self.bench.metric, trials=self.bench.budget
        )


@dataclass(frozen=True)
class BenchPlan:
    """What a recipe comes to: its rows in their order, data set by data set."""

    bench: BenchSection
    rows: tuple[Row, ...]

    @property
    def data(self) -> list[str]:
        """Names of the data sets, in order."""
        return list(dict.fromkeys(row.data.name for row in self.rows))


def resolve_row(model: ModelSection, chosen: Mapping[str, Any]) -> Job:
    """Give a row its types, some settings put over the recipe's; ``training.FIELD`` is of the training."""
    training = {k.removeprefix(TRAINING): v for k, v in chosen.items() if k.startswith(TRAINING)}
    settings = {k: v for k, v in chosen.items() if not k.startswith(TRAINING)}
    return resolve(
        Recipe.model_validate(
            {
                "model": {**model.set, **settings, "name": model.name, "preset": model.preset},
                "training": {**model.training, **training},
            }
        )
    )


def split_plan(settings: Mapping[str, Any], seed: int) -> SplitPlan:
    """Return the split of a run: with the run's seed, unless one is fixed or it needs none."""
    plan = resolve_split(settings)
    if "seed" in type(plan).model_fields and "seed" not in settings:
        plan = plan.model_copy(update={"seed": seed})
    return plan
