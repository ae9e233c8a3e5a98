"""Run exams on the model: ask it, measure likelihoods, grade answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from seal_lightning.core import (
    AdaptationPlan,
    Adapter,
    AnsweredQuestion,
    ExamPrompt,
    ExamRequest,
    ExamScores,
    GenerationRequest,
    Measurement,
    QuestionScore,
    SamplingSpec,
    ScoreRequest,
    SelfEdit,
    Task,
    Verdict,
    VerdictStatus,
    WholeModel,
)
from seal_lightning.core.errors import MalformedEdit, RunError
from seal_lightning.core.interfaces import AnyDomain, Engine, Grader
from seal_lightning.models.out_of_memory import is_out_of_memory
from seal_lightning.scoring.graders.agreement import exact_match_and_f1, exact_verdict

ValueT = TypeVar("ValueT")

_MAX_CACHED = 1024


class DomainCache:
    """The plans and exams that a domain makes, each made once per task and edit object.

    Args:
        domain: makes plans and exams.
    """

    def __init__(self, domain: AnyDomain) -> None:
        self.domain = domain
        self._values: OrderedDict[tuple[int, ...], tuple[tuple[Any, ...], Any]] = OrderedDict()

    def plan(self, task: Task, edit: SelfEdit) -> AdaptationPlan:
        """Return the plan of an edit. Raises :class:`MalformedEdit` where the edit has no meaning."""
        plan = self._cached(self._plan_or_error, task, edit)
        if isinstance(plan, MalformedEdit):
            raise plan.with_traceback(None)
        return plan

    def exam(self, task: Task) -> Sequence[ExamPrompt]:
        """Return the prompts of a task's exam."""
        return self._cached(self.domain.exam, task)

    def _plan_or_error(self, task: Task, edit: SelfEdit) -> AdaptationPlan | MalformedEdit:
        try:
            return self.domain.plan(task, edit)
        except MalformedEdit as error:
            return error

    def _cached(self, make: Callable[..., ValueT], *objects: Any) -> ValueT:
        # Records hold dicts and cannot be hashed. The cache keeps its objects alive, so an id names one object only.
        key = tuple(id(one) for one in objects)
        if key not in self._values:
            self._values[key] = objects, make(*objects)
            if len(self._values) > _MAX_CACHED:
                self._values.popitem(last=False)
        value: ValueT = self._values[key][1]
        return value


@dataclass(frozen=True, kw_only=True)
class ExamRun:
    """One exam to run on the model or on an adapted copy."""

    task: Task
    prompts: Sequence[ExamPrompt]
    adapter: Adapter | None
    needs: frozenset[Measurement]


@dataclass(frozen=True, kw_only=True)
class ExamAnswers:
    """The model's output in one exam, before grading."""

    question_ids: tuple[str, ...]
    log_probs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By question, of the gold answer's tokens (nats)."""
    answered: Sequence[AnsweredQuestion] = ()
    """To be graded."""

    def scores(self, verdicts: Sequence[Verdict]) -> ExamScores:
        """Return the exam's scores, given one verdict per answer in order."""
        graded = {answer.question_id: (answer, v) for answer, v in zip(self.answered, verdicts, strict=True)}
        return ExamScores(
            questions=tuple(_score(q, self.log_probs.get(q), graded.get(q)) for q in self.question_ids),
        )


