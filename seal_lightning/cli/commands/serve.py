"""``seal serve DIR…``: adapted models behind an OpenAI-compatible endpoint, for this machine only unless there is a token."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.adapter_sources import adapter_source, base_name, check_names, common_base
from seal_lightning.core.errors import ConfigError, require
from seal_lightning.generation.openai_client import check_installed

TOKEN_ENV = "SEAL_SERVE_TOKEN"  # noqa: S105 (a name)
BASE = "base"
"""The base model's second name."""
SHORTEST_TOKEN = 16
_MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe())'"  # noqa: S105 (a command)
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def main(args: Sequence[str]) -> int:
    """Serve until a signal; return exit code 0."""
    options = _parser().parse_args(args)
    require(0 <= options.port <= 65535, "--port", options.port, "from 0 (a free one) to 65535")
    token = _token(options.token_env)
    check_installed(
        ("fastapi", "uvicorn"), "seal serve", "serve", "vLLM, which serves the same folders (docs/serving.md)"
    )
    from seal_lightning.adapt.serve.app import Endpoint
    from seal_lightning.adapt.serve.server import Server, bound_socket, is_loopback, resolved, url
    from seal_lightning.adapt.serve.worker import AnswerWorker

    family, address = resolved(options.host, options.port)
    if token is None and not is_loopback(address):
        raise ConfigError(
            f"--host: {options.host!r} is reached from other machines, which is not allowed without a token. Put one into "
            f"the environment variable {options.token_env or TOKEN_ENV} ({_MAKE_TOKEN}), or drop --host"
        )
    sources = [adapter_source(folder) for folder in options.dir]
    base = base_name(common_base(sources, trust_remote_code=options.trust_remote_code))
    check_names(sources, [BASE, base])
    models = {**{source.name: source.name for source in sources}, BASE: None, base: None}
    host = options.host
    hosts = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host] if is_loopback(address) else None
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    with bound_socket(family, address) as bound:
        worker = AnswerWorker(AdaptedModels.load(sources, trust_remote_code=options.trust_remote_code))

        def announce() -> None:
            sys.stdout.write(f"seal serve: {url(bound)}  models: {', '.join(models)}  (Ctrl-C ends it)\n")
            sys.stdout.flush()

        Server(Endpoint(worker, models).app(hosts, token), worker, announce).run(sockets=[bound])
    sys.stdout.write("seal serve: ended\n")
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
    """Return the token from the environment, None without one. Raises :class:`ConfigError`; no message shows it."""
    if name is not None and not _ENV_NAME.fullmatch(name):
        raise ConfigError(
            "--token_env must be the NAME of an environment variable (capitals, digits and _), not the token itself; the "
            "given value is not shown here"
        )
    token = os.environ.get(name or TOKEN_ENV, "")
    if not token:
        if name is not None:
            raise ConfigError(
                f"--token_env: the environment variable {name} is not set. Export it, or drop --token_env"
            )
        return None
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"the token in the environment variable {name or TOKEN_ENV} must have at least {SHORTEST_TOKEN} letters, digits "
            f"and signs without blanks ({_MAKE_TOKEN}); it is not shown here"
        )
    return token
