"""Ray: connect, share parts of a task out among actors, let go. The package is imported here only.

What runs where, and what is done again after a process has died, is Ray's business; this file hands every
idle actor the next part and passes on what comes back.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from prismrec.base.errors import ConfigError, InputError, MissingExtraError, PrismError

PartT = TypeVar("PartT")
ToolsT = TypeVar("ToolsT")

RETRIES = 3
"""How often a part is done again after the process that worked on it has died."""

# What libraries read once, when they are loaded.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
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
        settings = dict.fromkeys(_THREADS, str(threads))
        # Threads that spin while they wait take the core from another actor.
        settings["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        made: Any = ray.remote(_Actor)
        remote = made.options(
            num_cpus=threads,
            num_gpus=1 if gpu else 0,
            max_restarts=-1,
            max_task_retries=RETRIES,
            runtime_env={"env_vars": settings},
        )
        return Crew([remote.remote() for _ in range(workers)], ray.put(tools))


@dataclass(frozen=True)
class Died:
    """What came of a part whose process died, also when it was done again.

    Parameters
    ----------
    reason
        What Ray says of it, in a line.
    """

    reason: str


@dataclass(frozen=True)
class _Refusal:
    """An error of prismrec's own on its way from an actor, which Ray would not bring back whole.

    Parameters
    ----------
    kind, problem, hint
        Class of the error, and what it says.
    """

    kind: type[PrismError]
    problem: str
    hint: str | None

    @staticmethod
    def of(error: PrismError) -> "_Refusal":
        """Return what is left of an error; its traceback is of no use on another machine."""
        return _Refusal(type(error), error.problem, error.hint)

    def error(self) -> PrismError:
        """Return the error again."""
        # Not through the class's own constructor, whose parameters may be others.
        made = self.kind.__new__(self.kind)
        PrismError.__init__(made, self.problem, self.hint)
        return made


class _Actor:
    """A process that does parts of a task, one after the other."""

    def __init__(self) -> None:
        self._tools: Any = None

    def ready(self) -> None:
        """Answer: the process runs."""

    def do(self, task: Callable[[Any, Any], Any], stored: Sequence[Any], message: Any) -> Any:
        """Do a part; `stored` holds the reference to the tools, which are read once."""
        try:
            if self._tools is None:
                import ray

                self._tools = ray.get(stored[0])
            return task(self._tools, message)
        except PrismError as error:
            return _Refusal.of(error)


class Crew(Generic[ToolsT]):
    """Some actors with the same tools.

    Parameters
    ----------
    actors
        Their handles.
    stored
        Reference to the tools. It goes along with each part: Ray keeps an object as long as somebody refers
        to it, but does not count an actor that it may have to make a second time.
    """

    def __init__(self, actors: list[Any], stored: Any) -> None:
        self._actors = actors
        self._stored = stored

    def work(
        self,
        next_part: Callable[[], PartT | None],
        task: Callable[[ToolsT, Any], Any],
        message: Callable[[PartT], Any] | None = None,
    ) -> Generator[tuple[PartT, Any], None, None]:
        """Give actors parts and yield what comes of them, as it comes in.

        Parameters
        ----------
        next_part
            Gives a part, None while there is none. It is asked whenever an actor is idle, also again after
            it gave None as long as something is under way.
        task
            What an actor does, given its tools and the part.
        message
            What is sent in place of the part.

        Yields
        ------
        part, result
            A result is what the task returned, or `Died`.

        Raises
        ------
        PrismError
            If an actor cannot start, or as the task: Ray does not try again what cannot succeed.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        # An actor that waits for room in the cluster is given nothing: others may have done it all by then.
        starting = {actor.ready.remote(): actor for actor in self._actors}
        busy: dict[Any, tuple[Any, PartT]] = {}
        idle: list[Any] = []
        waiting = next_part()
        while waiting is not None or busy:
            while idle and waiting is not None:
                actor = idle.pop()
                sent = waiting if message is None else message(waiting)
                busy[actor.do.remote(task, [self._stored], sent)] = actor, waiting
                waiting = next_part()
            (done, *_), _ = ray.wait([*busy, *starting], num_returns=1)
            if done in starting:
                idle.append(starting.pop(done))
                _require_started(done)
                continue
            actor, part = busy.pop(done)
            idle.append(actor)
            try:
                result = ray.get(done)
            except RayTaskError:
                raise
            except RayError as error:
                result = Died(_line(error))
            if isinstance(result, _Refusal):
                raise result.error()
            yield part, result
            waiting = next_part() if waiting is None else waiting

    def close(self) -> None:
        """End the actors, whatever they do."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        self._stored = None


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
            f"--ray-address {address}: cannot connect to a Ray cluster ({_line(error)}).",
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


def _require_started(reference: Any) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(reference)
    except RayError as error:
        raise PrismError(
            f"A Ray worker cannot start: {_line(error)}", "Is the same prismrec installed on every machine?"
        ) from error


def _line(error: BaseException) -> str:
    """Return the line of an error that says what it is: of a traceback the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if any(line.startswith("File ") for line in lines) else lines[0]
