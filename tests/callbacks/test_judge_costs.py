"""Which judges a run has, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from rules_judge import RulesJudge

from seal_lightning.callbacks.judge_costs import _total, in_words, judges_of
from seal_lightning.core import JudgeCounts
from seal_lightning.scoring.graders import JudgeGrader, LocalRules
from seal_lightning.scoring.rewards import AccuracyReward


class Both(LocalRules):
    """Asks one judge, then others."""

    def __init__(self, *judges: Any) -> None:
        super().__init__()
        self.first = JudgeGrader(judges[0])
        self.others = {"more": [Part(judge=judges[1]), Part(judge=judges[0])]}
        self.myself = self


@dataclass
class Part:
    judge: RulesJudge


def test_judges_of_finds_every_judge_once() -> None:
    one, other = RulesJudge(), RulesJudge()
    module = cast(Any, SimpleNamespace(grader=Both(one, other), reward=AccuracyReward()))
    assert judges_of(module) == [one, other]
    assert judges_of(cast(Any, SimpleNamespace(grader=LocalRules(), reward=AccuracyReward()))) == []


def test_in_words_lists_the_counts() -> None:
    counts = JudgeCounts(
        num_questions=40,
        num_cached=10,
        num_undecided=2,
        num_requests=33,
        num_unmetered=1,
        num_input_tokens=3000,
        num_output_tokens=60,
        cost=0.5,
        reasons=(("HTTP 500", 2),),
    )
    words = in_words(counts)
    for part in ("40 questions, 10 of them from the cache", "2 undecided (5.0%; unscored, not wrong): 2 × HTTP 500"):
        assert part in words
    for part in ("33 requests for 30 questions", "3000 tokens in, 60 out", "1 replies without", "cost 0.5000"):
        assert part in words
    assert _total([counts, counts]).num_questions == 80
    assert _total([counts, counts]).cost == 1.0
    assert _total([JudgeCounts()]).cost is None
