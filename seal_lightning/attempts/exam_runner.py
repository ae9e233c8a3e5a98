"""Exams put to the model: what it is asked, what is measured, and the scores that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from seal_lightning.core import (
    Adapter,
    AnsweredQuestion,
    ExamPrompt,
    ExamScores,
    GenerationRequest,
    Measurement,
    QuestionScore,
    SamplingSpec,
    ScoreRequest,
    Task,
    Verdict,
    VerdictStatus,
    WholeModel,
)
from seal_lightning.core.errors import RunError
from seal_lightning.core.interfaces import AnyDomain, Engine, Grader
from seal_lightning.models.out_of_memory import is_out_of_memory
from seal_lightning.scoring.graders.agreement import exact_match_and_f1
from seal_lightning.scoring.graders.exact import exact_verdict


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """One exam that a model is to sit."""

    task: Task
    prompts: Sequence[ExamPrompt]
    adapter: Adapter | None
    needs: frozenset[Measurement]


@dataclass(frozen=True, kw_only=True)
class SatExam:
    """What the model gave in one exam: all that needs no judge."""

    question_ids: tuple[str, ...]
    log_probs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By question, of the gold answer's tokens."""
    answered: Sequence[AnsweredQuestion] = ()
    """To be judged."""

    def scores(self, verdicts: Sequence[Verdict]) -> ExamScores:
        """With a verdict an answer, in order."""
        graded = {answer.question_id: (answer, v) for answer, v in zip(self.answered, verdicts, strict=True)}
        return ExamScores(
            questions=tuple(_score(q, self.log_probs.get(q), graded.get(q)) for q in self.question_ids),
        )


class Exams:
    """Puts exams to the model.

    Args:
        domain: what answers mean.
        engine: asks the model and its adapted copies.
    """

    def __init__(self, domain: AnyDomain, engine: Engine) -> None:
        self.domain = domain
        self.engine = engine

    def sat_where_it_fits(self, candidates: Sequence[Sequence[Sitting]]) -> list[list[SatExam] | None]:
        """The exams of each candidate; where they do not fit the memory together, each alone.

        None for one that does not fit even so.
        """
        try:
            sat = iter(self.sat([sitting for candidate in candidates for sitting in candidate]))
            return [[next(sat) for _ in candidate] for candidate in candidates]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if len(candidates) == 1:
            return [None]
        return [exams for candidate in candidates for exams in self.sat_where_it_fits([candidate])]

    def sat(self, sittings: Sequence[Sitting]) -> list[SatExam]:
        """All exams, in order: in one engine call for each kind of measurement.

        Those of a whole model's weights are sat apart, while it is installed.
        """
        whole = {id(one.adapter): one.adapter for one in sittings if isinstance(one.adapter, WholeModel)}
        found: dict[int, SatExam] = {}
        for weights in [None, *whole.values()]:
            apart = {i: one for i, one in enumerate(sittings) if _weights_of(one.adapter) is weights}
            with weights.installed() if weights is not None else nullcontext():
                asked = [one if weights is None else replace(one, adapter=None) for one in apart.values()]
                found |= dict(zip(apart, self._sat(asked), strict=True))
        return [found[i] for i in range(len(sittings))]

    def _sat(self, sittings: Sequence[Sitting]) -> list[SatExam]:
        likelihoods, answers = self._likelihoods(sittings), self._answers(sittings)
        return [
            SatExam(
                question_ids=tuple(dict.fromkeys(prompt.question_id for prompt in one.prompts)),
                log_probs=log_probs,
                answered=answered,
            )
            for one, log_probs, answered in zip(sittings, likelihoods, answers, strict=True)
        ]

    def _likelihoods(self, sittings: Sequence[Sitting]) -> list[dict[str, Sequence[float]]]:
        """By question, the log-probabilities of the gold answer's tokens in the identity view."""
        asked = [
            (i, p, one.adapter)
            for i, one in enumerate(sittings)
            if Measurement.LIKELIHOOD in one.needs
            for p in one.prompts
            if p.view == "identity" and p.target
        ]
        results: list[dict[str, Sequence[float]]] = [{} for _ in sittings]
        if not asked:
            return results
        scores = self.engine.score([ScoreRequest(prompt=p.prompt, target=p.target, adapter=a) for _, p, a in asked])
        for (i, prompt, _), log_probs in zip(asked, scores, strict=True):
            results[i][prompt.question_id] = log_probs
        return results

    def _answers(self, sittings: Sequence[Sitting]) -> list[Sequence[AnsweredQuestion]]:
        """The greedy answers, as they are to be judged."""
        writing = {i: one for i, one in enumerate(sittings) if Measurement.ANSWERS in one.needs}
        asked = [(i, p, one.adapter) for i, one in writing.items() for p in one.prompts]
        if not asked:
            return [()] * len(sittings)
        completions = self.engine.generate(
            [
                GenerationRequest(
                    prompt=p.prompt,
                    sampling=SamplingSpec(temperature=0.0, max_new_tokens=p.max_new_tokens, stop=p.stop),
                    adapter=adapter,
                )
                for _, p, adapter in asked
            ]
        )
        texts: dict[int, dict[tuple[str, str], str]] = {i: {} for i in writing}
        for (i, prompt, _), completion in zip(asked, completions, strict=True):
            texts[i][prompt.question_id, prompt.view] = completion.text
        return [self.domain.answered(one.task, texts[i]) if i in texts else () for i, one in enumerate(sittings)]


