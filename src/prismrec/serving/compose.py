"""The parts put together: a run or a bundle, a store, the API and the page in one app."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
from fastapi import FastAPI

from prismrec.base.errors import PrismError
from prismrec.data.catalog import Catalog
from prismrec.features.open import load_encoder
from prismrec.recommender.recommender import Recommender
from prismrec.serving.access import READ, WRITE
from prismrec.serving.api import create_app
from prismrec.serving.bundle import Bundle, open_bundle
from prismrec.serving.index import IndexPlan
from prismrec.serving.page.options import PageOptions
from prismrec.serving.page.routes import page_router
from prismrec.serving.second_stage import by_language_model
from prismrec.serving.service import RunService
from prismrec.serving.settings import ServeSettings
from prismrec.serving.storage import MemoryStore, Store
from prismrec.serving.store import ItemStore
from prismrec.serving.types import Service

EVALUATION = "evaluation.json"
_MOST_FIELDS, _MOST_COLOURS, _MOST_CONDITIONS = 6, 3, 12


def open_service(
    path: Path,
    store: str | Path | None = None,
    *,
    rerank: Path | None = None,
    rerank_seconds: float = 1.0,
    index: IndexPlan | None = None,
) -> RunService:
    """Open a bundle or a run with what was handed in since.

    Parameters
    ----------
    path
        The bundle, or a run's folder.
    store
        Folder or address of the item store; None: what is handed in is gone when the process ends.
    rerank
        A run of `prismrec sequential` that orders lists again; None: there is none.
    rerank_seconds
        Time it has for a list.
    index
        When items are searched by an index; None: never.

    Raises
    ------
    InputError, DamagedError, StorageError
        If one of them cannot be opened.
    """
    bundle = open_bundle(path)
    run = _ready(bundle)

    def picture(item_id: str) -> bytes | None:
        # The service's own: it also has those of items that were handed in.
        return service.picture(item_id)

    second = None
    if rerank is not None:
        from prismrec.sequential.rerank import Reranker

        second = by_language_model(Reranker.load(rerank), picture)
    service = RunService(
        run,
        _opened(store, run.catalog),
        version=bundle.version,
        pictures=bundle.pictures,
        rerank=second,
        rerank_seconds=rerank_seconds,
        index=index,
    )
    return service


def reloader(service: RunService) -> Callable[[Path], Service]:
    """Return what puts another bundle into a service while it answers."""

    def reload(path: Path) -> Service:
        bundle: Bundle = open_bundle(path)
        service.reload(_ready(bundle), version=bundle.version, pictures=bundle.pictures)
        return service

    return reload


def make_app(
    service: RunService,
    settings: ServeSettings,
    *,
    run: Path | None = None,
    other: Service | None = None,
    secret: bytes | None = None,
) -> FastAPI:
    """Make the app: the API under ``/v1``, the page at ``/``.

    Parameters
    ----------
    service
        What answers.
    settings
        Keys and limits. With keys, the page asks for one as the API does.
    run
        The folder whose ``evaluation.json`` the page shows.
    other
        A second run to compare with.
    secret
        What the page's forms are signed with, where several processes answer; None: drawn.
    """
    app = create_app(service, settings, reloader(service))
    options = _options(service, settings, run, secret)
    page = page_router(service, options, other=other, drawable=service, write=WRITE.dependency)
    app.include_router(page, include_in_schema=False, dependencies=[READ])
    return app


def _ready(bundle: Bundle) -> Recommender:
    """Load a run and its encoders, so that the first new item does not wait for them."""
    run = bundle.recommender()
    for name, folder in run.encoders.items():
        # An encoder that cannot be loaded keeps nobody from being answered: who hands in an item is told.
        with suppress(PrismError):
            run.opened[name] = load_encoder(folder)
    return run


def _opened(store: str | Path | None, catalog: Catalog) -> Store:
    if store is None:
        return MemoryStore()
    return ItemStore(store, dict(catalog.items.schema))


def _options(
    service: RunService, settings: ServeSettings, run: Path | None, secret: bytes | None
) -> PageOptions:
    frame, texts = service.attributes()
    columns = [name for name in frame.columns if name != "item_id"]
    plain = [name for name in columns if name not in texts and name != "title"]
    categories = [name for name in plain if _is_category(frame[name])]
    conditions = [f"{name}={value}" for name in categories for value in _common(frame[name])]
    evaluation = None if run is None or not (run / EVALUATION).is_file() else run / EVALUATION
    return PageOptions(
        title_field="title" if "title" in columns else (texts[0] if texts else "item_id"),
        texts=tuple(name for name in texts if name != "title"),
        fields=tuple(plain[:_MOST_FIELDS]),
        columns=tuple(columns),
        conditions=tuple(conditions[:_MOST_CONDITIONS]),
        colour_by=tuple(categories[:_MOST_COLOURS]),
        evaluation=evaluation,
        max_picture=settings.limits.picture_bytes,
        secret=secret or os.urandom(32),
    )


def _is_category(column: pl.Series) -> bool:
    """Whether a column has few enough values to choose from."""
    return column.dtype == pl.String and 2 <= column.n_unique() <= 30


def _common(column: pl.Series) -> list[str]:
    counts = column.drop_nulls().value_counts(sort=True)
    return [str(value) for value in counts[column.name].to_list()]
