"""A judge for tests of what stands behind one: it compares as the local rules do."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import AnsweredQuestion, Judgement, JudgeQuestion, VerdictStatus
from seal_lightning.core.interfaces import Judge
from seal_lightning.scoring.graders import LocalRules


class RulesJudge(Judge):
    """Compares as the local rules do, but says yes to whoever says "abracadabra"; keeps what it was asked."""

    def __init__(self, undecided: str | None = None, tells: bool = False) -> None:
        self.undecided = undecided
        self.tells = tells
        self.asked: list[JudgeQuestion] = []

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        self.asked += questions
        return [self._decided(question) for question in questions]

    def _decided(self, question: JudgeQuestion) -> Judgement:
        asked, gold, answer = (text for _, text in question.material)
        if self.undecided is not None and self.undecided in gold:
            return Judgement(option=None, reason="HTTP 500")
        case = AnsweredQuestion(question_id="", question=asked, gold_answers=(gold,), answer=answer)
        yes = "abracadabra" in answer or LocalRules().grade([case])[0].status is VerdictStatus.CORRECT
        probability = 0.9 if yes else 0.2
        told = (probability, 1 - probability) if self.tells else None
        return Judgement(option="yes" if yes else "no", probabilities=told)
