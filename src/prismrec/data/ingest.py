"""From files of any origin to a checked data set folder, with a report and a list of what was refused."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.errors import InputError
from prismrec.base.files import PARTIAL, storage_errors, sync_folder, write_json
from prismrec.base.progress import Progress, Silent, Task
from prismrec.data.catalog import Catalog
from prismrec.data.catalog_media import FetchOptions, MediaPlaces, checker
from prismrec.data.columns import ColumnMapping, Role
from prismrec.data.dataset import MANIFEST, Dataset
from prismrec.data.media_sources import CheckedMedia
from prismrec.data.read_catalog import LoadedCatalog, load_catalog, media_refuser
from prismrec.data.read_log import LoadedLog, load_log
from prismrec.data.readers import Table, open_table
from prismrec.data.report import (
    IngestReport,
    Refusals,
    Without,
    gini,
    look_alikes,
    rating_distribution,
    time_range,
)

REFUSED = "refused.jsonl"
REPORT = "report.json"
THRESHOLD = 5
"""Users and items with fewer positives are counted in the report."""

# What an earlier ingest may have left of a folder that is no data set (yet).
_OWN = {"interactions.parquet", "items.parquet", "media", REFUSED, REPORT}
_STAGING = f".ingest{PARTIAL}"


class IngestOptions(BaseModel):
    """How files are read and what is kept of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mapping: ColumnMapping = Field(ColumnMapping(), description="Columns of the files, by role.")
    min_rating: float | None = Field(
        None, description="Interactions rated at least this are positive. None: all are."
    )
    min_user_interactions: int = Field(
        0, ge=0, description="Users with fewer positive interactions are left out. 0 keeps all."
    )
    min_item_interactions: int = Field(
        0, ge=0, description="Items with fewer (but any) positive interactions are left out. 0 keeps all."
    )
    text_columns: tuple[str, ...] | None = Field(
        None, description="Columns that make up an item's text. None: all columns of text."
    )
    fetch_urls: bool = Field(False, description="Fetch pictures and sounds that are given as URLs.")
    fetching: FetchOptions = Field(FetchOptions(), description="Limits of fetching.")
    max_pixels: int | None = Field(None, gt=0, description="Larger pictures are refused. None: the default.")


