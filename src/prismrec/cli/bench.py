"""`prismrec bench`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.engine import Engine, EngineOption, RayAddress, connected, require_fitting
from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.base.progress import Progress
    from prismrec.experiments.pool import Workers
    from prismrec.experiments.state import Bench
    from prismrec.experiments.tables import Table

_RUNNING = "How it runs"
_SMALLER = "A smaller bench of the same recipe"

Seeds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="At most so many of the recipe's seeds.",
        rich_help_panel=_SMALLER,
        show_default=False,
    ),
]
Users = Annotated[
    int | None,
    typer.Option(
        min=1, help="At most so many users of each data set.", rich_help_panel=_SMALLER, show_default=False
    ),
]
MaxPerUser = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="At most so many training positives of each user.",
        rich_help_panel=_SMALLER,
        show_default=False,
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        min=1, help="At most so many epochs of each model.", rich_help_panel=_SMALLER, show_default=False
    ),
]


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
    seeds: Seeds = None,
    users: Users = None,
    max_per_user: MaxPerUser = None,
    max_epochs: MaxEpochs = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and stop.", rich_help_panel=_RUNNING)
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes; otherwise 1, or with --engine ray as many as fit.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of each process; otherwise cores / processes.", rich_help_panel=_RUNNING
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.", rich_help_panel=_RUNNING)] = "cpu",
    engine: EngineOption = Engine.LOCAL,
    ray_address: RayAddress = None,
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
    require_fitting(engine, ray_address)

    from prismrec.experiments.against import published_figures, set_beside
    from prismrec.experiments.expand import make_plan
    from prismrec.experiments.recipe import read_bench
    from prismrec.experiments.reduction import Reduction
    from prismrec.experiments.report import write_reports
    from prismrec.experiments.state import Bench

    answer = Output(json, quiet)
    figures = None if against is None else published_figures(against)
    smaller = Reduction(seeds, users, max_per_user, max_epochs)
    plan = make_plan(smaller.of(read_bench(recipe)), folders)
    home = out if out is not None else Path("runs") / "bench" / plan.bench.name
    opened = Bench.open(plan, home)
    with _hands(engine, ray_address, jobs, threads, device, answer) as hands:
        cost = opened.cost(hands.jobs, hands.threads)
        if not dry_run:
            for line in cost.lines():
                answer.note(line)
            hands.make(opened, answer.progress)
    head: dict[str, Any] = {
        "bench": plan.bench.name,
        "folder": str(home),
        "cost": {
            "runs": cost.runs,
            "cached": cost.cached,
            "trials": cost.trials,
            "failed_before": cost.failed_before,
            "seconds_known": round(cost.seconds / hands.jobs, 1),
            "rows_of_unknown_time": len(cost.unknown),
        },
    }
    if dry_run:
        answer.finish({**head, "dry_run": True}, *cost.lines())
        return
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


@dataclass(frozen=True)
class _Hands:
    """How many work on a bench, with how many threads each, and who they are."""

    jobs: int
    threads: int
    device: str
    workers: "Workers | None" = None

    def make(self, opened: "Bench", progress: "Progress") -> None:
        from prismrec.experiments.run import run_bench

        run_bench(
            opened,
            jobs=self.jobs,
            threads=self.threads,
            device=self.device,
            progress=progress,
            workers=self.workers,
        )


@contextmanager
def _hands(
    engine: Engine, address: str | None, jobs: int | None, threads: int | None, device: str, output: Output
) -> Iterator[_Hands]:
    from prismrec.experiments.run import threads_for

    if engine is Engine.LOCAL:
        here = jobs or 1
        yield _Hands(here, threads or threads_for(here), device)
        return
    from prismrec.experiments.ray_bench import RayPool

    with connected(output, address, jobs) as cluster:
        pool = RayPool.of(cluster, threads, device)
        yield _Hands(pool.jobs, pool.threads, pool.device, pool)


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
