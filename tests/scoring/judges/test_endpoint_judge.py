"""A judge behind an endpoint that works: what it sends, keeps, counts and never tells."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import threading
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from faulty_server import Handler, completion, decides, fails, hangs, knows_no_schema, says, serving

from seal_lightning.core import JudgeQuestion
from seal_lightning.core.errors import ConfigError, RunError, StopRequested
from seal_lightning.distributed import interruption
from seal_lightning.distributed.coordination import RankCoordinator
from seal_lightning.scoring.judges import EndpointJudge, JudgeWording, Prices

QUESTION = JudgeQuestion(instruction="Is it red?", material=(("Thing", "a brick"),), options=("yes", "no"))


def questions(count: int) -> list[JudgeQuestion]:
    return [replace(QUESTION, material=(("Thing", f"brick {i}"),)) for i in range(count)]


def judge(url: str, folder: Path, **settings: Any) -> EndpointJudge:
    options: dict[str, Any] = {"deadline_s": 2.0, "timeout_s": 1.0, "api_key_env": "JUDGE_KEY"}
    return EndpointJudge("m", url, cache_dir=str(folder), **(options | settings))


def by_thing(handler: Handler, body: dict[str, Any]) -> None:
    """Yes to even bricks."""
    text = body["messages"][-1]["content"]
    number = int(text.split("brick ")[1].split('"')[0])
    handler.send(200, completion(json.dumps({"option": "no" if number % 2 else "yes"})))


def test_endpoint_judge_decides_in_order(tmp_path: Path) -> None:
    with serving(by_thing) as server:
        found = judge(server.url, tmp_path).decide(questions(12))
    assert [one.option for one in found] == ["yes", "no"] * 6


def test_request_body_has_the_settings(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        judge(server.url, tmp_path, extra_body={"reasoning_effort": "low"}).decide([QUESTION])
        (request,), (headers,) = server.requests, server.headers
    assert request["model"] == "m"
    assert (request["temperature"], request["seed"], request["reasoning_effort"]) == (0.0, 0, "low")
    schema = request["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["option"]["enum"] == ["yes", "no"]
    user = request["messages"][-1]["content"]
    assert user.index("a brick") < user.index("Is it red?"), "the instruction comes after the data"
    assert headers["Authorization"] == "Bearer sk-test-51Hc9xQzVb7LmN"


def test_request_body_without_optional_settings(tmp_path: Path) -> None:
    with serving(says("no")) as server:
        judge(server.url, tmp_path, temperature=None, seed=None, structured="never").decide([QUESTION])
        assert not {"temperature", "seed", "response_format"} & server.requests[0].keys()


def test_endpoint_judge_falls_back_without_schema(tmp_path: Path) -> None:
    with serving(knows_no_schema) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1)
        assert [one.option for one in asked.decide(questions(3))] == ["yes"] * 3
        assert ["response_format" in request for request in server.requests] == [True, False, False, False]


# --- the second time


def test_endpoint_judge_repeats_from_the_cache(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        first = judge(server.url, tmp_path).decide(questions(5))
        again = judge(server.url, tmp_path)
        assert again.decide(questions(5)) == first
        assert len(server.requests) == 5
    counts = again.counts
    assert (counts.num_questions, counts.num_cached, counts.num_requests, counts.num_input_tokens) == (5, 5, 0, 0)


def test_tally_counts_equal_questions_once(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        asked = judge(server.url, tmp_path)
        asked.decide([QUESTION] * 3)
        asked.decide([QUESTION] * 3)
    assert (asked.counts.num_questions, asked.counts.num_cached) == (2, 1)


def test_endpoint_judge_sends_equal_questions_once(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        found = judge(server.url, tmp_path, use_cache=False).decide([QUESTION] * 7)
        assert [one.option for one in found] == ["yes"] * 7
        assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"structured": "never"},
        {"temperature": 0.5},
        {"seed": 1},
        {"max_answer_tokens": 8},
        {"extra_body": {"top_k": 1}},
        {"wording": JudgeWording(reply="One of {options}.")},
    ],
)
def test_identity_depends_on_the_settings(other: dict[str, Any], tmp_path: Path) -> None:
    with serving(says("yes")) as server:
        judge(server.url, tmp_path).decide([QUESTION])
        judge(server.url, tmp_path, **other).decide([QUESTION])
        assert len(server.requests) == 2


def test_identity_ignores_waiting_times(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        judge(server.url, tmp_path).decide([QUESTION])
        judge(server.url, tmp_path, deadline_s=9.0, max_concurrency=1, max_unscored=0.5).decide([QUESTION])
        assert len(server.requests) == 1


# --- limits


def test_endpoint_judge_limits_concurrency(tmp_path: Path) -> None:
    with serving(hangs(0.1)) as server:
        judge(server.url, tmp_path, max_concurrency=3).decide(questions(9))
        assert server.most_at_once == 3


def test_outage_stops_the_run_and_keeps_decisions(tmp_path: Path) -> None:
    with serving(*[decides("yes")] * 5, fails(401)) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1)
        with pytest.raises(RunError) as stopped:
            asked.decide(questions(60))
        assert len(server.requests) == 20, "the twentieth question is the first that can stop it"
    message = str(stopped.value)
    for part in ("15 of 20", "75%", "5% are allowed", "15 × HTTP 401", "kept", "seal fit --resume"):
        assert part in message
    with serving(decides("yes")) as server:
        back = judge(f"http://127.0.0.1:{server.server_address[1]}/v1", tmp_path)
        back.identity["base_url"] = asked.base_url  # type: ignore[index]  # as if back on its port
        assert all(one.option == "yes" for one in back.decide(questions(60)))
        assert len(server.requests) == 55, "what was decided before is kept"


def test_outages_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with serving(*[decides("yes")] * 30, fails(401)) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1, max_unscored=0.5, min_questions=10)
        with pytest.raises(RunError, match="the last 10 in a row"):
            asked.decide(questions(60))
        assert len(server.requests) == 40


def test_a_few_undecided_do_not_stop_the_run(tmp_path: Path) -> None:
    with serving(fails(404), decides("yes")) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1, structured="always")
        found = asked.decide(questions(30))
    assert [one.option for one in found] == [None] + ["yes"] * 29
    assert asked.counts.num_undecided == 1
    assert asked.counts.reasons[0][1] == 1


def test_tally_counts_tokens_and_cost(tmp_path: Path) -> None:
    with serving(decides("yes"), says("nonsense"), says("no", usage=False)) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1, prices=Prices(input=2.0, output=8.0))
        asked.decide(questions(3))
    counts = asked.counts
    assert (counts.num_input_tokens, counts.num_output_tokens, counts.num_unmetered) == (200, 10, 1)
    assert counts.cost == pytest.approx((200 * 2 + 10 * 8) / 1e6)


def test_max_cost_stops_the_run(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1, prices=Prices(input=1e4, output=0.0), max_cost=3.0)
        with pytest.raises(RunError, match="max_cost"):
            asked.decide(questions(9))  # each costs 1
        assert len(server.requests) == 3
        again = judge(server.url, tmp_path, max_concurrency=1, prices=Prices(input=1e4, output=0.0), max_cost=3.0)
        again.decide(questions(3))
        assert len(server.requests) == 3, "what is known costs nothing"


def test_endpoint_judge_heeds_a_stop(tmp_path: Path) -> None:
    interruption.start(RankCoordinator(0, 1, 1.0))
    interruption.install_handlers()
    try:
        with serving(hangs(9)) as server:
            asked = judge(server.url, tmp_path, deadline_s=30.0, timeout_s=30.0)
            threading.Timer(0.5, signal.raise_signal, [signal.SIGTERM]).start()
            start = time.monotonic()
            with pytest.raises(StopRequested):
                asked.decide(questions(4))
            assert time.monotonic() - start < 7, "it waited for the server"
    finally:
        interruption.finish()


# --- the key


def test_key_appears_nowhere(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in objects, copies, identities, files, logs of any level, or messages; not even when the server repeats it."""
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}}).encode()
    partly = json.dumps({"error": {"message": f"no such key: {key[:9]}..."}}).encode()
    with serving(decides("yes"), fails(401, echo), fails(400, partly), says(f"{key}")) as server:
        asked = judge(server.url, tmp_path, max_concurrency=1, structured="always", min_questions=4)
        found = [asked.decide([question])[0] for question in questions(3)]
        with pytest.raises(RunError) as stopped:
            asked.decide(questions(9))
        traceback = "".join(
            repr(e) + str(e) for e in (stopped.value, stopped.value.__cause__, stopped.value.__context__)
        )
    told = [repr(vars(asked)), repr(asked.identity), repr(found), repr(asked.counts), traceback, caplog.text]
    told += [pickle.dumps(asked).decode("latin1"), repr(vars(deepcopy(asked)))]
    told += [path.read_text() + str(path) for path in tmp_path.rglob("*") if path.is_file()]
    told += capfd.readouterr()
    for text in told:
        assert key not in text
        assert key[:9] not in text
    assert "HTTP 401" in found[1].reason


