"""The one way to try an edit: propose, plan, adapt, examine.

The E-step, validation, test and replay all come through here. Written against the seams: no domain, engine, inner loop,
grader or reward is known by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from seal_lightning.errors import MalformedEdit, RunError
from seal_lightning.grading.agreement import exact_match_and_f1
from seal_lightning.grading.exact import exact_verdict
from seal_lightning.out_of_memory import is_out_of_memory
from seal_lightning.rewards.finite import finite_score
from seal_lightning.seams import AnyDomain, Engine, Grader, InnerLoop, Reward, Writer
from seal_lightning.seeds import attempt_id, derive_seed
from seal_lightning.types import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AnsweredQuestion,
    Attempt,
    AttemptStatus,
    Diverged,
    ExamPrompt,
    ExamScores,
    GenerationRequest,
    Measurement,
    PlanSummary,
    QuestionScore,
    SamplingSpec,
    ScoreRequest,
    SelfEdit,
    Task,
    Trial,
    Verdict,
    VerdictStatus,
    WholeModel,
)


class Attempting:
    """Proposes edits and tries them.

    Args:
        domain: what tasks and edits mean.
        writer: who writes edits.
        engine: asks the policy and its adapted copies.
        inner_loop: trains the adapted copies.
        grader: judges answers.
        reward: scores attempts, and says what must be measured.
        seed: the run's seed; with round, task, edit and repeat it makes every other seed.
    """

    def __init__(
        self,
        *,
        domain: AnyDomain,
        writer: Writer,
        engine: Engine,
        inner_loop: InnerLoop,
        grader: Grader,
        reward: Reward,
        seed: int,
    ) -> None:
        self.domain = domain
        self.writer = writer
        self.engine = engine
        self.inner_loop = inner_loop
        self.grader = grader
        self.reward = reward
        self.seed = seed

    def propose(
        self, tasks: Sequence[Task], num_edits: int, round_name: int | str, writer: Writer | None = None
    ) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task, by the policy or another writer.

        ``round_name`` keeps rounds' seeds apart.
        """
        if not tasks:
            return []
        seeds = {
            (task.task_id, index): derive_seed(self.seed, round_name, task.task_id, index)
            for task in tasks
            for index in range(num_edits)
        }
        return (writer or self.writer).write(tasks, num_edits, seeds)

    def trial(self, task: Task, edit: SelfEdit, round_index: int, repeat: int) -> Trial:
        """An edit to be tried, with the inner loop's seed made from its names."""
        seed = self.trial_seed(task.task_id, edit.edit_index, round_index, repeat)
        return Trial(task=task, edit=edit, round=round_index, repeat=repeat, seed=seed)

    def trial_seed(self, task_id: str, edit_index: int, round_index: int, repeat: int) -> int:
        """The inner loop's seed of an attempt."""
        return derive_seed(self.seed, round_index, task_id, edit_index, repeat)

    def attempt(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement] = frozenset(),
    ) -> list[Attempt]:
        """Try each edit: one attempt a trial, in order.

        ``before`` holds each task's exam without adaptation; ``needs`` is what to measure beside what the reward needs.
        """
        size = self.inner_loop.max_results or max(len(trials), 1)
        chunks = [trials[start : start + size] for start in range(0, len(trials), size)]
        return [attempt for chunk in chunks for attempt in self._attempts(chunk, before, needs)]

    def _attempts(
        self, trials: Sequence[Trial], before: Mapping[str, ExamScores], needs: frozenset[Measurement]
    ) -> list[Attempt]:
        plans: dict[int, AdaptationPlan] = {}
        attempts: dict[int, Attempt] = {}
        for i, trial in enumerate(trials):
            try:
                plans[i] = trial.plan or self.domain.plan(trial.task, trial.edit)
            except MalformedEdit as error:
                attempts[i] = self._attempt(trial, before, AttemptStatus.MALFORMED, failure=str(error))
        outcomes = dict(
            zip(plans, self.inner_loop.adapt(list(plans.values()), [trials[i].seed for i in plans]), strict=True)
        )
        for i, outcome in outcomes.items():
            if isinstance(outcome, Diverged):
                failed = self._attempt(trials[i], before, AttemptStatus.DIVERGED, failure=outcome.reason)
                attempts[i] = replace(failed, plan=_summary(plans[i], 0), adapt_seconds=outcome.seconds)
        adapted = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Adapted)}
        start = time.perf_counter()
        needs |= self.reward.needs
        exams = self._exams_that_fit([(trials[i].task, a.adapter) for i, a in adapted.items()], needs)
        seconds = (time.perf_counter() - start) / max(len(adapted), 1)
        for (i, outcome), after in zip(adapted.items(), exams, strict=True):
            if after is None:
                failed = self._attempt(trials[i], before, AttemptStatus.DIVERGED, "out of memory in the exam")
                attempts[i] = replace(
                    failed, plan=_summary(plans[i], outcome.num_tokens), adapt_seconds=outcome.seconds
                )
            else:
                attempts[i] = self._scored(trials[i], before, plans[i], outcome, after, seconds)
        return [attempts[i] for i in range(len(trials))]

    def _exams_that_fit(
        self, candidates: Sequence[tuple[Task, Adapter | None]], needs: frozenset[Measurement]
    ) -> Sequence[ExamScores | None]:
        """The exams; where they do not fit the memory together, each alone, and None for one that does not fit even so."""
        try:
            return self.examine(candidates, needs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if len(candidates) == 1:
            return [None]
        return [exam for candidate in candidates for exam in self._exams_that_fit([candidate], needs)]

    def examine(
        self, candidates: Sequence[tuple[Task, Adapter | None]], needs: frozenset[Measurement]
    ) -> list[ExamScores]:
        """The exam of each (task, adapter or none) pair, in order; only what is needed is measured."""
        exams = [(task, self.domain.exam(task), adapter) for task, adapter in candidates]
        return self.sit_exams(exams, needs)

    def sit_exams(
        self,
        exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]],
        needs: frozenset[Measurement],
    ) -> list[ExamScores]:
        """Put exams' prompts to the model: all of them in one engine call for each kind of measurement.

        Those of a whole model's weights are sat apart, while it is installed.
        """
        whole = {id(adapter): adapter for _, _, adapter in exams if isinstance(adapter, WholeModel)}
        scores: dict[int, ExamScores] = {}
        for weights in [None, *whole.values()]:
            apart = {i: exam for i, exam in enumerate(exams) if _weights_of(exam[2]) is weights}
            with weights.installed() if weights is not None else nullcontext():
                asked = [
                    (task, prompts, adapter if weights is None else None) for task, prompts, adapter in apart.values()
                ]
                scores |= dict(zip(apart, self._sat(asked, needs), strict=True))
        return [scores[i] for i in range(len(exams))]

    def _sat(
        self,
        exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]],
        needs: frozenset[Measurement],
    ) -> list[ExamScores]:
        if not exams:
            return []
        likelihoods = self._likelihoods(exams) if Measurement.LIKELIHOOD in needs else [{} for _ in exams]
        answers = self._graded_answers(exams) if Measurement.ANSWERS in needs else [{} for _ in exams]
        scores = []
        for (_, prompts, _), log_probs, graded in zip(exams, likelihoods, answers, strict=True):
            question_ids = dict.fromkeys(prompt.question_id for prompt in prompts)
            scores.append(ExamScores(questions=tuple(_score(q, log_probs.get(q), graded.get(q)) for q in question_ids)))
        return scores

    def _likelihoods(
        self, exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]]
    ) -> list[dict[str, Sequence[float]]]:
        """By question, the log-probabilities of the gold answer's tokens in the identity view."""
        asked = [
            (i, p, adapter)
            for i, (_, prompts, adapter) in enumerate(exams)
            for p in prompts
            if p.view == "identity" and p.target
        ]
        results: list[dict[str, Sequence[float]]] = [{} for _ in exams]
        scores = self.engine.score([ScoreRequest(prompt=p.prompt, target=p.target, adapter=a) for _, p, a in asked])
        for (i, prompt, _), log_probs in zip(asked, scores, strict=True):
            results[i][prompt.question_id] = log_probs
        return results

    def _graded_answers(
        self, exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]]
    ) -> list[dict[str, tuple[AnsweredQuestion, Verdict]]]:
        """By question, the greedy answer with the grader's verdict."""
        asked = [(i, p, adapter) for i, (_, prompts, adapter) in enumerate(exams) for p in prompts]
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
        texts: list[dict[tuple[str, str], str]] = [{} for _ in exams]
        for (i, prompt, _), completion in zip(asked, completions, strict=True):
            texts[i][prompt.question_id, prompt.view] = completion.text
        answered = [self.domain.answered(task, by_view) for (task, _, _), by_view in zip(exams, texts, strict=True)]
        verdicts = iter(self._verdicts([answer for exam in answered for answer in exam]))
        return [{answer.question_id: (answer, next(verdicts)) for answer in exam} for exam in answered]

    def _verdicts(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """What can be right only as it is written is compared, the rest graded."""
        graded = iter(self._graded([answer for answer in answered if not answer.exact]))
        return [exact_verdict(answer) if answer.exact else next(graded) for answer in answered]

    def _graded(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """The grader's verdicts, checked: what a grader made of elsewhere says is not taken on trust."""
        verdicts = self.grader.grade(answered) if answered else []
        fitting = [
            isinstance(verdict, Verdict) and verdict.question_id == answer.question_id
            for verdict, answer in zip(verdicts, answered, strict=False)
        ]
        if len(verdicts) != len(answered) or not all(fitting):
            raise RunError(
                f"model.grader: {type(self.grader).__name__} gave {len(verdicts)} verdicts on {len(answered)} answers, "
                f"{sum(fitting)} of them on the question asked; it must give one an answer, in order. Attempts are kept"
            )
        return verdicts

    def _scored(
        self,
        trial: Trial,
        before: Mapping[str, ExamScores],
        plan: AdaptationPlan,
        outcome: Adapted,
        after: ExamScores,
        examine_seconds: float,
    ) -> Attempt:
        attempt = replace(
            self._attempt(trial, before, AttemptStatus.SCORED),
            plan=_summary(plan, outcome.num_tokens),
            after=after,
            final_loss=outcome.losses[-1],
            adapt_seconds=outcome.seconds,
            examine_seconds=examine_seconds,
        )
        given = self.reward.score(attempt)
        score = finite_score(given.value, given.breakdown)
        status = AttemptStatus.SCORED if score.value is not None else AttemptStatus.UNSCORED
        return replace(attempt, status=status, reward=score.value, reward_breakdown=score.breakdown)

    @staticmethod
    def _attempt(
        trial: Trial, before: Mapping[str, ExamScores], status: AttemptStatus, failure: str | None = None
    ) -> Attempt:
        return Attempt(
            attempt_id=attempt_id(trial.round, trial.task.task_id, trial.edit.edit_index, trial.repeat),
            round=trial.round,
            repeat=trial.repeat,
            seed=trial.seed,
            edit=trial.edit,
            status=status,
            failure=failure,
            before=before.get(trial.task.task_id),
        )


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


def _summary(plan: AdaptationPlan, num_tokens: int) -> PlanSummary:
    return PlanSummary(
        num_sequences=len(plan.sequences),
        num_steps=plan.num_steps,
        num_tokens=num_tokens,
        learning_rate=plan.optimizer.learning_rate,
        rank=plan.adapter.rank,
        dropped_sequences=plan.dropped_sequences,
    )
