"""The real `openai` client against the real server: its replies are the model's own, alone and in a crowd."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai_served import Served

from seal_lightning.adapt.serve import worker
from seal_lightning.adapt.serve.worker import choice_seed
from seal_lightning.core import ChatMessage, Completion, SamplingSpec

PROMPT = "The stone 3 is"
MESSAGES: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Which colour?"}]
TURNS = (ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="Which colour?"))

LONG = 1
"""A seed of a sample that does not end early."""


def lone(here: Served, model: str, prompt: Any, seed: int = 0, **sampling: Any) -> Completion:
    """What the model says without a server."""
    spec = SamplingSpec(**{"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 20} | sampling)
    ids = here.models.language_model.prompt_ids(prompt)
    return here.models.write(ids, spec, model if model in here.models.adapters else None, seed=seed)


def test_server_lists_models(here: Served) -> None:
    assert [model.id for model in here.client().models.list()] == ["minerals", "colours", "base", "tiny-llama"]
    assert here.client().models.retrieve("colours").id == "colours"
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        here.client().models.retrieve("a/b")


@pytest.mark.parametrize("model", ["minerals", "colours", "base"])
def test_completion_equals_the_models(here: Served, model: str) -> None:
    found = here.client().completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=20)
    expected = lone(here, model, PROMPT)
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == expected.finish_reason.value
    assert found.model == model
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(here.models.language_model.prompt_ids(PROMPT))
    assert found.usage.completion_tokens == len(expected.token_ids)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_server_base_has_two_names(here: Served) -> None:
    def text(model: str) -> str:
        return here.client().completions.create(model=model, prompt=PROMPT, temperature=0).choices[0].text

    assert len({text("minerals"), text("colours"), text("base")}) == 3
    assert text("base") == text("tiny-llama")


def test_chat_uses_the_template(here: Served) -> None:
    found = here.client().chat.completions.create(
        model="minerals", messages=MESSAGES, temperature=0, max_completion_tokens=20
    )
    assert found.choices[0].message.content == lone(here, "minerals", TURNS).text
    assert found.choices[0].message.role == "assistant"
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(here.models.language_model.prompt_ids(TURNS))


def test_prompts_and_choices_are_answered_as_if_alone(here: Served) -> None:
    prompts = [PROMPT, "Stone 4:", "The quick"]
    found = here.client().completions.create(
        model="colours", prompt=prompts, n=2, temperature=0.9, top_p=0.8, seed=5, max_tokens=20, stop=["e"]
    )
    expected = [
        lone(here, "colours", prompt, seed=choice_seed(5, choice), temperature=0.9, top_p=0.8, stop=("e",))
        for prompt in prompts
        for choice in range(2)
    ]
    assert [choice.index for choice in found.choices] == list(range(6))
    assert [choice.text for choice in found.choices] == [completion.text for completion in expected]
    assert len({choice.text for choice in found.choices}) > 3
    assert found.usage is not None
    assert found.usage.completion_tokens == sum(len(completion.token_ids) for completion in expected)


def test_completion_takes_token_ids(here: Served) -> None:
    ids = here.models.language_model.prompt_ids(PROMPT)
    found = here.client().completions.create(model="base", prompt=[ids, ids], temperature=0, max_tokens=20)
    assert [choice.text for choice in found.choices] == [lone(here, "base", PROMPT).text] * 2
    with pytest.raises(openai.BadRequestError, match="token 99999 is not allowed"):
        here.client().completions.create(model="base", prompt=[1, 99999])


def test_samples_come_from_the_seed(here: Served) -> None:
    def text(seed: int | None) -> str:
        options: dict[str, Any] = {} if seed is None else {"seed": seed}
        return here.client().completions.create(model="base", prompt=PROMPT, max_tokens=20, **options).choices[0].text

    assert text(7) == text(7) == lone(here, "base", PROMPT, seed=7, temperature=1.0).text
    assert len({text(None) for _ in range(4)}) > 1


def streamed_text(here: Served, **asked: Any) -> tuple[list[str], list[str], Any]:
    pieces, ends, used = [], [], None
    for chunk in here.client().completions.create(stream=True, stream_options={"include_usage": True}, **asked):
        pieces += [choice.text for choice in chunk.choices]
        ends += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        used = chunk.usage or used
    return pieces, ends, used


def test_completion_stream_adds_up(here: Served) -> None:
    whole = here.client().completions.create(model="minerals", prompt=PROMPT, temperature=1.2, seed=3, max_tokens=30)
    pieces, ends, used = streamed_text(here, model="minerals", prompt=PROMPT, temperature=1.2, seed=3, max_tokens=30)
    assert "".join(pieces) == whole.choices[0].text
    assert len(pieces) > 3
    assert ends == [whole.choices[0].finish_reason]
    assert used == whole.usage


def test_chat_stream_adds_up(here: Served) -> None:
    asked: dict[str, Any] = {"model": "colours", "messages": MESSAGES, "seed": 3, "max_tokens": 30, "n": 2}
    whole = here.client().chat.completions.create(**asked)
    texts, roles, ends = ["", ""], [], []
    for chunk in here.client().chat.completions.create(stream=True, **asked):
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles += [choice.delta.role] if choice.delta.role else []
        ends += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == ["assistant", "assistant"]
    assert ends == [choice.finish_reason for choice in whole.choices]


@pytest.mark.slow
def test_server_answers_a_crowd_as_if_alone(here: Served) -> None:
    """Three models, whole and streamed, greedy and sampled, at once."""

    def ask(number: int) -> tuple[str, str]:
        model = ("minerals", "colours", "base")[number % 3]
        temperature = (0.0, 1.0)[number % 2]
        prompt = f"Stone {number}:"
        asked: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "temperature": temperature,
            "seed": number,
            "max_tokens": 20,
        }
        if number % 4 < 2:
            text = "".join(streamed_text(here, **asked)[0])
        else:
            text = here.client().completions.create(**asked).choices[0].text
        return text, lone_texts[number]

    lone_texts = [
        lone(here, ("minerals", "colours", "base")[n % 3], f"Stone {n}:", seed=n, temperature=(0.0, 1.0)[n % 2]).text
        for n in range(24)
    ]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(24)))
    assert [text for text, _ in found] == [text for _, text in found]
    assert len(set(lone_texts)) > 12


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model 'nope' does not exist here; available are 'minerals'"),
        ({"prompt": "why " * 300}, openai.BadRequestError, r"maximum context length is 256 tokens"),
        ({"prompt": ""}, openai.BadRequestError, "the prompt is empty"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"echo": True}, openai.BadRequestError, "echo: True is not supported"),
        ({"extra_body": {"top_k": 3}}, openai.BadRequestError, "top_k"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_invalid_requests_are_refused(here: Served, fields: dict[str, Any], kind: Any, said: str, stream: bool) -> None:
    with pytest.raises(kind, match=said) as caught:
        here.client().completions.create(**{"model": "base", "prompt": "a", "stream": stream} | fields)
    assert caught.value.type == "invalid_request_error"
    assert here.client().completions.create(model="base", prompt="a", max_tokens=1).choices, "the server goes on"


def test_chat_needs_a_template(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.models.language_model.tokenizer, "chat_template", None)
    with pytest.raises(openai.BadRequestError, match=r"no chat template.*use /v1/completions"):
        here.client().chat.completions.create(model="minerals", messages=MESSAGES)


def test_a_failure_hides_its_text_and_the_server_goes_on(
    here: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(ids: list[int]) -> str:
        raise ValueError("a secret of the prompt")

    with monkeypatch.context() as patch:
        patch.setattr(here.models.language_model, "decode", failing)
        with pytest.raises(openai.InternalServerError, match="ValueError") as caught:
            here.client().completions.create(model="minerals", prompt=PROMPT)
    assert "secret" not in f"{caught.value}{caplog.text}"
    assert (
        here.client().completions.create(model="base", prompt=PROMPT, temperature=0, max_tokens=20).choices[0].text
        == lone(here, "base", PROMPT).text
    )


def test_texts_are_neither_kept_nor_logged(
    here: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("seal_lightning", "uvicorn.access"):
        caplog.set_level("DEBUG", logger=name)
    # Another server of the same process may have configured uvicorn's loggers.
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    text = here.client().completions.create(model="minerals", prompt="The amber fox", max_tokens=9, temperature=0)
    wait_until(lambda: here.models.language_model._plain_ids.cache_info().currsize == 0)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith(("seal_lightning", "uvicorn"))]
    assert any('POST /v1/completions HTTP/1.1" 200' in line for line in lines)
    assert "amber" not in "\n".join(lines)
    assert text.choices[0].text.strip() not in "\n".join(lines)


def post(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        url, data=body or None, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (json.dumps({"model": "base", "prompt": "a"}).encode(), "text/plain", 400),
        (b'{"model": "base", "prompt": "\\ud800"}', "application/json", 400),
        (b'{"model": "base", "prompt": "a", "temperature": NaN}', "application/json", 400),
        (b'{"model": "base", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}", "application/json", 400),
    ],
    ids=["cut", "list", "bytes", "deep", "from a form", "surrogate", "nan", "big number"],
)
def test_bodies_that_are_not_json_are_refused(here: Served, body: bytes, content_type: str, status: int) -> None:
    """A page in a browser may post plain text to any address without asking; it gets nowhere."""
    found, reply = post(f"{here.url}/completions", body, content_type=content_type)
    assert found == status
    error = json.loads(reply)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def sent(here: Served, headers: str, body: bytes = b"") -> socket.socket:
    """A connection on which a completion was asked for."""
    host, port = here.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_large_bodies_are_refused_unread(here: Served) -> None:
    """Not begun where its length is told, and not gone on with where it is not."""
    with sent(here, f"Content-Length: {4 * 2**20 + 1}") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    megabyte = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with sent(here, "Transfer-Encoding: chunked", megabyte * 4 + b"1\r\n \r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1.evil.example"]
)
def test_foreign_host_headers_are_refused(here: Served, host: str) -> None:
    assert post(f"{here.url}/models", b"", host=host)[0] == 400
    assert post(f"{here.url}/models", b"", host="localhost:99")[0] == 200
    assert post(f"{here.url}/models", b"", host="[::1]:99")[0] == 200


def test_unknown_paths_are_404_in_openai_form(here: Served) -> None:
    status, reply = post(f"{here.url}/embeddings", b"{}")
    assert (status, json.loads(reply)["error"]["message"]) == (404, "Not Found")
    assert post(here.url.removesuffix("/v1") + "/docs", b"")[0] == 404


def test_server_token_is_needed_by_every_request(another: Callable[..., Any]) -> None:
    token = "a-token-that-nobody-knows"
    with another(token=token) as running:
        for wrong in ("none", token[:-1], token + "x", token.upper()):
            with pytest.raises(openai.AuthenticationError, match="a token is needed"):
                running.client(api_key=wrong).models.list()
        for path in ("/models", "/completions", "/nothing"):
            assert post(running.url + path, b"")[0] == 401
        assert post(f"{running.url}/models", b"", authorization="Bearer ü")[0] == 401
        assert post(f"{running.url}/models", b"", authorization=token)[0] == 401
        assert running.client(api_key=token).models.list().data


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_ends_the_answer(here: Served, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    # A rounding may end a sampled text early, so its length is not fixed; it only has to be long.
    assert len(lone(here, "minerals", PROMPT, seed=LONG, temperature=1.5, max_new_tokens=200).token_ids) > 80
    body = {
        "model": "minerals",
        "prompt": PROMPT,
        "max_tokens": 200,
        "temperature": 1.5,
        "seed": LONG,
        "stream": stream,
    }
    content = json.dumps(body).encode()
    seen = here.slowed(monkeypatch, 0.05)
    with sent(here, f"Content-Length: {len(content)}", content):
        wait_until(lambda: len(seen) > 2)
    wait_until(lambda: here.worker.num_pending == 0)
    assert len(seen) < 80, "it was written to its end"


def test_a_disconnect_while_waiting_cancels_the_request(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = here.slowed(monkeypatch, 0.02)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            here.client().completions.create, model="base", prompt=PROMPT, max_tokens=60, temperature=1.5, seed=1
        )
        wait_until(lambda: len(seen) > 1)
        with pytest.raises(openai.APITimeoutError):
            here.client(timeout=0.2).completions.create(model="minerals", prompt="Stone", max_tokens=60)
        wait_until(lambda: here.worker.num_pending == 1)
        assert first.result().usage.completion_tokens  # type: ignore[union-attr]
    wait_until(lambda: here.worker.num_pending == 0)
    assert max(seen) <= 61
    assert seen.count(1) <= 2, "the second was begun"


def test_too_many_requests_get_503(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_PENDING", 2)
    seen = here.slowed(monkeypatch, 0.02)
    with ThreadPoolExecutor(2) as pool:
        asked = {"model": "base", "prompt": PROMPT, "max_tokens": 40, "temperature": 1.5, "seed": 1}
        waiting = [pool.submit(here.client().completions.create, **asked)]
        wait_until(lambda: len(seen) > 1)
        waiting.append(pool.submit(here.client().completions.create, **asked))
        wait_until(lambda: here.worker.num_pending == 2)
        with pytest.raises(openai.InternalServerError, match="requests are waiting"):
            here.client().completions.create(**asked)
        first, second = [answer.result().choices[0].text for answer in waiting]
    assert first == second


@pytest.mark.parametrize("stream", [True, False])
def test_a_shutdown_tells_open_requests(
    another: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    with another() as running:
        seen = running.slowed(monkeypatch, 0.05)

        def ask() -> None:
            asked: dict[str, Any] = {"model": "base", "prompt": PROMPT, "max_tokens": 200, "temperature": 1.5}
            reply = running.client().completions.create(stream=stream, **asked)
            if stream:
                list(reply)

        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(ask) for _ in range(2)]
            wait_until(lambda: len(seen) > 3 and running.worker.num_pending == 2)
            running.server.should_exit = True
            for answer in told:
                with pytest.raises(openai.APIError, match="shutting down"):
                    answer.result()
        running.thread.join(20)
        assert not running.thread.is_alive()
    (thread,) = running.worker._thread._threads
    wait_until(lambda: thread not in threading.enumerate())
