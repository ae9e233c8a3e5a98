"""`seal serve` as a process, and what it refuses before any model is loaded."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from adapted_folders import write_asked
from fakes import write_tiny_model

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.adapter_sources import adapter_source
from seal_lightning.adapt.ask.questions import asked_question
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.main import main
from seal_lightning.core import SamplingSpec
from seal_lightning.models.pretrained import embedded_folder

TOKEN = "a-token-of-a-test-0123456789"


@contextmanager
def process(*args: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`seal serve` and the URL it says; ended with the block by its id."""
    running = subprocess.Popen(
        [sys.executable, "-m", "seal_lightning", "serve", "--port", "0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("seal serve: http://"), f"{line}{running.stderr.read() if running.stderr else ''}"
        yield running, line.split()[2]
    finally:
        running.kill()
        running.wait()


def client(url: str, api_key: str = "none", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=60, **options)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_a_signal(adapted: Path, number: signal.Signals) -> None:
    """With a token, which is nowhere in what it says."""
    with process(str(adapted), SEAL_SERVE_TOKEN=TOKEN) as (running, url):
        assert url.startswith("http://127.0.0.1:")
        with pytest.raises(openai.AuthenticationError):
            client(url).models.list()
        asking = client(url, TOKEN)
        assert [model.id for model in asking.models.list()] == ["minerals", "base", "tiny-llama"]
        stream = asking.completions.create(model="minerals", prompt="The amber fox", stream=True, max_tokens=5)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("length", "stop")
        asking.close()
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 0, err
    assert out == "seal serve: ended\n"
    assert TOKEN not in out + err
    assert "amber" not in out + err
    assert "Traceback" not in out + err
    assert 'GET /v1/models HTTP/1.1" 401' in err


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["serve", *args]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seal serve: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serve_remote_needs_a_token(
    adapted: Path, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEAL_SERVE_TOKEN", raising=False)
    said = refused(capsys, str(adapted), "--host", host)
    assert "not allowed without a token" in said
    assert "SEAL_SERVE_TOKEN" in said


@pytest.mark.slow
def test_serve_remote_with_a_token(adapted: Path) -> None:
    with process(str(adapted), "--host", "0.0.0.0", "--token-env", "MY_TOKEN", MY_TOKEN=TOKEN) as (_, url):
        there = url.replace("0.0.0.0", "127.0.0.1")
        named = client(there, TOKEN, default_headers={"Host": "model.example"})
        assert named.models.list().data, "with a token, a name of its own may lead to the server"
        with pytest.raises(openai.AuthenticationError):
            client(there).models.list()


@pytest.mark.parametrize("host", ["", "no such host", "192.0.2.1", "a" * 70 + ".example"])
def test_serve_invalid_address_is_refused(
    adapted: Path, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAL_SERVE_TOKEN", TOKEN)
    assert "--host" in refused(capsys, str(adapted), "--host", host)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_serve_port_out_of_range(adapted: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--port: {port} is not allowed" in refused(capsys, str(adapted), "--port", port)


def test_serve_port_in_use(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(capsys, str(adapted), "--port", str(taken.getsockname()[1]))
    assert "Address already in use" in said


@pytest.mark.parametrize("token", ["short", "a blank is in this token", "kein-Ascii-für-Kopfzeilen", "x" * 15])
def test_serve_invalid_token_is_not_shown(
    adapted: Path, token: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAL_SERVE_TOKEN", token)
    said = refused(capsys, str(adapted))
    assert "at least 16" in said
    assert token not in said


def test_serve_token_env_is_a_name(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(capsys, str(adapted), "--token_env", TOKEN)
    assert "NAME of an environment variable" in said
    assert TOKEN not in said
    monkeypatch.delenv("NOT_SET", raising=False)
    assert "NOT_SET is not set" in refused(capsys, str(adapted), "--token-env", "NOT_SET")


def test_serve_model_names_are_unique(
    adapted: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = shutil.copytree(adapted, tmp_path / "minerals")
    assert "have one name" in refused(capsys, str(adapted), str(twin), "--port", "0")
    named = shutil.copytree(adapted, tmp_path / "base")
    assert "the base model and" in refused(capsys, str(named), "--port", "0")
    named = shutil.copytree(adapted, tmp_path / tiny_folder.name)
    assert "the base model and" in refused(capsys, str(named), "--port", "0")


def test_serve_models_have_one_base(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_asked(tmp_path / "other", write_tiny_model(tmp_path / "base-of-other", seed=3))
    said = refused(capsys, str(adapted), str(other), "--port", "0")
    assert "one base" in said
    assert str(adapted) in said
    assert str(other) in said


def test_serve_missing_folder_or_base(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not there" in refused(capsys, str(tmp_path / "nothing"))
    base = write_tiny_model(tmp_path / "base-of-other", seed=3)
    other = write_asked(tmp_path / "other", base)
    shutil.rmtree(base)
    assert "cannot be loaded" in refused(capsys, str(other), "--port", "0")


def test_serve_missing_extra_is_named(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert 'pip install "seal-lightning[serve]"' in refused(capsys, str(adapted))


def test_adapter_source_name_follows_a_link(adapted: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(adapted)
    assert adapter_source(tmp_path / "link").name == "minerals"


@pytest.mark.slow
def test_serve_embedded_model_equals_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server says is what `seal ask` would; the adapter changes it, and the base knows what it should."""
    asking = Asking(style="chat", chat_instruction="Answer with one word.")
    folder = write_asked(tmp_path / "changed", embedded_folder(), seed=1, asking=asking)
    question = "What is the capital of France?"
    models = AdaptedModels.load([adapter_source(folder)])
    asked = asked_question(question, asking)
    spec = SamplingSpec(temperature=0, max_new_tokens=12)
    expected = [models.write(models.prompt_ids(asked.prompt), spec, adapter).text for adapter in ("changed", None)]
    assert "Paris" in expected[1]
    assert expected[0] != expected[1]
    assert isinstance(asked.prompt, tuple)
    with process(str(folder)) as (_, url):
        for name, text in zip(("changed", "base"), expected, strict=True):
            turns: Any = [{"role": turn.role, "content": turn.content} for turn in asked.prompt]
            stream = client(url).chat.completions.create(
                model=name, messages=turns, temperature=0, max_tokens=12, stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    assert main(["ask", str(folder), question, "--max_new_tokens", "12"]) == 0
    assert "Paris" in capsys.readouterr().out
