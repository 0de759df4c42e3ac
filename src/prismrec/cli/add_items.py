"""`prismrec add-items`."""

from pathlib import Path
from typing import Annotated

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet

_SHOWN = 5


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("add-items", epilog="Example: prismrec add-items runs/mamex new.parquet --images pictures/")(
        add_items
    )


def add_items(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    items: Annotated[
        Path,
        typer.Argument(help="The new items: .parquet, .csv, .tsv or .jsonl.", show_default=False),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Pictures, by item id or by the paths in the table.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Sounds, likewise.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="Column of a role: item, image, audio. Repeatable."),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Vectors of your own for a modality: .parquet, or FILE.npy:IDS. Repeatable.",
        ),
    ] = None,
    fetch_urls: Annotated[
        bool, typer.Option("--fetch-urls", help="Fetch content that is given as URLs.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Encode new items and make them recommendable at once, without training. Doing it twice adds nothing."""
    from dataclasses import asdict

    from prismrec.data.catalog_media import FetchOptions
    from prismrec.data.columns import ColumnMapping
    from prismrec.data.read_catalog import read_catalog
    from prismrec.features.own import read_assigned
    from prismrec.recommender.recommender import Recommender

    answer = Output(json, quiet)
    recommender = Recommender.load(run)
    new, refused = read_catalog(
        items,
        images=images,
        audio=audio,
        mapping=ColumnMapping.parse(column or []),
        fetching=FetchOptions() if fetch_urls else None,
        progress=answer.progress,
    )
    own = [read_assigned(assignment) for assignment in vectors or []]
    report = recommender.add_items(new, vectors=own, progress=answer.progress)
    document = {
        "run": str(run),
        **{
            name: list(getattr(report, name)) for name in ("added", "updated", "unchanged", "without_content")
        },
        "problems": [dict(zip(("item_id", "modality", "reason"), p, strict=True)) for p in report.problems],
        "refused": [asdict(refusal) for refusal in refused],
        "items": len(recommender.catalog),
    }
    lines = [
        f"{len(report.added):,} items added, {len(report.updated):,} updated, "
        f"{len(report.unchanged):,} unchanged; {len(recommender.catalog):,} items now"
    ]
    if report.without_content:
        lines.append(
            f"{len(report.without_content):,} of them have no content that the model knows and cannot be "
            f"recommended: {', '.join(map(repr, report.without_content[:_SHOWN]))}"
        )
    lines += [
        f"not encoded: item {n!r}, {modality}: {reason}" for n, modality, reason in report.problems[:_SHOWN]
    ]
    lines += _more(len(report.problems))
    lines += [
        f"refused: {r.source}, row {r.row}, {r.field}: {r.reason}"
        + (f" (item {r.item_id!r})" if r.item_id else "")
        for r in refused[:_SHOWN]
    ]
    lines += _more(len(refused))
    answer.finish(document, "\n".join(lines))


def _more(count: int) -> list[str]:
    return [f"  and {count - _SHOWN:,} more; --json lists all"] if count > _SHOWN else []
