"""`prismrec robustness`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.evaluation.robustness_result import Chart, RobustnessResult


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "robustness",
        epilog="Example: prismrec robustness runs/mamex --protocol noise --protocol missing --repeats 5",
    )(robustness)


def robustness(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="noise, swap, missing, adversarial, degree, flatness; with --retrain also train-noise, "
            "false-edges, data-share, splits. Can be given several times; otherwise all.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of each damage.")] = 3,
    part: Annotated[str, typer.Option(help="valid or test; test opens the sealed part.")] = "valid",
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Items that are ranked: strict, as_released, all_items, warm; otherwise what fits.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="For instance ndcg@10; otherwise the one of the training.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all damage.")] = 0,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train anew on damaged data: one training for each point.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; otherwise the run's.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to rank and train: cpu, cuda, mps, or auto.")] = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Damage what a run reads and measure how it holds up; write curves, a table and a page."""
    from prismrec.recommender.robustness import PAGE_FILE, RESULT_FILE, TABLE_FILE, robustness_run

    answer = Output(json, quiet)
    result = robustness_run(
        run,
        protocols=protocol or (),
        repeats=repeats,
        part=part,
        candidates=candidates,
        metric=metric,
        seed=seed,
        retrain=retrain,
        out=out,
        device=device,
        progress=answer.progress,
    )
    folder = run if out is None else out
    files = {name: str(folder / name) for name in (RESULT_FILE, TABLE_FILE, PAGE_FILE)}
    document = {"run": str(run), "result": result.model_dump(mode="json"), "files": files}
    answer.finish(document, *_shown(result), "\n".join(f"wrote {path}" for path in files.values()))


def _shown(result: "RobustnessResult") -> list[Any]:
    from prismrec.evaluation.result import openings_sentence

    title = (
        f"{result.model} on {result.dataset}: {result.metric} {result.clean} without damage "
        f"({result.part} part, {result.candidates}, {result.users:,} users)"
    )
    shown: list[Any] = [title]
    for chart in result.charts:
        shown.append(f"{chart.title}: {chart.skipped}" if chart.skipped else _table(chart))
    if result.flatness is not None:
        rows = [
            ["relative" if c.relative else "plain", f"{c.largest:.4g}", f"{c.trace:.4g}"]
            for c in result.flatness.curvatures
        ]
        shown.append(table(("Hessian", "largest eigenvalue", "trace"), rows, "Flatness of the training loss"))
    remarks = list(result.notes)
    if result.test_openings_before is not None:
        remarks.append(openings_sentence(result.test_openings_before))
    return [*shown, *remarks]


def _table(chart: "Chart") -> Any:
    labels = list(dict.fromkeys(point.label for curve in chart.curves for point in curve.points))
    rows = []
    for curve in chart.curves:
        values = {point.label: f"{point.value.mean:.4f}" for point in curve.points}
        name = f"{curve.name} (control)" if curve.control else curve.name
        rows.append([name, *(values.get(label, "") for label in labels)])
    return table(("", *labels), rows, f"{chart.title}: {chart.axis}")
