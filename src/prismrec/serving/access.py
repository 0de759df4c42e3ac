"""How routes get at what they share, and what they ask of a key."""

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request

from prismrec.serving.runtime import Runtime
from prismrec.serving.security import admit
from prismrec.serving.settings import Scope


def of(request: Request) -> Runtime:
    """Return what the app of a request shares."""
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


def _needs(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    # async: FastAPI would send a plain function through a thread, for every request.
    async def admitted(request: Request) -> None:
        runtime = of(request)
        request.state.key = admit(runtime.settings, runtime.limiter, request.scope, scope)

    return admitted


READ = Depends(_needs("read"))
"""A dependency of routes that read: a key with that scope, and not too many requests."""

WRITE = Depends(_needs("write"))
"""A dependency of routes that write."""
