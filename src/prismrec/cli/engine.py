"""What verbs that can run on a cluster share: where they run, and the options that say it."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from prismrec.cli.output import Output

if TYPE_CHECKING:
    from prismrec.base.ray_session import RayCluster

_PANEL = "Where it runs"


class Engine(StrEnum):
    """Where the work is done."""

    LOCAL = "local"
    RAY = "ray"


EngineOption = Annotated[
    Engine,
    typer.Option("--engine", help="local: this machine; ray: a Ray cluster.", rich_help_panel=_PANEL),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT|auto",
        help="With --engine ray: a cluster that runs; otherwise one on this machine, for this command.",
        rich_help_panel=_PANEL,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="With --engine ray: processes at a time; otherwise as many as fit.",
        rich_help_panel=_PANEL,
    ),
]


def require_fitting(engine: Engine, address: str | None, workers: int | None = None) -> None:
    """Refuse options of a cluster where there is none.

    Raises
    ------
    BadParameter
        Naming the option.
    """
    if engine is Engine.RAY:
        return
    for option, value in (("--ray-address", address), ("--workers", workers)):
        if value is not None:
            raise typer.BadParameter("it goes with --engine ray", param_hint=option)


@contextmanager
def connected(output: Output, address: str | None, workers: int | None = None) -> Iterator["RayCluster"]:
    """Connect to Ray; standard output stays for the answer: Ray tells there of workers that have died."""
    from prismrec.base.ray_session import ray_cluster

    told = io.StringIO() if output.quiet else sys.stderr
    with redirect_stdout(told), ray_cluster(address, workers) as cluster:
        yield cluster
