"""A catalogue that needs no download: a shop with drawn pictures, written texts, played sounds, and a log.

What users like is planted (`generated_log`), and each kind of content shows another part of it
(`generated_shop`), so that tests can compare a recommender with the truth. Everything follows from the
configuration; with the same version of the packages it is the same to the last byte.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.base.errors import InputError
from prismrec.base.files import atomic_path, storage_errors
from prismrec.base.progress import SILENT, Progress
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.media import MemoryMedia
from prismrec.data.sources.generated_log import Planted, draw_log, name_all, plant
from prismrec.data.sources.generated_shop import (
    BRANDS,
    CATEGORIES,
    Attributes,
    Stream,
    choose_share,
    draw_attributes,
    generator,
)
from prismrec.data.sources.generated_texts import write_texts

TEXT_COLUMNS = ("title", "description")


class GeneratedConfig(BaseModel):
    """How large a generated catalogue is, and how hard it is to learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(default=600, ge=200, le=1_000_000, description="Number of items.")
    users: int = Field(default=1500, ge=1, le=1_000_000, description="Number of users.")
    interactions_per_user: float = Field(
        default=25.0,
        ge=4,
        le=500,
        description="Mean number of items per user; at most a quarter of all items.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of everything.")
    missing_image: float = Field(
        default=0.05, ge=0, le=1, description="Share of items whose picture is missing."
    )
    missing_text: float = Field(
        default=0.05, ge=0, le=1, description="Share of items without title and description."
    )
    with_sound: float = Field(default=0.3, ge=0, le=1, description="Share of items that come with a sound.")
    noise: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Share of interactions drawn from popularity, not from preference.",
    )
    image_size: int = Field(
        default=96, ge=32, le=512, description="Width and height of a picture, in pixels."
    )
    pictures: bool = Field(default=True, description="Draw pictures. Off, nothing else changes.")
    sounds: bool = Field(default=True, description="Play sounds. Off, nothing else changes.")

    @model_validator(mode="after")
    def _room_for_histories(self) -> "GeneratedConfig":
        if self.interactions_per_user > self.items / 4:
            raise ValueError(
                f"interactions_per_user is {self.interactions_per_user:g}, more than a quarter of the "
                f"{self.items} items; lower it or ask for more items"
            )
        return self


@dataclass(frozen=True)
class RawPaths:
    """Where `write_raw` has put the catalogue.

    Parameters
    ----------
    interactions
        Parquet file of the log.
    items
        Parquet file of the catalogue's attributes and texts.
    images, audio
        Folders with one file per item, named by its id; None where none was asked for.
    """

    interactions: Path
    items: Path
    images: Path | None
    audio: Path | None


def planted(config: GeneratedConfig) -> Planted:
    """Return what a catalogue's log is drawn from, for tests and studies.

    Row ``n`` of its item vectors belongs to the ``n``-th item of the catalogue, row ``n`` of its user vectors
    to the ``n``-th user id in ascending order.
    """
    return plant(draw_attributes(config.items, config.with_sound, config.seed), config.users, config.seed)


def generate(config: GeneratedConfig, progress: Progress = SILENT) -> Dataset:
    """Generate a catalogue and its log in memory.

    Pictures take about 3 kB an item, sounds 16 kB each: leave them out of very large catalogues.

    Parameters
    ----------
    config
        What to generate.
    progress
        Where to report; silent by default.

    Returns
    -------
    Dataset
        Columns of the items: ``item_id``, ``title``, ``description`` (null where the text is missing),
        ``category``, ``price``, ``brand``, ``in_stock``, ``released`` (seconds since 1970). The
        configuration is in the notes.
    """
    truth = planted(config)
    items = _frame(config, truth.attributes)
    log = draw_log(truth, config.interactions_per_user, config.noise, config.seed, progress)
    media = {}
    if config.pictures:
        media["image"] = MemoryMedia(dict(_pictures(config, truth.attributes, progress)))
    if config.sounds:
        media["audio"] = MemoryMedia(dict(_sounds(config, truth.attributes, progress)))
    notes = {"source": "generated", "generated": config.model_dump()}
    return Dataset(Interactions(log), Catalog(items, TEXT_COLUMNS, media), notes=notes)


