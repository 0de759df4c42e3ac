"""`prismrec demo`: the other verbs, one after the other, on a shop that is drawn first."""

import contextlib
import io
import json as json_module
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet

if TYPE_CHECKING:
    from prismrec.data.sources.generated_demo import DemoShop


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("demo", epilog="Example: prismrec demo --out demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder; an earlier demonstration there is replaced.")] = Path(
        "demo"
    ),
    items: Annotated[int, typer.Option(min=300, max=100_000, help="Items of the shop.")] = 600,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the shop.")] = 0,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report in a browser, if there is one.")
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw a shop and go through all steps on it, each as you would type it, to a report with pictures."""
    from prismrec.data.sources.generated import GeneratedConfig
    from prismrec.data.sources.generated_demo import draw_demo

    answer = Output(json, quiet)
    shop = draw_demo(GeneratedConfig(items=items, seed=seed), out, progress=answer.progress)
    steps = []
    for words, why in _steps(out, shop):
        if not json:
            typer.echo(f"\n# {why}\n$ prismrec {shlex.join(words)}")
        steps.append({"command": ["prismrec", *words], "answer": _run(words, answer)})
    report = out / "runs" / "mamex" / "report.html"
    document = {"folder": str(out), "customer": shop.customer, "report": str(report), "steps": steps}
    answer.finish(
        document, f"\nThe report: {report}\nEverything lies in {out}; the same command makes it anew."
    )
    if open_page and not json and _has_screen():
        typer.launch(str(report))


def _steps(out: Path, shop: "DemoShop") -> list[tuple[list[str], str]]:
    """Commands, and what each is for."""
    data, profile, mamex = str(out / "shop"), str(out / "runs" / "profile"), str(out / "runs" / "mamex")
    raw = shop.today
    ingest = ["ingest", "--interactions", str(raw.interactions), "--items", str(raw.items)]
    ingest += ["--images", str(raw.images), "--audio", str(raw.audio), "--out", data]
    new = ["add-items", mamex, str(shop.arriving), "--images", str(shop.images), "--audio", str(shop.audio)]
    arrived = f"released>={shop.arrival}"
    return [
        (ingest, "Check a log of purchases and a catalogue, and keep them as a data set."),
        (["encode", data], "Pictures, texts and sounds to vectors."),
        (["train", data, "--model", "content-profile", "--out", profile], "Something to compare with."),
        (["train", data, "--model", "mamex", "--out", mamex], "The model itself."),
        (["evaluate", profile, "--no-report"], "How good is it on items that nobody had bought?"),
        (["evaluate", mamex], "And the other? This writes the report."),
        (new, "New items arrive. They are encoded and projected; nothing is trained."),
        (
            ["recommend", mamex, "--user", shop.customer, "-k", "5", "--where", arrived, "--explain"],
            "Which of them would this customer like, and why?",
        ),
    ]


def _run(words: list[str], answer: Output) -> Any:
    """Run a verb in this process; return its document if documents are asked for."""
    from prismrec.cli.app import app

    options = ["--quiet"] if answer.quiet else []
    if not answer.as_json:
        _finished(app([*words, *options], prog_name="prismrec", standalone_mode=False))
        return None
    with contextlib.redirect_stdout(io.StringIO()) as caught:
        code = app([*words, *options, "--json"], prog_name="prismrec", standalone_mode=False)
    _finished(code)
    return json_module.loads(caught.getvalue())


def _finished(code: object) -> None:
    """End the demonstration as a verb ended that failed; it has said why."""
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def _has_screen() -> bool:
    if not sys.stdout.isatty():
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
