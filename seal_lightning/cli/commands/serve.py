"""``seal serve DIR…``: adapted models behind an OpenAI-compatible endpoint, on this machine alone unless there is a token."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence

from seal_lightning.adapt.ask.models import AdaptedModels
from seal_lightning.adapt.ask.sources import AdapterSource, adapter_source, base_name, check_names, common_base
from seal_lightning.core.errors import ConfigError, require
from seal_lightning.generation.openai_client import check_installed

TOKEN_ENV = "SEAL_SERVE_TOKEN"  # noqa: S105 (a name)
BASE = "base"
"""The base model's second name, whatever its first."""
SHORTEST_TOKEN = 16
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def main(args: Sequence[str]) -> int:
    """Exit code 0 when it was told to end."""
    options = _parser().parse_args(args)
    require(0 <= options.port <= 65535, "--port", options.port, "from 0 (a free one) to 65535")
    token = _token(options.token_env)
    check_installed(
        ("fastapi", "uvicorn"), "seal serve", "serve", "vLLM, which serves the same folders (docs/serving.md)"
    )
    from seal_lightning.adapt.serve.server import bound_socket, is_loopback, resolved

    family, address = resolved(options.host, options.port)
    if token is None and not is_loopback(address):
        raise ConfigError(
            f"--host: {options.host!r} is reached from other machines, which is not allowed without a token: whoever reaches "
            f"the server uses the model and reads what it was taught. Put a token into the environment variable "
            f"{options.token_env or TOKEN_ENV} (python -c 'import secrets; print(secrets.token_urlsafe())'), or leave --host "
            "out"
        )
    sources = [adapter_source(folder) for folder in options.dir]
    models = _names(sources, common_base_name(sources, options.trust_remote_code))
    with bound_socket(family, address) as bound:
        loaded = AdaptedModels.load(sources, trust_remote_code=options.trust_remote_code)
        _serve(loaded, models, bound, options.host if is_loopback(address) else None, token)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal serve",
        description="Serve adapted models over HTTP as OpenAI does (/v1/models, /v1/completions, /v1/chat/completions). A "
        f"model's name is its folder's; the base model is {BASE!r} too. Requests are answered one after another.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "dir", nargs="+", metavar="DIR", help="what `seal adapt` wrote, or PEFT folders, all of one base"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; default: %(default)s, this machine"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    parser.add_argument(
        "--token_env",
        "--token-env",
        metavar="NAME",
        help=f"the environment variable with the token that every request must carry; default: {TOKEN_ENV}, where it is set",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    return parser


def _token(name: str | None) -> str | None:
    """The token from the environment, None where there is none. Raises :class:`ConfigError`; no message shows it."""
    if name is not None and not _ENV_NAME.fullmatch(name):
        raise ConfigError(
            "--token_env is the NAME of an environment variable (capitals, digits and _) and not the token itself; what was "
            "given is not shown here"
        )
    token = os.environ.get(name or TOKEN_ENV, "")
    if not token and name is not None:
        raise ConfigError(
            f"--token_env: the environment variable {name} is not set. Export it, or leave --token_env out"
        )
    if not token:
        return None
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"the token in the environment variable {name or TOKEN_ENV} is not allowed; it must be at least {SHORTEST_TOKEN} "
            "letters, digits and signs without blanks (python -c 'import secrets; print(secrets.token_urlsafe())'). It is "
            "not shown here"
        )
    return token


def common_base_name(sources: Sequence[AdapterSource], trust_remote_code: bool) -> str:
    """The name of the sources' base model. Raises what :func:`common_base` raises."""
    return base_name(common_base(sources, trust_remote_code=trust_remote_code))


def _names(sources: Sequence[AdapterSource], base: str) -> dict[str, str | None]:
    """The adapter of every model's name. Raises :class:`ConfigError` where two models have one name."""
    check_names(sources, [BASE, base])
    return {**{source.name: source.name for source in sources}, BASE: None, base: None}


def _serve(
    loaded: AdaptedModels, models: dict[str, str | None], bound: object, host: str | None, token: str | None
) -> None:
    """``host`` is that of a server for this machine alone; None: it has a token instead."""
    import socket

    from seal_lightning.adapt.serve.app import Endpoint
    from seal_lightning.adapt.serve.jobs import AnswerQueue
    from seal_lightning.adapt.serve.server import Server, url

    assert isinstance(bound, socket.socket)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("seal_lightning.adapt.serve").setLevel(logging.INFO)
    queue = AnswerQueue(loaded)
    hosts = None if host is None else ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]
    endpoint = url(bound)

    def tell() -> None:
        sys.stdout.write(f"seal serve: {endpoint}  models: {', '.join(models)}  (Ctrl-C ends it)\n")
        sys.stdout.flush()

    Server(Endpoint(queue, models).app(hosts, token), queue, tell).serve_on(bound)
    sys.stdout.write("seal serve: ended\n")
