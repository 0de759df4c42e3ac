"""The folder of prepared questions: what `sequential prepare` writes and all later steps read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import digest, digest_file, read_json, storage_errors, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.data.dataset import Dataset
from prismrec.recommender.recommender import Recommender
from prismrec.sequential.baselines import first_stage_scores
from prismrec.sequential.examples import Example, Task, read_examples, write_examples
from prismrec.sequential.histories import PART_NAMES, make_examples
from prismrec.sequential.popularity import popularity
from prismrec.sequential.prepare import PrepareConfig
from prismrec.sequential.template import Template
from prismrec.sequential.titles import display_titles
from prismrec.sequential.writer import Shelf

MANIFEST, TEMPLATE, TITLES, LEDGER = (
    "sequential.json",
    "template.toml",
    "titles.parquet",
    "test-openings.jsonl",
)
_FORMAT, _WHAT = 1, "prepared questions"


@dataclass(frozen=True)
class Prepared:
    """Questions about a data set's users.

    Parameters
    ----------
    path
        The folder.
    dataset
        What they were made of.
    config
        How.
    template
        The words, as they stand in the folder now.
    ids, titles
        Of the items, by code.
    notes
        What was left out or changed on the way, one sentence each.
    """

    path: Path
    dataset: Dataset
    config: PrepareConfig
    template: Template
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        """What is asked."""
        return self.config.task

    @property
    def shelf(self) -> Shelf:
        """The items, with their pictures."""
        return Shelf(self.ids, self.titles, self.dataset.catalog.media.get("image"))

    @cached_property
    def train(self) -> list[Example]:
        """Training examples."""
        return self.part("train")

    def part(self, name: str) -> list[Example]:
        """Return the examples of ``train``, ``valid`` or ``test``.

        Raises
        ------
        InputError
            If there is no such part.
        """
        if name not in PART_NAMES:
            raise InputError(f"There is no part {name!r}.", f"Parts are {', '.join(PART_NAMES)}.")
        return read_examples(self.path / f"{name}.parquet")

    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How often each item was taken in training, shape ``(n_items,)``."""
        return popularity(self.train, len(self.ids))

    def open_test(self, note: Mapping[str, Any]) -> int:
        """Write down that the test part is measured; return how often it was before."""
        path = self.path / LEDGER
        before = path.read_text(encoding="utf-8").count("\n") if path.is_file() else 0
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(note)) + "\n")
        return before

    @property
    def digest(self) -> str:
        """Of everything that answers are learnt from."""
        parts = (*(f"{name}.parquet" for name in PART_NAMES), TITLES)
        config = self.config
        words = (self.template.digest, config.task.value, config.noun, config.plural)
        asked = digest(*(word.encode() for word in words))
        return "-".join([*(digest_file(self.path / name)[:8] for name in parts), asked[:8]])


