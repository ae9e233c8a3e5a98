"""The exams of an adaptation: what was learned, what is left of earlier documents, and what was forgotten elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.adapt.record import ConditionScores, ExamRecord, questions_sha256
from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import ExamScores, Measurement
from seal_lightning.core.errors import RunError
from seal_lightning.core.estimates import Estimate, estimate
from seal_lightning.domains.knowledge import Passage
from seal_lightning.evaluation.unadapted_exams import is_finite
from seal_lightning.models.lora import LoraAdapter

BEFORE, CONTROL, ADAPTED = "before", "passages only", "adapted"
"""Conditions."""


@dataclass(frozen=True, kw_only=True)
class StoredExam:
    """A passage's questions of one exam, kept so that a later adaptation can ask them again."""

    exam: str
    """The exam's name."""
    by: str
    """Who wrote the questions."""
    passage: Passage


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A way to meet an exam."""

    name: str
    adapter: LoraAdapter | None
    required: bool = True
    """Whether an exam without finite log-probabilities is an error, and not left out."""


def sat(
    exam: Sequence[StoredExam],
    runner: AttemptRunner,
    conditions: Sequence[Condition],
    needs: frozenset[Measurement],
) -> ExamRecord:
    """One exam under all conditions; the first one is what gains are measured against.

    Raises :class:`RunError` where a required condition's log-probabilities are not finite.
    """
    seats = [(stored.passage, condition.adapter) for condition in conditions for stored in exam]
    scores = runner.examine(seats, needs)
    by_condition: dict[str, list[ExamScores]] = {}
    for place, condition in enumerate(conditions):
        of_condition = scores[place * len(exam) : (place + 1) * len(exam)]
        if all(is_finite(one) for one in of_condition):
            by_condition[condition.name] = of_condition
        elif condition.required:
            raise RunError(
                f"{condition.name!r} gives log-probabilities that are not finite in the exam {exam[0].exam!r}. What was "
                "learned is kept in work/. Lower the learning rate, or change model.pretrained.dtype, with another --out"
            )
    first = by_condition[conditions[0].name]
    return ExamRecord(
        name=exam[0].exam,
        num_questions=sum(len(stored.passage.questions) for stored in exam),
        num_passages=len(exam),
        by=exam[0].by,
        questions_sha256=questions_sha256(
            (one.passage.title, q.question, q.answers[0]) for one in exam for q in one.passage.questions
        ),
        scores=tuple(_scores(name, found, first, by_condition.get(CONTROL)) for name, found in by_condition.items()),
    )


def by_exam(stored: Sequence[StoredExam]) -> dict[str, list[StoredExam]]:
    """The passages of each exam, in their order."""
    exams: dict[str, list[StoredExam]] = {}
    for one in stored:
        exams.setdefault(one.exam, []).append(one)
    return exams


def _scores(
    name: str, found: Sequence[ExamScores], before: Sequence[ExamScores], control: Sequence[ExamScores] | None
) -> ConditionScores:
    return ConditionScores(
        condition=name,
        log_prob=_mean([one.log_prob for one in found]),
        accuracy=_mean([one.accuracy for one in found]),
        gain=None if name == BEFORE else _paired(found, before),
        over_control=None if control is None or name != ADAPTED else _paired(found, control),
    )


def _paired(ours: Sequence[ExamScores], theirs: Sequence[ExamScores]) -> Estimate | None:
    pairs = [(a.log_prob, b.log_prob) for a, b in zip(ours, theirs, strict=True)]
    return estimate([a - b for a, b in pairs if a is not None and b is not None])


def _mean(values: Sequence[float | None]) -> Estimate | None:
    """Over passages; those that were not measured do not count."""
    return estimate([value for value in values if value is not None])


def seconds_by_phase(seconds: Mapping[str, float]) -> dict[str, float]:
    """To a tenth of a second."""
    return {name: round(spent, 1) for name, spent in seconds.items()}
