"""A uvicorn server on one address, with an orderly end. Needs the extra ``serve``."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from seal_lightning.adapt.serve.worker import AnswerWorker
from seal_lightning.core.errors import ConfigError, shown

_GRACE_S = 5
"""Time for the last replies to reach their clients."""


def resolved(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """Return the address family and socket address of a host. Raises :class:`ConfigError` for an unknown name."""
    try:
        if not host.strip():
            raise OSError("it is empty")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host: {shown(host)} is not allowed ({getattr(error, 'strerror', None) or error}); it must be an address of "
            "this machine, such as 127.0.0.1"
        ) from error
    return family, address


def is_loopback(address: tuple[Any, ...]) -> bool:
    """Return True if only this machine reaches a socket address."""
    return ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback


def bound_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a listening socket. Raises :class:`ConfigError` where the address is not available."""
    try:
        return socket.create_server(address, family=family)
    except OSError as error:
        raise ConfigError(
            f"--host, --port: {address[0]} port {address[1]} is not available: {error.strerror or error}. Give another "
            "--port (0 takes a free one)"
        ) from error


def url(bound: socket.socket) -> str:
    """Return the endpoint's URL, as clients take it as ``base_url``."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class Server(uvicorn.Server):  # type: ignore[misc]
    """Server until SIGINT or SIGTERM, or until ``should_exit`` is set; answers in progress are then cancelled.

    Args:
        app: an ASGI application.
        worker: writes its answers; closed with the server.
        on_ready: called once requests are accepted.
    """

    def __init__(self, app: Any, worker: AnswerWorker, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self.should_exit = False
        self._worker = worker
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down at a signal, at once at a second one; uvicorn's own raises the signal again at the end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel open answers, tell their clients, and close."""
        self._worker.close()
        await super().shutdown(sockets)
