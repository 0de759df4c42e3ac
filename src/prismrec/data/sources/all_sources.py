"""All data sources that prismrec can read, in the order in which they are listed."""

from difflib import get_close_matches

from prismrec.base.errors import InputError
from prismrec.data.sources import (
    amazon,
    citeulike,
    hanorec_files,
    llmrec,
    microlens,
    milk_files,
    mmrec_files,
    movielens,
    tiktok,
)
from prismrec.data.sources.source import Source

SOURCES: tuple[Source, ...] = (
    *amazon.sources,
    *movielens.sources,
    *microlens.sources,
    *citeulike.sources,
    *tiktok.sources,
    *llmrec.sources,
    *mmrec_files.sources,
    *milk_files.sources,
    *hanorec_files.sources,
)


def source_called(name: str) -> Source:
    """Return the source of a name.

    Raises
    ------
    InputError
        If there is none; the message names the nearest.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    near = get_close_matches(name, [source.name for source in SOURCES], n=3, cutoff=0.4)
    hint = f"Do you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"There is no source {name!r}.", f"{hint}`prismrec source` lists all.")
