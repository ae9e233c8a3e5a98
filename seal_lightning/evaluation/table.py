"""A test's results as a table: means with standard errors over tasks, and paired differences from the honest control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.core import ConditionNames
from seal_lightning.core.estimates import Estimate, cluster_means, clustered
from seal_lightning.core.forgetting_curve import ForgettingCurve, Retention, retention
from seal_lightning.evaluation.conditions import Arm, Condition, ConditionResult

Score = Callable[[ConditionResult], float | None]
_Cell = tuple[int, int, str]
"""An episode, a place in it, and the task there."""


@dataclass(frozen=True, kw_only=True)
class ConditionRow:
    """One condition's row of the table."""

    label: str
    condition: Condition
    round: int
    name: str
    """Of another writer, or of an adapter from outside."""
    num_tasks: int
    """Tasks that are examined: those with a question."""
    num_questions: int
    num_failed: int
    """Malformed edits and diverged adapters, each edit of a task for itself; counted with the scores without adaptation,
    but never as solved."""
    num_merges: int
    """Steps whose merge a gate decided on."""
    num_scaled: int
    """Of them, those of which a part was merged."""
    num_refused: int
    """Of them, those of which nothing was merged: the task is examined on what was known before."""
    num_unscored: int
    """Answers the grader could not score; left out of the accuracy."""
    num_views: int
    """Texts the model wrote as answers, over all views of all questions; none where nothing could be learned."""
    num_invalid: int
    """How many of them were no answer at all (a grid that does not decode)."""
    log_prob: Estimate | None
    log_prob_after_own_step: Estimate | None
    """Just after each task was learned, where others are learned after it; ``log_prob`` is after all of them."""
    solved: Estimate | None
    """Share of tasks all of whose questions are answered right; where nothing could be learned, nothing is solved."""
    accuracy: Estimate | None
    accuracy_after_own_step: Estimate | None
    exact_match: Estimate | None
    f1: Estimate | None
    partial_credit: Estimate | None
    """How nearly right the answers are (the share of cells of a grid)."""
    num_steps: Estimate
    log_prob_vs_matched: Estimate | None
    """Paired difference, task by task, from the passage alone at equal steps on the same policy; None where there is none."""
    log_prob_vs_untrained: Estimate | None
    """Paired difference, task by task, from the self-edit that the policy wrote before training; for trained ones only."""
    retention: Retention | None
    """Of the log-probability, where tasks are learned one after another."""


def condition_table(results: Sequence[ConditionResult], names: ConditionNames) -> list[ConditionRow]:
    """One row for each condition, round and name, in the order a reader wants, called as the domain calls them."""
    arms = sorted({result.arm for result in results}, key=lambda arm: (_ORDER[arm.condition], arm.round, arm.name))
    final_round = max((arm.round for arm in arms), default=0)
    by_sequence = len({result.sequence for result in results}) > 1
    unadapted = {(r.round, *_cell(r)): r for r in results if r.condition is Condition.NO_ADAPTATION}
    of_arms = {arm: _OfArm([r for r in results if r.arm == arm], by_sequence) for arm in arms}
    rows = [_row(of_arms, arm, final_round, arm_label(names, arm)) for arm in arms]
    return [
        replace(row, retention=retention(of_arms[arm].courses(unadapted))) for row, arm in zip(rows, arms, strict=True)
    ]


_ORDER = {condition: order for order, condition in enumerate(Condition)}


def arm_label(names: ConditionNames, arm: Arm) -> str:
    """What a reader of a table calls a condition."""
    trained = "before training" if arm.round == 0 else f"after round {arm.round}"
    return {
        Condition.NO_ADAPTATION: f"{names.unadapted}, policy {trained}",
        Condition.IN_CONTEXT: names.in_context,
        Condition.OUTSIDE_ADAPTER: f"adapter {arm.name}",
        Condition.WITHOUT_EDIT: names.without_edit,
        Condition.WITHOUT_EDIT_MATCHED: f"{names.without_edit} at the final edit's steps, policy {trained}",
        Condition.OTHER_WRITER: f"{names.other_writer} {arm.name}",
        Condition.SELF_EDIT: f"{names.self_edit} {trained}",
    }[arm.condition]


