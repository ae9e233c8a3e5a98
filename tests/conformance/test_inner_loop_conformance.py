"""What every inner loop does, however it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from fakes import ToyDomain, ToyTasks, weights_hash
from implementations import INNER_LOOPS, assert_all_registered, cases

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AdapterSpec,
    Diverged,
    OptimizerSpec,
    ScoreRequest,
    Segment,
    SelfEdit,
    TrainingSequence,
    WholeModel,
)
from seal_lightning.core.interfaces import InnerLoop
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.language_model import LanguageModel

Make = Callable[[], InnerLoop]
Result = Adapted | Diverged
PROBES = [("The stone 0 is", " red"), ("The stone 1 is", " green"), ("Facts", " known")]


def bound(make: Make, language_model: LanguageModel) -> InnerLoop:
    loop = make()
    loop.bind(language_model)
    return loop


def plans() -> list[AdaptationPlan]:
    """Different data, ranks, modules, optimisers and numbers of steps."""
    settings = [
        (AdapterSpec(rank=2, alpha=4.0), OptimizerSpec(learning_rate=2e-2, num_epochs=3, batch_size=1)),
        (
            AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear"),
            OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=3, schedule="cosine"),
        ),
        (
            AdapterSpec(rank=2, alpha=4.0, dropout=0.3),
            OptimizerSpec(learning_rate=2e-2, max_steps=5, batch_size=2, weight_decay=0.1, max_grad_norm=None),
        ),
    ]
    text = "It is known to all.\nIt is a stone of colour."
    return [
        ToyDomain(adapter, optimizer).plan(task, SelfEdit(task_id=task.task_id, edit_index=0, text=text * (1 + i)))
        for i, (task, (adapter, optimizer)) in enumerate(zip(ToyTasks(3).load(), settings, strict=True))
    ]


def outcome(language_model: LanguageModel, result: Result) -> list[float]:
    """What an adapted model makes of some probes: adapters are opaque, so they are asked, not looked at."""
    assert isinstance(result, Adapted), result
    return [score for scores in asked(language_model, result.adapter, PROBES) for score in scores]


def asked(
    language_model: LanguageModel, adapter: Adapter | None, probes: Sequence[tuple[str, str]]
) -> Sequence[Sequence[float]]:
    """The targets' log-probabilities; a whole model is installed for it."""
    engine = TransformersEngine(max_batch_size=1)
    engine.bind(language_model)
    if isinstance(adapter, WholeModel):
        with adapter.installed():
            return asked(language_model, None, probes)
    return engine.score([ScoreRequest(prompt=p, target=t, adapter=adapter) for p, t in probes])


def diverging() -> AdaptationPlan:
    optimizer = OptimizerSpec(learning_rate=1e300, num_epochs=4, schedule="constant")
    return replace(plans()[0], optimizer=optimizer)


def test_every_implementation_is_registered() -> None:
    assert_all_registered(InnerLoop, [make() for make in INNER_LOOPS])


@cases(INNER_LOOPS)
def test_no_plans_no_results(make: Make, tiny: LanguageModel) -> None:
    assert list(bound(make, tiny).adapt([], [])) == []


@cases(INNER_LOOPS)
def test_one_result_a_plan_in_order_whatever_the_order(make: Make, tiny64: LanguageModel) -> None:
    """Together, alone and backwards: the same adapters, losses and counts."""
    loop, seeds = bound(make, tiny64), [5, 6, 7]
    together = loop.adapt(plans(), seeds)
    alone = [loop.adapt([plan], [seed])[0] for plan, seed in zip(plans(), seeds, strict=True)]
    backwards = list(loop.adapt(plans()[::-1], seeds[::-1]))[::-1]
    for first, *others in zip(together, alone, backwards, strict=True):
        for other in others:
            assert outcome(tiny64, other) == pytest.approx(outcome(tiny64, first), rel=1e-8)
            assert isinstance(first, Adapted)
            assert isinstance(other, Adapted)
            assert other.losses == pytest.approx(first.losses, rel=1e-8)
            assert other.num_tokens == first.num_tokens
    assert len({tuple(outcome(tiny64, result)) for result in together}) == 3


@cases(INNER_LOOPS)
def test_a_result_says_what_was_done(make: Make, tiny: LanguageModel) -> None:
    for plan, result in zip(plans(), bound(make, tiny).adapt(plans(), [1, 2, 3]), strict=True):
        assert isinstance(result, Adapted)
        assert len(result.losses) == plan.num_steps
        assert all(math.isfinite(loss) and loss > 0 for loss in result.losses)
        one_epoch = sum(len(tiny.encode_text(g.text)) for sequence in plan.sequences for g in sequence.segments)
        if plan.optimizer.max_steps is None:
            assert result.num_tokens == plan.optimizer.num_epochs * one_epoch
        assert result.seconds > 0


