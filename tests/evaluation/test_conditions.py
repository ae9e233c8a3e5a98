"""Which conditions a test meets, with which steps and seeds, and in how many calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes import ToyDomain, ToyTask, ToyTasks

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    Completion,
    ConditionNames,
    Diverged,
    ExamPrompt,
    FinishReason,
    GenerationRequest,
    ScoreRequest,
    SelfEdit,
    Task,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import Writer
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.protocols import Episode, SinglePassage
from seal_lightning.evaluation.training_sets import written_edits
from seal_lightning.reporting.condition_table import condition_table
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import LikelihoodReward
from seal_lightning.training.module import SealModule

TASKS = ToyTasks(3).load()
UNADAPTED, IN_CONTEXT, _, WITHOUT_EDIT, MATCHED, _, SELF_EDIT = Condition


class FewShot(ToyDomain):
    """A domain whose exam has the context."""

    def in_context_exam(self, task: ToyTask) -> Sequence[ExamPrompt]:
        return ()


class Copy(Adapter):
    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps


@dataclass
class Loop:
    """Adapts all but what has the word "diverges" in it; a copy knows its number of steps."""

    calls: list[list[tuple[AdaptationPlan, int]]] = field(default_factory=list)
    max_results: int | None = None

    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> list[Adapted | Diverged]:
        self.calls.append(list(zip(plans, seeds, strict=True)))
        return [self._adapted(plan) for plan in plans]

    @staticmethod
    def _adapted(plan: AdaptationPlan) -> Adapted | Diverged:
        if "diverges" in str(plan.sequences):
            return Diverged(reason="loss is NaN", step=1)
        steps = plan.num_steps
        return Adapted(adapter=Copy(steps), losses=(1.0,) * steps, num_tokens=9, seconds=0.5)


class Engine:
    """More steps, more likely; with the context in the prompt, likeliest."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return [Completion(text="red", token_ids=(), finish_reason=FinishReason.STOP) for _ in requests]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[self._log_prob(r)] for r in requests]

    @staticmethod
    def _log_prob(request: ScoreRequest) -> float:
        if isinstance(request.adapter, Copy):
            return -1 / request.adapter.num_steps
        return -0.01 if "\n" in str(request.prompt) else -8.0


