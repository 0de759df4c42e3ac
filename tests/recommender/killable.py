"""Work that is meant to be killed: a process that has imported everything and forks a child for each job.

It reads one JSON object a line: ``job``, ``home`` (folder that the job writes to), ``data`` (the data set),
``after``: kill the child after so many seconds, and ``die_at``: the child kills itself before its so-many-th
change of the file system under ``home``. It answers with the exit status, seconds and number of changes.

Not a test itself; `test_kills` starts it. It does nothing but import before it forks, since threads of
libraries do not survive a fork.
"""

import functools
import json
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import accelerate  # noqa: F401
import polars as pl
import safetensors.numpy
import safetensors.torch  # noqa: F401
import scipy.sparse  # noqa: F401
import skimage.color
import skimage.feature  # noqa: F401
import sklearn.decomposition
import sklearn.feature_extraction.text  # noqa: F401
import torch
import torch._dynamo

from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.media import MemoryMedia
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender import train as training
from prismrec.recommender.recommender import Recommender

_CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

BATCHES = 6


def extract_all(home: Path, data: Path) -> None:
    """Encode texts and pictures, in small parts."""
    catalog = Dataset.read(data).catalog
    for kind, encoder in (("text", TfidfSvdEncoder(16)), ("image", DescriptorEncoder())):
        extract(Contents.of(catalog, kind), encoder, home / kind, name=kind, part_size=24)


def train_one(home: Path, data: Path, seed: int = 0) -> None:
    """Train for a few epochs with a checkpoint after each."""
    training.fit = functools.partial(training.fit, checkpoint_seconds=0)
    split = make_split(Dataset.read(data), ItemColdStart(valid=0.15, test=0.15))
    config = MAMEXConfig(dim=16, start="random", missing="renormalise", loss="bpr")
    plan = TrainingPlan(sampling="triplets", epochs=6, batch_size=128, learning_rate=0.01)
    training.train(config, split, plan=plan, seed=seed, out=home)


def new_items(data: Path, batch: int) -> Catalog:
    """Return a batch of new items: copies of old ones under new ids; the first of each batch comes again."""
    old = Dataset.read(data).catalog
    names = old.vocabulary.ids[8 * batch : 8 * batch + 8]
    renamed = ["again/0", *(f"new/{name}" for name in names[1:])]
    frame = old.select(names).items.with_columns(item_id=pl.Series(renamed))
    pictures = old.media["image"]
    content = {
        new: c for new, name in zip(renamed, names, strict=True) if (c := pictures.read(name)) is not None
    }
    return Catalog(frame, old.text_columns, {"image": MemoryMedia(content)})


def add_all(home: Path, data: Path) -> None:
    """Add new items, batch after batch."""
    recommender = Recommender.load(home)
    for batch in range(BATCHES):
        # What was added is there; the item that stands in each batch would go back and forth.
        if f"new/{recommender.split.items.ids[8 * batch + 1]}" not in recommender.item_ids:
            recommender.add_items(new_items(data, batch))


JOBS = {"extract": extract_all, "train": train_one, "add": add_all}


class Changes:
    """Counts changes of the file system under a folder, and dies before one of them."""

    def __init__(self, home: str, die_at: int | None) -> None:
        self.home, self.die_at, self.count = home, die_at, 0

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event not in _CHANGES or (event == "open" and not (int(args[2] or 0) & _WRITING)):
            return
        path = str(args[0])
        # Trees are removed by names that are relative to their folder.
        if not path.startswith(self.home) and not (event in ("os.remove", "os.rmdir") and "/" not in path):
            return
        self.count += 1
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(order: dict[str, object], answer: int) -> None:
    """Do a job and leave without any clean-up."""
    status = 1
    try:
        torch.set_num_threads(1)
        changes = Changes(str(order["home"]), order["die_at"])
        sys.addaudithook(changes)
        JOBS[str(order["job"])](Path(str(order["home"])), Path(str(order["data"])))
        os.write(answer, str(changes.count).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, after: float | None) -> int:
    """Wait for the child, kill it when its time is up, and return its status."""
    end = math.inf if after is None else time.monotonic() + after
    while True:
        # As long as it was not waited for, its number belongs to nobody else.
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            end = math.inf
        time.sleep(0.0005)


def main() -> None:
    """Serve until the input ends."""
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(order, writing)
        os.close(writing)
        status = wait(pid, order["after"])
        counted = os.read(reading, 100).decode()
        os.close(reading)
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
            "changes": int(counted or 0),
        }
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
