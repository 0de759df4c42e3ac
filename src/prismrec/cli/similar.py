"""`prismrec similar`."""

from pathlib import Path
from typing import Annotated

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("similar", epilog="Example: prismrec similar runs/mamex --item i7 -k 10")(similar)


def similar(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    item: Annotated[str, typer.Option(metavar="ID", help="The item.", show_default=False)],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the list.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="On an attribute, e.g. 'price<20'. Repeatable."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the items nearest to one, by the vectors that the model makes of them."""
    from prismrec.recommender.recommender import Recommender

    frame = Recommender.load(run).similar(item, k=k, where=where or ())
    rows = frame.to_dicts()
    Output(json, quiet).finish(
        {"run": str(run), "item": item, "items": rows}, table(frame.columns, [list(r.values()) for r in rows])
    )
