"""The server process: uvicorn, set so that nothing personal is logged and requests in flight are finished."""

import sys

import uvicorn
from fastapi import FastAPI

from prismrec.serving.observe import log_to
from prismrec.serving.settings import ServeSettings

_HEAD_BYTES = 32 * 1024
_IDLE_SECONDS = 15


def server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """Return a server that is not running yet; ``should_exit = True`` ends it in order."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            # Its own log would show addresses, and with them user ids; the app writes one.
            access_log=False,
            log_config=None,
            server_header=False,
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
    )


def run(app: FastAPI, settings: ServeSettings) -> None:
    """Serve until the process is told to end; JSON lines go to standard error."""
    log_to(sys.stderr)
    server(app, settings).run()
