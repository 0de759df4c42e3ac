"""What a bench compares, written down: a TOML file.

A recipe looks like this; most of it may be left out (see the fields)::

    [bench]
    name = "gates"
    metric = "ndcg@10"
    candidates = ["strict", "as_released"]
    seeds = 5
    budget = 20

    [[data]]
    name = "movielens-small"
    path = "shops/movielens-small"
    split = {kind = "item-cold-start", valid = 0.1, test = 0.1}

    [[model]]
    name = "mamex"
    preset = "paper"
    set = {fusion = "mean"}
    training = {epochs = 30}
    [model.search]
    align = {low = 0.001, high = 1.0, log = true}
    experts = {choices = [4, 6, 8]}
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.splits import Candidates
from prismrec.evaluation.metrics import parse_metric
from prismrec.models.settings import parse_settings

Value = bool | int | float | str | None | list[Any]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
_SECTIONS = ("bench", "data", "model")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BenchSection(_Section):
    """``[bench]``: what is measured, and how often."""

    name: str = Field(min_length=1, description="What it is called; also its folder below runs/bench.")
    about: str = Field("", description="What it is to find out, one sentence for the report.")
    metric: str = Field("ndcg@10", description="What rows are compared by, and searches look for.")
    candidates: tuple[Candidates, ...] = Field(
        (), description="Items that are ranked, the first set counts most; empty: what fits the split."
    )
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20), description="Lengths of the lists.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (0, 1, 2, 3, 4), description="A number of seeds (from 0), or the seeds themselves."
    )
    budget: int = Field(
        0, ge=0, le=10_000, description="Trials of the search for each model that has one; 0: presets."
    )
    users: int | None = Field(
        None, ge=1, description="Users, drawn by the seed, that are evaluated; left out: all."
    )
    baseline: str | None = Field(None, description="Label of the row that all are compared with besides.")

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("'seeds' must name at least one seed, each once")
        if not self.ks:
            raise ValueError("'ks' must name at least one length of lists")
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("'candidates' names one twice")
        parse_metric(self.metric)
        return self

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the lists, that of the metric among them, ascending."""
        return tuple(sorted({*self.ks, parse_metric(self.metric)[1]}))