def write_raw(config: GeneratedConfig, folder: Path, progress: Progress = SILENT) -> RawPaths:
    """Write the same catalogue as plain files, the way a shop would have it before `prismrec ingest`.

    Pictures and sounds go to the disk one by one and never lie in memory together. ``interactions.parquet``
    is written last: a folder without it is unfinished.

    Parameters
    ----------
    config
        What to generate.
    folder
        Where to. New or empty.
    progress
        Where to report; silent by default.

    Raises
    ------
    InputError
        If the folder holds anything: old pictures would mix with new ones.
    StorageError
        If the disk refuses.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise InputError(f"{folder}: is not an empty folder.", "Choose a new folder, or empty this one.")
    truth = planted(config)
    images = folder / "pictures" if config.pictures else None
    audio = folder / "sounds" if config.sounds else None
    if images is not None:
        _write_files(images, ".jpg", _pictures(config, truth.attributes, progress))
    if audio is not None:
        _write_files(audio, ".wav", _sounds(config, truth.attributes, progress))
    paths = RawPaths(folder / "interactions.parquet", folder / "items.parquet", images, audio)
    log = draw_log(truth, config.interactions_per_user, config.noise, config.seed, progress)
    for path, frame in ((paths.items, _frame(config, truth.attributes)), (paths.interactions, log)):
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary)
    return paths


def _frame(config: GeneratedConfig, attributes: Attributes) -> pl.DataFrame:
    schema = dict.fromkeys(TEXT_COLUMNS, pl.String)
    texts = pl.DataFrame(list(write_texts(attributes, config.seed)), schema=schema, orient="row")
    there = pl.Series(~_missing(config)["text"])
    texts = texts.select(pl.when(there).then(pl.col(TEXT_COLUMNS)))
    return pl.DataFrame(
        {
            "item_id": name_all("p", config.items, 5),
            "title": texts["title"],
            "description": texts["description"],
            "category": pl.Series(CATEGORIES)[pl.Series(attributes.category)],
            "price": attributes.price,
            "brand": pl.Series(BRANDS)[pl.Series(attributes.brand)],
            "in_stock": attributes.in_stock,
            "released": attributes.released,
        }
    )


def _missing(config: GeneratedConfig) -> dict[str, npt.NDArray[np.bool_]]:
    chance = generator(config.seed, Stream.MISSING)
    even = np.ones(config.items)
    return {
        "text": choose_share(even, config.missing_text, chance),
        "image": choose_share(even, config.missing_image, chance),
    }


def _pictures(
    config: GeneratedConfig, attributes: Attributes, progress: Progress
) -> Iterator[tuple[str, bytes]]:
    # Pillow is loaded only when something is drawn.
    from prismrec.data.sources.generated_pictures import Painter

    shown = np.flatnonzero(~_missing(config)["image"])
    painter = Painter(attributes, config.image_size, config.seed)
    yield from _make("Drawing pictures", config, shown, painter.jpeg, progress)


def _sounds(
    config: GeneratedConfig, attributes: Attributes, progress: Progress
) -> Iterator[tuple[str, bytes]]:
    from prismrec.data.sources.generated_sounds import wav

    heard = np.flatnonzero(attributes.has_sound)
    yield from _make("Playing sounds", config, heard, lambda n: wav(attributes, n, config.seed), progress)


def _make(
    name: str,
    config: GeneratedConfig,
    which: npt.NDArray[np.int64],
    make: Callable[[int], bytes],
    progress: Progress,
) -> Iterator[tuple[str, bytes]]:
    ids = name_all("p", config.items, 5)
    with progress.task(name, len(which)) as task:
        for item in which.tolist():
            yield ids[item], make(item)
            task.advance()


def _write_files(folder: Path, suffix: str, contents: Iterator[tuple[str, bytes]]) -> None:
    with storage_errors(folder):
        folder.mkdir(parents=True)
        for item_id, content in contents:
            (folder / f"{item_id}{suffix}").write_bytes(content)
