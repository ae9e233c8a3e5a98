"""The exams that a reward wants beside the task's own: set, and sat once without adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempts.exam_runner import Exams, Sitting, joined, scores_of
from seal_lightning.core import Adapter, Attempt, AuxiliaryExam, ExamPaper, ExamScores, Task
from seal_lightning.core.interfaces import Examiner, Grader


@dataclass(frozen=True, kw_only=True)
class SetExam:
    """A further exam of one task, before any attempt."""

    paper: ExamPaper
    before: ExamScores | None = None

    @property
    def stored(self) -> AuxiliaryExam:
        """As an attempt that has not sat it has it."""
        return AuxiliaryExam(before=self.before, questions=self.paper.questions, failure=self.paper.failure)


class AuxiliaryExams:
    """Sets and puts exams.

    Args:
        exams: how exams are put to the model.
        examiners: who sets them, by name.
    """

    def __init__(self, exams: Exams, examiners: Mapping[str, Examiner]) -> None:
        self.exams = exams
        self.examiners = examiners

    def set(
        self,
        tasks: Sequence[Task],
        seeds: Mapping[tuple[str, str], int],
        known: Mapping[str, Mapping[str, AuxiliaryExam]],
        grader: Grader,
    ) -> dict[str, dict[str, SetExam]]:
        """By task id and examiner, the exams with the scores without adaptation.

        Args:
            tasks: what attempts will be made at.
            seeds: by (examiner's name, task id).
            known: what attempts of the round have stored, by task id: it is not made again.
            grader: judges answers.
        """
        found: dict[str, dict[str, SetExam]] = {task.task_id: {} for task in tasks}
        for name, examiner in self.examiners.items():
            stored = {task_id: exams[name] for task_id, exams in known.items() if name in exams}
            papers = self._papers(examiner, tasks, {task.task_id: seeds[name, task.task_id] for task in tasks}, stored)
            before = self._before(examiner, tasks, papers, stored, grader)
            for task, paper, scores in zip(tasks, papers, before, strict=True):
                found[task.task_id][name] = SetExam(paper=paper, before=scores)
        return found

    @staticmethod
    def _papers(
        examiner: Examiner, tasks: Sequence[Task], seeds: Mapping[str, int], stored: Mapping[str, AuxiliaryExam]
    ) -> Sequence[ExamPaper]:
        if examiner.one_paper:
            return examiner.papers(tasks, seeds)
        again: dict[str, ExamPaper] = {}
        for task in tasks:
            if (exam := stored.get(task.task_id)) is not None and exam.failure is not None:
                again[task.task_id] = ExamPaper(failure=exam.failure)
            elif exam is not None and exam.questions:
                again[task.task_id] = examiner.paper_again(task, exam.questions)
        # As for edits: where one is to be made, all of the batch are made, so that a resumed run makes the same.
        made = examiner.papers(tasks, seeds) if len(again) < len(tasks) else [again[task.task_id] for task in tasks]
        return [again.get(task.task_id, paper) for task, paper in zip(tasks, made, strict=True)]

    def _before(
        self,
        examiner: Examiner,
        tasks: Sequence[Task],
        papers: Sequence[ExamPaper],
        stored: Mapping[str, AuxiliaryExam],
        grader: Grader,
    ) -> list[ExamScores | None]:
        if examiner.one_paper:  # in a call of its own: then it is the same whatever tasks are at hand
            known = (exam.before for exam in stored.values() if exam.before is not None)
            scores = next(known, None) or self._unadapted(examiner, papers[:1], grader)[0]
            return [scores] * len(tasks)
        old = [stored.get(task.task_id, AuxiliaryExam()).before for task in tasks]
        if all(scores is not None or not paper.tasks for scores, paper in zip(old, papers, strict=True)):
            return old
        measured = self._unadapted(examiner, papers, grader)
        return [scores if scores is not None else new for scores, new in zip(old, measured, strict=True)]

    def _unadapted(self, examiner: Examiner, papers: Sequence[ExamPaper], grader: Grader) -> list[ExamScores | None]:
        sittings = [self.sittings(examiner, paper, None) for paper in papers]
        sat = iter(self.exams.sat([one for paper in sittings for one in paper]))
        each = [[next(sat) for _ in paper] for paper in sittings]
        scores = iter(scores_of([exam for paper in each for exam in paper], grader))
        return [joined_scores(paper, [next(scores) for _ in exams]) for paper, exams in zip(papers, each, strict=True)]

    def sittings(self, examiner: Examiner, paper: ExamPaper, adapter: Adapter | None) -> list[Sitting]:
        """A paper as the model sits it, task by task."""
        return [
            Sitting(task=task, prompts=self.exams.domain.exam(task), adapter=adapter, needs=examiner.needs)
            for task in paper.tasks
        ]


def joined_scores(paper: ExamPaper, scores: Sequence[ExamScores]) -> ExamScores | None:
    """The scores of a paper's tasks as those of one exam; None of an empty paper."""
    if len(paper.tasks) == 1:
        return scores[0]
    return joined({t.task_id: exam for t, exam in zip(paper.tasks, scores, strict=True)}) if paper.tasks else None


def already_set(attempts: Iterable[Attempt]) -> dict[str, dict[str, AuxiliaryExam]]:
    """What a round's attempts have stored of further exams, by task id and examiner, without what came after adaptation."""
    known: dict[str, dict[str, AuxiliaryExam]] = {}
    for attempt in attempts:
        for name, exam in attempt.auxiliary_exams.items():
            known.setdefault(attempt.task_id, {}).setdefault(name, replace(exam, after=None))
    return known
