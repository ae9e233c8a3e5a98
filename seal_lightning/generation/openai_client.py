"""The one client of OpenAI-compatible servers, on the `openai` package: chat completions, completions, LoRA adapters.

Retries, waits and time-outs are those of the package, which is imported when a client is made. The key is read from the
environment for the call and stored nowhere; text of the server is shown only where it holds no part of the key.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from seal_lightning.core.errors import ConfigError, shown

NO_KEY = "none"
"""Sent to a server that needs no key."""
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_URL = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^\s:/?#@\[\]]+)(:\d{1,5})?(/[^\s?#@]*)?")
_SECRET_PART = 6
"""So many characters of a key in a row are a part of it."""
_TEMPORARY = frozenset({408, 409, 429})
"""HTTP statuses that the package retries, besides all from 500 on."""

ReplyT = TypeVar("ReplyT")
_last_status: ContextVar[int | None] = ContextVar("last_status", default=None)


class RequestFailed(Exception):
    """A request without a usable reply, after all retries; ``status`` is the HTTP status, None without a valid reply."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(reason)

    @property
    def is_temporary(self) -> bool:
        """Return whether a retry may help: the server is down, broken or busy, and did not refuse the request itself."""
        return self.status is None or self.status in _TEMPORARY or self.status >= 500


class BrokenReply(Exception):
    """The body of a reply with status 200 is cut, or is not what was requested."""


class ReplyPart(BaseModel):
    """Base of the parts of a reply: fields in use are validated strictly, all others ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


PartT = TypeVar("PartT", bound=ReplyPart)


def parsed(kind: type[PartT], body: str) -> PartT:
    """Return a body as a part of a reply. Raises :class:`BrokenReply`, which shows nothing of the body."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise BrokenReply(f"the body is not a valid {kind.__name__.strip('_')}: {place}, {first['type']}") from error


class OpenAIClient:
    """Client of one server; use it inside :meth:`open`.

    Args:
        base_url: of the server, ``…/v1``; None is the package's default.
        key: sent as a bearer token.
        timeout_s: > 0, seconds to wait for the server, each time.
        max_retries: ≥ 0, of one request.
        on_request: called for each HTTP request, retries included.
    """

    def __init__(
        self,
        base_url: str | None,
        key: str,
        timeout_s: float,
        max_retries: int,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        import openai

        async def before(request: Any) -> None:
            _last_status.set(None)
            on_request()

        async def after(response: Any) -> None:
            _last_status.set(int(response.status_code))

        self._key = key
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout_s, follow_redirects=False, event_hooks={"request": [before], "response": [after]}
        )
        self._sdk = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, max_retries=max_retries, timeout=timeout_s, http_client=http
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenAIClient]:
        """Keep connections open inside the block."""
        async with self._sdk:
            yield self

    async def request(
        self,
        method: Literal["get", "post"],
        path: str,
        read: Callable[[str], ReplyT],
        body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ReplyT:
        """Return the reply of status 200, as ``read`` returns it. Raises :class:`RequestFailed`.

        Args:
            method: HTTP method.
            path: below the base URL, with its slash.
            read: parses the body; where it raises :class:`BrokenReply`, the request is repeated.
            body: sent as JSON.
            options: ``timeout`` (seconds) and ``max_retries`` of this request, where they differ.
        """
        num_retries = options.get("max_retries", self._max_retries)
        while True:
            text = await self._text(method, path, body, options)
            try:
                return read(text)
            except BrokenReply as error:
                if num_retries <= 0:
                    raise RequestFailed(str(error)) from error
                num_retries -= 1
                await asyncio.sleep(0.5)

    async def _text(
        self, method: Literal["get", "post"], path: str, body: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> str:
        import openai

        try:
            if method == "get":
                return str(await self._sdk.get(path, cast_to=str, options=dict(options)))
            return str(await self._sdk.post(path, cast_to=str, body=body, options=dict(options)))
        except openai.APIStatusError as error:
            status, words = int(error.status_code), shown(self.public(_words(error)), 300)
            raise RequestFailed(f"HTTP {status}: {words}", status) from None  # its text is the server's
        except openai.APITimeoutError as error:
            raise RequestFailed(f"no reply within {options.get('timeout', self._timeout_s):g} s") from error
        except openai.APIError as error:
            cause = error.__cause__ or error
            words = self.public(f"{type(cause).__name__} {cause}".strip())
            raise RequestFailed(f"no connection, or a broken one: {shown(words)}") from None

    @staticmethod
    def last_status() -> int | None:
        """Return the HTTP status of the last reply in this task; None where the last request has none yet."""
        return _last_status.get()

    def public(self, text: str) -> str:
        """Return a text that may be the server's; withheld where it holds part of the key."""
        for start in range(max(1, len(self._key) - _SECRET_PART + 1)):
            if self._key[start : start + _SECRET_PART] in text and self._key != NO_KEY:
                return "(withheld: it repeats part of the key)"
        return text


def _words(error: Any) -> str:
    """Return the message in an error's body, wherever its server puts it."""
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return str(body or error.message)


def check_endpoint(base_url: str | None, api_key_env: str | None, prefix: str) -> None:
    """Raise :class:`ConfigError` for an invalid URL, a URL with a secret, and a key in the place of its name.

    ``prefix`` is of the settings in the message: ``judge``, ``engine``. The values may hold a secret, so none is shown.
    """
    if api_key_env is not None and not _NAME.fullmatch(api_key_env):
        raise ConfigError(
            f"{prefix}.api_key_env must be the NAME of an environment variable (capitals, digits and _), such as "
            "OPENAI_API_KEY, not the key itself. The given value is not shown here"
        )
    if base_url is not None and not _URL.fullmatch(base_url):
        raise ConfigError(
            f"{prefix}.base_url must be http(s)://HOST[:PORT]/PATH, for instance http://127.0.0.1:8000/v1, without a user, "
            "password or query, because it is stored with the run. The given value is not shown here"
        )


def api_key(api_key_env: str | None, prefix: str) -> str:
    """Return the key from the environment; :data:`NO_KEY` for a server without one. Raises :class:`ConfigError`."""
    if api_key_env is None:
        return NO_KEY
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{prefix}.api_key_env: the environment variable {api_key_env} is not set. Export the key in it, or set "
            f"{prefix}.api_key_env to null for a server that needs none"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{prefix}.api_key_env: the environment variable {api_key_env} does not hold a valid key (blanks or characters "
            "that a header cannot carry); its value is not shown here"
        )
    return key


def check_installed(packages: Sequence[str], user: str, extra: str, alternative: str) -> None:
    """Raise :class:`ConfigError` where a package of an extra is missing.

    Args:
        packages: to be imported.
        user: the class or command that needs them.
        extra: the optional dependency that installs them.
        alternative: to be used without them.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"{user} needs the package {error.name!r}, which is not installed: "
                f'pip install "seal-lightning[{extra}]", or use {alternative}'
            ) from error