@cases(INNER_LOOPS)
def test_training_makes_the_trained_text_likelier(make: Make, tiny: LanguageModel) -> None:
    task = ToyTasks(1).load()[0]
    optimizer = OptimizerSpec(learning_rate=2e-2, num_epochs=10)
    plan = ToyDomain(AdapterSpec(rank=4, alpha=8.0), optimizer).plan_without_edit(task)
    (result,) = bound(make, tiny).adapt([plan], [3])
    assert isinstance(result, Adapted)
    probe = (f"{task.key}: ", task.context)
    ((before,), (after,)) = (asked(tiny, adapter, [probe]) for adapter in (None, result.adapter))
    assert sum(after) > sum(before) + 5
    assert result.losses[-1] < result.losses[0]


@cases(INNER_LOOPS)
def test_the_seed_decides_and_the_global_generator_does_not(make: Make, tiny: LanguageModel) -> None:
    loop, plan = bound(make, tiny), plans()[2]  # with dropout
    torch.manual_seed(1)
    first = outcome(tiny, loop.adapt([plan], [11])[0])
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = (outcome(tiny, result) for result in loop.adapt([plan, plan], [11, 12]))
    assert torch.equal(torch.get_rng_state(), state)
    assert again == first
    assert other != pytest.approx(first, rel=1e-3)


@cases(INNER_LOOPS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_plan_that_diverges_fails_alone_and_typed(make: Make, tiny64: LanguageModel, place: int) -> None:
    loop = bound(make, tiny64)
    good = [outcome(tiny64, result) for result in loop.adapt(plans()[:2], [5, 6])]
    mixed, seeds = plans()[:2], [5, 6]
    mixed.insert(place, diverging())
    seeds.insert(place, 9)
    results = list(loop.adapt(mixed, seeds))
    failed = results.pop(place)
    assert isinstance(failed, Diverged)
    assert failed.reason
    assert 0 <= failed.step < diverging().num_steps
    assert [outcome(tiny64, result) for result in results] == [pytest.approx(one, rel=1e-8) for one in good]


@cases(INNER_LOOPS)
def test_a_plan_with_nothing_to_train_on_fails_alone_and_typed(make: Make, tiny: LanguageModel) -> None:
    good = plans()[0]
    blank = replace(good, sequences=(TrainingSequence(segments=(Segment(text=""),)),))
    none = replace(good, sequences=())
    endless = replace(none, optimizer=replace(good.optimizer, max_steps=4))
    results = bound(make, tiny).adapt([none, good, blank, endless], [1, 2, 3, 4])
    assert [type(result) for result in results] == [Diverged, Adapted, Diverged, Diverged]


@cases(INNER_LOOPS)
def test_the_base_model_ends_as_it_was(make: Make, tiny: LanguageModel) -> None:
    """Weights bit for bit, no hook, no gradient, no training mode; after failures too."""
    before = weights_hash(tiny.model)
    bound(make, tiny).adapt([*plans(), replace(diverging(), optimizer=OptimizerSpec(learning_rate=1e30))], [1, 2, 3, 4])
    assert weights_hash(tiny.model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.model.parameters())
    assert not tiny.model.training


@cases(INNER_LOOPS)
def test_it_trains_where_lightning_has_switched_gradients_off(make: Make, tiny: LanguageModel) -> None:
    with torch.no_grad():
        (without,) = bound(make, tiny).adapt(plans()[:1], [5])
    assert outcome(tiny, without) == outcome(tiny, bound(make, tiny).adapt(plans()[:1], [5])[0])


@cases(INNER_LOOPS)
def test_plans_and_seeds_come_in_pairs(make: Make, tiny: LanguageModel) -> None:
    with pytest.raises(ValueError, match="zip"):
        bound(make, tiny).adapt(plans(), [1])


@cases(INNER_LOOPS)
def test_a_loop_remembers_nothing_of_earlier_plans(make: Make, tiny64: LanguageModel) -> None:
    """A used loop adapts as a new one does, though the plans before had other modules, layers and ranks."""
    attention, everywhere, _ = plans()
    one_layer = replace(attention, adapter=replace(attention.adapter, layers=(1,)))
    used = bound(make, tiny64)
    for plan in (everywhere, attention, one_layer, everywhere):
        ours, theirs = used.adapt([plan], [5])[0], bound(make, tiny64).adapt([plan], [5])[0]
        assert outcome(tiny64, ours) == pytest.approx(outcome(tiny64, theirs), abs=1e-9)
