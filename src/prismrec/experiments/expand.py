"""From a recipe to its rows: grids spread out, data opened, and everything checked that can be."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from prismrec.base.errors import ConfigError, InputError
from prismrec.base.files import digest
from prismrec.data.dataset import Dataset
from prismrec.data.splits import Candidates, Part, Split, TrainOnAll
from prismrec.evaluation.ranking import require_k
from prismrec.experiments.plan import TRAINING, BenchPlan, DataSpec, Row, resolve_row, split_plan
from prismrec.experiments.recipe import BenchRecipe, BenchSection, DataSection, ModelSection
from prismrec.models.catalogue import config_of
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.part_ranking import default_candidates
from prismrec.recommender.train import open_features


def make_plan(recipe: BenchRecipe, folders: Mapping[str, Path], root: Path | None = None) -> BenchPlan:
    """Check a recipe against the models and the data, and spread it out.

    Everything that can be known to be wrong is found here, before anything runs.

    Parameters
    ----------
    recipe
        What was written.
    folders
        Folders of data sets by name; they go before those in the recipe.
    root
        Where the recipe's folders start from; None: the working folder.

    Raises
    ------
    ConfigError
        If a model, a setting or a label is wrong.
    InputError
        If a data set cannot be opened or divided as is asked, lacks features, or has fewer candidates than K.
    """
    _require_known(folders, [section.name for section in recipe.data])
    models = [row for section in recipe.models for row in _grid(section)]
    labels = [row.shown for row in models]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two rows are called {twice!r}.", "Give each [[model]] a label of its own.")
    baseline = recipe.bench.baseline
    if baseline is not None and baseline not in labels:
        raise ConfigError(
            f"bench.baseline is {baseline!r}, and no row is called so.", f"Rows are: {', '.join(labels)}."
        )
    for row in models:
        _require_possible(row)
    rows = []
    for section in recipe.data:
        specs, candidates = _open(section, folders, recipe.bench, models, root)
        rows += [
            Row(model.shown, model, spec, section.split, recipe.bench, candidates)
            for spec in specs
            for model in models
        ]
    return BenchPlan(recipe.bench, tuple(rows))


def _grid(section: ModelSection) -> list[ModelSection]:
    """Return a row for each combination of the grid's values."""
    if not section.grid:
        return [section]
    rows = []
    for values in itertools.product(*section.grid.values()):
        combination = dict(zip(section.grid, values, strict=True))
        said = ", ".join(f"{field.removeprefix(TRAINING)} {value}" for field, value in combination.items())
        training = {k.removeprefix(TRAINING): v for k, v in combination.items() if k.startswith(TRAINING)}
        settings = {k: v for k, v in combination.items() if not k.startswith(TRAINING)}
        rows.append(
            section.model_copy(
                update={
                    "label": f"{section.shown}, {said}",
                    "set": {**section.set, **settings},
                    "training": {**section.training, **training},
                    "grid": {},
                }
            )
        )
    return rows


def _require_possible(row: ModelSection) -> None:
    try:
        job = resolve_row(row, {})
    except ConfigError as error:
        raise ConfigError(f"[[model]] {row.shown!r}: {error.problem}", error.hint) from None
    if row.oracle and row.name != "popularity":
        raise ConfigError(f"[[model]] {row.shown!r}: only 'popularity' can be an oracle.", "Leave it out.")
    fields = [
        *config_of(row.name).model_fields,
        *(f"{TRAINING}{field}" for field in TrainingPlan.model_fields),
        *(f"{TRAINING}strategy.{field}" for field in type(job.training.strategy).model_fields),
        *(f"{TRAINING}augmentation.{field}" for field in type(job.training.augmentation).model_fields),
    ]
    for field in row.search:
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.5)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"[[model]] {row.shown!r}: search.{field} is no setting of {row.name} or its training.",
                f"{guess}`prismrec models {row.name}` lists them.",
            )


def _require_known(folders: Mapping[str, Path], names: Sequence[str]) -> None:
    for name in folders:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"--data {name}=...: the recipe has no data set of this name.",
                f"{guess}It has: {', '.join(names)}.",
            )


def _open(
    section: DataSection,
    folders: Mapping[str, Path],
    bench: BenchSection,
    models: Sequence[ModelSection],
    root: Path | None,
) -> tuple[list[DataSpec], tuple[Candidates, ...]]:
    """Return the data set once for each share of missing modalities, and what is ranked."""
    path = folders.get(section.name)
    if path is None and section.path is not None:
        path = section.path if root is None else root / section.path
    if path is None:
        raise InputError(
            f"The recipe does not say where the data set {section.name!r} is.",
            f"Name its folder: --data {section.name}=FOLDER",
        )
    dataset = Dataset.read(path)
    plan = split_plan(section.split, bench.seeds[0])
    if isinstance(plan, TrainOnAll):
        raise ConfigError(f"[[data]] {section.name!r}: 'train-on-all' leaves nothing to measure on.")
    split = dataset.split(plan)
    candidates = bench.candidates or (default_candidates(split),)
    _require_candidates(split, candidates, bench.lengths, section.name)
    wanted = {section.modalities, *(m.modalities for m in models if m.modalities is not None)}
    stores = {s.name: s.content_hash for names in wanted for s in open_features(dataset, names)}
    known = (f"{name}={stamp}".encode() for name, stamp in sorted(stores.items()))
    content = digest(dataset.content_hash.encode(), plan.origin(dataset).encode(), *known)
    shares = section.missing or (0.0,)
    specs = [
        DataSpec(
            name=section.name if len(shares) == 1 else f"{section.name}, {round(100 * share)} % missing",
            path=str(Path(path).absolute()),
            content=content,
            modalities=section.modalities,
            users=section.users,
            max_per_user=section.max_per_user,
            missing=share,
            keep_one=section.keep_one,
        )
        for share in shares
    ]
    return specs, candidates


def _require_candidates(split: Split, candidates: Sequence[Candidates], ks: Sequence[int], name: str) -> None:
    """Check before hours of training that the lists are not longer than what can be ranked."""
    for mode in candidates:
        for part in (Part.VALID, Part.TEST):
            try:
                for k in ks:
                    require_k(k, len(split.candidates(mode, part)))
            except InputError as error:
                raise InputError(f"[[data]] {name!r}, {part}, {mode}: {error.problem}", error.hint) from None
