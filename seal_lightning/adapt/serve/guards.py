"""Who may ask: with a token only those who know it, without one only pages and programs of this machine."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seal_lightning.adapt.serve.errors import ApiError
from seal_lightning.core.errors import shown

_logger = logging.getLogger(__name__)

NOTE = "seal_lightning.note"
"""Where in a request's scope its handler leaves what the log is to say of it: a model and numbers, never text."""


class TokenGuard:
    """Lets only requests with ``Authorization: Bearer TOKEN`` pass."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compared in constant time, so that answers do not tell how much of a guess is right."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._expected):
                error = ApiError(401, "a token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")
                response = JSONResponse(error.body(), 401, headers={"www-authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequestLog:
    """One line a request: method, path, status, seconds, and what its handler notes. No text of a prompt or an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The line is written when the last of the answer was sent, or nobody listens any more."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: Any = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.monotonic()
        try:
            await self._app(scope, receive, noting)
        finally:
            path = shown(scope["path"], 80)[1:-1]
            _logger.info(
                "%s %s %s %.2f s%s", scope["method"], path, status, time.monotonic() - started, scope.get(NOTE, "")
            )
