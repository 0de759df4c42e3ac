"""What a data source is: files that a publisher offers, and a reader that turns them into a data set.

Nothing of a source is shipped with the package, and nothing is downloaded unasked: each source names its
files, its licence and what to cite, and reads the files from a folder into which the user has put them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.dataset import Dataset
from prismrec.data.report import Refusals

PARTS = ("train", "valid", "test")
"""What a given split calls its parts."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that a publisher offers.

    Parameters
    ----------
    name
        What the file is called in the folder of raw files; a plain name, or a path below the folder.
    url
        Where it is offered; http or https. Empty where the publisher hands it out by hand only.
    sha256, md5
        Checksums that the publisher gives, in hexadecimal; None where there are none.
    size
        Bytes, None where unknown.
    about
        What is in it, and, where it has to be fetched by hand, how.
    """

    name: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    about: str = ""


@dataclass(frozen=True)
class ReadyVectors:
    """Vectors that the publisher computed from the items' contents.

    Parameters
    ----------
    modality
        ``"image"``, ``"text"``, ``"audio"`` or another name.
    ids
        Items that have a vector; each once.
    vectors
        Shape ``(len(ids), dim)``, float32 or float16, memory-mapped or not. Items without content are left
        out rather than given zeros.

    Raises
    ------
    InputError
        If shapes disagree or the numbers are of another type.
    """

    modality: str
    ids: tuple[str, ...]
    vectors: np.ndarray[Any, np.dtype[Any]]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids):
            raise InputError(
                f"The {self.modality} vectors have shape {self.vectors.shape}, and there are "
                f"{len(self.ids):,} items with one.",
                "The reader has to give one row an item.",
            )
        if self.vectors.dtype not in (np.float32, np.float16):
            raise InputError(
                f"The {self.modality} vectors are {self.vectors.dtype}.", "Give float32 or float16."
            )


@dataclass(frozen=True)
class SourceData:
    """What was read from a source's files.

    Parameters
    ----------
    dataset
        Log and catalogue.
    features
        Vectors that the source comes with.
    parts
        The source's own split: columns ``user_id``, ``item_id`` (String) and ``part`` (one of `PARTS`), one
        row a pair; None where it has none.
    refused
        Rows that could not be used, and why.
    """

    dataset: Dataset
    features: tuple[ReadyVectors, ...] = ()
    parts: pl.DataFrame | None = None
    refused: Refusals = field(default_factory=Refusals)


@dataclass(frozen=True)
class Source:
    """A data set that somebody publishes.

    Parameters
    ----------
    name
        As on the command line, e.g. ``"amazon-2014/baby"``.
    about
        One sentence: what it is.
    licence
        What its publisher allows, in a few words.
    citation
        What to cite.
    files
        Which files it takes.
    read
        Reads them from the folder that holds them.
    """

    name: str
    about: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...]
    read: Callable[[Path], SourceData]
