"""A judge behind any OpenAI-compatible endpoint: a hosted model, or one on a machine of your own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import require
from seal_lightning.distributed.background_loop import run_in_background
from seal_lightning.generation.openai_client import (
    BrokenReply,
    OpenAIClient,
    ReplyPart,
    RequestFailed,
    api_key,
    check_endpoint,
    check_installed,
    parsed,
)
from seal_lightning.scoring.judges.cached_judge import CachedJudge, Report
from seal_lightning.scoring.judges.tally import JudgeTally, Prices
from seal_lightning.scoring.judges.wording import JudgeWording

_REFUSED_FOR_SCHEMA = (400, 415, 422)
"""HTTP statuses of servers that do not know ``response_format``."""
_REFUSED_FOR_QUESTION = (400, 413, 422)
"""HTTP statuses that depend on the question; every other refusal would meet all questions."""
_CUT_SHORT = ("length", "content_filter", "tool_calls", "function_call")
"""Finish reasons of an incomplete reply; servers have several words for a complete one."""
_QUOTES = "\"'`*"
_MAX_CONTENT = 2_000
"""Characters; a longer reply is not an option."""


class EndpointJudge(CachedJudge):
    """Judge that asks a chat model over HTTP, at temperature 0, for one option in a JSON schema.

    A server without schemas is asked without; its reply counts when it is ``{"option": …}`` or the option alone. Failures
    that may pass (no connection, no reply in time, HTTP 408, 409, 429 and 5xx, half a body) are retried by the `openai`
    package, with growing waits and as the server's Retry-After says, until the deadline. A question that is then undecided
    is unscored.

    Args:
        model: the model's name at the server.
        base_url: ``http(s)://HOST[:PORT]/PATH``; None is OpenAI's own, or ``$OPENAI_BASE_URL``.
        api_key_env: the environment variable with the key; None for a server without one. The key is never stored, shown
            or logged.
        max_concurrency: ≥ 1, requests at a time.
        deadline_s: > 0, seconds for a question, with all retries and waits.
        timeout_s: > 0, seconds to wait for the server in one request.
        structured: whether a JSON schema is requested; ``auto`` continues without where the server refuses it.
        max_answer_tokens: ≥ 1, sent as ``max_completion_tokens``; a model that reasons before it replies needs more. None
            is not sent: for a server that only knows ``max_tokens``, which goes into ``extra_body``.
        temperature: ≥ 0; None is not sent (some models allow only their own).
        seed: sent where not None.
        extra_body: further fields of a request, such as ``reasoning_effort``. No secrets: they are stored with the run.
        prices: of a million tokens, for the counter.
        max_cost: > 0: the run stops once this process has spent so much; needs prices.
        wording: the texts around a question.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: the share counts from so many questions on; so many outages in a row stop the run too.
        cache_dir: folder of cached decisions; None is ``judgements`` in the package's cache folder.
        use_cache: whether decisions are cached.

    Example:
        >>> judge = EndpointJudge("gpt-4.1", prices=Prices(input=2.0, output=8.0), max_cost=5.0)
        >>> judge.counts.cost
        0.0
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
    ) -> None:
        require(bool(model.strip()), "judge.model", model, "the model's name at the server")
        require(max_concurrency >= 1, "judge.max_concurrency", max_concurrency, "at least 1")
        require(0 < deadline_s < float("inf"), "judge.deadline_s", deadline_s, "above 0, in seconds")
        require(0 < timeout_s < float("inf"), "judge.timeout_s", timeout_s, "above 0, in seconds")
        enough = max_answer_tokens is None or max_answer_tokens >= 1
        require(enough, "judge.max_answer_tokens", max_answer_tokens, "null, or at least 1")
        require(temperature is None or 0 <= temperature < float("inf"), "judge.temperature", temperature, "at least 0")
        check_endpoint(base_url, api_key_env, "judge")
        where = f" at {base_url}" if base_url is not None else ""
        tally = JudgeTally(f"EndpointJudge ({model}{where})", max_unscored, min_questions, prices, max_cost)
        super().__init__(tally, cache_dir, use_cache)
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
        """Raise :class:`ConfigError` where the package or the key is missing."""
        check_installed(("openai",), "EndpointJudge", "judge", "seal_lightning.scoring.judges.ModelJudge")
        api_key(self.api_key_env, "judge")
        _ = self.url  # which checks it

    @cached_property
    def url(self) -> str | None:
        """The server's URL, from the settings or the environment; None is OpenAI's own. Raises :class:`ConfigError`."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or None
        check_endpoint(url, self.api_key_env, "judge")
        return url

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Model, server, wording and the fields sent with them; neither the key nor time-outs."""
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

    def ask(self, questions: Sequence[JudgeQuestion], report: Report) -> None:
        """Judge all questions, some at a time; on the main thread, a stop of the run is heeded meanwhile."""
        self.check()
        run_in_background(self._ask_all(questions, report), "seal-judge")

    async def _ask_all(self, questions: Sequence[JudgeQuestion], report: Report) -> None:
        waiting = iter(questions)
        key, max_retries = api_key(self.api_key_env, "judge"), _num_retries(self.deadline_s)
        client = OpenAIClient(self.url, key, self.timeout_s, max_retries, self.tally.count_request)
        async with client.open():
            num_workers = min(self.max_concurrency, len(questions))
            workers = [asyncio.create_task(self._work(client, waiting, report)) for _ in range(num_workers)]
            try:
                await asyncio.gather(*workers)  # raises the first error
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: OpenAIClient, waiting: Iterator[JudgeQuestion], report: Report) -> None:
        for question in waiting:
            self.tally.check_cost()
            report(question, await self._judged(client, question))

    async def _judged(self, client: OpenAIClient, question: JudgeQuestion) -> Judgement:
        """Return a question's judgement within the deadline, whatever the server does."""
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._reply(client, question)
        except TimeoutError:
            status = client.last_status()
            last = f"HTTP {status}: " if status is not None and status >= 400 else ""
            reason = f"{last}no reply within {self.deadline_s:g} s, with all retries"
            return Judgement(option=None, reason=reason, outage=True)
        except RequestFailed as error:
            outage = error.status not in _REFUSED_FOR_QUESTION
            return Judgement(option=None, reason=str(error), outage=outage)

    async def _reply(self, client: OpenAIClient, question: JudgeQuestion) -> Judgement:
        def read(body: str) -> Judgement:
            try:
                reply = parsed(ChatReply, body)
            except BrokenReply:
                self.tally.count_tokens(None, None)
                raise
            usage = reply.usage or _Usage()
            self.tally.count_tokens(usage.prompt_tokens, usage.completion_tokens)
            option, reason = decision(reply, question.options)
            return Judgement(option=option, reason=client.public(reason))

        with_schema = self._knows_schemas
        try:
            return await client.request("post", "/chat/completions", read, self._body(question, with_schema))
        except RequestFailed as error:
            if not with_schema or self.structured == "always" or error.status not in _REFUSED_FOR_SCHEMA:
                raise
        judgement = await client.request("post", "/chat/completions", read, self._body(question, False))
        self._knows_schemas = False  # the same question passed without one
        return judgement

    def _body(self, question: JudgeQuestion, with_schema: bool) -> dict[str, Any]:
        optional = {
            "max_completion_tokens": self.max_answer_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "response_format": option_schema(question.options) if with_schema else None,
        }
        return {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in self.wording.chat(question)],
            **{name: value for name, value in optional.items() if value is not None},
            **(self.extra_body or {}),
        }


