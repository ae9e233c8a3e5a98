"""One request to an OpenAI-compatible server, and what can become of it.

The ``openai`` package is imported here only, when a request is made. The key is read from the environment for the call and
kept nowhere; what the server says is shown only where it holds no part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from seal_lightning.core.errors import shown
from seal_lightning.generation.endpoints import RETRIED, Refused, TryAgain, retry_after_s, without_key

MAX_BODY_BYTES = 1 << 20


class EndpointClient:
    """Asks one server for chat completions.

    Args:
        base_url: of the server; None is the package's own default.
        key: sent as a bearer token.
        timeout_s: of one request, from its start to its last byte.
    """

    def __init__(self, base_url: str | None, key: str, timeout_s: float) -> None:
        import httpx2
        import openai

        self._key = key
        self._timeout_s = timeout_s
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout_s, follow_redirects=False, event_hooks={"response": [_capped]}
        )
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout_s,
            http_client=http,
            default_headers={"Accept-Encoding": "identity"},
        )
        self._transport_errors = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[EndpointClient]:
        """Connections are kept while the block lasts."""
        async with self._client:
            yield self

    async def body(self, request: Mapping[str, Any]) -> bytes:
        """The body of a reply of status 200. Raises :class:`TryAgain` and :class:`Refused`."""
        import openai

        try:
            async with asyncio.timeout(self._timeout_s):
                create = self._client.chat.completions.with_streaming_response.create
                async with create(**request) as response:
                    return b"".join([part async for part in response.iter_bytes()])
        except TimeoutError as error:
            raise TryAgain(f"no reply within {self._timeout_s:g} s") from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from None  # its text is the server's
        except (openai.APIError, *self._transport_errors) as error:
            cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
            raise TryAgain(f"no connection, or a broken one: {shown(self.public(_words(cause)))}") from None

    def _status_error(self, error: Any) -> TryAgain | Refused:
        status = int(error.status_code)
        if status in RETRIED or status >= 500:
            return TryAgain(f"HTTP {status}", retry_after_s(error.response.headers))
        return Refused(f"HTTP {status}: {shown(self.public(_words(error)))}", status)

    def public(self, text: str) -> str:
        """A text that may hold what the server said; withheld where it holds part of the key."""
        return without_key(text, self._key)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()


async def _capped(response: Any) -> None:
    """Let a response end in an error where its body grows too long, before it is read."""
    import httpx2

    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # we ask for none: a small body could unfold to gigabytes
        raise httpx2.RemoteProtocolError(f"the body is {encoding[:20]!r}-encoded, unasked")

    class Capped(httpx2.AsyncByteStream):  # type: ignore[misc]  # Any to mypy, which does not read that package
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self.stream:
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise httpx2.RemoteProtocolError(f"the body has more than {MAX_BODY_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    response.stream = Capped(response.stream)
