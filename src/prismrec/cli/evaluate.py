"""`prismrec evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.evaluation.result import EvaluationResult

_FILES = ("metrics.json", "evaluation.json", "evaluation.md", "report.html")
_QUOTED = ("ndcg", "recall")


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "evaluate",
        epilog="Example: prismrec evaluate runs/mamex --candidates strict,all_items -k 10,20",
    )(evaluate)


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    part: Annotated[
        str | None,
        typer.Option(help="valid or test; otherwise both. test opens the sealed part.", show_default=False),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Items that are ranked: strict, as_released, all_items, warm; otherwise what fits.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[str, typer.Option("--k", "-k", metavar="K,K", help="Lengths of the lists.")] = "10,20",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    examples: Annotated[int, typer.Option(min=0, help="Users shown with pictures in the report.")] = 6,
    device: Annotated[str, typer.Option(help="Where to rank: cpu, cuda, mps, or auto.")] = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a run on what was held out; write metrics.json, tables and a report into its folder."""
    ks = _lengths(k)

    from prismrec.recommender.report import evaluate_run

    answer = Output(json, quiet)
    result = evaluate_run(
        run,
        parts=("valid", "test") if part is None else (part,),
        candidates=None if candidates is None else [n.strip() for n in candidates.split(",") if n.strip()],
        ks=ks,
        examples=examples,
        report=report,
        device=device,
        progress=answer.progress,
    )
    written = {name: str(run / name) for name in _FILES if (report or name != "report.html")}
    counts = [
        p.model_dump(
            include={"part", "candidates", "n_candidates", "users_counted", "n_positives", "random_floor"}
        )
        for p in result.parts
    ]
    document = {
        "run": str(run),
        "model": result.model,
        "dataset": result.dataset,
        "metrics": result.metrics_json(),
        "counts": counts,
        "notes": result.notes,
        "test_openings_before": result.test_openings_before,
        "files": written,
    }
    answer.finish(document, *_shown(result), "\n".join(f"wrote {path}" for path in written.values()))


def _shown(result: "EvaluationResult") -> list[Any]:
    """Return a table of the metrics that papers quote; all of them stand in evaluation.md."""
    names = [name for name in result.parts[0].metrics if name.startswith(_QUOTED)]
    rows = [
        [part.part, part.candidates, part.n_candidates, part.users_counted]
        + [str(part.metrics[name]) if name in part.metrics else "" for name in names]
        for part in result.parts
    ]
    from prismrec.evaluation.result import openings_sentence

    title = f"{result.model} on {result.dataset}; means over users, 95 % intervals"
    remarks = list(result.notes)
    if result.test_openings_before is not None:
        remarks.append(openings_sentence(result.test_openings_before))
    return [table(("part", "candidates", "items", "users", *names), rows, title), *remarks]


def _lengths(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter(f"{text!r} are not lengths of lists; write e.g. -k 10,20", param_hint="-k")
    return found
