"""A real OpenAI-compatible server on loopback: the one that comes with transformers, serving a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seal_lightning.scoring.judges import JudgeWording

_START = "from transformers.cli.transformers import main; main()"


@contextmanager
def served(folder: Path, log: Path, ready_within_s: float = 240.0) -> Iterator[str]:
    """Its base URL while the block lasts; then it is ended by its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", _START, "serve", str(folder), *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log, time.monotonic() + ready_within_s)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"the server was not ready in time: {log.read_text(errors='replace')[-3000:]}")


def _example(question: str, gold: str, answer: str, option: str) -> tuple[str, str]:
    asked = f'{{\n"Question": "{question}",\n"Gold answer": "{gold}",\n"Answer": "{answer}"\n}}\n{INSTRUCTION}'
    return f"{asked}\nReply with one word: yes, no.", option


INSTRUCTION = "Does the Answer say the same as the Gold answer?"
SHOWN = JudgeWording(
    system="You compare answers.",
    heading="",
    ending="",
    reply="Reply with one word: {options}.",
    examples=(
        _example("Where is the old mill?", "by the river", "The old mill stands on the river bank.", "yes"),
        _example("When did the school open?", "1921", "It opened in 1934.", "no"),
    ),
)
"""A wording from which the small model learns to reply with an option alone; how well it judges is another matter."""
