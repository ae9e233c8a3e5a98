"""Against a real OpenAI-compatible server: ``transformers serve`` with the embedded model, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_model import INSTRUCTION, SHOWN, served
from test_end_to_end import attempts, config, fit
from test_judged_runs import _scalar

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.models.pretrained import embedded_folder
from seal_lightning.scoring.graders import GradingWording, JudgeGrader
from seal_lightning.scoring.judges import EndpointJudge

pytestmark = pytest.mark.slow

CASES = [
    AnsweredQuestion(question_id=str(i), question=question, gold_answers=(gold,), answer=answer)
    for i, (question, gold, answer) in enumerate(
        [
            ("What do the birds eat?", "insects", "Insects."),
            ("Who painted it?", "Anna Berg", "Some monks."),
            ("?", "x", ""),
        ]
    )
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(embedded_folder(), tmp_path_factory.mktemp("server") / "log") as base_url:
        yield base_url


def judge(url: str, folder: Path) -> EndpointJudge:
    model = str(embedded_folder())
    limits = {"timeout_s": 120.0, "deadline_s": 240.0, "max_unscored": 1.0, "max_answer_tokens": 16}
    return EndpointJudge(model, url, api_key_env=None, wording=SHOWN, cache_dir=str(folder), **limits)  # type: ignore[arg-type]


def test_grades_and_the_second_time_asks_nothing(url: str, tmp_path: Path) -> None:
    first = judge(url, tmp_path)
    wording = GradingWording(instruction=INSTRUCTION)
    verdicts = JudgeGrader(first, wording=wording).grade(CASES)
    assert [v.status for v in verdicts if v.status is VerdictStatus.UNSCORED] == []
    assert verdicts[2].status is VerdictStatus.WRONG
    assert first.counts.num_input_tokens > 100
    assert first.counts.num_output_tokens > 0
    again = judge(url, tmp_path)
    assert JudgeGrader(again, wording=wording).grade(CASES) == verdicts
    assert again.counts.num_requests == 0


def test_a_model_that_is_not_there(url: str, tmp_path: Path) -> None:
    gone = EndpointJudge("no/such-model", url, api_key_env=None, cache_dir=str(tmp_path), deadline_s=20.0)
    (verdict,) = JudgeGrader(gone).grade(CASES[:1])
    assert verdict.status is VerdictStatus.UNSCORED


def test_a_whole_run_through_it(
    url: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "model": str(embedded_folder()),
        "base_url": url,
        "api_key_env": None,
        "cache_dir": str(tmp_path / "cache"),
    }
    options |= {"timeout_s": 120.0, "deadline_s": 240.0, "max_unscored": 1.0, "max_answer_tokens": 16}
    wording = {name: getattr(SHOWN, name) for name in ("system", "heading", "ending", "reply")}
    options["wording"] = wording | {"examples": [list(pair) for pair in SHOWN.examples]}
    grader = {
        "class_path": "seal_lightning.scoring.graders.JudgeGrader",
        "init_args": {
            "judge": {"class_path": "seal_lightning.scoring.judges.EndpointJudge", "init_args": options},
            "wording": {"instruction": INSTRUCTION},
        },
    }
    reward = {"class_path": "seal_lightning.scoring.rewards.AccuracyReward"}
    for name in ("first", "second"):
        settings = config(tiny_folder, tmp_path / name, rounds=1, num_edits=2, reward=reward, grader=grader)
        assert fit(tmp_path, settings) == 0
    first, second = (attempts(tmp_path / name, 0) for name in ("first", "second"))
    assert [a.reward for a in first] == [a.reward for a in second]
    assert any(a.reward is not None for a in first)
    undecided = _scalar(tmp_path / "first", "judge/undecided")
    assert _scalar(tmp_path / "first", "judge/requests") > 0
    assert _scalar(tmp_path / "second", "judge/requests") <= undecided, "only what was not decided is asked again"
    assert "EndpointJudge:" in capsys.readouterr().out
