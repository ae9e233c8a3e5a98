"""Edits of several tasks as one training set: what they have in common, and what they must agree on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from seal_lightning.core import AdaptationPlan, AdapterSpec, OptimizerSpec, SelfEdit
from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.knowledge import DirectedEdits, Implications, KnowledgeDomain, Passage
from seal_lightning.evaluation.training_sets import joined_plan

DIRECTED = DirectedEdits(
    formats={"notes": Implications()}, learning_rates=(1e-3, 1e-2), num_epochs=(), passage_weights=(1, 2, 3)
)
DOMAIN = KnowledgeDomain(format=DIRECTED, title_prefix=False)
TASKS = [Passage.named(title=f"Place {i}", context=f"It lies at {i}.", questions=[]) for i in (1, 2)]


def edit(task: Passage, text: str, rate: float = 1e-3, weight: int = 1, index: int = 0) -> SelfEdit:
    said = {"format": "notes", "learning_rate": rate, "passage_weight": weight}
    return SelfEdit(task_id=task.task_id, edit_index=index, text=f"{json.dumps(said)}\n{text}")


def texts(plan: AdaptationPlan | None) -> list[str]:
    assert plan is not None
    return [sequence.segments[0].text for sequence in plan.sequences]


def test_joined_plan_keeps_shared_sequences_once() -> None:
    task = TASKS[0]
    edits = [edit(task, "a", weight=1), edit(task, "a\nb", weight=3, index=1), edit(task, "c", weight=2, index=2)]
    joined = joined_plan(DOMAIN, [(task, edits), (TASKS[1], [edit(TASKS[1], "d", weight=2)])])
    first, second = (t.context for t in TASKS)
    assert texts(joined.plan) == ["a", first, "b", first, first, "c", "d", second, second]


def test_joined_plan_refuses_different_optimisers() -> None:
    group = [(TASKS[0], [edit(TASKS[0], "a")]), (TASKS[1], [edit(TASKS[1], "b", rate=1e-2)])]
    with pytest.raises(
        ConfigError, match=r"2 tasks' edits .* 2 different adapters or optimisers .*model.protocol.init_args"
    ):
        joined_plan(DOMAIN, group)
    settled = (AdapterSpec(rank=2), OptimizerSpec(learning_rate=7e-5))
    joined = joined_plan(DOMAIN, group, lambda plan: replace(plan, adapter=settled[0], optimizer=settled[1]))
    assert joined.plan is not None
    assert (joined.plan.adapter, joined.plan.optimizer) == settled
    assert len(joined.plan.sequences) == 4
