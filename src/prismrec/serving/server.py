"""The server process: uvicorn, set so that nothing personal is logged and requests in flight are finished."""

import socket
import sys

import uvicorn
from fastapi import FastAPI

from prismrec.base.errors import InputError
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


def listen(settings: ServeSettings) -> socket.socket:
    """Take the address that the settings name, before anything is loaded.

    Raises
    ------
    InputError
        If it cannot be had: another process listens there, or it is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named as TCP: asyncio then sends short answers at once (TCP_NODELAY). Otherwise each would wait 40 ms.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((settings.host.strip("[]"), settings.port))
        # Whoever asks already is kept waiting until there is an answer, not sent away.
        taken.listen()
    except OSError as error:
        taken.close()
        raise InputError(
            f"The service cannot listen on {settings.host}:{settings.port} ({error.strerror or error}).",
            "Choose another port (--port, 0 for any that is free) or end what listens there.",
        ) from error
    return taken


def run(app: FastAPI, settings: ServeSettings, taken: socket.socket) -> None:
    """Serve until the process is told to end; JSON lines go to standard error."""
    log_to(sys.stderr)
    server(app, settings).run(sockets=[taken])
