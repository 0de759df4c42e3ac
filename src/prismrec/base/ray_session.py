"""Ray: connect to a cluster, start actors there, let go."""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from prismrec.base.errors import ConfigError, InputError, MissingExtraError
from prismrec.base.ray_crew import RETRIES, Actor, Crew, line_of
from prismrec.base.threads import VARIABLES

ToolsT = TypeVar("ToolsT")

_PATIENCE_SECONDS = 5.0
_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_ON_THIS_MACHINE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # On Linux too, its name notwithstanding: listen on the loopback address only, since not every version of
    # Ray asks who is there. It is read when Ray is imported.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to.

    Parameters
    ----------
    cpus
        Of all machines together.
    smallest
        CPUs of the machine that has the fewest: an actor has to fit there too.
    gpus, machines
        How many there are.
    workers
        Actors that were asked for; None: as many as fit.
    """

    cpus: int
    smallest: int
    gpus: int
    machines: int
    workers: int | None = None

    def threads(self, workers: int) -> int:
        """Return how many threads each of so many actors may have, at least one."""
        return max(1, min(self.smallest, self.cpus // workers))

    def start(self, tools: ToolsT, *, workers: int, threads: int, gpu: bool) -> "Crew[ToolsT]":
        """Start actors.

        Parameters
        ----------
        tools
            What each of them works with, its own copy; put into Ray's object store once.
        workers
            How many.
        threads
            CPUs that each keeps, and threads of the libraries in it.
        gpu
            Whether each also keeps a GPU.

        Returns
        -------
        Crew
            To be closed.

        Raises
        ------
        ConfigError
            If the cluster can never hold an actor.
        """
        import ray

        if threads > self.cpus or (gpu and self.gpus == 0):
            wanted = f"{threads} CPUs and a GPU" if gpu else f"{threads} CPUs"
            raise ConfigError(
                f"A worker asks for {wanted}, and the cluster has {self.cpus} CPUs and {self.gpus} GPUs."
            )
        settings = dict.fromkeys(VARIABLES, str(threads))
        # Threads that spin while they wait take the core from another actor.
        settings["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        made: Any = ray.remote(Actor)
        remote = made.options(
            num_cpus=threads,
            num_gpus=1 if gpu else 0,
            max_restarts=-1,
            max_task_retries=RETRIES,
            runtime_env={"env_vars": settings},
        )
        return Crew([remote.remote() for _ in range(workers)], ray.put(tools))


@contextmanager
def ray_cluster(address: str | None = None, workers: int | None = None) -> Iterator[RayCluster]:
    """Connect to Ray, and let go at the end.

    Parameters
    ----------
    address
        ``host:port`` of a cluster, ``auto`` for the one that runs on this machine; None: a cluster on this
        machine alone, started here and ended with the block. Where this process is connected already, that
        connection is used, and kept.
    workers
        How many actors are asked for; None: as many as fit.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    InputError
        If the address does not answer, or not as a cluster of this version of Ray.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "--engine ray")
    own = not _connected()
    if own:
        _begin(address, workers)
    import ray

    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        cpus = [int(resources["CPU"]) for resources in alive if resources.get("CPU", 0) >= 1]
        if not cpus:
            raise InputError("No machine of the Ray cluster offers a CPU.", "Start one with `ray start`.")
        gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
        yield RayCluster(sum(cpus), min(cpus), gpus, len(cpus), workers)
    finally:
        if own:
            ray.shutdown()


def _connected() -> bool:
    """Whether this process is connected, without importing Ray for that."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


def _begin(address: str | None, workers: int | None) -> None:
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with _settings(_ON_THIS_MACHINE):
            import ray

            ray.init("local", num_cpus=max(cores, workers or 1), include_dashboard=False, **_QUIET)
        return
    _require_answer(address)
    import ray

    try:
        ray.init(address, **_QUIET)
    # Ray says in several ways that somebody else answers, or another version of it.
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"--ray-address {address}: cannot connect to a Ray cluster ({line_of(error)}).",
            "The cluster needs the same versions of Ray and Python, and this machine has to be one of its "
            "own (`ray start --address HOST:PORT`). If it asks for a token, set RAY_AUTH_MODE=token.",
        ) from error


@contextmanager
def _settings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for as long as the block lasts; what the user has set stays."""
    new = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in new})
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _require_answer(address: str) -> None:
    """Ask the port first: Ray itself tries for minutes before it gives up."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise InputError(f"--ray-address {address}: this is not HOST:PORT.", "Or 'auto'.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray-address {address}: nobody answers there ({error}).",
            "Start the cluster with `ray start --head`; it prints the address.",
        ) from error