def _num_retries(deadline_s: float) -> int:
    """Return how many waits of the `openai` package (0.5, 1, 2, 4, 8, 8, … s) end before the deadline."""
    num, waited_s = 0, 0.5
    while waited_s < deadline_s and num < 1000:
        num += 1
        waited_s += min(0.5 * 2.0**num, 8.0)
    return num


_NumTokens = Annotated[int, Field(ge=0, le=10**9)]


class _Message(ReplyPart):
    content: str | None = None
    refusal: str | None = None


class _Choice(ReplyPart):
    message: _Message
    finish_reason: str | None = None


class _Usage(ReplyPart):
    prompt_tokens: _NumTokens | None = None
    completion_tokens: _NumTokens | None = None


class ChatReply(ReplyPart):
    """The fields in use of a chat completion."""

    choices: list[_Choice]
    usage: _Usage | None = None


def decision(reply: ChatReply, options: tuple[str, ...]) -> tuple[str | None, str]:
    """Return the option that a reply takes, or None and the reason."""
    if not reply.choices:
        return None, "reply without a choice"
    choice = reply.choices[0]
    if choice.message.refusal:
        return None, "the judge refused"
    if choice.finish_reason in _CUT_SHORT:
        return None, f"reply cut short: {choice.finish_reason[:40]!r}"
    if not choice.message.content:
        return None, "empty reply"
    option = option_in(choice.message.content, options)
    return option, "" if option is not None else f"reply is not an option: {choice.message.content[:60]!r}"


def option_in(content: str, options: tuple[str, ...]) -> str | None:
    """Return the option in a text: ``{"option": …}``, or the option alone in any case, maybe quoted or with a full stop."""
    text = content.strip()
    if len(text) > _MAX_CONTENT:
        return None
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return None
        # A duplicate key could mean either.
        text = pairs[0][1] if len(pairs) == 1 and pairs[0][0] == "option" else ""
        return text if isinstance(text, str) and text in options else None
    bare = text.strip(_QUOTES).removesuffix(".").strip(_QUOTES).casefold()
    found = [option for option in options if option.casefold() == bare]
    return found[0] if len(found) == 1 else None


def option_schema(options: tuple[str, ...]) -> dict[str, object]:
    """Return the JSON schema of ``{"option": …}``, as ``response_format`` takes it."""
    schema = {
        "type": "object",
        "properties": {"option": {"type": "string", "enum": list(options)}},
        "required": ["option"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "decision", "strict": True, "schema": schema}}
