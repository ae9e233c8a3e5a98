"""Exams of an adaptation: on its documents, on those of earlier adaptations, and on general knowledge (the probe)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.adapt.record import ConditionScores, ExamRecord, questions_sha256
from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import ExamScores, Measurement
from seal_lightning.core.errors import RunError
from seal_lightning.core.estimates import Estimate, estimate
from seal_lightning.domains.knowledge import Passage, Question
from seal_lightning.evaluation.reference_exams import is_finite
from seal_lightning.models.lora import LoraAdapter

PROBE_FILE = Path(__file__).with_name("general_knowledge.jsonl")
"""48 questions of general knowledge, a probe of forgetting; one per line: ``id``, ``question``, four ``choices`` and the
index of the right one as ``answer``."""
BEFORE, PASSAGES_ONLY, ADAPTED = "before", "passages only", "adapted"
"""Names of the conditions."""


@dataclass(frozen=True, kw_only=True)
class StoredExam:
    """A passage's questions in one exam, stored so that a later adaptation can repeat the exam."""

    exam: str
    """The exam's name."""
    by: str
    """The author of the questions."""
    passage: Passage


@dataclass(frozen=True, kw_only=True)
class ExamCondition:
    """A model that takes an exam."""

    name: str
    adapter: LoraAdapter | None
    required: bool = True
    """Whether log-probabilities that are not finite are an error; if not, the condition is skipped."""


def probe_exam() -> list[StoredExam]:
    """Return the probe, each question as a passage of its own, so that standard errors are over questions.

    A passage's context is the question itself and is never shown: nothing is adapted to the probe.
    """
    rows = [json.loads(line) for line in PROBE_FILE.read_text(encoding="utf-8").splitlines()]
    return [
        StoredExam(
            exam="probe",
            by="this package",
            passage=Passage(
                task_id=f"probe-{row['id']}",
                title="General knowledge",
                context=row["question"],
                questions=(
                    Question(question_id=row["id"], question=row["question"], answers=(row["choices"][row["answer"]],)),
                ),
            ),
        )
        for row in rows
    ]


def exam_record(
    exam: Sequence[StoredExam],
    runner: AttemptRunner,
    conditions: Sequence[ExamCondition],
    needs: frozenset[Measurement],
) -> ExamRecord:
    """Give one exam under all conditions; gains are relative to the first one.

    Raises :class:`RunError` if a required condition's log-probabilities are not finite.
    """
    scores = runner.examine([(one.passage, condition.adapter) for condition in conditions for one in exam], needs)
    by_condition: dict[str, list[ExamScores]] = {}
    for index, condition in enumerate(conditions):
        of_condition = scores[index * len(exam) : (index + 1) * len(exam)]
        if all(is_finite(one) for one in of_condition):
            by_condition[condition.name] = of_condition
        elif condition.required:
            raise RunError(
                f"the exam {exam[0].exam!r} has log-probabilities that are not finite under {condition.name!r}. Lower the "
                "learning rate, or change model.pretrained.dtype, with another --out"
            )
    first, control = by_condition[conditions[0].name], by_condition.get(PASSAGES_ONLY)
    return ExamRecord(
        name=exam[0].exam,
        num_questions=sum(len(one.passage.questions) for one in exam),
        num_passages=len(exam),
        by=exam[0].by,
        questions_sha256=questions_sha256(
            (one.passage.title, q.question, q.answers[0]) for one in exam for q in one.passage.questions
        ),
        scores=tuple(
            ConditionScores(
                condition=name,
                log_prob=_mean([one.log_prob for one in found]),
                accuracy=_mean([one.accuracy for one in found]),
                gain=None if name == BEFORE else _paired(found, first),
                over_control=None if control is None or name != ADAPTED else _paired(found, control),
            )
            for name, found in by_condition.items()
        ),
    )


def by_exam(stored: Sequence[StoredExam]) -> list[list[StoredExam]]:
    """Group stored passages by exam, in their order."""
    exams: dict[str, list[StoredExam]] = {}
    for one in stored:
        exams.setdefault(one.exam, []).append(one)
    return list(exams.values())


def _paired(ours: Sequence[ExamScores], theirs: Sequence[ExamScores]) -> Estimate | None:
    """Estimate our log-probability minus theirs, passage by passage."""
    pairs = [(a.log_prob, b.log_prob) for a, b in zip(ours, theirs, strict=True)]
    return estimate([a - b for a, b in pairs if a is not None and b is not None])


def _mean(values: Sequence[float | None]) -> Estimate | None:
    """Estimate the mean over the passages that were measured."""
    return estimate([value for value in values if value is not None])