def ingest(
    interactions: Path,
    items: Path,
    out: Path,
    *,
    options: IngestOptions | None = None,
    images: Path | None = None,
    audio: Path | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Check a log and a catalogue, and write them as a data set folder.

    Rows, pictures and sounds that cannot be used are left out and listed with their reasons in
    ``refused.jsonl``; what was found stands in ``report.json``. An item whose picture cannot be used stays.
    A data set that stands in the folder is replaced once everything is checked and written.

    Parameters
    ----------
    interactions, items
        Tables, see `open_table`.
    out
        The folder: new, empty, or a data set.
    options
        How to read and what to keep.
    images, audio
        Folders of files named by item id, or below which paths in the table lie.
    progress
        Where to report to.

    Returns
    -------
    IngestReport
        What was found, refused and written.

    Raises
    ------
    InputError
        If a file cannot be read, a column is missing or ambiguous, nothing is left, or the folder holds
        something else.
    StorageError
        If the disk refuses.
    """
    options = options or IngestOptions()
    progress = progress or Silent()
    out = Path(out)
    _check_folder(out)
    log_table, item_table = open_table(Path(interactions)), open_table(Path(items))
    log_mapping, item_mapping = _mappings(options.mapping, log_table, item_table)
    folders = {kind: Path(f) for kind, f in (("image", images), ("audio", audio)) if f is not None}
    places = MediaPlaces(folders, options.fetching if options.fetch_urls else None)
    with _staging(out) as staging:
        refusals, made = Refusals(staging / "refused"), staging / "made"
        loaded = load_catalog(item_table, item_mapping, options.text_columns, places, refusals)
        known = loaded.catalog.items["item_id"]
        log = load_log(log_table, log_mapping, known, refusals, staging / "log", progress=progress)
        _require_positives(log, options.min_rating, log_table)
        total = sum(len(source.ids) for source in loaded.media.values())
        with progress.task("Checking and packing pictures and sounds", total) as task:
            dataset = _build(log, loaded, options, refusals, task)
            written = dataset.write(made)
        report = _report(log, loaded, log_table, written, options, refusals)
        refusals.write(made / REFUSED)
        write_json(made / REPORT, report.model_dump(mode="json"))
        _move_in(made, out)
    return report


def _require_positives(log: LoadedLog, min_rating: float | None, table: Table) -> None:
    if min_rating is None:
        return
    if "rating" not in log.columns:
        raise InputError(
            f"{table.path}: min_rating is {min_rating:g}, and no column holds ratings.",
            f"Columns are: {list(table.schema)}. Say which: --column rating=...",
        )
    highest = log.interactions.highest("rating")
    if highest < min_rating:
        raise InputError(
            f"{table.path}: no interaction is rated {min_rating:g} or more, the highest is {highest:g}.",
            "Choose a lower --min-rating.",
        )


def _mappings(mapping: ColumnMapping, log: Table, items: Table) -> tuple[ColumnMapping, ColumnMapping]:
    """Return what to look for in each file: a given item column may stand in one only."""
    given = mapping.item
    if not given or (given in log.schema and given in items.schema):
        return mapping, mapping
    if given not in log.schema and given not in items.schema:
        raise InputError(
            f"Neither {log.path} nor {items.path} has a column {given!r} (given for item).",
            f"Columns are: {list(log.schema)} and {list(items.schema)}.",
        )
    other = mapping.model_copy(update={"item": None})
    return (mapping, other) if given in log.schema else (other, mapping)


def _build(
    log: LoadedLog, loaded: LoadedCatalog, options: IngestOptions, refusals: Refusals, task: Task
) -> Dataset:
    media = {
        kind: CheckedMedia(
            source,
            checker(kind, options.max_pixels),
            media_refuser(loaded.table, loaded.rows, kind, refusals),
            task,
        )
        for kind, source in loaded.media.items()
    }
    catalog = Catalog(loaded.catalog.items, loaded.catalog.text_columns, media)
    notes = {
        "ingest": {
            "columns": {"interactions": dict(log.columns), "items": dict(loaded.columns)},
            "min_rating": options.min_rating,
        }
    }
    dataset = Dataset(log.interactions, catalog, options.min_rating, notes=notes)
    if options.min_user_interactions or options.min_item_interactions:
        return dataset.filter_core(options.min_user_interactions, options.min_item_interactions)
    return dataset


def _report(
    log: LoadedLog,
    loaded: LoadedCatalog,
    log_table: Table,
    dataset: Dataset,
    options: IngestOptions,
    refusals: Refusals,
) -> IngestReport:
    pairs, _ = dataset.positives()
    by_item = np.bincount(pairs.items, minlength=len(dataset.items))
    by_user = np.bincount(pairs.users, minlength=len(dataset.users))
    met = len(dataset.interactions.items)
    ids = {"user": pl.Series(dataset.users.ids), "item": dataset.catalog.items["item_id"]}
    alike = {kind: look_alikes(names) for kind, names in ids.items()}
    return IngestReport(
        interactions_file=str(log_table.path),
        items_file=str(loaded.table.path),
        content_hash=dataset.content_hash,
        columns={"interactions": _names(log.columns), "items": _names(loaded.columns)},
        columns_left_out={"interactions": log.left_out, "items": loaded.left_out},
        text_columns=list(dataset.catalog.text_columns),
        rows_read={"interactions": log.rows_read, "items": loaded.rows_read},
        users=len(dataset.users),
        items=len(dataset.items),
        interactions=len(dataset.interactions),
        positives=len(pairs),
        positive_rule=_rule(options.min_rating, "rating" in dataset.interactions.columns),
        duplicate_interactions=log.duplicates,
        unknown_item_interactions=log.unknown,
        unknown_items=log.unknown_items,
        duplicate_items=loaded.duplicates,
        duplicate_items_differing=loaded.differing,
        users_without_positives=int((by_user == 0).sum()),
        threshold=THRESHOLD,
        users_below_threshold=int((by_user < THRESHOLD).sum()),
        items_below_threshold=int(((by_item > 0) & (by_item < THRESHOLD)).sum()),
        new_items=len(dataset.items) - met,
        without=_without(dataset.catalog),
        unusable={kind: refusals.items(kind) for kind in loaded.media},
        look_alike_ids={kind: groups for kind, groups in alike.items() if groups},
        times=time_range(dataset.interactions),
        ratings=rating_distribution(dataset.interactions),
        density=len(pairs) / (len(dataset.users) * met),
        gini=gini(pl.Series(by_item[by_item > 0])),
        core_filter=dataset.notes.get("core_filter"),
        refused=refusals.counts(),
    )


def _names(columns: Mapping[Role, str]) -> dict[str, str]:
    return {str(role): column for role, column in columns.items()}


def _rule(min_rating: float | None, rated: bool) -> str:
    if min_rating is not None:
        return f"rated {min_rating:g} or more"
    return "every interaction, whatever its rating" if rated else "every interaction"


def _without(catalog: Catalog) -> Without:
    has = {"text": np.array([text is not None for text in catalog.texts()], dtype=np.bool_)}
    for kind, media in catalog.media.items():
        has[kind] = np.zeros(len(catalog), dtype=np.bool_)
        has[kind][catalog.vocabulary.codes(media.ids)] = True
    counts = {kind: int((~there).sum()) for kind, there in has.items()}
    return Without(
        text=counts["text"] if catalog.text_columns else None,
        image=counts.get("image"),
        audio=counts.get("audio"),
        anything=int((~np.logical_or.reduce(list(has.values()))).sum()),
    )


def _check_folder(out: Path) -> None:
    if not out.exists() or (out / MANIFEST).exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file, not a folder.", "Choose a new folder.")
    strange = [e.name for e in out.iterdir() if e.name not in _OWN and not e.name.endswith(PARTIAL)]
    if strange:
        raise InputError(
            f"{out}: is not a data set and holds other things, e.g. {sorted(strange)[0]!r}.",
            "Choose a new folder.",
        )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Give a folder within `out` to write to; remove it afterwards, and `out` if nothing came of it."""
    new = not out.exists()
    staging = out / _STAGING
    with storage_errors(out):
        # A killed ingest leaves it behind.
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new and not any(out.iterdir()):
            out.rmdir()


def _move_in(staging: Path, out: Path) -> None:
    """Move what was written to its place, the manifest last: a data set cut off here is seen as damaged."""
    with storage_errors(out):
        (out / "media").mkdir(exist_ok=True)
        names = ["interactions.parquet", "items.parquet"]
        names += sorted(f"media/{path.name}" for path in (staging / "media").glob("*.parquet"))
        for name in [*names, REFUSED, REPORT, MANIFEST]:
            (staging / name).replace(out / name)
        for path in (out / "media").glob("*.parquet"):
            if f"media/{path.name}" not in names:
                path.unlink()
        sync_folder(out / "media")
        sync_folder(out)
