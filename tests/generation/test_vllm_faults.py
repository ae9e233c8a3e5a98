"""What a vLLM server can do to a run: it is asked again, and then the run ends and can go on. Nothing is scored by it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from completions_server import CompletionsServer, Fault, once, refusal, replayed, serving
from fastapi import Response
from test_end_to_end import attempts, buffer, config, fit
from test_vllm_engine import COMPLETE, LOAD, UNLOAD, adapters_of, asked, engine_of, here

from seal_lightning.cli.main import main
from seal_lightning.core.errors import ConfigError, RunError, StopRequested
from seal_lightning.distributed import interruption
from seal_lightning.distributed.coordination import RankCoordinator
from seal_lightning.generation import VllmEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tiny: LanguageModel) -> Iterator[CompletionsServer]:
    one = CompletionsServer()
    one.serve(tiny.model, tiny.tokenizer)
    with serving(one):
        yield one


def slow(body: dict[str, Any]) -> None:
    time.sleep(0.6)


PASSING: dict[str, Response | Callable[[dict[str, Any]], None]] = {
    "500": refusal(500, "boom"),
    "503 with a page": Response("<html>busy</html>", 503),
    "429": Response("{}", 429, headers={"Retry-After": "0"}),
    "half a JSON": Response('{"choices": [{"text": "a", "fin', 200),
    "another JSON": Response('{"object": "list"}', 200),
    "no choices": Response('{"choices": []}', 200),
    "two choices": Response('{"choices": [{"text": "a"}, {"text": "b"}]}', 200),
    "broken off": Response('{"choices": [{"text": "a", "finish_reason": "abort"}]}', 200),
    "not UTF-8": Response(b"\xff\xfe", 200),
    "an empty body": Response(b"", 200),
    "half of what was announced": Response(b"{}", 200, headers={"Content-Length": "100"}),
    "hangs": slow,
}


def faults(kind: str, count: int) -> list[Fault]:
    answer = PASSING[kind]
    if callable(answer) and not isinstance(answer, Response):
        return [*[answer] * count, lambda body: None]
    return once(*[answer] * count)


@pytest.mark.parametrize("path", [COMPLETE, LOAD, UNLOAD])
@pytest.mark.parametrize("kind", ["500", "half of what was announced", "hangs"])
def test_vllm_passing_fault_is_retried(server: CompletionsServer, tiny: LanguageModel, path: str, kind: str) -> None:
    engine = engine_of(server, tiny, num_tries=3, timeout_s=0.3 if kind == "hangs" else 20.0, max_difference=None)
    writing, scoring = asked(adapters_of(tiny)[:1])
    server.faults[path] = faults(kind, 1)
    assert list(engine.generate(writing)) == list(here(tiny).generate(writing))
    assert len(engine.score(scoring)) == len(scoring)
    assert server.adapters == {}


@pytest.mark.parametrize("kind", PASSING)
def test_vllm_lasting_fault_ends_the_run(
    server: CompletionsServer, tiny: LanguageModel, kind: str, tmp_path: Path
) -> None:
    """Adapters are unloaded and deleted all the same."""
    settings = {"timeout_s": 0.3 if kind == "hangs" else 20.0, "num_tries": 2, "adapter_dir": str(tmp_path)}
    engine = engine_of(server, tiny, max_difference=None, **settings)
    server.faults[COMPLETE] = [*faults("500", 0), *faults(kind, 99)[:-1]]
    with pytest.raises(RunError, match=r"gave no usable answer in 2 tries .*seal fit --resume RUN"):
        engine.score(asked(adapters_of(tiny)[:1])[1])
    assert server.adapters == {}
    assert list(tmp_path.iterdir()) == []
    assert all(thread.name != "seal-vllm" for thread in threading.enumerate())


def test_vllm_dead_port_ends_the_run(tiny: LanguageModel) -> None:
    engine = VllmEngine("base", "http://127.0.0.1:9/v1", num_tries=2)
    engine.bind(tiny)
    with pytest.raises(RunError, match=r"no connection.*start the server again and resume with"):
        engine.generate(asked([None])[0])


def test_vllm_lost_server_ends_the_run(tiny: LanguageModel) -> None:
    one = CompletionsServer()
    one.serve(tiny.model, tiny.tokenizer)
    with serving(one):
        engine = engine_of(one, tiny)
        engine.generate(asked([None])[0])
    with pytest.raises(RunError, match="no connection"):
        engine.generate(asked([None])[0])


def test_vllm_restarted_server_gets_the_policy_again(server: CompletionsServer, tiny: LanguageModel) -> None:
    tiny.merge(adapters_of(tiny)[0])
    engine = engine_of(server, tiny)
    writing, _ = asked([None])
    first = list(engine.generate(writing))
    server.base = server.base if server._peft is None else server._peft.unload()
    server._peft, server.adapters = None, {}
    assert list(engine.generate(writing)) == first


@pytest.mark.parametrize(
    ("status", "words"), [(400, "refuses a request: HTTP 400: 'no such field'"), (302, "HTTP 302")]
)
def test_vllm_refusals_are_not_retried(server: CompletionsServer, tiny: LanguageModel, status: int, words: str) -> None:
    engine = engine_of(server, tiny, max_difference=None, num_tries=5)
    server.faults[COMPLETE] = [lambda body: refusal(status, "no such field")]
    with pytest.raises(ConfigError, match=words):
        engine.generate(asked([None])[0][:1])
    assert len(server.sent(COMPLETE)) == 1


def test_vllm_failed_unload_is_warned_of(
    server: CompletionsServer, tiny: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(server, tiny, adapter_dir=str(tmp_path))
    server.faults[UNLOAD] = [lambda body: replayed("unload what fell out of the server's memory", body)]
    writing, _ = asked(adapters_of(tiny)[:1])
    with caplog.at_level(logging.WARNING):
        assert list(engine.generate(writing)) == list(here(tiny).generate(writing))
    (name,) = server.adapters
    assert f"could not unload the adapter {name}" in caplog.text
    assert list(tmp_path.iterdir()) == []
    server.faults = {}
    assert list(engine.generate(writing)) == list(here(tiny).generate(writing)), "its name is never used again"


def test_vllm_lost_reply_to_a_load_is_no_fault(server: CompletionsServer, tiny: LanguageModel) -> None:
    """The server loaded it, and says so the second time."""

    def loaded_and_lost(body: dict[str, Any]) -> Response:
        server._answer(LOAD, body)
        return Response("", 502)

    server.faults[LOAD] = [loaded_and_lost, lambda body: None]
    writing, _ = asked(adapters_of(tiny)[:1])
    assert list(engine_of(server, tiny).generate(writing)) == list(here(tiny).generate(writing))
    assert server.adapters == {}


def test_vllm_failure_cancels_other_requests(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = engine_of(server, tiny, max_concurrent=2, num_tries=1, max_difference=None)
    engine.generate(asked([None])[0][:1])
    server.faults[COMPLETE] = [lambda body: refusal(500, "boom"), slow]
    before = len(server.requests)
    with pytest.raises(RunError, match="boom"):
        engine.generate(asked([None])[0] * 20)
    assert len(server.requests) - before < 10


def test_vllm_heeds_a_stop(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = engine_of(server, tiny, max_difference=None)
    adapter = adapters_of(tiny)[0]
    engine.generate(asked([None])[0][:1])
    server.faults[COMPLETE] = [lambda body: time.sleep(3)]  # type: ignore[func-returns-value, list-item]
    interruption.start(RankCoordinator(0, 1, 1.0))
    interruption.install_handlers()
    try:
        timer = threading.Timer(0.4, lambda: signal.raise_signal(signal.SIGTERM))
        started = time.monotonic()
        timer.start()
        with pytest.raises(StopRequested):
            engine.generate(asked([adapter])[0])
        assert time.monotonic() - started < 2.5
    finally:
        interruption.finish()
    assert server.adapters == {}


@pytest.mark.slow
def test_vllm_run_resumes_after_an_outage(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No reward comes of an outage: what was stored stays, what was not is tried again, the buffer is that of a whole run."""
    pretrained = Pretrained(source=str(tiny_folder), dtype="float64").load()
    one = CompletionsServer()
    one.serve(pretrained.model, pretrained.tokenizer)
    with serving(one):
        options = {"model": "base", "base_url": one.url, "num_tries": 1, "max_lora_rank": 16}
        engine = {"class_path": "seal_lightning.generation.VllmEngine", "init_args": options}
        settings = {"rounds": 1, "candidates_per_call": 2, "engine": engine}
        whole, cut = (config(tiny_folder, tmp_path / name, **settings) for name in ("whole", "cut"))
        assert fit(tmp_path, whole) == 0
        num_scores = len(one.sent(COMPLETE))
        one.requests.clear()
        one.faults[COMPLETE] = [*[lambda body: None] * (num_scores // 2), lambda body: refusal(500, "gone")]
        assert fit(tmp_path, cut) == 1
        assert "seal fit --resume" in capsys.readouterr().err
        stored = attempts(tmp_path / "cut", 0)
        assert 0 < len(stored) < len(attempts(tmp_path / "whole", 0))
        assert all(attempt.reward is not None for attempt in stored)
        assert {a.attempt_id: a for a in stored}.keys() <= {a.attempt_id for a in attempts(tmp_path / "whole", 0)}
        one.faults = {}
        assert main(["fit", "--resume", str(tmp_path / "cut")]) == 0
    rewards = [{a.attempt_id: a.reward for a in attempts(tmp_path / name, 0)} for name in ("whole", "cut")]
    assert rewards[0] == rewards[1]
    assert buffer(tmp_path / "whole", 0) == buffer(tmp_path / "cut", 0)
