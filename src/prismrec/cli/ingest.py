"""`prismrec ingest`."""

from pathlib import Path
from typing import Annotated

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet

_CONTENT = "Content"
_COLUMNS = "Columns"
_KEEP = "What is kept"


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "ingest",
        epilog="Example: prismrec ingest --interactions clicks.parquet --items items.parquet "
        "--images pictures/ --out shop",
    )(ingest)


def ingest(
    interactions: Annotated[
        Path, typer.Option(help="Who did what: .parquet, .csv, .tsv or .jsonl.", show_default=False)
    ],
    items: Annotated[Path, typer.Option(help="The catalogue: the same kinds.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(help="Pictures, by item id or by the paths in the table.", rich_help_panel=_CONTENT),
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Sounds, likewise.", rich_help_panel=_CONTENT)] = None,
    fetch_urls: Annotated[
        bool,
        typer.Option("--fetch-urls", help="Fetch content that is given as URLs.", rich_help_panel=_CONTENT),
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Column of a role: user, item, rating, weight, timestamp, position, image, audio. "
            "ROLE= for none. Repeatable.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Columns that make up an item's text; otherwise all of text.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    min_rating: Annotated[
        float | None,
        typer.Option(help="Positive from this rating on; otherwise all.", rich_help_panel=_KEEP),
    ] = None,
    min_user_interactions: Annotated[
        int, typer.Option(min=0, help="Leave out users with fewer positives.", rich_help_panel=_KEEP)
    ] = 0,
    min_item_interactions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Leave out items with fewer positives; new items stay.",
            rich_help_panel=_KEEP,
        ),
    ] = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a log and a catalogue, report, and write them as a data set folder."""
    from prismrec.data.columns import ColumnMapping
    from prismrec.data.ingest import IngestOptions
    from prismrec.data.ingest import ingest as run

    answer = Output(json, quiet)
    options = IngestOptions(
        mapping=ColumnMapping.parse(column or []),
        min_rating=min_rating,
        min_user_interactions=min_user_interactions,
        min_item_interactions=min_item_interactions,
        text_columns=None
        if text is None
        else tuple(name.strip() for name in text.split(",") if name.strip()),
        fetch_urls=fetch_urls,
    )
    report = run(
        interactions, items, out, options=options, images=images, audio=audio, progress=answer.progress
    )
    answer.finish(
        {"dataset": str(out), **report.model_dump(mode="json")},
        "\n".join([*report.lines(), f"Data set: {out}"]),
    )
