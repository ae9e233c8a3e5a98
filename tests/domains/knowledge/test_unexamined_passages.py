"""A passage without questions is learned like any other; nothing is measured on it, and its neighbours are not disturbed."""

from dataclasses import replace

import pytest

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdapterSpec, AttemptStatus, Candidate, Measurement, OptimizerSpec
from seal_lightning.domains.knowledge import EditFile, KnowledgeDomain
from seal_lightning.generation import TransformersEngine
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import AccuracyReward, LikelihoodReward

EVERYTHING = frozenset(Measurement)


@pytest.mark.parametrize("reward", [LikelihoodReward(), AccuracyReward()])
def test_it_is_adapted_and_unscored(passage, edit, tiny, tmp_path, reward):
    bare = replace(passage, task_id="bare", questions=())
    domain = KnowledgeDomain(
        adapter=AdapterSpec(rank=2), optimizer=OptimizerSpec(num_epochs=1), max_answer_tokens=2, max_sequences=2
    )
    engine, inner_loop = TransformersEngine(), BatchedInnerLoop()
    engine.bind(tiny)
    inner_loop.bind(tiny)
    writer = EditFile(tmp_path / "none.json")
    runner = AttemptRunner(
        domain=domain, writer=writer, engine=engine, inner_loop=inner_loop, grader=LocalRules(), reward=reward, seed=0
    )
    check_prompts_fit(domain, [bare, passage], tiny, in_context=True)
    empty, full = runner.examine([(bare, None), (passage, None)], EVERYTHING)
    assert empty.questions == ()
    means = (empty.log_prob, empty.accuracy, empty.exact_match, empty.f1, empty.solved, empty.partial_credit)
    assert means == (None,) * 6
    assert (empty.num_unscored, empty.num_invalid) == (0, 0)
    assert [full] == runner.examine([(passage, None)], EVERYTHING)
    assert runner.examine([(bare, None)], EVERYTHING) == [empty]
    trials = [runner.trial(task, replace(edit("rye"), task_id=task.task_id), 0, 0) for task in (bare, passage)]
    unscored, scored = runner.run(trials, before={"bare": empty, passage.task_id: full})
    assert (unscored.status, scored.status) == (AttemptStatus.UNSCORED, AttemptStatus.SCORED)
    assert unscored.plan is not None
    assert unscored.final_loss is not None
    assert Candidate(task_id="bare", edit_index=0, attempts=(unscored,)).reward is None, "no filter takes it"
