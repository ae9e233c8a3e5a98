"""What talking to a server over HTTP needs, whoever talks: its URL, its key, and what can become of a request.

The key is read from the environment for the call and kept nowhere; what the server says is shown only where it holds no
part of it.
"""

from __future__ import annotations

import email.utils
import importlib
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from seal_lightning.core.errors import ConfigError, shown

NO_KEY = "none"
"""Sent to a server that asks for none."""
RETRIED = frozenset({408, 409, 425, 429})
"""HTTP statuses that may go well the next time, beside all from 500 on."""
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_SECRET_PART = 6
"""So many characters of a key in a row are a part of it."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0


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


def check_settings(base_url: str | None, api_key_env: str | None, whose: str) -> None:
    """Raise :class:`ConfigError` for a URL that is none or holds a secret, and for a key in the place of its name.

    ``whose`` settings they are begins the message: ``judge``, ``engine``.
    """
    if api_key_env is not None and not _NAME.fullmatch(api_key_env):
        raise ConfigError(
            f"{whose}.api_key_env is the NAME of an environment variable (capitals, digits and _), such as OPENAI_API_KEY, "
            "and not the key itself; what was given is not shown here. Put the key into the environment, nowhere else"
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
            f"{whose}.base_url: a user, password or query in the URL is not allowed (it would be stored with the run); it is "
            "not shown here. Give http(s)://HOST[:PORT]/PATH, and the key in the environment"
        )
    if not fits:
        raise ConfigError(
            f"{whose}.base_url: {shown(base_url)} is not allowed; it must be http(s)://HOST[:PORT]/PATH, for instance "
            "http://127.0.0.1:8000/v1"
        )


def api_key(api_key_env: str | None, whose: str) -> str:
    """The key from the environment; :data:`NO_KEY` where the server needs none. Raises :class:`ConfigError`."""
    if api_key_env is None:
        return NO_KEY
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{whose}.api_key_env: the environment variable {api_key_env} is not set, and the {whose} needs a key. Export it "
            f"(it is never stored or shown), or set {whose}.api_key_env to null for a server that asks for none"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{whose}.api_key_env: what is in the environment variable {api_key_env} is no key (blanks or characters that no "
            "header can hold); it is not shown here"
        )
    return key


def check_installed(packages: Sequence[str], who: str, extra: str, instead: str) -> None:
    """Raise :class:`ConfigError` where a package of an extra is missing.

    Args:
        packages: to be imported.
        who: the class that needs them.
        extra: the optional dependency that brings them.
        instead: what to take without them.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"{who} needs the package {error.name!r}, which is not installed: "
                f'pip install "seal-lightning[{extra}]", or take {instead}'
            ) from error


def without_key(text: str, key: str) -> str:
    """A text that may hold what a server said; withheld where it holds part of the key."""
    for start in range(max(1, len(key) - _SECRET_PART + 1)):
        if key[start : start + _SECRET_PART] in text and key != NO_KEY:
            return "(withheld: it repeats part of the key)"
    return text


def retry_after_s(headers: Mapping[str, str]) -> float:
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


def wait_s(state: Any) -> float:
    """Seconds to the next try, for tenacity: random up to a bound that doubles, but not before the server wants it."""
    bound = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(state.attempt_number - 1, 10))
    error = state.outcome.exception()
    asked_for = error.retry_after_s if isinstance(error, TryAgain) else 0.0
    return float(asked_for + random.SystemRandom().uniform(bound / 2, bound))


def first_problem(error: ValidationError) -> str:
    """What is wrong with a body, without anything of it: the place and the kind of the first problem."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}, {first['type']}"
