"""The reward that adapts nothing: a judge reads the edit and marks it (the proxy reward of the paper's second version)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seal_lightning.core import Attempt, Judgement, JudgeQuestion, Measurement, Rating, RewardScore
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import Judge, Rater, Reward
from seal_lightning.scoring.judges.cached_judge import decided_by
from seal_lightning.scoring.rewards.finite import finite_score

MARKS = ("1", "2", "3", "4", "5")

CRITERIA: Mapping[str, str] = {
    "length": "how much the text says: 1 is a fragment, 5 is as long as the passage gives reason for",
    "diversity": "how much its statements differ from each other: 1 says one thing again and again, 5 never repeats itself",
    "quality": "how clearly it is written, and how well each statement is understood by someone who has not seen the "
    "passage: 1 is unreadable, 5 needs no change",
    "correctness": "how far the passage bears it out: 1 contradicts the passage or invents, 5 has nothing that does not "
    "follow from it",
}
"""The paper's four, in our words."""

INSTRUCTION = (
    "A text was written to teach a model what a passage says. Mark the text from 1 (worst) to 5 (best) for its {name}: "
    "{meaning}. Look at nothing else."
)


class Rubric(Rater):
    """Marks of a judge, 1 to 5, one a criterion.

    Args:
        judge: Who gives them.
        criteria: By name, what is marked and what the marks mean.
        instruction: What the judge is told; ``{name}`` and ``{meaning}`` become a criterion's.
        expected: Take the mean of the marks by the judge's probabilities, where it gives any; else its decision.
        max_chars: Of the passage and of the text; what is longer is cut.
    """

    def __init__(
        self, judge: Judge, criteria: Mapping[str, str], instruction: str, expected: bool, max_chars: int
    ) -> None:
        self.judge = judge
        self.criteria = criteria
        self.instruction = instruction
        self.expected = expected
        self.max_chars = max_chars
        self.in_background = judge.in_background

    def rate(self, contexts: Sequence[str], edits: Sequence[str]) -> Sequence[Rating]:
        """All criteria of all edits in one call of the judge; a criterion without a decision fails the edit's rating."""
        questions = [
            self._question(name, context, edit)
            for context, edit in zip(contexts, edits, strict=True)
            for name in self.criteria
        ]
        decided = decided_by(self.judge, questions)
        judgements = [decided[question] for question in questions]
        size = len(self.criteria)
        return [self._rating(judgements[i : i + size]) for i in range(0, len(judgements), size)]

    def _question(self, name: str, context: str, edit: str) -> JudgeQuestion:
        asked = self.instruction.replace("{name}", name).replace("{meaning}", self.criteria[name])
        material = (("Passage", context[: self.max_chars]), ("Text", edit[: self.max_chars]))
        return JudgeQuestion(instruction=asked, material=material, options=MARKS)

    def _rating(self, judgements: Sequence[Judgement]) -> Rating:
        marks: dict[str, float] = {}
        failure = None
        for name, judgement in zip(self.criteria, judgements, strict=True):
            if judgement.option is None:
                failure = failure or f"judge undecided: {name}: {judgement.reason or 'no reason given'}"
            elif self.expected and judgement.probabilities is not None:
                marks[name] = sum(p * int(mark) for p, mark in zip(judgement.probabilities, MARKS, strict=True))
            else:
                marks[name] = float(judgement.option)
        return Rating(marks=marks, failure=failure)


class RubricReward(Reward):
    """The sum of a judge's marks of the edit, 4 to 20 with the paper's four criteria (v2's proxy reward).

    No adapter is trained and no exam is sat. In the paper one E-step took about 5 minutes instead of about 6 hours, and
    accuracy was 45.6 instead of 47.0. A judge that is asked elsewhere marks one chunk of edits while the next is at work.

    Args:
        judge: Who marks.
        criteria: By name, what is marked and what the marks 1 to 5 mean; at least one.
        instruction: What the judge is told; ``{name}`` and ``{meaning}`` become a criterion's.
        expected: Take the mean of the marks by the judge's probabilities, where it gives any: fewer ties, less noise.
        max_chars: ≥ 1, of the passage and of the edit; what is longer is cut.
        name: What the marks are stored under; another rubric of the same run needs another one.

    Raises:
        ConfigError: A setting is out of bounds.

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
        if not criteria or not all(key.strip() and meaning.strip() for key, meaning in criteria.items()):
            raise ConfigError(
                f"RubricReward: criteria is {shown(criteria)}; it must have at least one name, each with what it means"
            )
        if max_chars < 1:
            raise ConfigError(f"RubricReward: max_chars is {shown(max_chars)}; allowed is 1 or more")
        self.name = name
        self.rubric = Rubric(judge, criteria, instruction, expected, max_chars)

    @property
    def needs(self) -> frozenset[Measurement]:
        """Nothing of the adapted model."""
        return frozenset()

    @property
    def raters(self) -> Mapping[str, Rater]:
        """The rubric."""
        return {self.name: self.rubric}

    def score(self, attempt: Attempt) -> RewardScore:
        """None when the judge left a criterion undecided. The breakdown has each criterion's mark."""
        rating = attempt.ratings.get(self.name)
        if rating is None:
            return RewardScore(value=None)
        whole = rating.failure is None and rating.marks.keys() == self.rubric.criteria.keys()
        score = finite_score(sum(rating.marks.values()) if whole else None, rating.marks)
        return RewardScore(value=score.value, breakdown=score.breakdown, reason=rating.failure)
