"""`seal serve` in a thread, on a free port of loopback, for tests with the real client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.serve.app import Endpoint
from seal_lightning.adapt.serve.server import Server, bound_socket, resolved, url
from seal_lightning.adapt.serve.worker import AnswerWorker

HOSTS = ["localhost", "127.0.0.1", "[::1]"]


@dataclass
class Served:
    """A server that runs."""

    models: AdaptedModels
    worker: AnswerWorker
    server: Server
    thread: threading.Thread
    url: str

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url, "api_key": "none", "max_retries": 0, "timeout": 60} | options)

    def slowed(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
        """Make every token take so long; what is returned grows with each token written."""
        decode, seen = self.models.language_model.decode, []

        def slow(ids: list[int]) -> str:
            seen.append(len(ids))
            time.sleep(seconds)
            return decode(ids)

        monkeypatch.setattr(self.models.language_model, "decode", slow)
        return seen


@contextmanager
def served(models: AdaptedModels, token: str | None = None) -> Iterator[Served]:
    """A server on a free port, ended with the block."""
    worker = AnswerWorker(models)
    names = {**{name: name for name in models.adapters}, "base": None, "tiny-llama": None}
    ready = threading.Event()
    with bound_socket(*resolved("127.0.0.1", 0)) as bound:
        server = Server(Endpoint(worker, names).app(HOSTS, token), worker, ready.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            assert ready.wait(20)
            yield Served(models, worker, server, thread, url(bound))
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()
