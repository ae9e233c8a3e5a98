"""Episodes of each protocol on the tiny model: what is learned together, what is merged, and what is examined when."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import ToyDomain, ToyTasks, weights_hash

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    Adapted,
    AdapterSpec,
    ConditionNames,
    Measurement,
    OptimizerSpec,
    SamplingSpec,
    SelfEdit,
    Task,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import InnerLoop, Writer
from seal_lightning.evaluation import (
    Condition,
    ConditionResult,
    ContinualSelfEdits,
    ContinuedPretraining,
    Evaluation,
    Protocol,
    SinglePassage,
)
from seal_lightning.evaluation.training_sets import joined_plan
from seal_lightning.generation import PolicyWriter, TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.whole_weights import merge, scratch_weights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.reporting.condition_table import condition_table
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import LikelihoodReward

TASKS = ToyTasks(6).load()
NEEDS = frozenset(Measurement)
SELF_EDIT, WITHOUT_EDIT, BEFORE = Condition.SELF_EDIT, Condition.WITHOUT_EDIT, Condition.NO_ADAPTATION
OPTIMIZER = OptimizerSpec(learning_rate=0.02, num_epochs=3, batch_size=2)


class Lines(Writer):
    """Writes each task's edits from its id and the edit's index, and notes what the model knew then."""

    def __init__(self, malformed: Sequence[str] = ()) -> None:
        self.malformed = malformed
        self.calls: list[list[str]] = []

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Any) -> list[SelfEdit]:
        self.calls.append([task.task_id for task in tasks])
        names = [(task.task_id, i) for task in tasks for i in range(num_edits)]
        return [
            SelfEdit(task_id=name, edit_index=i, text="" if name in self.malformed else f"{name} is known\nline {i}")
            for name, i in names
        ]


def evaluation(
    language_model: LanguageModel, protocol: Protocol, inner_loop: InnerLoop | None = None, **settings: Any
) -> Evaluation:
    engine, loop = TransformersEngine(), inner_loop or BatchedInnerLoop()
    engine.bind(language_model)
    loop.bind(language_model)
    domain = ToyDomain(AdapterSpec(rank=2, alpha=4.0), OPTIMIZER)
    runner = AttemptRunner(
        domain=domain,
        writer=settings.pop("writer", None) or Lines(),
        engine=engine,
        inner_loop=loop,
        grader=LocalRules(),
        reward=LikelihoodReward(),
        seed=1,
    )
    return Evaluation(runner, protocol, learner=language_model, **settings)


def examined(of: Evaluation, tasks: Sequence[Task], round_index: int = 0, final: int = 0) -> list[ConditionResult]:
    return of.examine_episodes(of.protocol.episodes(tasks, 1), round_index, final)


def cells(results: Sequence[ConditionResult], condition: Condition) -> dict[tuple[int, int, int], ConditionResult]:
    found = [r for r in results if r.condition is condition]
    by_cell = {(r.sequence, r.step, r.place): r for r in found}
    assert len(by_cell) == len(found)
    return by_cell


def test_continued_pretraining_trains_once_examines_all(tiny64: LanguageModel) -> None:
    """By hand: all tasks' edits, the context once a task, one adapter, everyone's exam with it."""
    before = weights_hash(tiny64.model)
    of = evaluation(tiny64, ContinuedPretraining(num_tasks=4), num_edits=2)
    results = examined(of, TASKS)
    found = cells(results, SELF_EDIT)
    assert set(found) == {(0, 1, place) for place in range(4)}
    domain, loop = of.runner.domain, of.runner.inner_loop
    edits = {t.task_id: list(Lines().write([t], 2, {})) for t in TASKS[:4]}
    texts: list[Any] = []
    for task in TASKS[:4]:
        first, second = (domain.plan(task, edit).sequences for edit in edits[task.task_id])
        texts += [*first, *(sequence for sequence in second if sequence not in first)]
    plan = replace(domain.plan(TASKS[0], edits[TASKS[0].task_id][0]), sequences=tuple(texts))
    assert len(plan.sequences) == 4 * (2 * 2 + 1 - 1)  # the two edits of a task share a line and the context
    (trained,) = loop.adapt([plan], [of._steps.seed(_job_of(of))])
    assert isinstance(trained, Adapted)
    expected = of.runner.examine([(task, trained.adapter) for task in TASKS[:4]], NEEDS)
    for place, scores in enumerate(expected):
        assert found[0, 1, place].scores.log_prob == pytest.approx(scores.log_prob, abs=1e-9)
        assert found[0, 1, place].num_sequences == len(plan.sequences)
        assert found[0, 1, place].num_tokens == pytest.approx(trained.num_tokens / 4)
        assert [edit.edit_index for edit in found[0, 1, place].edits] == [0, 1]
    assert weights_hash(tiny64.model) == before


def _job_of(of: Evaluation) -> Any:
    (episode,) = of.protocol.episodes(TASKS, 1)
    return type("Job", (), {"episode": episode, "step": 1})


def test_continued_pretraining_by_full_finetuning(tiny64: LanguageModel) -> None:
    before = weights_hash(tiny64.model)
    full = OptimizerSpec(learning_rate=0.01, num_epochs=4, batch_size=2)
    results = examined(evaluation(tiny64, ContinuedPretraining(optimizer=full), FullFinetuning()), TASKS)
    unadapted, adapted = cells(results, BEFORE), cells(results, SELF_EDIT)
    gains = [adapted[0, 1, p].scores.log_prob - unadapted[0, 0, p].scores.log_prob for p in range(6)]  # type: ignore[operator]
    assert sum(gains) > 1
    num_sequences = adapted[0, 1, 0].num_sequences
    assert adapted[0, 1, 0].num_steps == 4 * math.ceil(num_sequences / 2), "the protocol's own optimiser"
    assert weights_hash(tiny64.model) == before


def test_malformed_edits_count_for_their_task(tiny64: LanguageModel) -> None:
    """The others' are learned from, and it is examined on what they taught."""
    writer = Lines(malformed=["stone-1"])
    results = examined(evaluation(tiny64, ContinuedPretraining(), num_edits=3, writer=writer), TASKS[:3])
    found = cells(results, SELF_EDIT)
    assert [found[0, 1, place].failed_edits for place in range(3)] == [0, 3, 0]
    assert [bool(found[0, 1, place].failure) for place in range(3)] == [False, True, False]
    assert found[0, 1, 1].scores != cells(results, BEFORE)[0, 0, 1].scores
    (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
    assert row.num_failed == 3


def test_matched_steps_equal_joint_training(tiny64: LanguageModel) -> None:
    results = examined(evaluation(tiny64, ContinuedPretraining(), num_edits=2), TASKS[:4])
    edits, matched = cells(results, SELF_EDIT)[0, 1, 0], cells(results, Condition.WITHOUT_EDIT_MATCHED)[0, 1, 0]
    assert matched.num_steps == edits.num_steps > cells(results, WITHOUT_EDIT)[0, 1, 0].num_steps
    assert matched.num_sequences == 4


def test_continual_steps_merge_and_examine_all_seen(tiny64: LanguageModel) -> None:
    """By hand: adapt, merge, examine; the next edit is written by the merged model; behind it all is as it was."""
    before = weights_hash(tiny64.model)
    engine = TransformersEngine()
    engine.bind(tiny64)
    protocol = ContinualSelfEdits(num_steps=3, num_sequences=2)
    policy = PolicyWriter(ToyDomain(), engine, SamplingSpec(max_new_tokens=8))
    of = evaluation(tiny64, protocol, conditions=[SELF_EDIT, WITHOUT_EDIT], writer=policy)
    results = examined(of, TASKS)
    assert weights_hash(tiny64.model) == before
    found, unadapted = cells(results, SELF_EDIT), cells(results, BEFORE)
    assert set(found) == {(s, step, place) for s in range(2) for step in range(1, 4) for place in range(step)}
    assert set(unadapted) == {(s, 0, place) for s in range(2) for place in range(3)}
    for episode in protocol.episodes(TASKS, 1):
        with scratch_weights(tiny64):
            for step, (task,) in enumerate(episode.steps, 1):
                (edit,) = of.runner.propose([task], 1, f"test {episode.index}")
                assert found[episode.index, step, step - 1].edits == (edit,)
                assert all(not found[episode.index, step, place].edits for place in range(step - 1))
                plan = joined_plan(of.runner.domain, [(task, [edit])]).plan
                assert plan is not None
                (trained,) = of.runner.inner_loop.adapt([plan], [of._steps.seed(_step_of(episode, step))])
                assert isinstance(trained, Adapted)
                merge(tiny64, trained.adapter)
                scores = of.runner.examine([(t, None) for t in episode.seen(step)], NEEDS)
                for place, exam in enumerate(scores):
                    cell = found[episode.index, step, place]
                    assert cell.scores.log_prob == pytest.approx(exam.log_prob, abs=1e-9)
    written = {r.task_id: r.edits for r in found.values() if r.edits and r.sequence == 0}
    alone = {edit.task_id: (edit,) for edit in of.runner.propose(TASKS, 1, "test 0") if edit.task_id in written}
    assert written != alone, "merged models write other edits than the policy"


def _step_of(episode: Any, step: int) -> Any:
    return type("Job", (), {"episode": episode, "step": step})


def test_continual_step_without_edit_keeps_the_model(tiny64: LanguageModel) -> None:
    protocol = ContinualSelfEdits(num_steps=3, num_sequences=1)
    of = evaluation(tiny64, protocol, writer=Lines(malformed=["stone-0", "stone-1", "stone-2", "stone-3", "stone-4"]))
    order = [task.task_id for task in protocol.episodes(TASKS, 1)[0].tasks]
    results = examined(of, TASKS)
    found, unadapted = cells(results, SELF_EDIT), cells(results, BEFORE)
    for step in range(1, order.index("stone-5") + 1 if "stone-5" in order else 4):
        for place in range(step):
            assert found[0, step, place].scores == unadapted[0, 0, place].scores
            assert bool(found[0, step, place].failure) == (place == step - 1)


def test_continual_sequences_use_all_tasks_first() -> None:
    for num_tasks, num_steps in ((12, 4), (7, 3), (6, 4), (4, 4)):
        tasks = ToyTasks(num_tasks).load()
        episodes = ContinualSelfEdits(num_steps=num_steps, num_sequences=6).episodes(tasks, 1)
        assert [len({t.task_id for t in e.tasks}) for e in episodes] == [num_steps] * 6
        drawn = [task.task_id for episode in episodes for task in episode.tasks]
        for used in range(1, len(drawn) + 1):
            counts = Counter(drawn[:used])
            assert max(counts.values()) - min(counts[t.task_id] for t in tasks) <= 2
        assert len(set(drawn[:num_tasks])) >= num_tasks - num_steps + 1
        assert len(set(drawn[: num_tasks // num_steps * num_steps])) == num_tasks // num_steps * num_steps
    tasks = ToyTasks(12).load()
    orders = {tuple(e.tasks for e in ContinualSelfEdits(num_steps=4).episodes(tasks, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert len({tuple(e.tasks for e in ContinualSelfEdits(num_steps=4).episodes(tasks, 3)) for _ in range(3)}) == 1


def test_other_writers_and_adapters_are_conditions(tiny64: LanguageModel) -> None:
    loop = BatchedInnerLoop()
    loop.bind(tiny64)
    (outside,) = loop.adapt([ToyDomain().plan_without_edit(TASKS[0])], [3])
    assert isinstance(outside, Adapted)
    other = Lines()
    of = evaluation(
        tiny64, SinglePassage(), writers={"other": other}, adapters={"mine": outside.adapter}, conditions=[SELF_EDIT]
    )
    results = [*examined(of, TASKS[:2], 1, 1), *examined(of, TASKS[:2], 0, 1)]
    written = [r for r in results if r.condition is Condition.OTHER_WRITER]
    assert [(r.name, r.round, r.task_id) for r in written] == [("other", 0, "stone-0"), ("other", 0, "stone-1")]
    assert other.calls == [["stone-0", "stone-1"]]
    ready = [r for r in results if r.condition is Condition.OUTSIDE_ADAPTER]
    expected = of.runner.examine([(task, outside.adapter) for task in TASKS[:2]], NEEDS)
    assert [r.scores for r in ready] == expected
    labels = [row.label for row in condition_table(results, ConditionNames())]
    assert "adapter mine" in labels
    assert "edits by other" in labels


def test_ranks_share_continued_pretraining(tiny64: LanguageModel) -> None:
    """Two ranks, each with its share of the tasks, find what one does."""
    protocol = ContinuedPretraining()
    alone = examined(evaluation(tiny64, protocol, num_edits=2), TASKS[:5])
    shared: list[ConditionResult] = []
    for rank in (0, 1):
        written = [edit for r in (0, 1) for edit in Lines().write(TASKS[:5][r::2], 2, {})]
        of = evaluation(tiny64, protocol, num_edits=2, share=(rank, 2), gather=lambda mine, all_=written: all_)
        shared += examined(of, TASKS[:5])

    def key(result: ConditionResult) -> tuple[str, int]:
        return result.condition.value, result.place

    def comparable(result: ConditionResult) -> ConditionResult:
        return replace(result, adapt_seconds=0.0, scores=replace(result.scores, questions=()))

    for one, other in zip(sorted(alone, key=key), sorted(shared, key=key), strict=True):
        assert comparable(one) == comparable(other)
        assert one.scores.log_prob == pytest.approx(other.scores.log_prob, abs=1e-9)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (ContinuedPretraining(num_tasks=7), "num_tasks: 7 is not allowed; data.test has 6 tasks, so it must be 1 to 6"),
        (ContinualSelfEdits(num_steps=7), "num_steps: 7 is not allowed; data.test has 6 tasks, so it must be 1 to 6"),
    ],
)
def test_protocols_refuse_too_few_tasks(protocol: Protocol, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        protocol.episodes(TASKS, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ContinuedPretraining(num_tasks=0),
        lambda: ContinualSelfEdits(num_steps=0),
        lambda: ContinualSelfEdits(num_sequences=0),
    ],
)
def test_protocols_refuse_counts_below_one(make: Any) -> None:
    with pytest.raises(ConfigError, match="0 is not allowed; it must be at least 1"):
        make()


def test_continual_table_after_own_and_last_step(tiny64: LanguageModel) -> None:
    """A continual table's two numbers, by hand from the cells; units are sequences."""
    protocol = ContinualSelfEdits(num_steps=3, num_sequences=2)
    results = examined(evaluation(tiny64, protocol, conditions=[SELF_EDIT]), TASKS)
    shuffled = random.Random(1).sample(results, len(results))
    (row,) = (row for row in condition_table(shuffled, ConditionNames()) if row.condition is SELF_EDIT)
    found = cells(results, SELF_EDIT)

    def mean(step_of: Any, sequence: int) -> float:
        values = [found[sequence, step_of(place), place].scores.log_prob for place in range(3)]
        return sum(v for v in values if v is not None) / 3

    own = [mean(lambda place: place + 1, s) for s in (0, 1)]
    last = [mean(lambda place: 3, s) for s in (0, 1)]
    assert row.log_prob is not None
    assert row.log_prob_after_own_step is not None
    assert row.log_prob.mean == pytest.approx(sum(last) / 2)
    assert row.log_prob.standard_error == pytest.approx(abs(last[0] - last[1]) / 2)
    assert row.log_prob_after_own_step.mean == pytest.approx(sum(own) / 2)
    assert row.log_prob.n == 2


def test_matched_steps_are_set_per_step(tiny64: LanguageModel) -> None:
    """Edits of different lengths: the matched context takes as many steps in the same place."""

    class Longer(Lines):
        def write(self, tasks: Sequence[Task], num_edits: int, seeds: Any) -> list[SelfEdit]:
            self.calls.append([task.task_id for task in tasks])
            lines = "\n".join(f"line {i}" for i in range(2 * len(self.calls) % 5))
            return [SelfEdit(task_id=task.task_id, edit_index=0, text=f"known\n{lines}") for task in tasks]

    results = examined(evaluation(tiny64, ContinualSelfEdits(num_steps=3, num_sequences=2), writer=Longer()), TASKS)
    edits, matched = cells(results, SELF_EDIT), cells(results, Condition.WITHOUT_EDIT_MATCHED)
    steps = {cell: edits[cell].num_steps for cell in edits}
    assert len(set(steps.values())) > 1
    assert {cell: matched[cell].num_steps for cell in matched} == steps


def test_failures_count_for_each_steps_own_task(tiny64: LanguageModel) -> None:
    """Also where a condition has no edits: three steps of three diverge."""
    too_much = OptimizerSpec(learning_rate=1e300, num_epochs=2, schedule="constant")
    protocol = ContinualSelfEdits(num_steps=3, num_sequences=1, optimizer=too_much)
    results = examined(evaluation(tiny64, protocol, num_edits=2), TASKS)
    failed = {row.condition: row.num_failed for row in condition_table(results, ConditionNames())}
    assert failed[WITHOUT_EDIT] == 3
    assert failed[SELF_EDIT] == 6, "all edits of a step that diverged"
    assert failed[Condition.WITHOUT_EDIT_MATCHED] == 3


def test_failed_adaptation_is_not_reused_as_control(tiny64: LanguageModel) -> None:
    """The passage alone diverged: its scores, those without adaptation, are not taken for the control's."""
    results = examined(evaluation(tiny64, SinglePassage(), writer=Lines(malformed=["stone-0"])), TASKS[:1])
    (matched,) = cells(results, Condition.WITHOUT_EDIT_MATCHED).values()
    assert matched.failure is not None
    assert "0 steps" in matched.failure


def test_non_finite_scores_are_a_failure(tiny64: LanguageModel) -> None:
    """A merged adapter with finite weights whose outputs overflow: counted, and no NaN in the results."""

    class Huge(BatchedInnerLoop):
        def adapt(self, plans: Any, seeds: Any) -> Any:
            found = super().adapt(plans, seeds)
            for result in found:
                if isinstance(result, Adapted):
                    for tensor in result.adapter.tensors():  # type: ignore[attr-defined]
                        tensor.detach().fill_(1e200)
            return found

    for protocol in (ContinualSelfEdits(num_steps=2, num_sequences=1), SinglePassage()):
        results = examined(evaluation(tiny64, protocol, Huge(), conditions=[SELF_EDIT]), TASKS[:2])
        assert all(math.isfinite(q.log_prob or 0.0) for r in results for q in r.scores.questions)
        (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
        assert row.num_failed == 2


def test_repeated_tasks_do_not_shrink_the_error(tiny64: LanguageModel) -> None:
    """Six tasks drawn 24 times: no more is known of them than of six tasks."""
    few = examined(evaluation(tiny64, SinglePassage(), conditions=[]), TASKS)
    many = examined(evaluation(tiny64, ContinualSelfEdits(num_steps=1, num_sequences=24), conditions=[]), TASKS)
    (of_few,), (of_many,) = condition_table(few, ConditionNames()), condition_table(many, ConditionNames())
    assert of_few.log_prob is not None
    assert of_many.log_prob is not None
    assert of_many.log_prob.mean == pytest.approx(of_few.log_prob.mean)
    assert of_many.log_prob.standard_error == pytest.approx(of_few.log_prob.standard_error)
