"""A judge behind any OpenAI-compatible endpoint: a hosted model, or one on a machine of your own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import require
from seal_lightning.distributed.background_loop import run_apart
from seal_lightning.generation.endpoints import Refused, TryAgain, api_key, check_installed, check_settings, wait_s
from seal_lightning.scoring.judges.cached_judge import CachedJudge, Took
from seal_lightning.scoring.judges.endpoint_client import EndpointClient
from seal_lightning.scoring.judges.endpoint_reply import BrokenBody, completion, decision, option_schema
from seal_lightning.scoring.judges.tally import Prices, Tally
from seal_lightning.scoring.judges.wording import JudgeWording

_SCHEMA_UNKNOWN = (400, 415, 422, 501)
"""How servers refuse a request with a ``response_format`` that they do not know."""
_OF_THE_QUESTION = (400, 413, 422)
"""How servers refuse a question for what it says; every other refusal would meet all questions."""


class EndpointJudge(CachedJudge):
    """Asks a chat model over HTTP, at temperature 0, for one option in a JSON schema.

    A server that knows no schemas is asked without; its reply counts when it is ``{"option": …}`` or the option alone.
    What a server may get right the next time (no connection, no reply in time, HTTP 408, 409, 425, 429 and 5xx, half a
    body) is tried again, with growing random waits and as the server's Retry-After asks, until the deadline. What is
    then undecided is unscored.

    Args:
        model: the model's name at the server.
        base_url: ``http(s)://HOST[:PORT]/PATH``; None is OpenAI's own, or ``$OPENAI_BASE_URL``.
        api_key_env: the environment variable that has the key; None for a server that asks for none. The key is never
            stored, shown or logged.
        max_concurrency: ≥ 1, requests at a time.
        deadline_s: > 0, seconds for a question, all tries and waits together.
        timeout_s: > 0, seconds for one request.
        structured: whether a JSON schema is asked for; ``auto`` goes on without where the server refuses it.
        max_answer_tokens: ≥ 1, sent as ``max_completion_tokens``; a model that reasons before it replies needs more. None is
            not sent: for a server that only knows ``max_tokens``, which goes into ``extra_body``.
        temperature: ≥ 0; None is not sent (some models allow only their own).
        seed: sent where not None.
        extra_body: further fields of a request, such as ``reasoning_effort``. No secrets: they are stored with the run.
        prices: what a million tokens cost, for the counter.
        max_cost: > 0: the run stops as soon as this process has spent so much; needs prices.
        wording: the texts around a question.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: not before so many were asked; so many in a row that could not be asked stop it too.
        cache_dir: where decisions are kept; None is ``judgements`` in the package's cache folder.
        use_cache: whether they are.
        max_cached: ≥ 256, decisions kept in that folder.
        max_chars: ≥ 1, characters of a question's texts together; a longer one is undecided.
    """

    in_background = True

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        max_concurrency: int = 8,
        deadline_s: float = 60.0,
        timeout_s: float = 30.0,
        structured: Literal["auto", "always", "never"] = "auto",
        max_answer_tokens: int | None = 64,
        temperature: float | None = 0.0,
        seed: int | None = 0,
        extra_body: dict[str, Any] | None = None,
        prices: Prices | None = None,
        max_cost: float | None = None,
        wording: JudgeWording = JudgeWording(),  # noqa: B008 - a frozen record
        max_unscored: float = 0.05,
        min_questions: int = 20,
        cache_dir: str | None = None,
        use_cache: bool = True,
        max_cached: int = 200_000,
        max_chars: int = 100_000,
    ) -> None:
        require(bool(model.strip()), "judge.model", model, "the model's name at the server")
        require(max_concurrency >= 1, "judge.max_concurrency", max_concurrency, "at least 1")
        require(0 < deadline_s < float("inf"), "judge.deadline_s", deadline_s, "above 0, in seconds")
        require(0 < timeout_s < float("inf"), "judge.timeout_s", timeout_s, "above 0, in seconds")
        require(
            max_answer_tokens is None or max_answer_tokens >= 1,
            "judge.max_answer_tokens",
            max_answer_tokens,
            "null, or at least 1",
        )
        require(temperature is None or 0 <= temperature < float("inf"), "judge.temperature", temperature, "at least 0")
        check_settings(base_url, api_key_env, "judge")
        where = f" at {base_url}" if base_url is not None else ""
        tally = Tally(f"EndpointJudge ({model}{where})", max_unscored, min_questions, prices, max_cost)
        super().__init__(tally, cache_dir, use_cache, max_cached, max_chars)
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.max_concurrency = max_concurrency
        self.deadline_s = deadline_s
        self.timeout_s = timeout_s
        self.structured = structured
        self.max_answer_tokens = max_answer_tokens
        self.temperature = temperature
        self.seed = seed
        self.extra_body = extra_body
        self.wording = wording
        self._knows_schemas = structured != "never"

    def check(self) -> None:
        """Raise :class:`ConfigError` where a package or the key is missing."""
        instead = "another judge (seal_lightning.scoring.judges.ModelJudge)"
        check_installed(("openai", "httpx2", "tenacity"), type(self).__name__, "judge", instead)
        api_key(self.api_key_env, "judge")
        _ = self.url  # which checks it

    @cached_property
    def url(self) -> str | None:
        """The server's, from the settings or the environment; None is OpenAI's own. Raises :class:`ConfigError`."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or None
        check_settings(url, self.api_key_env, "judge")
        return url

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Model, server, wording and what is sent with them; not the key, nor how it is waited for."""
        return {
            "judge": "endpoint",
            "model": self.model,
            "base_url": self.url,
            "structured": self.structured,
            "max_answer_tokens": self.max_answer_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "extra_body": self.extra_body,
            "wording": asdict(self.wording),
        }

    def asks(self, questions: Sequence[JudgeQuestion], took: Took) -> None:
        """All of them, some at a time; on the main thread, a stop of the run is heard meanwhile."""
        self.check()
        run_apart(self._ask_all(questions, took), "seal-judge")

    async def _ask_all(self, questions: Sequence[JudgeQuestion], took: Took) -> None:
        client = EndpointClient(self.url, api_key(self.api_key_env, "judge"), self.timeout_s)
        waiting = iter(questions)
        async with client.open():
            workers = [
                asyncio.create_task(self._work(client, waiting, took))
                for _ in range(min(self.max_concurrency, len(questions)))
            ]
            try:
                await asyncio.gather(*workers)  # raises the first error
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: EndpointClient, waiting: Iterator[JudgeQuestion], took: Took) -> None:
        for question in waiting:
            took(question, await self._decided(client, question))

    async def _decided(self, client: EndpointClient, question: JudgeQuestion) -> Judgement:
        """A question's judgement within the deadline, whatever the server does."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay

        before: list[BaseException] = []  # why it was tried again, the last time

        def remember(state: Any) -> None:
            before[:] = [state.outcome.exception()]

        tries = AsyncRetrying(
            retry=retry_if_exception_type(TryAgain),
            wait=wait_s,
            stop=stop_before_delay(self.deadline_s),
            before_sleep=remember,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.deadline_s):
                judgement: Judgement = await tries(self._asked_once, client, question)
                return judgement
        except TimeoutError:
            told = "".join(f"; before that: {error}" for error in before)
            reason = f"no reply within {self.deadline_s:g} s, all tries together{told}"
            return Judgement(option=None, reason=reason, outage=True)
        except TryAgain as error:
            return Judgement(option=None, reason=str(error), outage=True)
        except Refused as error:
            return Judgement(option=None, reason=str(error), outage=error.status not in _OF_THE_QUESTION)

    async def _asked_once(self, client: EndpointClient, question: JudgeQuestion) -> Judgement:
        body = await self._body(client, question)
        try:
            reply = completion(body)
        except BrokenBody as error:
            self.tally.spent(None, None)
            raise TryAgain(f"the body is no chat completion: {error}") from error
        if reply.usage is None:
            self.tally.spent(None, None)
        else:
            self.tally.spent(reply.usage.prompt_tokens, reply.usage.completion_tokens)
        option, reason = decision(reply, question.options)
        return Judgement(option=option, reason=client.public(reason))

    async def _body(self, client: EndpointClient, question: JudgeQuestion) -> bytes:
        with_schema = self._knows_schemas
        self.tally.request()
        try:
            return await client.body(self._request(question, with_schema))
        except Refused as error:
            if not with_schema or self.structured == "always" or error.status not in _SCHEMA_UNKNOWN:
                raise
        self.tally.request()
        body = await client.body(self._request(question, with_schema=False))
        self._knows_schemas = False  # that was it
        return body

    def _request(self, question: JudgeQuestion, with_schema: bool) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.content} for turn in self.wording.chat(question)]
        request: dict[str, Any] = {
            "model": self.model,
            "messages": turns,
        }
        optional = {
            "max_completion_tokens": self.max_answer_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "extra_body": self.extra_body,
        }
        request |= {name: value for name, value in optional.items() if value is not None}
        if with_schema:
            request["response_format"] = option_schema(question.options)
        return request