class _OfArm:
    """The results of a condition: those of each episode's last step, and of each task just after its own."""

    def __init__(self, results: Sequence[ConditionResult], by_sequence: bool) -> None:
        num_steps = max(result.step for result in results)
        self.all = results
        self.last = [result for result in results if result.step == num_steps]
        self.taught = [result for result in results if result.taught]
        self.own = self.taught if num_steps > 1 else []
        self.by_sequence = by_sequence

    def estimate(self, score: Score, results: Sequence[ConditionResult] | None = None) -> Estimate | None:
        """Over what was learned apart: episodes where there are several, else tasks; several edits count as their mean.

        Where tasks are in several episodes, of the standard errors over episodes and over tasks the larger one.
        """
        return self._over_units(_by_cell(self.last if results is None else results, score))

    def difference(self, other: _OfArm | None, score: Score) -> Estimate | None:
        """How much better the scores are than another condition's, over the tasks that both have; paired."""
        if other is None:
            return None
        ours, theirs = _by_cell(self.last, score), _by_cell(other.last, score)
        return self._over_units({cell: ours[cell] - theirs[cell] for cell in ours if cell in theirs})

    def courses(self, unadapted: Mapping[tuple[int, int, int, str], ConditionResult]) -> list[ForgettingCurve]:
        """What became of each task's log-probability; none where tasks are not learned one after another."""
        at = {step: _by_cell([r for r in self.all if r.step == step], _log_prob) for step in {r.step for r in self.all}}
        last = max(at)
        courses = []
        for cell, step in {_cell(r): r.step for r in self.own}.items():
            start = unadapted.get((self.own[0].round, *cell))
            before = None if start is None else _log_prob(start)
            own, final = at[step].get(cell), at[last].get(cell)
            if before is None or own is None or final is None:
                continue
            courses.append(
                ForgettingCurve(
                    sequence=cell[0],
                    before=before,
                    task=cell[2],
                    is_first=step == 1,
                    just_before=at.get(step - 1, {}).get(cell),
                    own=own,
                    last=final,
                    followed=step < last,
                )
            )
        return courses

    def _over_units(self, values: Mapping[_Cell, float]) -> Estimate | None:
        over_tasks = clustered((task_id, value) for (_, _, task_id), value in values.items())
        if not self.by_sequence:
            return over_tasks
        over_sequences = clustered((sequence, value) for (sequence, _, _), value in values.items())
        if over_sequences is None or over_tasks is None or len({task_id for _, _, task_id in values}) == len(values):
            return over_sequences
        larger = max(over_sequences.standard_error or 0.0, over_tasks.standard_error or 0.0)
        return replace(over_sequences, standard_error=larger) if over_sequences.n > 1 else over_sequences


def _row(of_arms: Mapping[Arm, _OfArm], arm: Arm, final_round: int, label: str) -> ConditionRow:
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
        retention=None,
    )


def _log_prob(result: ConditionResult) -> float | None:
    return result.scores.log_prob


def _accuracy(result: ConditionResult) -> float | None:
    return result.scores.accuracy


def _solved(result: ConditionResult) -> float | None:
    solved = result.scores.solved
    return solved if solved is None or result.failure is None else 0.0


def _by_cell(results: Sequence[ConditionResult], score: Score) -> dict[_Cell, float]:
    """A number for each task of each episode: the mean over its edits, where it has several."""
    scored = ((r, score(r)) for r in results)
    return cluster_means((_cell(r), value) for r, value in scored if value is not None)


def _cell(result: ConditionResult) -> _Cell:
    return result.sequence, result.place, result.task_id
