"""What every judge must do; a new one needs a line in ``JUDGES``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from implementations import implementations
from test_grader_conformance import ODD

sys.path.append(str(Path(__file__).resolve().parents[1] / "scoring" / "judges"))
from faulty_server import Handler, completion, serving

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import Judge
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.judges import EndpointJudge, ModelJudge

YES_NO = JudgeQuestion(instruction="Is it red?", material=(("Thing", "a brick"),), options=("yes", "no"))
MARKS = JudgeQuestion(instruction="How red?", material=(("Thing", "a brick"),), options=("1", "2", "3", "4", "5"))
LONG = JudgeQuestion(instruction="Which?", material=(), options=("the first of all", "the second of all"))
MIXED = [YES_NO, MARKS, LONG, replace(YES_NO, instruction="Is it blue?"), replace(YES_NO, options=("no", "yes"))]


def answers_by_length(handler: Handler, body: dict[str, Any]) -> None:
    """An option that hangs on the question only."""
    options = body["response_format"]["json_schema"]["schema"]["properties"]["option"]["enum"]
    handler.send(200, completion(options[len(body["messages"][-1]["content"]) % len(options)]))


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving(answers_by_length) as server:
        yield server.url


Make = Callable[[Path, str, dict[str, Any]], Judge]
JUDGES: dict[str, Make] = {
    "model": lambda folder, url, settings: ModelJudge(Pretrained(source=str(folder)), device="cpu", **settings),
    "model, base style, small batches": lambda folder, url, settings: ModelJudge(
        Pretrained(source=str(folder)), style="base", device="cpu", max_batch_size=1, **settings
    ),
    "endpoint": lambda folder, url, settings: EndpointJudge("m", url, api_key_env=None, **settings),
}


def test_every_judge_is_registered(long_context: Path) -> None:
    missing = implementations(Judge) - {type(make(long_context, "http://h/v1", {})) for make in JUDGES.values()}
    assert not missing, f"add a line to JUDGES for {sorted(kind.__qualname__ for kind in missing)}"


@pytest.fixture(scope="module")
def long_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for a judge's question."""
    from fakes import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-judge", max_length=2048)


@pytest.fixture(params=JUDGES)
def judge(request: pytest.FixtureRequest, long_context: Path, server_url: str, tmp_path: Path) -> Judge:
    return JUDGES[request.param](long_context, server_url, {"cache_dir": str(tmp_path), "max_unscored": 1.0})


def assert_sound(judgement: Judgement, question: JudgeQuestion) -> None:
    assert judgement.option is None or judgement.option in question.options
    assert judgement.option is not None or judgement.reason
    if judgement.probabilities is not None:
        assert len(judgement.probabilities) == len(question.options)
        assert sum(judgement.probabilities) == pytest.approx(1.0)
        assert judgement.probabilities[question.options.index(judgement.option or "")] == max(judgement.probabilities)


def close(one: Judgement, other: Judgement) -> bool:
    same = one.option == other.option and one.reason == other.reason
    return same and (one.probabilities or ()) == pytest.approx(other.probabilities or (), abs=1e-5)


def test_judge_decides_nothing_for_no_question(judge: Judge) -> None:
    assert list(judge.decide([])) == []
    judge.check()


def test_judge_decides_in_order(judge: Judge) -> None:
    judgements = judge.decide(MIXED)
    assert len(judgements) == len(MIXED)
    for judgement, question in zip(judgements, MIXED, strict=True):
        assert judgement.option is not None
        assert_sound(judgement, question)


def test_judge_decision_depends_on_its_question_only(
    request: pytest.FixtureRequest, long_context: Path, server_url: str
) -> None:
    for make in JUDGES.values():
        uncached = make(long_context, server_url, {"use_cache": False})
        together = uncached.decide(MIXED)
        assert all(map(close, uncached.decide(MIXED[::-1]), together[::-1]))
        assert all(close(uncached.decide([question])[0], one) for question, one in zip(MIXED, together, strict=True))


def test_judge_repeats_its_decisions(judge: Judge) -> None:
    first = judge.decide(MIXED)
    counts = judge.counts
    assert counts is not None
    assert counts.num_cached == 0
    assert judge.decide(MIXED) == first
    again = judge.counts
    assert again is not None
    assert (again.num_questions, again.num_cached) == (2 * len(MIXED), len(MIXED))
    assert again.num_requests == counts.num_requests


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_no_text_makes_it_raise(judge: Judge, text: str) -> None:
    odd = replace(YES_NO, material=(("Thing", text), (text[:50] or "Other", "x")))
    before, judgement, after = judge.decide([MIXED[0], odd, MIXED[1]])
    assert_sound(judgement, odd)
    assert before.option is not None
    assert after.option is not None


def test_judge_question_needs_two_options() -> None:
    for options in ((), ("yes",), ("yes", "yes"), ("yes", "")):
        with pytest.raises(ConfigError):
            replace(YES_NO, options=options)