def scores_of(sat: Sequence[SatExam], grader: Grader) -> list[ExamScores]:
    """The exams' scores, all answers judged together."""
    verdicts = iter(verdicts_on([answer for exam in sat for answer in exam.answered], grader))
    return [exam.scores([next(verdicts) for _ in exam.answered]) for exam in sat]


def verdicts_on(answered: Sequence[AnsweredQuestion], grader: Grader) -> Sequence[Verdict]:
    """What can be right only as it is written is compared, the rest graded."""
    graded = iter(_graded([answer for answer in answered if not answer.exact], grader))
    return [exact_verdict(answer) if answer.exact else next(graded) for answer in answered]


def joined(exams: Mapping[str, ExamScores]) -> ExamScores:
    """Several tasks' exams as one; the questions' ids begin with their task's."""
    return ExamScores(
        questions=tuple(
            replace(question, question_id=f"{task_id}/{question.question_id}")
            for task_id, exam in exams.items()
            for question in exam.questions
        )
    )


def _graded(answered: Sequence[AnsweredQuestion], grader: Grader) -> Sequence[Verdict]:
    """The grader's verdicts, checked: what a grader made of elsewhere says is not taken on trust."""
    verdicts = grader.grade(answered) if answered else []
    fitting = [
        isinstance(verdict, Verdict) and verdict.question_id == answer.question_id
        for verdict, answer in zip(verdicts, answered, strict=False)
    ]
    if len(verdicts) != len(answered) or not all(fitting):
        raise RunError(
            f"model.grader: {type(grader).__name__} gave {len(verdicts)} verdicts on {len(answered)} answers, "
            f"{sum(fitting)} of them on the question asked; it must give one an answer, in order. Attempts are kept"
        )
    return verdicts


def _weights_of(adapter: Adapter | None) -> WholeModel | None:
    return adapter if isinstance(adapter, WholeModel) else None


def _score(
    question_id: str, log_probs: Sequence[float] | None, graded: tuple[AnsweredQuestion, Verdict] | None
) -> QuestionScore:
    score = QuestionScore(question_id=question_id)
    if log_probs:
        score = replace(score, log_prob=sum(log_probs) / len(log_probs), num_target_tokens=len(log_probs))
    if graded is not None:
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
            score = replace(score, exact_match=float(verdict.status is VerdictStatus.CORRECT))
        elif answered.gold_answers:
            exact_match, f1 = exact_match_and_f1(answered.answer, answered.gold_answers)
            score = replace(score, exact_match=exact_match, f1=f1)
    return score
