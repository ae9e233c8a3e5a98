"""One request to a vLLM server, tried again as long as that may help.

``httpx2`` and ``tenacity`` are imported here only, when a server is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from seal_lightning.core.errors import RunError, shown
from seal_lightning.generation.endpoints import NO_KEY, RETRIED, Refused, TryAgain, retry_after_s, wait_s, without_key

MAX_BODY_BYTES = 1 << 28
"""The log-probabilities of a prompt take about 100 bytes a token."""
_NO_NUMBER = "not JSON compliant"
"""What a server says that cannot write a NaN."""

ReplyT = TypeVar("ReplyT")
AnswerT = TypeVar("AnswerT")


class NotFinite(Exception):
    """The server computed a NaN, which its JSON cannot hold."""


class VllmClient:
    """Asks one server; use it inside :meth:`open`.

    Args:
        base_url: of the server, ``…/v1``.
        key: sent as a bearer token.
        timeout_s: > 0, seconds of one request, from its start to its last byte.
        num_tries: ≥ 1, how often a request is sent at most.
        max_concurrent: ≥ 1, requests in flight.
    """

    def __init__(self, base_url: str, key: str, timeout_s: float, num_tries: int, max_concurrent: int) -> None:
        import httpx2

        self.base_url = base_url.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s
        self._num_tries = num_tries
        self._free = asyncio.Semaphore(max_concurrent)
        self._http = httpx2.AsyncClient(
            headers=headers(key),
            timeout=timeout_s,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=max_concurrent),
        )
        self._transport_errors = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[VllmClient]:
        """Connections are kept while the block lasts."""
        async with self._http:
            yield self

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[bytes], ReplyT],
        num_tries: int | None = None,
        timeout_s: float | None = None,
    ) -> ReplyT:
        """The reply of status 200, read.

        Args:
            method: GET or POST.
            path: below the base URL, with its slash.
            body: sent as JSON.
            read: makes something of the reply's body; raises :class:`TryAgain` where it is broken.
            num_tries: fewer than usual.
            timeout_s: less than usual.

        Raises :class:`Refused` for what would fail again, :class:`NotFinite`, and :class:`RunError` where all tries failed.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        tries = AsyncRetrying(
            retry=retry_if_exception_type(TryAgain),
            wait=wait_s,
            stop=stop_after_attempt(num_tries or self._num_tries),
            reraise=True,
        )

        async def once() -> ReplyT:
            return read(await self._body(method, path, body, timeout_s or self._timeout_s))

        async with self._free:
            try:
                reply: ReplyT = await tries(once)
                return reply
            except TryAgain as error:
                raise RunError(
                    f"engine.base_url: the server {self.base_url} gave no usable answer to {path} in "
                    f"{num_tries or self._num_tries} tries ({error}). No attempt is scored by that, and what is stored is "
                    "kept. Start the server again and go on with: seal fit --resume RUN"
                ) from error

    async def _body(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._http.stream(method, self.base_url + path, json=body) as response:
                    parts, size = [], 0
                    async for part in response.aiter_bytes():
                        parts.append(part)
                        size += len(part)
                        if size > MAX_BODY_BYTES:
                            raise TryAgain(f"the body has more than {MAX_BODY_BYTES} bytes")
                    content = b"".join(parts)
                    status, head = int(response.status_code), response.headers
        except TimeoutError as error:
            raise TryAgain(f"no reply within {timeout_s:g} s") from error
        except self._transport_errors as error:
            words = f"{type(error).__name__} {error}".strip()
            raise TryAgain(f"no connection, or a broken one: {shown(self._public(words))}") from None
        if status == 200:
            return content
        said = self._public(said_in(content))
        if _NO_NUMBER in said:
            raise NotFinite
        if status in RETRIED or status >= 500:
            raise TryAgain(f"HTTP {status}: {shown(said, 300)}", retry_after_s(head))
        raise Refused(said, status)

    def _public(self, text: str) -> str:
        return without_key(text, self._key)


def headers(key: str) -> dict[str, str]:
    """What every request has; bodies are asked for uncompressed: a small one could unfold to gigabytes."""
    wanted = {"Accept-Encoding": "identity"}
    return wanted if key == NO_KEY else wanted | {"Authorization": f"Bearer {key}"}


def said_in(content: bytes) -> str:
    """The words of an error's body, wherever its server puts them."""
    text = content[:100_000].decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:1000].strip()
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else str(found)[:1000]


async def together(work: Sequence[Awaitable[AnswerT]]) -> list[AnswerT]:
    """All at once, in order; the first error ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
