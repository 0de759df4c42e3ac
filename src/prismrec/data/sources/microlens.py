"""MicroLens: micro-videos with titles and covers, and who commented on which when.

The files of the owners (github.com/westlake-repl/MicroLens): ``MicroLens-100k_pairs.csv`` has the columns
``user``, ``item`` and ``timestamp`` (milliseconds since 1970); ``MicroLens-100k_title_en.csv`` has a line a
video, its number, a comma and its title; ``tags_to_summary.csv`` likewise a category; the covers are files
``<item>.jpg`` in the folder ``MicroLens-100k_covers``. MicroLens-50k has the same files, its titles in
``MicroLens-50k_titles.csv``. Likes, views and comments are not read: they are what users did, not content.

The paper holds out each user's last pair (`LeaveLast`); no division comes with the files.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.media import FileMedia, Media
from prismrec.data.report import Refusals
from prismrec.data.sources.numbered_lines import numbered_lines, unquoted
from prismrec.data.sources.picture_folder import pictures_by_item
from prismrec.data.sources.source import RemoteFile, Source, SourceData

_PAIRS = "Expected the columns user, item, timestamp; whole numbers, times in milliseconds since 1970."
_TITLES = "Expected a line a video: its number, a comma, its title."


def read_microlens(folder: Path, size: str) -> SourceData:
    """Read the files of MicroLens.

    Parameters
    ----------
    folder
        Holds the files; titles, categories and covers are used where they are there.
    size
        ``"50k"`` or ``"100k"``, as in the files' names.

    Returns
    -------
    SourceData
        Videos that nobody commented on are in the catalogue if they have a title. Covers of unknown videos
        are listed as refused.

    Raises
    ------
    InputError
        If the pairs are missing or a cell is no whole number, or a video has two titles.
    """
    folder = Path(folder)
    refused = Refusals()
    log = _read_pairs(folder / f"MicroLens-{size}_pairs.csv")
    named = {
        "title": _read_values(
            _first_there(folder, f"MicroLens-{size}_title_en.csv", f"MicroLens-{size}_titles.csv")
        ),
        "category": _read_values(_first_there(folder, "tags_to_summary.csv")),
    }
    ids = sorted({*log["item_id"].to_list(), *(named["title"] or ())}, key=int)
    columns = {name: [values.get(i) for i in ids] for name, values in named.items() if values is not None}
    items = pl.DataFrame({"item_id": ids, **columns}, schema_overrides=dict.fromkeys(columns, pl.String))
    media: dict[str, Media] = {}
    covers = folder / f"MicroLens-{size}_covers"
    if covers.is_dir():
        media["image"] = FileMedia(pictures_by_item(covers, set(ids), refused))
    texts = ("title",) if "title" in columns else ()
    dataset = Dataset(Interactions(log), Catalog(items, texts, media), notes={"source": f"microlens/{size}"})
    return SourceData(dataset, refused=refused)


def _read_pairs(path: Path) -> pl.DataFrame:
    try:
        cells = pl.read_csv(path, infer_schema=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}).", _PAIRS) from None
    if cells.columns != ["user", "item", "timestamp"]:
        raise InputError(f"{path}: has the columns {cells.columns}.", _PAIRS)
    if cells.is_empty():
        raise InputError(f"{path}: there is no row in the table.", _PAIRS)
    for column in cells.columns:
        whole = cells[column].str.contains(r"^\d{1,18}$").fill_null(False)
        if not whole.all():
            row = int((~whole).arg_max() or 0)
            raise InputError(f"{path}, row {row}: {column} is {cells[column][row]!r}.", _PAIRS)
    seconds = pl.col("timestamp").cast(pl.Int64).cast(pl.Float64) / 1000.0
    return cells.select(user_id="user", item_id="item", timestamp=seconds)


def _first_there(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read_values(path: Path | None) -> Mapping[str, str] | None:
    """Read a number and a text a line; the text may hold commas, in quotation marks or not."""
    if path is None:
        return None
    texts = {number: unquoted(text) for _, number, text in numbered_lines(path, "video", _TITLES)}
    return {number: text for number, text in texts.items() if text}


def _source(size: str, titles: str, about: str) -> Source:
    base = f"https://recsys.westlake.edu.cn/MicroLens-{size}-Dataset"
    return Source(
        name=f"microlens/{size}",
        about=f"{about} The owners also offer covers: unpack MicroLens-{size}_covers.zip of {base}/ into the "
        f"folder MicroLens-{size}_covers beside the tables.",
        licence="Not stated; its owners forbid passing on altered copies.",
        citation="Y. Ni, Y. Cheng, X. Liu, J. Fu, Y. Li, X. He, Y. Zhang, F. Yuan, A Content-Driven "
        "Micro-Video Recommendation Dataset at Scale, arXiv 2309.15379, 2023",
        files=(
            RemoteFile(f"MicroLens-{size}_pairs.csv", f"{base}/MicroLens-{size}_pairs.csv", about="the log"),
            RemoteFile(titles, f"{base}/{titles}", about="titles"),
        ),
        read=partial(read_microlens, size=size),
    )


sources: tuple[Source, ...] = (
    _source(
        "50k",
        "MicroLens-50k_titles.csv",
        "50,000 users of a platform for micro-videos, with titles and covers.",
    ),
    _source(
        "100k",
        "MicroLens-100k_title_en.csv",
        "100,000 users and 19,738 micro-videos, with titles in English and covers.",
    ),
)
