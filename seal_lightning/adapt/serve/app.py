"""The endpoint's routes: ``/v1/models``, ``/v1/completions``, ``/v1/chat/completions``. Needs the extra ``serve``."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from seal_lightning.adapt.serve.errors import ApiError, bad_field
from seal_lightning.adapt.serve.guards import NOTE, RequestLog, TokenGuard
from seal_lightning.adapt.serve.jobs import AnswerQueue, Asked, Ended, Job, Prompt
from seal_lightning.adapt.serve.replies import ChatReply, CompletionReply, event, usage
from seal_lightning.adapt.serve.requests import ChatBody, CompletionBody, checked
from seal_lightning.core.errors import shown

MOST_BODY_BYTES = 4 * 2**20
"""Of a request; a context of 128,000 tokens is about half a MiB of English."""
_Body = Annotated[dict[str, Any], Body()]


class Endpoint:
    """The models by the names they are asked for, and how they are asked.

    Args:
        queue: writes the answers.
        models: the adapter of each model's name, None for the base model, in the order they are listed.
    """

    def __init__(self, queue: AnswerQueue, models: Mapping[str, str | None]) -> None:
        self.queue = queue
        self.models = models
        self._created = int(time.time())

    def app(self, allowed_hosts: Sequence[str] | None, token: str | None) -> FastAPI:
        """The application.

        Args:
            allowed_hosts: that a request may name in its ``Host``, so that no web page reaches the server under a name of
                its own that it has turned to this machine; None lets all pass, for a server with a token.
            token: that every request must know; None asks for none.
        """
        handlers: dict[Any, Any] = {
            ApiError: _on_refusal,
            RequestValidationError: _on_no_json,
            HTTPException: _on_http,
            Exception: _on_failure,
        }
        # No pages of documentation: they would fetch scripts from elsewhere.
        app = FastAPI(
            exception_handlers=handlers, docs_url=None, redoc_url=None, openapi_url=None, max_body_size=MOST_BODY_BYTES
        )
        app.add_api_route("/v1/models", self.list_models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.one_model, methods=["GET"])
        app.add_api_route("/v1/completions", self.complete, methods=["POST"], response_model=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        if token is not None:
            app.add_middleware(TokenGuard, token=token)
        if allowed_hosts is not None:
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
        app.add_middleware(RequestLog)
        return app

    async def list_models(self) -> dict[str, Any]:
        """All models."""
        return {"object": "list", "data": [self._model(name) for name in self.models]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """One model. Raises :class:`ApiError` (404) for one that is not there."""
        self._adapter(name)
        return self._model(name)

    async def complete(self, request: Request, body: _Body) -> Response:
        """Continue texts."""
        asked = checked(CompletionBody, body)
        return await self._reply(request, asked, asked.prompts(), CompletionReply(asked.model))

    async def chat(self, request: Request, body: _Body) -> Response:
        """Answer in a chat."""
        asked = checked(ChatBody, body)
        return await self._reply(request, asked, [asked.turns()], ChatReply(asked.model))

    async def _reply(
        self, request: Request, body: CompletionBody | ChatBody, prompts: Sequence[Prompt], reply: CompletionReply
    ) -> Response:
        asked = Asked(
            adapter=self._adapter(body.model),
            prompts=prompts,
            sampling=body.sampling(),
            num_choices=body.n,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
        )
        job = self.queue.submit(asked)
        watching = asyncio.create_task(_give_up_when_left(request, job))
        answering = _Answering(request, job, reply, watching)
        try:
            # An error before the first piece is an error of the request, so a stream waits for its turn here too.
            begun = await job.begun()
            if body.stream:
                streamed = answering.streamed(begun.prompt_tokens, includes_usage=body.includes_usage)
                return StreamingResponse(
                    streamed, media_type="text/event-stream", headers={"cache-control": "no-store"}
                )
            return JSONResponse(await answering.whole(begun.prompt_tokens))
        except BaseException:
            answering.stop()
            raise

    def _adapter(self, model: str) -> str | None:
        if model not in self.models:
            raise ApiError(
                404,
                f"the model {shown(model, 80)} does not exist here; there are {', '.join(map(shown, self.models))}",
                param="model",
                code="model_not_found",
            )
        return self.models[model]

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "seal_lightning"}


class _Answering:
    """The answers of one job on their way to a client."""

    def __init__(self, request: Request, job: Job, reply: CompletionReply, watching: asyncio.Task[None]) -> None:
        self._request = request
        self._job = job
        self._reply = reply
        self._watching = watching

    def stop(self) -> None:
        """Whatever is not written yet is not wanted."""
        self._watching.cancel()
        self._job.give_up(_left())

    async def whole(self, prompt_tokens: int) -> dict[str, Any]:
        """All answers at once."""
        answers = {e.index: e.completion async for e in self._job.answers() if isinstance(e, Ended)}
        self._watching.cancel()
        used = self._used(prompt_tokens, sum(len(answer.token_ids) for answer in answers.values()))
        return self._reply.whole([answers[index] for index in sorted(answers)], used)

    async def streamed(self, prompt_tokens: int, *, includes_usage: bool) -> AsyncIterator[bytes]:
        """The answers as server-sent events, one after another. An error is an event, and the last one."""
        completion_tokens, opened = 0, -1
        try:
            async with aclosing(self._job.answers()) as answers:  # type: ignore[type-var]
                async for told in answers:
                    if told.index > opened and (opening := self._reply.opening(told.index)) is not None:
                        yield event(opening)
                    opened = told.index
                    if not isinstance(told, Ended):
                        if told.text:
                            yield event(self._reply.piece(told.index, told.text))
                        continue
                    completion_tokens += len(told.completion.token_ids)
                    yield event(self._reply.end(told.index, told.completion.finish_reason.value))
            used = self._used(prompt_tokens, completion_tokens)
            if includes_usage:
                yield event(self._reply.used(used))
            yield event("[DONE]")
        except ApiError as error:
            yield event(error.body())
        finally:
            self.stop()

    def _used(self, prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
        self._request.scope[NOTE] = f", {shown(self._reply.model)}: {prompt_tokens} + {completion_tokens} tokens"
        return usage(prompt_tokens, completion_tokens)


async def _give_up_when_left(request: Request, job: Job) -> None:
    """The body was read, so the next that is heard of a client is that it has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.give_up(_left())


def _left() -> ApiError:
    return ApiError(499, "the client has left")


async def _on_refusal(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status)


async def _on_no_json(request: Request, error: RequestValidationError) -> Response:
    reason = error.errors()[0]["msg"] if error.errors() else ""
    return JSONResponse(
        bad_field("", f"the body must be a JSON object, sent as application/json ({shown(reason)})").body(), 400
    )


async def _on_http(request: Request, error: HTTPException) -> Response:
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, f"the request failed ({type(error).__name__})").body(), 500)
