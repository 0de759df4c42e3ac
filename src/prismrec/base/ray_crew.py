"""Actors of Ray that share out the parts of a task. Ray is imported where it is used only.

What runs where, and what is done again after a process has died, is Ray's business; this file hands every
idle actor the next part and passes on what comes back.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prismrec.base.errors import PrismError

PartT = TypeVar("PartT")
ToolsT = TypeVar("ToolsT")

RETRIES = 3
"""How often a part is done again after the process that worked on it has died."""


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


class Actor:
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
                result = Died(line_of(error))
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


def _require_started(reference: Any) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(reference)
    except RayError as error:
        raise PrismError(
            f"A Ray worker cannot start: {line_of(error)}", "Is the same prismrec installed on every machine?"
        ) from error


def line_of(error: BaseException) -> str:
    """Return the line of an error of Ray that says what it is: of a traceback the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if any(line.startswith("File ") for line in lines) else lines[0]