class DataSection(_Section):
    """``[[data]]``: a data set, how it is divided, and what is taken from it."""

    name: str = Field(min_length=1, description="What it is called.")
    path: Path | None = Field(
        None, description="Folder of the encoded data set, from the working folder; or --data NAME=FOLDER."
    )
    split: dict[str, Any] = Field(
        {}, description="The split: its kind and its settings; its seed is the bench's unless it is fixed."
    )
    modalities: tuple[str, ...] | None = Field(None, description="Features to use; left out: all.")
    users: int | None = Field(
        None, ge=1, description="Users that are kept at all, drawn by the seed: a smaller data set, as dense."
    )
    max_per_user: int | None = Field(
        None, ge=1, description="Training positives of a user that are kept, drawn by the seed."
    )
    missing: tuple[Share, ...] = Field(
        (), description="Share of items that lose each modality; several: the data set once with each."
    )
    keep_one: bool = Field(
        False, description="With 'missing': an item that would lose all its modalities keeps one of them."
    )

    @field_validator("missing", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value


class Axis(_Section):
    """What a search may choose for a setting: a range or some values."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = Field(False, description="Search orders of magnitude evenly.")
    choices: tuple[Value, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        ends = (self.low, self.high)
        if self.choices is not None:
            if ends != (None, None) or self.log or not self.choices:
                raise ValueError("give either 'low' and 'high' or some 'choices'")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError("give 'low' and 'high', low first, or some 'choices'")
        if self.log and self.low <= 0:
            raise ValueError("'log' needs a 'low' above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant: both ends are written as such."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range or among the choices."""
        if self.choices is not None:
            return any(
                choice == value and isinstance(choice, bool) == isinstance(value, bool)
                for choice in self.choices
            )
        assert self.low is not None
        assert self.high is not None
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return numeric and self.low <= value <= self.high


class ModelSection(_Section):
    """``[[model]]``: a row of the table, or several with ``grid``."""

    name: str = Field(description="Name of the model.")
    preset: str = Field("default", description="Settings to start from.")
    label: str | None = Field(None, description="What the row is called; left out: model and preset.")
    set: dict[str, Value] = Field({}, description="Settings of the model.")
    training: dict[str, Value] = Field({}, description="Settings of the training.")
    search: dict[str, Axis] = Field({}, description="Settings that are searched; training.FIELD for those.")
    grid: dict[str, tuple[Value, ...]] = Field(
        {}, description="Values of settings; each combination is a row."
    )
    modalities: tuple[str, ...] | None = Field(
        None, description="Features that this row uses; left out: the data set's."
    )
    oracle: bool = Field(
        False,
        description="Of 'popularity' only: count the interactions of the part that is measured. It knows the "
        "answers' popularity, so that it is shown and never compared.",
    )

    @property
    def shown(self) -> str:
        """The row's label."""
        if self.label is not None:
            return self.label
        return self.name if self.preset == "default" else f"{self.name} ({self.preset})"


class BenchRecipe(_Section):
    """A whole recipe, its sections checked, its models' settings not yet (see `plan`)."""

    bench: BenchSection
    data: tuple[DataSection, ...]
    models: tuple[ModelSection, ...]


def read_bench(path: Path) -> BenchRecipe:
    """Read a bench's recipe.

    Raises
    ------
    InputError
        If the file is missing or not TOML.
    ConfigError
        If a key is unknown (the nearest is named), a value is of the wrong type, or a section is missing.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a recipe.", "Name the recipe's TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: is not TOML ({error}).",
            'Expected UTF-8 text with lines such as [bench] and, below it, name = "table".',
        ) from None
    return parse_bench(values, str(path))


def parse_bench(values: Mapping[str, Any], where: str) -> BenchRecipe:
    """Check the plain values of a recipe.

    Raises
    ------
    ConfigError
        See `read_bench`.
    """
    for key in values:
        if key not in _SECTIONS:
            near = difflib.get_close_matches(key, _SECTIONS, n=1, cutoff=0.5)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{where}: unknown section {key!r}.", f"{guess}Known: [bench], [[data]], [[model]]."
            )
    for key in _SECTIONS:
        if not values.get(key):
            shown = "[bench]" if key == "bench" else f"[[{key}]]"
            raise ConfigError(
                f"{where}: has no section {shown}.", "A bench needs [bench], [[data]], [[model]]."
            )
    if not isinstance(values["bench"], dict):
        raise ConfigError(f"{where}: [bench] is a list.", "Write it once, with single brackets.")
    data = [
        parse_settings(DataSection, row, f"{where} [[data]] {place}")
        for place, row in _numbered(values["data"], "data", where)
    ]
    models = [
        _model(row, f"{where} [[model]] {place}") for place, row in _numbered(values["model"], "model", where)
    ]
    bench = parse_settings(BenchSection, values["bench"], f"{where} [bench]")
    _require_once([row.name for row in data], "data", where)
    return BenchRecipe(bench=bench, data=tuple(data), models=tuple(models))


def _numbered(rows: Any, key: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: [{key}] must be written [[{key}]]: there may be several.")
    return list(enumerate(rows, start=1))


def _model(row: Mapping[str, Any], where: str) -> ModelSection:
    values = dict(row)
    for key in ("search", "grid"):
        if isinstance(values.get(key), dict):
            values[key] = _flat(values[key])
    search = values.pop("search", {})
    section = parse_settings(ModelSection, values, where)
    if not isinstance(search, dict):
        raise ConfigError(f"{where}: 'search' is not a table.", "Write [model.search] below the [[model]].")
    axes = {}
    for field, axis in search.items():
        if not isinstance(axis, dict):
            raise ConfigError(
                f"{where}: search.{field} is {axis!r}.", "Write {low = 1, high = 9} or {choices = [1, 9]}."
            )
        axes[field] = parse_settings(Axis, axis, f"{where} search.{field}")
    both = [field for field in axes if field in section.grid]
    if both:
        raise ConfigError(f"{where}: {both[0]!r} stands in both search and grid.", "Keep one of them.")
    return section.model_copy(update={"search": axes})


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``training.epochs`` and ``training.strategy.rho`` be written with or without quotation marks."""
    training = values.get("training")
    if not isinstance(training, dict):
        return dict(values)
    own = {field: value for field, value in values.items() if field != "training"}
    return own | _dotted("training", training)


def _dotted(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lies in tables within tables under names with dots; a table that is an axis stays one."""
    found: dict[str, Any] = {}
    for field, value in values.items():
        whole = f"{name}.{field}"
        nested = isinstance(value, dict) and not set(value) & set(Axis.model_fields)
        found |= _dotted(whole, value) if nested else {whole: value}
    return found


def _require_once(names: Sequence[str], key: str, where: str) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: two [[{key}]] are called {twice!r}.", "Give each a name of its own.")
