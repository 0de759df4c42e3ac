"""The generated catalogue as a demonstration needs it: a shop of today, and items that arrive tomorrow."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path, storage_errors, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.data.sources.generated import GeneratedConfig, RawPaths, write_raw

MARKER = "prismrec-demo.json"
# Everything that a demonstration makes in its folder; nothing else is ever removed.
_OWN = ("raw", "new", "shop", "runs")


@dataclass(frozen=True)
class DemoShop:
    """Where a demonstration's files lie.

    Parameters
    ----------
    today
        Log and catalogue without the items that arrive.
    arriving
        Catalogue of the items that arrive.
    images, audio
        Their pictures and sounds.
    arrival
        They are the items released at this time or later, in seconds since 1970.
    customer
        Id of a user.
    """

    today: RawPaths
    arriving: Path
    images: Path
    audio: Path
    arrival: int
    customer: str


def draw_demo(
    config: GeneratedConfig, folder: Path, arriving: int = 8, progress: Progress = SILENT
) -> DemoShop:
    """Draw a shop into a folder, the newest items set apart.

    A demonstration that stands in the folder is replaced.

    Parameters
    ----------
    config
        The shop.
    folder
        New, empty, or of an earlier demonstration.
    arriving
        How many items arrive.
    progress
        Where to report to.

    Raises
    ------
    InputError
        If the folder holds something else.
    StorageError
        If the disk refuses.
    """
    folder = Path(folder)
    _make_room(folder)
    write_json(folder / MARKER, {"made_by": "prismrec demo", "generated": config.model_dump()})
    raw = write_raw(config, folder / "raw", progress)
    items, log = pl.read_parquet(raw.items), pl.read_parquet(raw.interactions)
    newest = items.sort("released", "item_id").tail(arriving)
    arrival = int(newest["released"].item(0))
    new = pl.col("item_id").is_in(items.filter(pl.col("released") >= arrival)["item_id"].implode())
    home = folder / "new"
    _write(raw.items, items.filter(~new))
    _write(raw.interactions, log.filter(~new))
    _write(home / "items.parquet", items.filter(new))
    for kind, source in (("pictures", raw.images), ("sounds", raw.audio)):
        with storage_errors(home):
            (home / kind).mkdir(parents=True, exist_ok=True)
            for name in items.filter(new)["item_id"]:
                for path in source.glob(f"{name}.*") if source is not None else ():
                    path.rename(home / kind / path.name)
    customer = log.filter(~new).group_by("user_id").len().sort("len", "user_id")["user_id"].item(-1)
    return DemoShop(raw, home / "items.parquet", home / "pictures", home / "sounds", arrival, str(customer))


def _make_room(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder.", "Choose another --out.")
    with storage_errors(folder):
        if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
            raise InputError(
                f"{folder}: holds something that is not a demonstration of prismrec.",
                "Choose another --out, or empty it.",
            )
        for name in _OWN:
            if (folder / name).exists():
                shutil.rmtree(folder / name)


def _write(path: Path, frame: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary)
