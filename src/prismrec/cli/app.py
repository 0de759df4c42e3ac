"""All verbs in one application."""

from typing import Annotated

import typer

from prismrec import __version__
from prismrec.cli import (
    add_items,
    bench,
    demo,
    encode,
    evaluate,
    ingest,
    models,
    recommend,
    robustness,
    sequential,
    serve,
    similar,
    source,
    train,
)
from prismrec.cli.verbs import Verbs

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: prismrec demo --out demo",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"prismrec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Recommendations for items that nobody has clicked yet, from what they look, read and sound like."""


demo.add_to(app)
ingest.add_to(app)
source.add_to(app)
encode.add_to(app)
models.add_to(app)
train.add_to(app)
evaluate.add_to(app)
recommend.add_to(app)
similar.add_to(app)
add_items.add_to(app)
robustness.add_to(app)
sequential.add_to(app)
serve.add_to(app)
bench.add_to(app)
