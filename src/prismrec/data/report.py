"""What `ingest` refused and what it found: the list of refusals and the report."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.files import atomic_path, storage_errors
from prismrec.data.interactions import Interactions

REFUSAL_SCHEMA = pl.Schema(
    {
        "source": pl.String,
        "row": pl.Int64,
        "user_id": pl.String,
        "item_id": pl.String,
        "field": pl.String,
        "reason": pl.String,
        "value": pl.String,
    }
)

# More kinds of reasons than these are counted together.
_REASONS_SHOWN = 40
_RATINGS_SHOWN = 20


@dataclass(frozen=True)
class Refusal:
    """Something that was left out.

    Parameters
    ----------
    source
        The file.
    row
        Row in the source file, counted from 0 without a header; None where no row is concerned.
    field
        What it is about: a column of prismrec (``rating``), a kind of content (``image``).
    reason
        Why.
    item_id, user_id
        Whom it concerns, where known.
    value
        What stood there.
    """

    source: str
    row: int | None
    field: str
    reason: str
    item_id: str | None = None
    user_id: str | None = None
    value: str | None = None


class Refusals:
    """Collects what is refused: single cases, and whole frames from the log.

    Parameters
    ----------
    folder
        Where frames are put that are too many for memory; None keeps all of them there.
    held
        Rows of frames that are kept in memory before they are put into the folder.
    """

    def __init__(self, folder: Path | None = None, *, held: int = 500_000) -> None:
        self._folder = folder
        self._most = held
        self._single: list[Refusal] = []
        self._frames: list[pl.DataFrame] = []
        self._parts: list[Path] = []

    def add(self, refusal: Refusal) -> None:
        """Add one."""
        self._single.append(refusal)

    def add_frame(self, frame: pl.DataFrame) -> None:
        """Add many; columns of `REFUSAL_SCHEMA` that are missing are taken as null."""
        if not frame.height:
            return
        columns = [
            (pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype)).alias(name)
            for name, dtype in REFUSAL_SCHEMA.items()
        ]
        self._frames.append(frame.select(columns))
        if self._folder is not None and sum(held.height for held in self._frames) > self._most:
            self._put_away(self._folder)

    def _put_away(self, folder: Path) -> None:
        part = folder / f"{len(self._parts):06}.parquet"
        with storage_errors(part):
            folder.mkdir(parents=True, exist_ok=True)
            pl.concat(self._frames).write_parquet(part)
        self._parts.append(part)
        self._frames = []

    def lazy(self) -> pl.LazyFrame:
        """Return all of them, with the columns of `REFUSAL_SCHEMA`, unread."""
        single = pl.LazyFrame([asdict(refusal) for refusal in self._single], schema=REFUSAL_SCHEMA)
        frames = [frame.lazy() for frame in self._frames]
        return pl.concat([*(pl.scan_parquet(part) for part in self._parts), *frames, single])

    def frame(self) -> pl.DataFrame:
        """Return all of them, with the columns of `REFUSAL_SCHEMA`."""
        return self.lazy().collect()

    def listed(self) -> list[Refusal]:
        """Return all of them, one by one."""
        return [Refusal(**row) for row in self.frame().iter_rows(named=True)]

    def counts(self) -> dict[str, int]:
        """Return how often each ``"field: reason"`` occurs, most frequent first."""
        counted = (
            self.lazy()
            .group_by("field", "reason")
            .len()
            .collect(engine="streaming")
            .sort("len", "field", "reason", descending=[True, False, False])
        )
        found = {f"{field}: {reason}": count for field, reason, count in counted.iter_rows()}
        if len(found) <= _REASONS_SHOWN:
            return found
        shown = dict(list(found.items())[:_REASONS_SHOWN])
        shown["other reasons"] = sum(found.values()) - sum(shown.values())
        return shown

    def items(self, field: str) -> int:
        """Return of how many items something was refused that belongs to a field."""
        found = self.lazy().filter(pl.col("field") == field).select(pl.col("item_id").n_unique())
        return int(found.collect(engine="streaming").item())

    def write(self, path: Path) -> int:
        """Write them as JSON lines, atomically; the file is there even if it is empty. Return how many."""
        rows = 0
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for batch in self.lazy().collect_batches(maintain_order=True):
                file.write(batch.write_ndjson().encode())
                rows += batch.height
        return rows


class Without(BaseModel):
    """How many items lack a kind of content. None: the data have none of that kind at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: int | None
    image: int | None
    audio: int | None
    anything: int = Field(description="Items without any content.")