class Edits(Writer):
    """Edits by (task, index), the same for every round; an edit is what the table says, or as many lines as its index."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> list[SelfEdit]:
        names = [(task.task_id, index) for task in tasks for index in range(num_edits)]
        assert set(seeds) == set(names)
        return [SelfEdit(task_id=t, edit_index=i, text=self._text(t, i), seed=seeds[t, i]) for t, i in names]

    def _text(self, task_id: str, index: int) -> str:
        return self.texts.get(f"{task_id}_{index}".replace("-", "_"), "line\n" * (2 * index + 1))


def alone(tasks: Sequence[Task]) -> list[Episode]:
    return SinglePassage().episodes(tasks, 1)


def evaluation(
    domain: ToyDomain | None = None, writer: Writer | None = None, **settings: Any
) -> tuple[Evaluation, Loop]:
    loop = Loop()
    runner = AttemptRunner(
        domain=domain or ToyDomain(),
        writer=writer or Edits(),
        engine=Engine(),  # type: ignore[arg-type]
        inner_loop=loop,  # type: ignore[arg-type]
        grader=LocalRules(),
        reward=LikelihoodReward(),
        seed=1,
    )
    return Evaluation(runner, **settings), loop


def counts(results: Sequence[ConditionResult]) -> dict[tuple[Condition, int], int]:
    return dict(Counter((r.condition, r.round) for r in results))


def of(results: Sequence[ConditionResult], condition: Condition) -> list[ConditionResult]:
    return [r for r in results if r.condition is condition]


def test_evaluation_conditions_by_round() -> None:
    """The final round comes first."""
    of_toy, _ = evaluation()
    results = [r for number in (2, 0, 1) for r in of_toy.examine_episodes(alone(TASKS), number, 2)]
    trained = {(UNADAPTED, n): 3 for n in (0, 1, 2)} | {(SELF_EDIT, n): 3 for n in (0, 1, 2)}
    assert counts(results) == trained | {(MATCHED, 0): 3, (MATCHED, 2): 3, (IN_CONTEXT, 0): 3, (WITHOUT_EDIT, 0): 3}
    assert all(
        [r.task_id for r in of(results, c)][:3] == [t.task_id for t in TASKS] for c in {r.condition for r in results}
    )
    assert condition_table(results, ConditionNames())


def test_evaluation_adapts_a_round_in_two_calls() -> None:
    of_toy, loop = evaluation(num_edits=2)
    of_toy.examine_episodes(alone(TASKS), 0, 0)
    assert [len(call) for call in loop.calls] == [3 * 2 + 3, 3]


def test_evaluation_seeds_are_equal_across_conditions() -> None:
    of_toy, loop = evaluation(num_edits=3)
    for number in (1, 0):
        of_toy.examine_episodes(alone(TASKS), number, 1)
    seeds: dict[str, set[int]] = {}
    for plan, seed in (pair for call in loop.calls for pair in call):
        seeds.setdefault(plan.sequences[0].segments[0].text, set()).add(seed)
    assert [len(found) for found in seeds.values()] == [1, 1, 1]
    assert len(set.union(*seeds.values())) == 3


def test_evaluation_of_several_edits_per_task() -> None:
    of_toy, _ = evaluation(num_edits=3)
    found = of(of_toy.examine_episodes(alone(TASKS), 0, 0), SELF_EDIT)
    assert [(r.task_id, r.edits[0].edit_index) for r in found if r.edits] == [
        (task.task_id, index) for task in TASKS for index in range(3)
    ]
    # 1, 3 and 4 (the cap) lines and the fact, 2 a step, 2 epochs
    assert [r.num_steps for r in found] == [2, 4, 6] * 3
    assert [r.num_sequences for r in found] == [2, 4, 5] * 3
    assert [r.scores.log_prob for r in found] == [-1 / 2, -1 / 4, -1 / 6] * 3
    assert [r.adapt_seconds for r in found] == [0.5] * 9
    (row,) = (r for r in condition_table(found, ConditionNames()) if r.condition is SELF_EDIT)
    assert row.log_prob is not None
    assert (row.log_prob.n, row.num_tasks) == (3, 3)
    assert row.log_prob.mean == pytest.approx(-(1 / 2 + 1 / 4 + 1 / 6) / 3)


def test_matched_control_takes_mean_of_final_steps() -> None:
    """Rounded, and 0 of an edit that failed."""
    writer = Edits(stone_0_2="diverges", stone_1_0="", stone_1_1="", stone_1_2="", stone_2_0="")
    of_toy, _ = evaluation(num_edits=3, writer=writer)
    results = [r for number in (1, 0) for r in of_toy.examine_episodes(alone(TASKS), number, 1)]
    assert [r.num_steps for r in of(results, SELF_EDIT)][:9] == [2, 4, 0, 0, 0, 0, 0, 4, 6]
    assert of_toy.final_edit_steps == {(0, 1): 2, (1, 1): 0, (2, 1): 3}
    matched = of(results, MATCHED)
    assert [(r.round, r.task_id, r.num_steps) for r in matched] == [
        (number, f"stone-{i}", steps) for number in (1, 0) for i, steps in enumerate((2, 0, 3))
    ]
    for result in matched:
        if result.num_steps == 0:
            assert result.failure is not None
            assert result.scores.log_prob == -8.0
        else:
            assert result.scores.log_prob == -1 / result.num_steps


def test_failed_edits_keep_unadapted_scores() -> None:
    of_toy, _ = evaluation(num_edits=2, writer=Edits(stone_0_0="", stone_1_1="diverges"))
    found = of(of_toy.examine_episodes(alone(TASKS), 0, 0), SELF_EDIT)
    assert [r.failure for r in found] == ["malformed: empty: ''", None, None, "diverged: loss is NaN", None, None]
    for result in found:
        assert (result.num_steps > 0) == (result.failure is None)
        assert (result.scores.log_prob == -8.0) == (result.failure is not None)
        assert len(result.edits) == 1


def test_evaluation_reuses_equal_adaptations() -> None:
    """Where adaptation without an edit has the final edit's steps already, its control is that run."""
    writer = Edits(stone_0_0="one line")  # and the fact: one batch, as the fact alone is
    of_toy, loop = evaluation(writer=writer)
    results = of_toy.examine_episodes(alone(TASKS[:1]), 0, 0)
    assert [len(call) for call in loop.calls] == [2]
    (without,), (matched,) = of(results, WITHOUT_EDIT), of(results, MATCHED)
    assert without.num_steps == matched.num_steps == 2
    assert without.scores == matched.scores


