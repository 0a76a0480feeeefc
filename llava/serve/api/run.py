"""The web server: uvicorn, on one socket, until a signal ends it."""

from __future__ import annotations

import signal
import socket
from typing import Any

import uvicorn

from llava.serve.api.app import make_app
from llava.serve.api.protocol import HttpProtocol
from llava.serve.api.service import Service

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can already connect to.

    Args:
        host: The address or name to listen at.
        port: 0 for any free one.

    Raises:
        OSError: The port is taken, or the host is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]  # behind it Python tells the address again
        raise OSError(f"cannot listen at port {port} of {host}: {reason}; see --host and --port") from None


def make_server(service: Service) -> uvicorn.Server:
    """The web server, which is still to be run."""
    return uvicorn.Server(
        uvicorn.Config(
            make_app(service),
            http=HttpProtocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=round(service.limits.closing_seconds),
        )
    )


def run(service: Service, listening: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C; then what runs and what waits is answered first.

    Args:
        service: What is served.
        listening: Of `listen`.
    """
    before = signal.signal(signal.SIGTERM, _ends)  # uvicorn ends in an orderly way, and then sends the signal again
    try:
        make_server(service).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def _ends(number: int, frame: Any) -> None:
    """All is done already."""
