"""One stored attempt, whole, as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator

from seal_lightning.core import Attempt, AuxiliaryExam, ExamScores, QuestionScore


def attempt_lines(attempt: Attempt) -> Iterator[str]:
    """One attempt whole. What a model wrote is indented, so that it cannot be taken for our lines."""
    edit, plan = attempt.edit, attempt.plan
    yield f"attempt     {attempt.attempt_id}"
    yield f"of          task {attempt.task_id}, round {attempt.round}, edit {edit.edit_index}, repeat {attempt.repeat}"
    yield f"status      {attempt.status.value}"
    if attempt.failure is not None:
        yield f"failure     {attempt.failure}"
    parts = ", ".join(f"{name} {value:.6g}" for name, value in attempt.reward_breakdown.items())
    yield f"reward      {_number(attempt.reward)}{f'  ({parts})' if parts else ''}"
    if plan is not None:
        dropped = f" ({plan.dropped_sequences} dropped)" if plan.dropped_sequences else ""
        yield (
            f"plan        {plan.num_sequences} sequences{dropped}, {plan.num_steps} steps, {plan.num_tokens} tokens, "
            f"learning rate {plan.learning_rate:g}, rank {plan.rank}"
        )
    yield f"final loss  {_number(attempt.final_loss)}"
    yield f"seconds     {attempt.adapt_seconds:.3f} adapting, {attempt.examine_seconds:.3f} examining"
    yield f"seeds       {attempt.seed} inner loop, {edit.seed} edit"
    yield from _exam_lines(attempt.before, attempt.after)
    for name, exam in attempt.auxiliary_exams.items():
        yield from _further_lines(name, exam)
    for name, rating in attempt.ratings.items():
        marks = ", ".join(f"{criterion} {mark:g}" for criterion, mark in rating.marks.items())
        yield f"rating      {name}: {marks or 'no marks'}{f' ({rating.failure})' if rating.failure else ''}"
    yield f"directives  {json.dumps(edit.directives, ensure_ascii=False) if edit.directives else 'none'}"
    ended = f", ended by {edit.finish_reason.value}" if edit.finish_reason is not None else ""
    yield f"edit        {len(edit.text)} characters, {len(edit.token_ids)} tokens{ended}"
    yield from (f"    {line}" for line in edit.text.split("\n"))


def _further_lines(name: str, exam: AuxiliaryExam) -> Iterator[str]:
    """An exam that the reward wanted beside the task's own."""
    failure = f": {exam.failure}" if exam.failure is not None else ""
    yield f"exam        {name}{failure}"
    for number, (question, answer) in enumerate(exam.questions, start=1):
        yield f"    {number}. {question!r} {answer!r}"
    yield from (f"    {line}" for line in _exam_lines(exam.before, exam.after))


def _exam_lines(before: ExamScores | None, after: ExamScores | None) -> Iterator[str]:
    by_question: dict[str, list[tuple[str, QuestionScore]]] = {}
    for when, exam in (("before", before), ("after", after)):
        for score in exam.questions if exam is not None else ():
            by_question.setdefault(score.question_id, []).append((when, score))
    for question_id, scores in by_question.items():
        yield f"question    {question_id}"
        for when, score in scores:
            yield f"    {when:<6}  {'  '.join(_score_parts(score)) or 'nothing measured'}"


def _score_parts(score: QuestionScore) -> Iterator[str]:
    if score.log_prob is not None:
        yield f"log-prob {score.log_prob:.4f} over {score.num_target_tokens} tokens"
    if score.exact_match is not None:
        yield f"exact match {score.exact_match:g}"
    if score.f1 is not None:
        yield f"F1 {score.f1:.3f}"
    if score.verdict is not None:
        yield f"{score.verdict.status.value}{f' ({score.verdict.reason})' if score.verdict.reason else ''}"
    if score.answer is not None:
        yield f"answer {score.answer!r}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
