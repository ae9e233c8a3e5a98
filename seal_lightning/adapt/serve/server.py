"""A server that listens on one address, and ends in good order. Needs the extra ``serve``."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from seal_lightning.adapt.serve.jobs import AnswerQueue
from seal_lightning.core.errors import ConfigError, shown

_ENDING_S = 5
"""How long the last answers have to reach their clients."""
_REASONS = {
    errno.EADDRINUSE: "another program listens there: end it, or give another --port (0 takes a free one)",
    errno.EACCES: "this user may not take it: give a --port of 1024 or more",
    errno.EADDRNOTAVAIL: "it is no address of this machine",
}


def resolved(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """The address family and socket address of a host. Raises :class:`ConfigError` for a name that leads nowhere."""
    try:
        if not host.strip():
            raise OSError("it is empty")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--host: {shown(host)} is not allowed ({reason}); it must be an address of this machine, such as 127.0.0.1"
        ) from error
    return family, address


def is_loopback(address: tuple[Any, ...]) -> bool:
    """Whether only this machine reaches a socket address."""
    return ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback


def bound_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises :class:`ConfigError` where it cannot be had."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just ended is no other program
        bound.bind(address)
        bound.listen()  # two may be bound to a port, but only one listens
    except OSError as error:
        bound.close()
        raise _refusal(address, error) from error
    return bound


def url(bound: socket.socket) -> str:
    """Of the endpoint, as clients give it as ``base_url``."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class Server(uvicorn.Server):  # type: ignore[misc]
    """Serves until SIGINT or SIGTERM, or until ``should_exit`` is set; then answers under way are given up.

    Args:
        app: an ASGI application.
        queue: writes its answers; closed with the server.
        on_ready: called once requests are taken.
    """

    def __init__(self, app: Any, queue: AnswerQueue, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=_ENDING_S,
            )
        )
        self._queue = queue
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give up what is not answered, tell its clients, and close."""
        self._queue.close()
        await super().shutdown(sockets)

    def serve_on(self, bound: socket.socket) -> None:
        """Serve on a socket until the end; a signal that ended it has done its work then."""
        with _signals_spent():
            self.run(sockets=[bound])


@contextmanager
def _signals_spent() -> Iterator[None]:
    """uvicorn raises a signal that ended it once more, for the handlers that were there before: these do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refusal(address: tuple[Any, ...], error: OSError) -> ConfigError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return ConfigError(f"--host, --port: {address[0]} port {address[1]} cannot be had: {reason}")
