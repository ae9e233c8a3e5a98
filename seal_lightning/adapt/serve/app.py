"""Routes of the endpoint: ``/v1/models``, ``/v1/completions``, ``/v1/chat/completions``. Needs the extra ``serve``."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from seal_lightning.adapt.serve.bodies import ChatBody, CompletionBody, refusal_of
from seal_lightning.adapt.serve.replies import ApiError, Reply, event
from seal_lightning.adapt.serve.worker import AnswerJob, AnswerRequest, AnswerWorker, Event
from seal_lightning.core import Completion
from seal_lightning.core.errors import shown

MAX_BODY_BYTES = 4 * 2**20
"""Of a request; a context of 128,000 tokens is about half a MiB of English."""


class Endpoint:
    """The models by their names, and the routes to them.

    Args:
        worker: writes the answers.
        models: the adapter of each model's name, None for the base model, in the order of the list.
    """

    def __init__(self, worker: AnswerWorker, models: Mapping[str, str | None]) -> None:
        self.worker = worker
        self.models = models
        self._created = int(time.time())

    def app(self, allowed_hosts: Sequence[str] | None, token: str | None) -> FastAPI:
        """Return the application.

        Args:
            allowed_hosts: the allowed values of ``Host``, so that no web page reaches the server under a name of its own that
                it has pointed to this machine; None allows all, for a server with a token.
            token: that every request must carry; None for none.
        """
        handlers: dict[Any, Any] = {
            ApiError: lambda request, error: JSONResponse(error.body, error.status),
            RequestValidationError: _on_invalid_body,
            HTTPException: _on_http_error,
            Exception: _on_failure,
        }
        # No pages of documentation: they would fetch scripts from elsewhere.
        app = FastAPI(
            exception_handlers=handlers, docs_url=None, redoc_url=None, openapi_url=None, max_body_size=MAX_BODY_BYTES
        )
        app.add_api_route("/v1/models", self.list_models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.one_model, methods=["GET"])
        app.add_api_route("/v1/completions", self.complete, methods=["POST"], response_model=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        if token is not None:
            app.add_middleware(TokenGuard, token=token)
        if allowed_hosts is not None:
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
        return app

    async def list_models(self) -> dict[str, Any]:
        """Return all models."""
        return {"object": "list", "data": [self._model(name) for name in self.models]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """Return one model. Raises :class:`ApiError` (404) for an unknown one."""
        self._adapter(name)
        return self._model(name)

    async def complete(self, request: Request, body: CompletionBody) -> Response:
        """Continue texts."""
        return await self._reply(request, body)

    async def chat(self, request: Request, body: ChatBody) -> Response:
        """Answer in a chat."""
        return await self._reply(request, body)

    async def _reply(self, request: Request, body: CompletionBody | ChatBody) -> Response:
        wanted = AnswerRequest(
            adapter=self._adapter(body.model),
            prompts=body.prompts,
            sampling=body.sampling,
            num_choices=body.n,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
        )
        job = self.worker.submit(wanted)
        watching = asyncio.create_task(_cancel_at_disconnect(request, job))
        try:
            events = self.worker.events(job)
            # An error before the first piece is an HTTP error, so a stream too waits for its turn here.
            prompt_tokens = await anext(events)
            assert isinstance(prompt_tokens, int)
            reply = Reply(body.model, is_chat=isinstance(body, ChatBody), prompt_tokens=prompt_tokens)
            if body.stream:
                stream = _streamed(events, reply, watching, with_usage=body.stream_options.include_usage)
                return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})
            answers = [one[1] async for one in events if isinstance(one, tuple) and isinstance(one[1], Completion)]
        except BaseException:
            watching.cancel()
            job.cancel()
            raise
        watching.cancel()
        return JSONResponse(reply.whole(answers))

    def _adapter(self, model: str) -> str | None:
        if model not in self.models:
            raise ApiError(
                404,
                f"the model {shown(model, 80)} does not exist here; available are {', '.join(map(shown, self.models))}",
                param="model",
                code="model_not_found",
            )
        return self.models[model]

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "seal_lightning"}


async def _streamed(
    events: AsyncIterator[Event], reply: Reply, watching: asyncio.Task[None], *, with_usage: bool
) -> AsyncIterator[bytes]:
    """Yield the answers as server-sent events, one after another. An error is an event, and the last one."""
    answers: list[Completion] = []
    opened = -1
    try:
        async with aclosing(events):  # type: ignore[type-var]
            async for one in events:
                assert isinstance(one, tuple)
                index, content = one
                if index > opened:
                    opened = index
                    yield reply.opening(index)
                if isinstance(content, str):
                    yield reply.piece(index, content)
                else:
                    answers.append(content)
                    yield reply.end(index, content)
        if with_usage:
            yield reply.used(answers)
        yield event("[DONE]")
    except ApiError as error:
        yield event(error.body)
    finally:
        watching.cancel()


async def _cancel_at_disconnect(request: Request, job: AnswerJob) -> None:
    """Cancel a job when its client leaves; the body was read, so the next message says so."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


class TokenGuard:
    """Middleware that passes only requests with ``Authorization: Bearer TOKEN``."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compare in constant time, so that timing does not reveal how much of a guess is right."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._expected):
                error = ApiError(401, "a token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")
                response = JSONResponse(error.body, 401, headers={"www-authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _on_invalid_body(request: Request, error: RequestValidationError) -> Response:
    param, message = refusal_of(error.errors())
    return JSONResponse(ApiError(400, message, param=param).body, 400)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, f"the request failed ({type(error).__name__})").body, 500)
