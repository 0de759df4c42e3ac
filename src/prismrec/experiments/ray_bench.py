"""Benches on a Ray cluster: the same tasks and the same folder of results, other processes."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError
from prismrec.base.ray_crew import RETRIES, Died
from prismrec.base.ray_session import RayCluster
from prismrec.experiments.pool import Task
from prismrec.experiments.state import MARK
from prismrec.experiments.worker import Work


@dataclass(frozen=True)
class RayPool:
    """Actors that make runs and searches; see `prismrec.experiments.pool.Workers`.

    A task whose process dies is done again; a search goes on from its finished trials. All machines have to
    reach the folder of the bench, and those of the data sets, at the same paths.

    Parameters
    ----------
    cluster
        Connected.
    jobs
        Actors.
    threads
        CPUs and threads of each.
    device
        ``"cpu"`` or ``"cuda"``: then each actor keeps a GPU.
    """

    cluster: RayCluster
    jobs: int
    threads: int
    device: str

    @staticmethod
    def of(cluster: RayCluster, threads: int | None, device: str) -> "RayPool":
        """Return as many actors as were asked for, or as fit.

        Parameters
        ----------
        cluster
            Connected.
        threads
            Of each actor; None: as many as fit, and one where the number of actors is not given either.
        device
            ``"auto"``: the GPUs if there are any.
        """
        if device == "auto":
            device = "cuda" if cluster.gpus else "cpu"
        jobs = cluster.workers
        if jobs is None:
            jobs = max(1, cluster.gpus if device != "cpu" else cluster.cpus // (threads or 1))
        return RayPool(cluster, jobs, threads or cluster.threads(jobs), device)

    def work(self, tasks: list[Task]) -> Generator[tuple[Task, dict[str, Any]], None, None]:
        """Do tasks; see `prismrec.experiments.pool.Workers.work`. All answers to a task come at its end."""
        if not tasks:
            return
        crew = self.cluster.start(_Tools(), workers=self.jobs, threads=self.threads, gpu=self.device != "cpu")
        try:
            finished = crew.work(lambda: tasks.pop(0) if tasks else None, _do, _message)
            for task, result in finished:
                for answer in [_obituary(result)] if isinstance(result, Died) else result:
                    yield task, answer
        finally:
            crew.close()


class _Tools:
    """What an actor makes runs and searches with; the data set of the last task stays open."""

    def __init__(self) -> None:
        self._answers: list[dict[str, Any]] = []
        self._work: Work | None = None

    def do(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Do a task and return all answers to it."""
        mark = Path(message["out"]) / MARK
        # Results would otherwise be written where nobody reads them.
        if not mark.exists():
            raise InputError(
                f"{mark}: a machine of the Ray cluster does not see this file of the bench.",
                "Choose an --out, and folders of data sets, that all machines reach at the same path.",
            )
        self._answers.clear()
        if self._work is None:
            self._work = Work(self._answers.append)
        self._work.do(message)
        return list(self._answers)


def _do(tools: _Tools, message: dict[str, Any]) -> list[dict[str, Any]]:
    return tools.do(message)


def _message(task: Task) -> dict[str, Any]:
    return task.message


def _obituary(end: Died) -> dict[str, Any]:
    return {
        "event": "failed",
        "kind": "WorkerDied",
        "problem": f"The Ray worker that made it died {RETRIES + 1} times ({end.reason}).",
        "trace": "",
        "seconds": 0.0,
    }