def prepare(
    dataset: Dataset,
    out: Path,
    config: PrepareConfig,
    *,
    template: Path | None = None,
    first_stage: Recommender | None = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Make questions of a data set and write them.

    Parameters
    ----------
    dataset
        Read from a folder, with an order of the interactions.
    out
        New or empty, or a folder that was made from the same: it is made anew.
    config
        What to ask.
    template
        Words of your own; None: those that come with the package.
    first_stage
        For ``rerank``: the run whose lists are to be ranked again. It must not have been trained on what is
        held out here.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If the data do not do, the folder holds something else, or the first stage has seen what is held out.
    """
    if dataset.path is None:
        raise InputError("The data set has no folder.", "Write it first, so that later steps find it.")
    _require_home(out)
    words = Template.default() if template is None else Template.read(template)
    titles, told = _titles(dataset, config.noun)
    lists = None if first_stage is None else _lists(first_stage, dataset, config, progress)
    made = make_examples(dataset, config, lists)
    if first_stage is not None:
        # Refuses a run that was trained on what is held out.
        first_stage_scores([*made.valid, *made.test], first_stage, dataset.items.ids)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        pl.DataFrame({"item_id": dataset.items.ids, "title": titles}).write_parquet(out / TITLES)
    words.write(out / TEMPLATE)
    parts = {"train": made.train, "valid": made.valid, "test": made.test}
    for name, examples in parts.items():
        write_examples(out / f"{name}.parquet", examples)
    dropped = [f"Left out: {one.count:,} {one.reason}." for one in made.dropped]
    write_json(
        out / MANIFEST,
        {
            "format": _FORMAT,
            "dataset": str(dataset.path.absolute()),
            "dataset_hash": dataset.content_hash,
            "config": config.model_dump(mode="json"),
            "template": words.digest,
            "examples": {name: len(examples) for name, examples in parts.items()},
            "dropped": [asdict(one) for one in made.dropped],
            "first_stage": None if first_stage is None else str(first_stage.path),
            "notes": [*dropped, *told],
        },
    )
    return read_prepared(out)


def read_prepared(path: Path, dataset: Path | None = None) -> Prepared:
    """Read what `prepare` wrote.

    Parameters
    ----------
    path
        The folder.
    dataset
        Where the data set lies now, if it was moved.

    Raises
    ------
    DamagedError
        If the folder is not whole.
    InputError
        If the data set is gone or not the one that the questions were made of.
    """
    manifest = read_json(path / MANIFEST, _WHAT)
    lost = [name for name in ("dataset", "dataset_hash", "config", "notes") if name not in manifest]
    if lost:
        raise DamagedError(
            f"{path / MANIFEST}: not as prismrec writes it, {', '.join(lost)} missing.",
            "Run `sequential prepare` again.",
        )
    where = dataset if dataset is not None else Path(str(manifest["dataset"]))
    if not where.is_dir():
        raise InputError(
            f"{path}: the data set that the questions were made of, {where}, is gone.",
            "Put it back, or name where it lies now (--shop).",
        )
    data = Dataset.read(where)
    if data.content_hash != manifest["dataset_hash"]:
        raise InputError(
            f"{path}: {where} is not the data set that the questions were made of.",
            "Run `sequential prepare` again.",
        )
    try:
        names = pl.read_parquet(path / TITLES, columns=["item_id", "title"])
        config = PrepareConfig.model_validate(manifest["config"])
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DamagedError(
            f"{path}: these questions cannot be read ({error}).", "Run `sequential prepare` again."
        ) from error
    return Prepared(
        path,
        data,
        config,
        Template.read(path / TEMPLATE),
        tuple(names["item_id"].to_list()),
        tuple(names["title"].to_list()),
        tuple(manifest["notes"]),
    )


def _titles(dataset: Dataset, noun: str) -> tuple[list[str], list[str]]:
    items = dataset.catalog.items
    years = items["year"].to_list() if "year" in items.columns else None
    raw = items["title"].to_list() if "title" in items.columns else dataset.catalog.titles()
    shown, report = display_titles(
        [None if t is None else str(t) for t in raw], dataset.items.ids, noun, years
    )
    return shown, report.lines()


def _lists(
    first_stage: Recommender, dataset: Dataset, config: PrepareConfig, progress: Progress
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the first stage's best items of every user, codes of the data set, shape ``(users, N)``."""
    # What was touched in validation and test is taken out later.
    counts = np.bincount(dataset.positives()[0].users, minlength=len(dataset.users))
    wanted = config.n_negatives if config.n_negatives is not None else len(dataset.items)
    k = min(len(first_stage.catalog), wanted + int(counts.max()) + 1)
    found = first_stage.recommend(dataset.users.ids, k=k, progress=progress)
    lists = np.full((len(dataset.users), k), -1, dtype=np.int64)
    rows, codes = (
        dataset.users.codes(found["user_id"].to_list()),
        dataset.items.codes(found["item_id"].to_list()),
    )
    lists[rows, found["rank"].to_numpy() - 1] = codes
    return lists


def _require_home(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / TITLES).is_file())):
        raise InputError(
            f"{out}: this is not an empty folder, nor one of prepared questions.", "Choose another folder."
        )
