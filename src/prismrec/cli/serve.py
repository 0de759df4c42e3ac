"""`prismrec serve` and `prismrec bundle`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table


def add_to(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command("serve", epilog="Example: prismrec serve runs/mamex --store items")(serve)
    app.command("bundle", epilog="Example: prismrec bundle runs/mamex --out bundles/mamex")(bundle)


def serve(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run or of a bundle.", show_default=False)
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Folder or object-store address that keeps new items and events; otherwise they are gone "
            "when the service ends.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port; 0: any that is free.", show_default="8000")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML with keys, rates and limits.", show_default=False),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="A second run, for the page to compare with.", show_default=False)
    ] = None,
    rerank: Annotated[
        Path | None,
        typer.Option(help="A run of `prismrec sequential` that orders lists again.", show_default=False),
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Make an API key with read and write scope, show it once with its line for the settings, "
            "and stop.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer requests, take new items while running, and show a page."""
    import os

    from prismrec.serving.extra import require_serve

    require_serve()
    # LanceDB warns of things that are in order (a part of an index that is empty) between the log's lines.
    os.environ.setdefault("LANCEDB_LOG", "error")
    from prismrec.serving.settings import new_key as make_key
    from prismrec.serving.settings import read_settings

    answer = Output(json, quiet)
    if new_key is not None:
        secret, key = make_key(new_key, frozenset({"read", "write"}))
        scopes = sorted(key.scopes)
        lines = f'[[keys]]\nname = "{key.name}"\nsha256 = "{key.sha256}"\nscopes = {scopes}'.replace("'", '"')
        answer.finish(
            {"key": secret, "name": key.name, "sha256": key.sha256, "scopes": scopes},
            f"The key, shown this once: {secret}\nFor the settings:\n{lines}",
        )
        return
    if run is None:
        raise typer.BadParameter("name the folder of a run or of a bundle", param_hint="RUN")
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    chosen = read_settings(settings, os.environ, changes)

    from prismrec.serving.compose import make_app, open_service
    from prismrec.serving.index import IndexPlan
    from prismrec.serving.server import listen
    from prismrec.serving.server import run as answer_requests

    taken = listen(chosen)
    index = IndexPlan(chosen.index_from, chosen.index_recall)
    service = open_service(run, store, rerank=rerank, rerank_seconds=chosen.rerank_seconds, index=index)
    other = None if compare is None else open_service(compare, index=index)
    health = service.health()
    for item, field, reason in service.problems:
        answer.note(f"{item}: {field}: {reason}")
    if store is None:
        answer.note("Without --store new items and events are gone when the service ends.")
    answer.note(
        f"{health.model}, {health.ranked:,} of {health.items:,} items, {health.users:,} users: "
        f"http://{chosen.host}:{taken.getsockname()[1]}"
    )
    try:
        with _ended_in_order():
            answer_requests(make_app(service, chosen, run=run, other=other), chosen, taken)
    finally:
        taken.close()
        service.close()
        if other is not None:
            other.close()


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the process through what stands after it: the server sends it again when it is done."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def bundle(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    shop: Annotated[
        Path | None, typer.Option(help="Where the data set lies now, if it was moved.", show_default=False)
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Take the catalogue's pictures along.")] = True,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put a run into one folder that serves by itself, every file with its checksum."""
    from prismrec.serving.bundle import write_bundle

    answer = Output(json, quiet)
    made = write_bundle(run, out, dataset=shop, pictures=pictures)
    answer.finish(
        {"bundle": str(out), "version": made.version, "model": made.model},
        table(("", ""), [("bundle", str(out)), ("version", made.version), ("model", made.model)]),
    )
