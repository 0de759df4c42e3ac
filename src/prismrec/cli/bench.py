"""`prismrec bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.experiments.tables import Table

_RUNNING = "How it runs"


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "bench", epilog="Example: prismrec bench recipe.toml --data movielens=shops/movielens --jobs 4"
    )(bench)


def bench(
    recipe: Annotated[Path, typer.Argument(help="TOML file that says what to compare.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the bench; otherwise runs/bench/NAME.", show_default=False),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Where a data set of the recipe is.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and stop.", rich_help_panel=_RUNNING)
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.", rich_help_panel=_RUNNING)] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of each process; otherwise cores / processes.", rich_help_panel=_RUNNING
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.", rich_help_panel=_RUNNING)] = "cpu",
    against: Annotated[
        str | None,
        typer.Option(help="Set the figures beside published ones: mamex-table1, mmrec.", show_default=False),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a table: models x data sets x seeds. What is finished is kept; the same command goes on."""
    folders = _folders(data or [])

    from prismrec.experiments.against import published_figures, set_beside
    from prismrec.experiments.expand import make_plan
    from prismrec.experiments.recipe import read_bench
    from prismrec.experiments.report import write_reports
    from prismrec.experiments.run import run_bench, threads_for
    from prismrec.experiments.state import Bench

    answer = Output(json, quiet)
    figures = None if against is None else published_figures(against)
    plan = make_plan(read_bench(recipe), folders)
    home = out if out is not None else Path("runs") / "bench" / plan.bench.name
    opened = Bench.open(plan, home)
    each = threads if threads is not None else threads_for(jobs)
    cost = opened.cost(jobs, each)
    head: dict[str, Any] = {
        "bench": plan.bench.name,
        "folder": str(home),
        "cost": {
            "runs": cost.runs,
            "cached": cost.cached,
            "trials": cost.trials,
            "failed_before": cost.failed_before,
            "seconds_known": round(cost.seconds / jobs, 1),
            "rows_of_unknown_time": len(cost.unknown),
        },
    }
    if dry_run:
        answer.finish({**head, "dry_run": True}, *cost.lines())
        return
    for line in cost.lines():
        answer.note(line)
    run_bench(opened, jobs=jobs, threads=each, device=device, progress=answer.progress)
    tables, files = write_reports(opened)
    beside = None if figures is None else set_beside(figures, tables, plan)
    if beside is not None:
        files |= beside.write(home)
    failures = opened.failures()
    document = {
        **head,
        "tables": [_document(one) for one in tables],
        "against": None if beside is None else beside.document(),
        "failures": failures,
        "files": {**files, "runs.parquet": str(home / "runs.parquet")},
    }
    shown: list[Any] = [part for one in tables for part in _shown(one)]
    if beside is not None:
        shown += [table(beside.header, beside.rows, beside.title), *beside.notes]
    shown += [f"failed: {f['row']} on {f['data']}, seed {f['seed']}: {f['problem']}" for f in failures]
    answer.finish(document, *shown, "\n".join(f"wrote {path}" for path in document["files"].values()))
    if failures:
        raise typer.Exit(1)


def _folders(pairs: list[str]) -> dict[str, Path]:
    folders = {}
    for text in pairs:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise typer.BadParameter(f"{text!r} is not NAME=FOLDER", param_hint="--data")
        folders[name] = Path(folder)
    return folders


def _shown(one: "Table") -> list[Any]:
    from prismrec.experiments.render import cells, header

    # All metrics stand in tables.md; a terminal is not that wide.
    names = header(one, [one.metric])
    rows = [cells(line, one, [one.metric]) for line in one.lines]
    return [table(names, rows, one.title), *one.notes]


def _document(one: "Table") -> dict[str, Any]:
    def interval(value: Any) -> Any:
        return None if value is None else value.model_dump()

    def versus(value: Any) -> Any:
        if value is None:
            return None
        found = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return found | {"difference": interval(value.difference), "over_users": interval(value.over_users)}

    return {
        "data": one.data,
        "candidates": one.candidates,
        "metric": one.metric,
        "baseline": one.baseline,
        "rows": [
            {
                "label": line.label,
                "figures": {name: interval(value) for name, value in line.figures.items()},
                "valid": interval(line.valid),
                "seconds": line.seconds,
                "seeds": line.seeds,
                "best": line.best,
                "oracle": line.oracle,
                "chosen": dict(line.chosen),
                "versus_best": versus(line.versus_best),
                "versus_baseline": versus(line.versus_baseline),
                "problem": line.problem,
            }
            for line in one.lines
        ],
        "notes": list(one.notes),
    }