@dataclass(frozen=True, kw_only=True)
class ExamRunner:
    """Runs exams in as few engine calls as possible."""

    domain: AnyDomain
    engine: Engine

    def run_within_memory(self, candidates: Sequence[Sequence[ExamRun]]) -> list[list[ExamAnswers] | None]:
        """Run each candidate's exams; one candidate at a time where memory does not allow all together.

        The result is None for a candidate whose exams alone run out of memory.
        """
        try:
            answers = iter(self.run([request for candidate in candidates for request in candidate]))
            return [[next(answers) for _ in candidate] for candidate in candidates]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if len(candidates) == 1:
            return [None]
        return [exams for candidate in candidates for exams in self.run_within_memory([candidate])]

    def run(self, requests: Sequence[ExamRun]) -> list[ExamAnswers]:
        """Run all exams, in order, with one engine call per kind of measurement.

        Exams of finetuned whole weights run separately, while those weights are installed.
        """
        whole = {id(one.adapter): one.adapter for one in requests if isinstance(one.adapter, WholeModel)}
        found: dict[int, ExamAnswers] = {}
        for weights in [None, *whole.values()]:
            of_weights = {i: one for i, one in enumerate(requests) if _weights_of(one.adapter) is weights}
            with weights.installed() if weights is not None else nullcontext():
                group = [one if weights is None else replace(one, adapter=None) for one in of_weights.values()]
                found |= dict(zip(of_weights, self._run_group(group), strict=True))
        return [found[i] for i in range(len(requests))]

    def _run_group(self, requests: Sequence[ExamRun]) -> list[ExamAnswers]:
        likelihoods, answers = self._likelihoods(requests), self._answers(requests)
        return [
            ExamAnswers(
                question_ids=tuple(dict.fromkeys(prompt.question_id for prompt in one.prompts)),
                log_probs=log_probs,
                answered=answered,
            )
            for one, log_probs, answered in zip(requests, likelihoods, answers, strict=True)
        ]

    def _likelihoods(self, requests: Sequence[ExamRun]) -> list[dict[str, Sequence[float]]]:
        """Score the gold answers' tokens in the identity view, by question."""
        targets = [
            (i, p, one.adapter)
            for i, one in enumerate(requests)
            if Measurement.LIKELIHOOD in one.needs
            for p in one.prompts
            if p.view == "identity" and p.target
        ]
        results: list[dict[str, Sequence[float]]] = [{} for _ in requests]
        if not targets:
            return results
        scores = self.engine.score([ScoreRequest(prompt=p.prompt, target=p.target, adapter=a) for _, p, a in targets])
        for (i, prompt, _), log_probs in zip(targets, scores, strict=True):
            results[i][prompt.question_id] = log_probs
        return results

    def _answers(self, requests: Sequence[ExamRun]) -> list[Sequence[AnsweredQuestion]]:
        """Generate the greedy answers."""
        writing = {i: one for i, one in enumerate(requests) if Measurement.ANSWERS in one.needs}
        prompts = [(i, p, one.adapter) for i, one in writing.items() for p in one.prompts]
        if not prompts:
            return [()] * len(requests)
        completions = self.engine.generate(
            [
                GenerationRequest(
                    prompt=p.prompt,
                    sampling=SamplingSpec(temperature=0.0, max_new_tokens=p.max_new_tokens, stop=p.stop),
                    adapter=adapter,
                )
                for _, p, adapter in prompts
            ]
        )
        texts: dict[int, dict[tuple[str, str], str]] = {i: {} for i in writing}
        for (i, prompt, _), completion in zip(prompts, completions, strict=True):
            texts[i][prompt.question_id, prompt.view] = completion.text
        return [
            self.domain.answered_questions(one.task, texts[i]) if i in texts else () for i, one in enumerate(requests)
        ]


def grade_exams(exams: Sequence[ExamAnswers], grader: Grader) -> list[ExamScores]:
    """Return the exams' scores; all answers go to the grader in one call."""
    verdicts = iter(grade_answers([answer for exam in exams for answer in exam.answered], grader))
    return [exam.scores([next(verdicts) for _ in exam.answered]) for exam in exams]


def grade_answers(answered: Sequence[AnsweredQuestion], grader: Grader) -> Sequence[Verdict]:
    """Return one verdict per answer; exact questions are compared here, the others go to the grader.

    Raises :class:`RunError` where the grader does not return one verdict per answer, in order.
    """
    free = [answer for answer in answered if not answer.exact]
    verdicts = grader.grade(free) if free else []
    if [getattr(v, "question_id", None) for v in verdicts] != [answer.question_id for answer in free]:
        raise RunError(
            f"model.grader: {type(grader).__name__} must return one verdict per answer, in order; it returned "
            f"{len(verdicts)} for {len(free)} answers. Stored attempts are kept"
        )
    graded = iter(verdicts)
    return [exact_verdict(answer) if answer.exact else next(graded) for answer in answered]


def paper_scores(paper: ExamRequest, scores: Sequence[ExamScores]) -> ExamScores | None:
    """Return the scores of a paper's tasks as those of one exam; None for an empty paper."""
    if len(paper.tasks) == 1:
        return scores[0]
    return concat_scores({t.task_id: s for t, s in zip(paper.tasks, scores, strict=True)}) if paper.tasks else None


def concat_scores(exams: Mapping[str, ExamScores]) -> ExamScores:
    """Return several tasks' scores as one exam; question ids are prefixed with their task's."""
    return ExamScores(
        questions=tuple(
            replace(question, question_id=f"{task_id}/{question.question_id}")
            for task_id, exam in exams.items()
            for question in exam.questions
        )
    )


def _weights_of(adapter: Adapter | None) -> WholeModel | None:
    return adapter if isinstance(adapter, WholeModel) else None


def _score(
    question_id: str, log_probs: Sequence[float] | None, graded: tuple[AnsweredQuestion, Verdict] | None
) -> QuestionScore:
    score = QuestionScore(question_id=question_id)
    if log_probs:
        score = replace(score, log_prob=sum(log_probs) / len(log_probs), num_target_tokens=len(log_probs))
    if graded is None:
        return score
    answered, verdict = graded
    score = replace(
        score,
        answer=answered.answer,
        further_answers=answered.further_answers,
        verdict=verdict,
        partial_credit=answered.partial_credit,
        num_views=answered.num_views,
        num_invalid=answered.num_invalid,
    )
    if answered.gold_answers and answered.exact:
        return replace(score, exact_match=float(verdict.status is VerdictStatus.CORRECT))
    if answered.gold_answers:
        exact_match, f1 = exact_match_and_f1(answered.answer, answered.gold_answers)
        return replace(score, exact_match=exact_match, f1=f1)
    return score
