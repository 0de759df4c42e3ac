"""Lists for many users on a Ray cluster: actors rank parts of them, the driver puts the parts in order."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch

from prismrec.base.errors import InputError, PrismError
from prismrec.base.progress import SILENT, Progress
from prismrec.base.ray_crew import RETRIES, Died
from prismrec.base.ray_session import RayCluster
from prismrec.data.catalog import Catalog
from prismrec.models.base import Model
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.wanted import Wanted

_PART = 1024
"""Users that an actor ranks for at a time."""


def recommend_on(
    cluster: RayCluster,
    recommender: Recommender,
    users: Sequence[str] | None,
    wanted: Wanted,
    *,
    part_size: int = _PART,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """Recommend items to users, on a cluster.

    Parameters
    ----------
    cluster
        Connected.
    recommender
        Its vectors, attributes and training rows are put into Ray's object store once.
    users
        User ids; None: everyone.
    wanted
        What the lists shall be.
    part_size
        Users that an actor ranks for at a time.
    progress
        Where to report to.

    Returns
    -------
    DataFrame
        What `Recommender.recommend` returns for the same users, row by row.

    Raises
    ------
    InputError
        As `Recommender.recommend`.
    PrismError
        If the process that ranks a part dies again and again.
    """
    names = list(users) if users is not None else list(recommender.split.users)
    if not names:
        raise InputError("No user was given.")
    starts = iter(range(0, len(names), part_size))
    found: dict[int, pl.DataFrame] = {}
    workers = min(cluster.workers or cluster.cpus, -(-len(names) // part_size))
    crew = cluster.start(
        _Tools(_light(recommender), wanted),
        workers=workers,
        threads=cluster.threads(workers),
        gpu=False,
    )
    try:
        with progress.task("recommend", len(names)) as task:
            answers = crew.work(
                lambda: next(starts, None), _lists, lambda start: names[start : start + part_size]
            )
            for start, result in answers:
                if isinstance(result, Died):
                    raise PrismError(
                        f"The Ray worker that ranked items for users {names[start]!r} and the "
                        f"{part_size - 1:,} after it died {RETRIES + 1} times ({result.reason}).",
                        "Often its memory was used up: try fewer --workers.",
                    )
                found[start] = result
                task.advance(min(part_size, len(names) - start))
    finally:
        crew.close()
    return pl.concat([found[start] for start in sorted(found)])


@dataclass(frozen=True)
class _Tools:
    """What an actor ranks with."""

    recommender: Recommender
    wanted: Wanted


def _lists(tools: _Tools, users: Sequence[str]) -> pl.DataFrame:
    return tools.wanted.of(tools.recommender, users)


def _light(recommender: Recommender) -> Recommender:
    """Return what ranking takes: no pictures, no encoders, no weights of the model."""
    catalog = recommender.catalog
    return replace(
        recommender,
        model=_without_weights(recommender.model),
        catalog=Catalog(catalog.items, catalog.text_columns),
        encoders={},
        digests={},
        path=None,
        opened={},
    )


def _without_weights(model: Model) -> Model:
    """Return a copy whose weights have shapes and no numbers: users and items have their vectors already."""
    weights: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    # What a deep copy knows already it does not copy.
    return copy.deepcopy(model, {id(weight): weight.detach().to("meta") for weight in weights})
