"""Whatever a server does: no decision, a reason, within the deadline; never a "no"."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_server import (
    Behaviour,
    completion,
    cuts,
    decides,
    drips,
    fails,
    hangs,
    hangs_up,
    says,
    sends,
    serving,
)

from seal_lightning.core import JudgeCounts, Judgement, JudgeQuestion
from seal_lightning.scoring.judges import EndpointJudge

QUESTION = JudgeQuestion(instruction="Is it red?", material=(("Thing", "a brick"),), options=("yes", "no"))
DEADLINE_S = 6.0
SLACK_S = 6.0  # on a machine that does other things as well

ALWAYS: dict[str, tuple[Behaviour, str, bool]] = {
    "HTTP 429": (fails(429), "HTTP 429", True),
    "HTTP 429, Retry-After beyond the deadline": (fails(429, Retry_After="60"), "HTTP 429: no reply", False),
    "HTTP 500": (fails(500), "HTTP 500", True),
    "HTTP 503, an HTML page": (fails(503, b"<html>down</html>"), "HTTP 503", True),
    "HTTP 401": (fails(401), "HTTP 401", False),
    "HTTP 403": (fails(403), "HTTP 403", False),
    "HTTP 404, no such model": (fails(404), "HTTP 404", False),
    "HTTP 302 to elsewhere": (fails(302, Location="http://127.0.0.1:9/v1"), "HTTP 302", False),
    "hangs": (hangs(4), "no reply within", True),
    "a byte now and then": (drips, "no reply within 6 s", False),
    "hangs up": (hangs_up, "no connection", True),
    "cut in the middle": (cuts, "no connection", True),
    "half a JSON": (sends(completion('{"option": "yes"}')[:60]), "not a valid ChatReply", True),
    "an HTML page": (sends(b"<html>yes</html>", "text/html"), "not a valid ChatReply", True),
    "empty body": (sends(b""), "not a valid ChatReply", True),
    "not UTF-8": (sends(b"\xff\xfe\x00yes"), "not a valid ChatReply", True),
    "another JSON": (sends(b'["yes"]'), "not a valid ChatReply", True),
    "deep JSON": (sends(b"[" * 100_000), "not a valid ChatReply", True),
    "no choices": (sends(json.dumps({"choices": []}).encode()), "without a choice", False),
    "no content": (says(None), "empty reply", False),
    "refusal": (says(None, refusal="I would rather not"), "refused", False),
    "cut by the token limit": (says('{"option": "yes"}', finish_reason="length"), "cut short", False),
    "filtered": (says("yes", finish_reason="content_filter"), "cut short", False),
    "another option": (decides("maybe"), "not an option", False),
    "both options": (says('{"option": "no", "option": "yes"}'), "not an option", False),
    "half an option": (says('{"option": "ye'), "not an option", False),
    "an option of another type": (says('{"option": ["yes"]}'), "not an option", False),
    "chatter around it": (says("Well, I would say yes"), "not an option", False),
}
"""By fault: how the server behaves, what the reason says, and whether it is asked again."""


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first request imports what others find imported; that takes seconds."""
    with serving(decides("yes")) as server:
        EndpointJudge("m", server.url, api_key_env=None, use_cache=False).decide([QUESTION])


def judge(url: str, folder: Path, **settings: object) -> EndpointJudge:
    options: dict = {"deadline_s": DEADLINE_S, "timeout_s": 1.0, "api_key_env": "JUDGE_KEY", "cache_dir": str(folder)}
    return EndpointJudge("m", url, **(options | settings))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one question to a faulty server."""

    judgement: Judgement
    seconds: float
    num_requests: int
    counts: JudgeCounts
    num_cached: int


def outcome(fault: str, folder: Path) -> Outcome:
    with serving(ALWAYS[fault][0]) as server:
        asked = judge(server.url, folder, structured="always")
        start = time.monotonic()
        (judgement,) = asked.decide([QUESTION])
        return Outcome(
            judgement=judgement,
            seconds=time.monotonic() - start,
            num_requests=len(server.requests),
            counts=asked.counts,
            num_cached=len(list(folder.rglob("*.json"))),
        )


@pytest.fixture(scope="module")
def outcomes(warm: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of every fault, side by side: each takes as long as the deadline."""
    os.environ["JUDGE_KEY"] = "any"
    folders = [tmp_path_factory.mktemp("cache") for _ in ALWAYS]
    with ThreadPoolExecutor(len(ALWAYS)) as pool:
        return dict(zip(ALWAYS, pool.map(outcome, ALWAYS, folders), strict=True))


@pytest.mark.parametrize("fault", ALWAYS)
def test_endpoint_fault_is_undecided_within_the_deadline(
    fault: str, outcomes: dict[str, Outcome], record_property: Callable[[str, object], None]
) -> None:
    found, (_, reason, again) = outcomes[fault], ALWAYS[fault]
    record_property("fault", f"{fault} | {found.judgement.reason} | {found.seconds:.1f} | {found.num_requests}")
    assert found.judgement.option is None
    assert found.judgement.probabilities is None
    assert reason in found.judgement.reason
    assert found.seconds < DEADLINE_S + SLACK_S
    assert (found.num_requests > 1) == again
    assert found.counts.num_undecided == 1
    assert found.counts.num_requests >= found.num_requests  # one that was given up may not have arrived
    assert found.num_cached == 0, "a failure is never kept"


def test_endpoint_dead_port_is_undecided(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # kept, so that no server of another test gets it meanwhile
        start = time.monotonic()
        (judgement,) = judge(f"http://127.0.0.1:{port}/v1", tmp_path).decide([QUESTION])
    assert judgement.option is None
    assert "no connection" in judgement.reason
    assert time.monotonic() - start < DEADLINE_S + SLACK_S


@pytest.mark.parametrize(
    "first", ["HTTP 429", "HTTP 500", "hangs up", "cut in the middle", "half a JSON", "an HTML page", "hangs"]
)
def test_endpoint_passing_fault_is_retried(first: str, tmp_path: Path) -> None:
    with serving(ALWAYS[first][0], decides("no")) as server:
        asked = judge(server.url, tmp_path, deadline_s=5.0)
        (judgement,) = asked.decide([QUESTION])
        assert judgement.option == "no"
        assert asked.counts.num_undecided == 0
        assert len(server.requests) == 2


def test_endpoint_honours_retry_after(tmp_path: Path) -> None:
    with serving(fails(429, Retry_After="1"), decides("yes")) as server:
        start = time.monotonic()
        (judgement,) = judge(server.url, tmp_path, deadline_s=5.0).decide([QUESTION])
        assert judgement.option == "yes"
        assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize(
    "content", ['{"option": "yes"}', ' {"option":"yes"}\n', "yes", "Yes", "YES.", '"yes"', "**Yes**", "`yes`."]
)
def test_endpoint_accepts_a_plain_option(content: str, tmp_path: Path) -> None:
    with serving(says(content)) as server:
        assert judge(server.url, tmp_path).decide([QUESTION])[0].option == "yes"
