"""States of a training that can be resumed, and its log: what is whole, what a kill left half."""

import json
import shutil
from pathlib import Path

import numpy as np

from prismrec.base.files import write_text

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
WHOLE = "whole"


def last_whole(folder: Path) -> Path | None:
    """Return the newest state that was written to its end; what a kill left half is removed."""
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).exists():
            whole.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(whole)[1] if whole else None


def last_loss(path: Path) -> float:
    """Return the mean over the last tenth of the log, lines from before a restart among them."""
    if not path.is_file():
        return float("nan")
    losses = [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()]
    return float(np.mean(losses[-max(1, len(losses) // 10) :])) if losses else float("nan")


def keep_log(path: Path, step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))