def test_evaluation_without_in_context_exam() -> None:
    of_few_shot, _ = evaluation(FewShot())
    assert counts(of_few_shot.examine_episodes(alone(TASKS), 0, 0)) == {
        (c, 0): 3 for c in (UNADAPTED, WITHOUT_EDIT, MATCHED, SELF_EDIT)
    }


@pytest.mark.parametrize(
    ("chosen", "met", "num_plans"),
    [
        ([], [UNADAPTED], []),
        ([UNADAPTED], [UNADAPTED], []),
        ([IN_CONTEXT], [UNADAPTED, IN_CONTEXT], []),
        ([WITHOUT_EDIT], [UNADAPTED, WITHOUT_EDIT], [3]),
        ([SELF_EDIT], [UNADAPTED, SELF_EDIT], [3]),
        ([MATCHED], [UNADAPTED], []),
        ([MATCHED, SELF_EDIT], [UNADAPTED, SELF_EDIT, MATCHED], [3, 3]),
        ([SELF_EDIT, WITHOUT_EDIT], [UNADAPTED, SELF_EDIT, WITHOUT_EDIT], [6]),
    ],
    ids=str,
)
def test_evaluation_of_chosen_conditions(chosen: list[Condition], met: list[Condition], num_plans: list[int]) -> None:
    of_toy, loop = evaluation(conditions=chosen, writer=Edits(**{f"stone_{i}_0": "a\nb\nc" for i in range(3)}))
    assert counts(of_toy.examine_episodes(alone(TASKS), 0, 0)) == {(c, 0): 3 for c in met}
    assert [len(call) for call in loop.calls] == num_plans


def test_evaluation_without_tasks() -> None:
    of_toy, loop = evaluation()
    assert of_toy.examine_episodes(alone([]), 0, 0) == []
    assert loop.calls == []


def test_evaluation_ignores_batching() -> None:
    def results(*batches: Sequence[Task]) -> list[ConditionResult]:
        of_toy, _ = evaluation(num_edits=2)
        episodes = [[one for one in alone(TASKS) if one.tasks[0] in batch] for batch in batches]
        found = [r for number in (1, 0) for some in episodes for r in of_toy.examine_episodes(some, number, 1)]
        return sorted(found, key=lambda r: (r.condition, r.round, r.task_id, r.edits[0].edit_index if r.edits else 0))

    assert results(TASKS) == results(TASKS[:1], TASKS[1:])


def test_written_edits_train_nothing() -> None:
    of_toy, loop = evaluation(writer=Edits(stone_0_1=""))
    rows = written_edits(of_toy.runner, TASKS, 2)
    assert [(row["task_id"], row["edit_index"]) for row in rows] == [(t.task_id, i) for t in TASKS for i in (0, 1)]
    assert rows[0]["num_steps"] == 2
    assert rows[0]["sequences"][0] == "stone 0: line"
    assert rows[1]["malformed"].startswith("empty")
    assert loop.calls == []


def test_matched_condition_needs_self_edits() -> None:
    with pytest.raises(ConfigError, match="without_edit_matched takes the steps of self_edit"):
        SealModule(domain=ToyDomain(), test_conditions=("without_edit", "without_edit_matched"))


def test_evaluation_splits_calls_of_large_results() -> None:
    """As many calls as it takes, and the same results."""
    together, _ = evaluation(num_edits=2)
    apart, loop = evaluation(num_edits=2)
    loop.max_results = 2
    assert apart.examine_episodes(alone(TASKS), 0, 0) == together.examine_episodes(alone(TASKS), 0, 0)
    assert [len(call) for call in loop.calls] == [2, 2, 2, 2, 1, 2, 1]
