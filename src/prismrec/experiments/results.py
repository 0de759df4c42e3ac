"""Results on the disk: a file for each finished run, all or nothing, and one view of all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prismrec.base.errors import DamagedError
from prismrec.base.files import atomic_path, write_json
from prismrec.evaluation.result import PartResult
from prismrec.experiments.plan import RunSpec

RESULTS = "results"
VIEW = "runs.parquet"
_META = b"prismrec"
_KEYS = ("part", "candidates", "user")


class RunNote(BaseModel):
    """What is known of a finished run beside each user's figures."""

    model_config = ConfigDict(extra="forbid")

    key: str
    spec: RunSpec
    split_hash: str
    train_pairs: int
    modalities: dict[str, int] = Field(description="Size of each modality's vectors.")
    parts: list[PartResult]
    seconds: dict[str, float] = Field(description="Wall time of each phase.")
    epochs: int
    best_epoch: int
    curve: list[float | None] = Field(
        [], description="Validation metric that chose the epoch, epoch by epoch; None where none was taken."
    )
    chosen: dict[str, float] = Field(description="What the model itself chose by validation.")
    test_openings_before: int
    experts: dict[str, list[float]] = Field(
        {}, description="Mean routing weight of each expert over the catalogue, by modality."
    )
    weights: dict[str, list[float]] = Field(
        {}, description="Quantiles 0, 10, ... 100 % of each modality's weight over the items that have it."
    )
    threads: int
    device: str
    source: str = Field(description="Digest of the package's code.")
    machine: dict[str, Any]
    finished: str


def path_of(out: Path, key: str) -> Path:
    """Return where a run's result lies."""
    return out / RESULTS / f"{key}.parquet"


def failure_of(out: Path, key: str) -> Path:
    """Return where it is said why a run failed."""
    return out / RESULTS / f"{key}.failed.json"


def write_result(out: Path, note: RunNote, users: pl.DataFrame) -> None:
    """Write a finished run; the note of an earlier failure goes.

    Parameters
    ----------
    out
        Folder of the bench.
    note
        What is known of it.
    users
        ``part``, ``candidates``, ``user`` (code in the data set), and a float32 column for each metric.
    """
    table = users.to_arrow().replace_schema_metadata({_META: note.model_dump_json().encode()})
    with atomic_path(path_of(out, note.key)) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    failure_of(out, note.key).unlink(missing_ok=True)


def write_failure(out: Path, spec: RunSpec, kind: str, problem: str, trace: str) -> None:
    """Write down why a run failed."""
    write_json(
        failure_of(out, spec.key),
        {"kind": kind, "problem": problem, "trace": trace, "spec": spec.model_dump(mode="json")},
    )


def read_failure(out: Path, key: str) -> str | None:
    """Return why a run failed; None if it did not."""
    path = failure_of(out, key)
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["problem"])
    except (ValueError, KeyError):
        return "the note of it is damaged"


def read_note(out: Path, key: str) -> RunNote | None:
    """Read what is known of a finished run; None if there is none, or only a broken file.

    A file that cannot be read counts as missing: the run is made again.
    """
    path = path_of(out, key)
    if not path.exists():
        return None
    try:
        return RunNote.model_validate_json((pq.read_schema(path).metadata or {})[_META])
    except (pa.ArrowInvalid, OSError, KeyError, ValidationError):
        return None


def read_users(out: Path, key: str) -> pl.DataFrame:
    """Read each user's figures of a finished run.

    Raises
    ------
    DamagedError
        If the file is broken.
    """
    path = path_of(out, key)
    try:
        return pl.DataFrame(pq.read_table(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(f"{path}: the file is damaged ({error}).", "Delete it and run again.") from error


def write_view(
    out: Path, rows: Sequence[tuple[str, RunSpec]], notes: Mapping[str, RunNote], failures: Mapping[str, str]
) -> Path:
    """Write one row for each run, part, candidates and metric; for a failed run one row that says why.

    Parameters
    ----------
    out
        Folder of the bench.
    rows
        Label and run, in order.
    notes, failures
        By key.
    """
    lines: list[dict[str, Any]] = []
    for label, spec in rows:
        head = {
            "data": spec.data.name,
            "label": label,
            "model": spec.model,
            "preset": spec.preset,
            "seed": spec.seed,
            "key": spec.key,
        }
        note = notes.get(spec.key)
        if note is None:
            lines.append(
                head
                | {"status": "failed" if spec.key in failures else "missing", "error": failures.get(spec.key)}
            )
            continue
        for part in note.parts:
            for metric, interval in part.metrics.items():
                lines.append(
                    head
                    | {
                        "status": "done",
                        "part": part.part,
                        "candidates": part.candidates,
                        "metric": metric,
                        "mean": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                        "users": part.users_counted,
                        "items": part.n_candidates,
                        "train_seconds": note.seconds["train"],
                        "config": json.dumps(note.spec.config),
                        "training": json.dumps(note.spec.training),
                    }
                )
    path = out / VIEW
    with atomic_path(path) as temporary:
        pl.DataFrame(lines, schema=_VIEW).write_parquet(temporary)
    return path


_VIEW = {
    "data": pl.String,
    "label": pl.String,
    "model": pl.String,
    "preset": pl.String,
    "seed": pl.Int64,
    "key": pl.String,
    "status": pl.String,
    "error": pl.String,
    "part": pl.String,
    "candidates": pl.String,
    "metric": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "users": pl.Int64,
    "items": pl.Int64,
    "train_seconds": pl.Float64,
    "config": pl.String,
    "training": pl.String,
}
