"""One request to an OpenAI-compatible server, and what can become of it.

The ``openai`` package is imported here only, when a request is made. The key is read from the environment for the call and
kept nowhere; what the server says is shown only where it holds no part of it.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from seal_lightning.errors import ConfigError, shown

MAX_BODY_BYTES = 1 << 20
_RETRIED = frozenset({408, 409, 425, 429})
"""Beside all from 500 on: what may go well the next time."""
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_SECRET_PART = 6
"""So many characters of a key in a row are a part of it."""


class TryAgain(Exception):
    """A request failed in a way that may pass; ``retry_after_s`` where the server says when."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(reason)


class Refused(Exception):
    """A request failed and would fail again."""

    def __init__(self, reason: str, status: int) -> None:
        self.status = status
        super().__init__(reason)


def check_settings(base_url: str | None, api_key_env: str | None) -> None:
    """Raise :class:`ConfigError` for a URL that is none or holds a secret, and for a key in the place of its name."""
    if api_key_env is not None and not _NAME.fullmatch(api_key_env):
        raise ConfigError(
            "judge.api_key_env is the NAME of an environment variable (capitals, digits and _), such as OPENAI_API_KEY, and "
            "not the key itself; what was given is not shown here. Put the key into the environment, nowhere else"
        )
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        secret = bool(parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        fits, secret = False, "@" in base_url or "?" in base_url
    if secret:
        raise ConfigError(
            "judge.base_url: a user, password or query in the URL is not allowed (it would be stored with the run); it is "
            "not shown here. Give http(s)://HOST[:PORT]/PATH, and the key in the environment"
        )
    if not fits:
        raise ConfigError(
            f"judge.base_url: {shown(base_url)} is not allowed; it must be http(s)://HOST[:PORT]/PATH, for instance "
            "http://127.0.0.1:8000/v1"
        )


def api_key(api_key_env: str | None) -> str:
    """The key from the environment; a word that is none where the server needs none. Raises :class:`ConfigError`."""
    if api_key_env is None:
        return "none"
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"judge.api_key_env: the environment variable {api_key_env} is not set, and the judge needs a key. Export it (it "
            "is never stored or shown), or set judge.api_key_env to null for a server that asks for none"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"judge.api_key_env: what is in the environment variable {api_key_env} is no key (blanks or characters that no "
            "header can hold); it is not shown here"
        )
    return key


def check_installed() -> None:
    """Raise :class:`ConfigError` where the packages of the extra are missing."""
    try:
        import httpx2  # noqa: F401
        import openai  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"EndpointJudge needs the package {error.name!r}, which is not installed: "
            'pip install "seal-lightning[judge]", or take another judge (seal_lightning.judges.ModelJudge)'
        ) from error


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
        if status in _RETRIED or status >= 500:
            return TryAgain(f"HTTP {status}", _retry_after_s(error.response.headers))
        return Refused(f"HTTP {status}: {shown(self.public(_words(error)))}", status)

    def public(self, text: str) -> str:
        """A text that may hold what the server said; withheld where it holds part of the key."""
        for start in range(max(1, len(self._key) - _SECRET_PART + 1)):
            if self._key[start : start + _SECRET_PART] in text and self._key != "none":
                return "(withheld: it repeats part of the key)"
        return text


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


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """When the server wants to be asked again, in seconds from now; 0 where it does not say."""
    value = headers.get("retry-after", "")[:64]
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
