"""The reward without adaptation: a judge reads and marks the edit (the proxy reward of the paper's second version)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Attempt, Judgement, JudgeQuestion, Measurement, Rating, RewardScore
from seal_lightning.core.errors import require
from seal_lightning.core.interfaces import Judge, Rater, Reward
from seal_lightning.scoring.judges.cached_judge import decided_by
from seal_lightning.scoring.rewards.exam_rewards import finite_score

MARKS = ("1", "2", "3", "4", "5")

CRITERIA: Mapping[str, str] = {
    "length": "how much the text says: 1 is a fragment, 5 is as long as the passage gives reason for",
    "diversity": "how much its statements differ from each other: 1 says one thing again and again, 5 never repeats itself",
    "quality": "how clearly it is written, and how well each statement is understood by someone who has not seen the "
    "passage: 1 is unreadable, 5 needs no change",
    "correctness": "how far the passage bears it out: 1 contradicts the passage or invents, 5 has nothing that does not "
    "follow from it",
}
"""The paper's four criteria, in our words."""

INSTRUCTION = (
    "A text was written to teach a model what a passage says. Mark the text from 1 (worst) to 5 (best) for its {name}: "
    "{meaning}. Look at nothing else."
)


class RubricReward(Reward, Rater):
    """Sum of a judge's marks of the edit, 4 to 20 with the paper's four criteria (v2's proxy reward).

    No adapter is trained and no exam evaluated. In the paper one E-step took about 5 minutes instead of about 6 hours, and
    accuracy was 45.6 instead of 47.0. A remote judge marks one chunk of edits while the next is computed.

    Args:
        judge: gives the marks.
        criteria: by name, the meaning of the marks 1 to 5; at least one.
        instruction: to the judge; ``{name}`` and ``{meaning}`` are replaced by a criterion's.
        expected: take the mean of the marks by the judge's probabilities, where it gives any: fewer ties, less noise.
        max_chars: ≥ 1, characters read of the passage and of the edit.
        name: of the marks in stored attempts; unique in the run.

    Raises:
        ConfigError: a setting is out of bounds.

    Example:
        >>> from seal_lightning.scoring.judges import ModelJudge
        >>> RubricReward(ModelJudge(), criteria={"clarity": "1 is unreadable, 5 needs no change"}).adapts
        False
    """

    def __init__(
        self,
        judge: Judge,
        criteria: dict[str, str] | None = None,
        instruction: str = INSTRUCTION,
        expected: bool = True,
        max_chars: int = 40_000,
        name: str = "rubric",
    ) -> None:
        criteria = dict(CRITERIA) if criteria is None else criteria
        complete = bool(criteria) and all(key.strip() and meaning.strip() for key, meaning in criteria.items())
        require(complete, "RubricReward.criteria", criteria, "at least one name, each with its meaning")
        require(max_chars >= 1, "RubricReward.max_chars", max_chars, "at least 1")
        self.judge = judge
        self.criteria = criteria
        self.instruction = instruction
        self.expected = expected
        self.max_chars = max_chars
        self.name = name
        self.in_background = judge.in_background

    @property
    def needs(self) -> frozenset[Measurement]:
        """No measurement of the adapted model."""
        return frozenset()

    @property
    def raters(self) -> Mapping[str, Rater]:
        """The rubric itself."""
        return {self.name: self}

    def rate(self, contexts: Sequence[str], edits: Sequence[str]) -> Sequence[Rating]:
        """Return one rating per edit, by one call of the judge; an undecided criterion fails the edit's rating."""
        rows = [
            {name: self._question(name, context, edit) for name in self.criteria}
            for context, edit in zip(contexts, edits, strict=True)
        ]
        decided = decided_by(self.judge, [question for row in rows for question in row.values()])
        return [self._rating({name: decided[question] for name, question in row.items()}) for row in rows]

    def _question(self, name: str, context: str, edit: str) -> JudgeQuestion:
        instruction = self.instruction.replace("{name}", name).replace("{meaning}", self.criteria[name])
        material = (("Passage", context[: self.max_chars]), ("Text", edit[: self.max_chars]))
        return JudgeQuestion(instruction=instruction, material=material, options=MARKS)

    def _rating(self, judgements: Mapping[str, Judgement]) -> Rating:
        marks: dict[str, float] = {}
        failure = None
        for name, judgement in judgements.items():
            if judgement.option is None:
                failure = failure or f"judge undecided: {name}: {judgement.reason or 'no reason given'}"
            elif self.expected and judgement.probabilities is not None:
                marks[name] = sum(p * int(mark) for p, mark in zip(judgement.probabilities, MARKS, strict=True))
            else:
                marks[name] = float(judgement.option)
        return Rating(marks=marks, failure=failure)

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when the judge left a criterion undecided. The breakdown has each criterion's mark."""
        rating = attempt.ratings.get(self.name)
        if rating is None:
            return RewardScore(value=None)
        complete = rating.failure is None and rating.marks.keys() == self.criteria.keys()
        score = finite_score(sum(rating.marks.values()) if complete else None, rating.marks)
        return replace(score, reason=rating.failure)