def test_key_in_the_wrong_place_is_refused_unseen() -> None:
    for wrong in ("sk-proj-abcDEF123", "gsk_abc123", "aB", ""):
        with pytest.raises(ConfigError, match="NAME of an environment variable") as refused:
            EndpointJudge("m", api_key_env=wrong)
        assert not wrong or wrong not in str(refused.value)
    for wrong in ("https://me:secret@host/v1", "https://host/v1?key=secret", "http://secret@host"):
        with pytest.raises(ConfigError) as refused:
            EndpointJudge("m", wrong)
        assert "secret" not in str(refused.value)


def test_missing_key_is_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    asked = judge("http://127.0.0.1:9/v1", tmp_path)
    for ask in (asked.check, lambda: asked.decide([QUESTION])):
        with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
            ask()
    monkeypatch.setenv("JUDGE_KEY", "two words")
    with pytest.raises(ConfigError) as refused:
        asked.check()
    assert "two words" not in str(refused.value)
    judge("http://127.0.0.1:9/v1", tmp_path, api_key_env=None).check()


def test_key_is_stripped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUDGE_KEY", "abcdef123\n")
    with serving(decides("yes")) as server:
        judge(server.url, tmp_path).decide([QUESTION])
        assert server.headers[0]["Authorization"] == "Bearer abcdef123"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": " "},
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://host/v1"},
        {"base_url": "http://"},
        {"max_concurrency": 0},
        {"deadline_s": 0.0},
        {"timeout_s": float("nan")},
        {"temperature": -1.0},
        {"max_answer_tokens": 0},
        {"max_unscored": 1.5},
        {"min_questions": 0},
        {"max_cost": 1.0},
    ],
    ids=str,
)
def test_settings_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EndpointJudge(**({"model": "m"} | wrong))


