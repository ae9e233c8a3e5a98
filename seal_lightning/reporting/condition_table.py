"""The table of a test: means with standard errors by condition, and paired differences from the matched control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import ConditionNames, ExamScores
from seal_lightning.core.estimates import Estimate, cluster_means, clustered
from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult, ConditionRow
from seal_lightning.core.forgetting_curve import ForgettingCurve, retention

Score = Callable[[ConditionResult], float | None]
_Cell = tuple[int, int, str]
"""An episode, a place in it, and the task there."""
_ORDER = {condition: order for order, condition in enumerate(Condition)}


def condition_table(results: Sequence[ConditionResult], names: ConditionNames) -> list[ConditionRow]:
    """Return a row for each condition, round and name, in the order of :class:`Condition`, labelled by the domain's names."""
    arms = sorted({result.arm for result in results}, key=lambda arm: (_ORDER[arm.condition], arm.round, arm.name))
    final_round = max((arm.round for arm in arms), default=0)
    by_sequence = len({result.sequence for result in results}) > 1
    of_arms = {arm: _ArmResults([r for r in results if r.arm == arm], by_sequence) for arm in arms}
    rows = []
    for arm in arms:
        unadapted = of_arms.get(Arm(condition=Condition.NO_ADAPTATION, round=arm.round))
        before = unadapted.all if unadapted is not None else []
        curves = forgetting_curves(of_arms[arm].all, before, lambda scores: scores.log_prob)
        rows.append(replace(_row(of_arms, arm, final_round, arm.label(names)), retention=retention(curves)))
    return rows


def forgetting_curves(
    results: Sequence[ConditionResult],
    unadapted: Sequence[ConditionResult],
    score: Callable[[ExamScores], float | None],
) -> list[ForgettingCurve]:
    """Return a curve for each task of each episode that was examined before any step, after its own and after the last.

    Args:
        results: of one arm.
        unadapted: of the same policy before any step.
        score: a task's score.
    """
    at = {step: _by_cell([r for r in results if r.step == step], score) for step in {r.step for r in results}}
    before = _by_cell(unadapted, score)
    last = max(at, default=0)
    curves = []
    for cell, step in {_cell(r): r.step for r in results if r.taught}.items():
        if cell in before and cell in at[step] and cell in at[last]:
            curves.append(
                ForgettingCurve(
                    sequence=cell[0],
                    before=before[cell],
                    task=cell[2],
                    is_first=step == 1,
                    just_before=at.get(step - 1, {}).get(cell) if step > 1 else None,
                    own=at[step][cell],
                    last=at[last][cell],
                    followed=step < last,
                )
            )
    return curves


class _ArmResults:
    """The results of an arm: those after each episode's last step, and those after each task's own step."""

    def __init__(self, results: Sequence[ConditionResult], by_sequence: bool) -> None:
        num_steps = max(result.step for result in results)
        self.all = results
        self.last = [result for result in results if result.step == num_steps]
        self.taught = [result for result in results if result.taught]
        self.own = self.taught if num_steps > 1 else []
        self.by_sequence = by_sequence

    def estimate(self, score: Score, results: Sequence[ConditionResult] | None = None) -> Estimate | None:
        """Return the mean score over independent units: episodes where there are several, else tasks.

        Several edits of a task count as their mean. Where episodes share tasks, the standard error is the larger one of
        those over episodes and over tasks.
        """
        return self._over_units(_means(self.last if results is None else results, score))

    def difference(self, other: _ArmResults | None, score: Score) -> Estimate | None:
        """Return the paired difference from another arm, over the tasks that both have."""
        if other is None:
            return None
        ours, theirs = _means(self.last, score), _means(other.last, score)
        return self._over_units({cell: ours[cell] - theirs[cell] for cell in ours if cell in theirs})

    def _over_units(self, values: Mapping[_Cell, float]) -> Estimate | None:
        over_tasks = clustered((task_id, value) for (_, _, task_id), value in values.items())
        if not self.by_sequence:
            return over_tasks
        over_sequences = clustered((sequence, value) for (sequence, _, _), value in values.items())
        if over_sequences is None or over_tasks is None or len({task_id for _, _, task_id in values}) == len(values):
            return over_sequences
        larger = max(over_sequences.standard_error or 0.0, over_tasks.standard_error or 0.0)
        return replace(over_sequences, standard_error=larger) if over_sequences.n > 1 else over_sequences


def _row(of_arms: Mapping[Arm, _ArmResults], arm: Arm, final_round: int, label: str) -> ConditionRow:
    of_arm = of_arms[arm]
    rows = of_arm.last
    learned = [r for r in rows if r.failure is None]
    decisions = [r.merge for r in of_arm.taught if r.merge is not None]
    is_edit = arm.condition is Condition.SELF_EDIT
    matched = replace(arm, condition=Condition.WITHOUT_EDIT_MATCHED) if arm.round in (0, final_round) else None
    untrained = replace(arm, round=0) if is_edit and arm.round > 0 else None
    num_steps = of_arm.estimate(lambda r: float(r.num_steps))
    assert num_steps is not None  # a row has results

    return ConditionRow(
        label=label,
        condition=arm.condition,
        round=arm.round,
        name=arm.name,
        num_tasks=len({r.task_id for r in rows if r.scores.questions}),
        num_questions=sum(len(r.scores.questions) for r in {r.task_id: r for r in rows}.values()),
        num_failed=sum(max(r.failed_edits, r.failure is not None) for r in of_arm.taught),
        num_merges=len(decisions),
        num_scaled=sum(0 < decision.factor < 1 for decision in decisions),
        num_refused=sum(decision.factor == 0 for decision in decisions),
        num_unscored=sum(r.scores.num_unscored for r in rows),
        num_views=sum(q.num_views for r in learned for q in r.scores.questions),
        num_invalid=sum(r.scores.num_invalid for r in learned),
        log_prob=of_arm.estimate(_log_prob),
        log_prob_after_own_step=of_arm.estimate(_log_prob, of_arm.own),
        solved=of_arm.estimate(_solved),
        accuracy=of_arm.estimate(_accuracy),
        accuracy_after_own_step=of_arm.estimate(_accuracy, of_arm.own),
        exact_match=of_arm.estimate(lambda r: r.scores.exact_match),
        f1=of_arm.estimate(lambda r: r.scores.f1),
        partial_credit=of_arm.estimate(lambda r: r.scores.partial_credit),
        num_steps=num_steps,
        log_prob_vs_matched=of_arm.difference(of_arms.get(matched), _log_prob) if is_edit and matched else None,
        log_prob_vs_untrained=of_arm.difference(of_arms.get(untrained), _log_prob) if untrained else None,
    )


def _log_prob(result: ConditionResult) -> float | None:
    return result.scores.log_prob


def _accuracy(result: ConditionResult) -> float | None:
    return result.scores.accuracy


def _solved(result: ConditionResult) -> float | None:
    solved = result.scores.solved
    return solved if solved is None or result.failure is None else 0.0


def _by_cell(results: Sequence[ConditionResult], score: Callable[[ExamScores], float | None]) -> dict[_Cell, float]:
    return _means(results, lambda result: score(result.scores))


def _means(results: Sequence[ConditionResult], score: Score) -> dict[_Cell, float]:
    """Return a score for each task of each episode: the mean over its edits, where it has several."""
    scored = ((r, score(r)) for r in results)
    return cluster_means((_cell(r), value) for r, value in scored if value is not None)


def _cell(result: ConditionResult) -> _Cell:
    return result.sequence, result.place, result.task_id