class TimeRange(BaseModel):
    """First and last time of the log, as they stand and as dates where they look like seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: float
    last: float
    first_date: str | None = None
    last_date: str | None = None


class Ratings(BaseModel):
    """How ratings are distributed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: float
    highest: float
    mean: float
    counts: dict[str, int] = Field(description="Interactions by rating; ranges where there are many values.")


class IngestReport(BaseModel):
    """What `ingest` found, refused and wrote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interactions_file: str
    items_file: str
    content_hash: str
    columns: dict[str, dict[str, str]] = Field(description="Column by role, for each file.")
    columns_left_out: dict[str, list[str]] = Field(description="Columns that were not taken over.")
    text_columns: list[str]
    rows_read: dict[str, int] = Field(description="Rows of each file.")
    users: int
    items: int
    interactions: int
    positives: int = Field(description="Pairs of user and item with a positive interaction, each once.")
    positive_rule: str
    duplicate_interactions: int
    unknown_item_interactions: int
    unknown_items: int
    duplicate_items: int
    duplicate_items_differing: int
    users_without_positives: int = Field(description="They are served like users without history.")
    threshold: int = Field(description="Users and items with fewer positives are counted below.")
    users_below_threshold: int
    items_below_threshold: int = Field(description="Of the items that have any positive.")
    new_items: int = Field(description="Items that nobody has interacted with.")
    without: Without
    unusable: dict[str, int] = Field(description="Pictures and sounds refused, by kind.")
    look_alike_ids: dict[str, list[str]] = Field(description="Ids that differ in surrounding spaces only.")
    times: TimeRange | None
    ratings: Ratings | None
    density: float = Field(description="Positives over users times items that were interacted with.")
    gini: float = Field(description="Gini index of the positives over the items that have any, 0 to 1.")
    core_filter: dict[str, int] | None
    refused: dict[str, int] = Field(description="Refusals by field and reason; each is in refused.jsonl.")

    def lines(self) -> list[str]:
        """Return a summary for people."""
        return [
            *self._what_was_read(),
            *self._what_there_is(),
            *self._what_lacks(),
            *self._what_was_refused(),
        ]

    def _what_was_read(self) -> list[str]:
        lines = []
        for name, path in (("interactions", self.interactions_file), ("items", self.items_file)):
            roles = ", ".join(
                role if column in (role, f"{role}_id") else f"{role} = {column}"
                for role, column in self.columns[name].items()
            )
            left = self.columns_left_out.get(name)
            rest = f"; left out: {', '.join(left)}" if left else ""
            lines.append(f"{path}: {self.rows_read[name]:,} rows; columns: {roles}{rest}")
        lines.append(f"Text of an item: {', '.join(self.text_columns) or 'none'}")
        return lines

    def _what_there_is(self) -> list[str]:
        lines = [
            f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions",
            f"{self.positives:,} positive pairs ({self.positive_rule}); density {self.density:.3%}, "
            f"Gini index of the items {self.gini:.2f}",
        ]
        if self.core_filter is not None:
            lines.append(
                f"Kept: users with {self.core_filter['users']} and items with {self.core_filter['items']} "
                f"positive interactions; {self.core_filter['interactions_removed']:,} interactions removed"
            )
        if self.ratings is not None:
            counts = ", ".join(f"{value}: {count:,}" for value, count in self.ratings.counts.items())
            lines.append(f"Ratings, mean {self.ratings.mean:.2f}: {counts}")
        if self.times is not None:
            first, last = self.times.first_date, self.times.last_date
            plain = f"{self.times.first:.15g} to {self.times.last:.15g}"
            lines.append(
                f"Times: {first} to {last} (UTC)" if first else f"Times: {plain}, not dates since 1970"
            )
        return lines

    def _what_lacks(self) -> list[str]:
        lines = [
            f"Fewer than {self.threshold} positives: {self.users_below_threshold:,} users, "
            f"{self.items_below_threshold:,} items; {self.new_items:,} items are new, nobody has met them"
        ]
        if self.users_without_positives:
            lines.append(f"Users without any positive: {self.users_without_positives:,}")
        lacking = {"text": self.without.text, "picture": self.without.image, "sound": self.without.audio}
        parts = [f"{count:,} without {kind}" for kind, count in lacking.items() if count is not None]
        lines.append(f"Items: {', '.join([*parts, f'{self.without.anything:,} without any content'])}")
        for kind, pairs in self.look_alike_ids.items():
            lines.append(f"{kind} ids that differ in surrounding spaces only: {', '.join(pairs[:5])}")
        return lines

    def _what_was_refused(self) -> list[str]:
        if not self.refused:
            return ["Nothing was refused"]
        lines = [f"Refused or left out: {sum(self.refused.values()):,}, each in refused.jsonl"]
        lines += [f"  {count:,} x {reason}" for reason, count in list(self.refused.items())[:12]]
        if len(self.refused) > 12:
            lines.append(f"  and {len(self.refused) - 12} other reasons")
        return lines


def time_range(log: Interactions) -> TimeRange | None:
    """Return the range of times in seconds, as dates if between 1980 and 2100; None without times."""
    if "timestamp" not in log.columns or len(log) == 0:
        return None
    first, last = log.one(pl.col("timestamp").min().alias("first"), pl.col("timestamp").max().alias("last"))
    if not 3.2e8 <= first <= last <= 4.1e9:
        return TimeRange(first=first, last=last)
    shown = [datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M") for t in (first, last)]
    return TimeRange(first=first, last=last, first_date=shown[0], last_date=shown[1])


def rating_distribution(log: Interactions, bins: int = 10) -> Ratings | None:
    """Return how ratings are distributed: by value where there are at most 20, else in ranges.

    None where there are no ratings.
    """
    if "rating" not in log.columns or len(log) == 0:
        return None
    low, high, mean, values = log.one(
        pl.col("rating").min().alias("low"),
        pl.col("rating").max().alias("high"),
        pl.col("rating").mean().alias("mean"),
        pl.col("rating").approx_n_unique().alias("values"),
    )
    # Counting the values one by one takes memory for each: measured numbers may all differ.
    counted = log.counts(pl.col("rating")) if values <= 5 * _RATINGS_SHOWN else None
    if counted is None or counted.height > _RATINGS_SHOWN:
        width = (high - low) / bins
        place = ((pl.col("rating") - low) / width).floor().clip(0, bins - 1).cast(pl.Int64)
        named = [f"{low + i * width:.3g} to {low + (i + 1) * width:.3g}" for i in range(bins)]
        counts = {named[i]: n for i, n in log.counts(place).iter_rows()}
    else:
        counts = {f"{value:g}": n for value, n in counted.iter_rows()}
    return Ratings(lowest=low, highest=high, mean=mean, counts=counts)


def gini(counts: pl.Series) -> float:
    """Return the Gini index of counts: 0 if all are equal, near 1 if one has nearly all."""
    n = len(counts)
    total = float(counts.sum())
    if n == 0 or total == 0:
        return 0.0
    ranked = counts.cast(pl.Float64).sort()
    ranks = pl.int_range(1, n + 1, eager=True).cast(pl.Float64)
    return 2.0 * float((ranks * ranked).sum()) / (n * total) - (n + 1) / n


def look_alikes(ids: pl.Series, most: int = 20) -> list[str]:
    """Return groups of ids that are the same but for surrounding spaces, as text."""
    frame = pl.DataFrame({"id": ids.unique()}).with_columns(bare=pl.col("id").str.strip_chars())
    groups = frame.filter(pl.len().over("bare") > 1).group_by("bare").agg(pl.col("id").sort()).sort("bare")
    return [" / ".join(map(repr, group)) for group in groups["id"].head(most).to_list()]
