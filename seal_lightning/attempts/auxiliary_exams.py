"""The exams a reward needs beside the task's own: prepared and run once per task without adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempts.exam_runner import DomainCache, ExamRun, ExamRunner, grade_exams, paper_scores
from seal_lightning.core import Adapter, Attempt, AuxiliaryExam, ExamRequest, ExamScores, Task
from seal_lightning.core.interfaces import ExamBuilder, Grader


@dataclass(frozen=True, kw_only=True)
class PreparedExam:
    """An auxiliary exam of one task, before any attempt."""

    paper: ExamRequest
    before: ExamScores | None = None

    @property
    def record(self) -> AuxiliaryExam:
        """The exam as an attempt stores it, without scores after adaptation."""
        return AuxiliaryExam(before=self.before, questions=self.paper.questions, failure=self.paper.failure)


Prepared = Mapping[str, Mapping[str, PreparedExam]]
"""By task id and examiner."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryExams:
    """Prepares auxiliary exams."""

    exams: ExamRunner
    cache: DomainCache
    exam_builders: Mapping[str, ExamBuilder]
    """By name."""

    def prepare(
        self,
        tasks: Sequence[Task],
        seeds: Mapping[tuple[str, str], int],
        stored: Mapping[str, Mapping[str, AuxiliaryExam]],
        grader: Grader,
    ) -> dict[str, dict[str, PreparedExam]]:
        """Return the exams with their scores without adaptation, by task id and examiner.

        Args:
            tasks: the tasks that edits are tried on.
            seeds: by (examiner's name, task id).
            stored: what attempts of the round have stored, by task id and examiner: it is used again.
            grader: grades answers.
        """
        prepared: dict[str, dict[str, PreparedExam]] = {task.task_id: {} for task in tasks}
        for name, examiner in self.exam_builders.items():
            known = {task_id: exams[name] for task_id, exams in stored.items() if name in exams}
            papers = self._papers(examiner, tasks, {task.task_id: seeds[name, task.task_id] for task in tasks}, known)
            before = self._before(examiner, tasks, papers, known, grader)
            for task, paper, scores in zip(tasks, papers, before, strict=True):
                prepared[task.task_id][name] = PreparedExam(paper=paper, before=scores)
        return prepared

    @staticmethod
    def _papers(
        examiner: ExamBuilder, tasks: Sequence[Task], seeds: Mapping[str, int], known: Mapping[str, AuxiliaryExam]
    ) -> Sequence[ExamRequest]:
        if examiner.same_for_all_tasks:
            return examiner.build(tasks, seeds)
        stored: dict[str, ExamRequest] = {}
        for task in tasks:
            if (exam := known.get(task.task_id)) is not None and exam.failure is not None:
                stored[task.task_id] = ExamRequest(failure=exam.failure)
            elif exam is not None and exam.questions:
                stored[task.task_id] = examiner.rebuild(task, exam.questions)
        # Where one paper is missing the whole batch is written, as for edits, so that a resumed run writes the same ones.
        written = examiner.build(tasks, seeds) if len(stored) < len(tasks) else [stored[t.task_id] for t in tasks]
        return [stored.get(task.task_id, paper) for task, paper in zip(tasks, written, strict=True)]

    def _before(
        self,
        examiner: ExamBuilder,
        tasks: Sequence[Task],
        papers: Sequence[ExamRequest],
        known: Mapping[str, AuxiliaryExam],
        grader: Grader,
    ) -> list[ExamScores | None]:
        if examiner.same_for_all_tasks:  # in a separate call, so that scores do not depend on other tasks
            stored = (exam.before for exam in known.values() if exam.before is not None)
            scores = next(stored, None) or self._unadapted(examiner, papers[:1], grader)[0]
            return [scores] * len(tasks)
        old = [known.get(task.task_id, AuxiliaryExam()).before for task in tasks]
        if all(scores is not None or not paper.tasks for scores, paper in zip(old, papers, strict=True)):
            return old
        measured = self._unadapted(examiner, papers, grader)
        return [scores if scores is not None else new for scores, new in zip(old, measured, strict=True)]

    def _unadapted(
        self, examiner: ExamBuilder, papers: Sequence[ExamRequest], grader: Grader
    ) -> list[ExamScores | None]:
        requests = [self.requests(examiner, paper, None) for paper in papers]
        answers = self.exams.run([one for of_paper in requests for one in of_paper])
        scores = iter(grade_exams(answers, grader))
        return [
            paper_scores(paper, [next(scores) for _ in of_paper])
            for paper, of_paper in zip(papers, requests, strict=True)
        ]

    def requests(self, examiner: ExamBuilder, paper: ExamRequest, adapter: Adapter | None) -> list[ExamRun]:
        """Return one exam request per task of a paper."""
        return [
            ExamRun(task=task, prompts=self.cache.exam(task), adapter=adapter, needs=examiner.needs)
            for task in paper.tasks
        ]


def stored_exams(attempts: Iterable[Attempt]) -> dict[str, dict[str, AuxiliaryExam]]:
    """Return the auxiliary exams that attempts have stored, by task id and examiner, without scores after adaptation."""
    known: dict[str, dict[str, AuxiliaryExam]] = {}
    for attempt in attempts:
        for name, exam in attempt.auxiliary_exams.items():
            known.setdefault(attempt.task_id, {}).setdefault(name, replace(exam, after=None))
    return known