def test_endpoint_judge_runs_inside_a_loop(tmp_path: Path) -> None:
    """A notebook's cell is one."""
    import asyncio

    async def cell() -> str | None:
        return judge(server.url, tmp_path).decide([QUESTION])[0].option

    with serving(decides("yes")) as server:
        assert asyncio.run(cell()) == "yes"


def test_prices_are_read_from_yaml() -> None:
    """Prices are a record in YAML."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EndpointJudge, "judge")
    text = yaml.safe_dump({"judge": {"model": "m", "prices": {"input": 2, "output": 8}, "max_cost": 5}})
    made = parser.instantiate_classes(parser.parse_string(text)).judge
    assert made.tally.prices == Prices(input=2.0, output=8.0)


def test_cached_answers_count_in_the_share(tmp_path: Path) -> None:
    """What a server never decides is all that is asked once the rest is in the cache; it is still a small share."""

    def filters(handler: Handler, body: dict[str, Any]) -> None:
        filtered = 'brick 7"' in body["messages"][-1]["content"]
        handler.send(200, completion("yes", finish_reason="content_filter" if filtered else "stop"))

    with serving(filters) as server:
        asked = judge(server.url, tmp_path, min_questions=20)
        for _ in range(22):
            found = asked.decide(questions(30))
            assert [one.option for one in found].count(None) == 1
    assert asked.counts.num_undecided == 22


def test_identity_has_the_servers_url_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for option in ("yes", "no"):
        with serving(decides(option)) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            (one,) = EndpointJudge("m", api_key_env="JUDGE_KEY", cache_dir=str(tmp_path)).decide([QUESTION])
            found.append(one.option)
    assert found == ["yes", "no"]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="without a user, password or query"):
        EndpointJudge("m", api_key_env="JUDGE_KEY", cache_dir=str(tmp_path)).decide([QUESTION])


def test_endpoint_judge_limits_concurrency_over_threads(tmp_path: Path) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def counts(handler: Handler, body: dict[str, Any]) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        handler.send(200, completion('{"option": "yes"}'))

    with serving(counts) as server:
        asked = judge(server.url, tmp_path, max_concurrency=2, deadline_s=20.0, timeout_s=10.0)
        threads = [
            threading.Thread(target=asked.decide, args=(questions(16)[part],)) for part in (slice(8), slice(8, 16))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert asked.counts.num_questions == 16
    assert most[0] == 2


@pytest.mark.parametrize("word", ["eos", "end_turn", "stop_sequence"])
def test_finish_reasons_of_a_complete_reply(word: str, tmp_path: Path) -> None:
    with serving(says("yes", finish_reason=word)) as server:
        (found,) = judge(server.url, tmp_path).decide([QUESTION])
    assert found.option == "yes"


def test_max_answer_tokens_none_is_not_sent(tmp_path: Path) -> None:
    with serving(decides("yes")) as server:
        judge(server.url, tmp_path, max_answer_tokens=None, extra_body={"max_tokens": 9}).decide([QUESTION])
        (request,) = server.requests
    assert "max_completion_tokens" not in request
    assert request["max_tokens"] == 9
