"""The batched inner loop against PEFT, torch's AdamW and transformers' schedules, one adapter at a time."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import MAX_LENGTH, tiny_tokenizer, weights_hash
from peft_reference import by_name, reference, relative_error
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    Diverged,
    OptimizerSpec,
    Segment,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.inner_loop.adapter_run import AdapterRun
from seal_lightning.inner_loop.side_by_side import ConcurrentAdapters
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter
from seal_lightning.models.packed import Anchored, PackedLoss, PackedRow, pack, pack_within

RAGGED = (
    (("stone 1: ", False), ("The stone 1 is green.", True)),
    (("The stone 2 is blue, and it is known to be blue.", True),),
    (("Question: ", False), ("what is the colour?", False), (" Answer: red", True), ("\n", False)),
    (("stone", True),),
    (("1. ", False), ("First the amber stone", True), (" - ", False), ("then the black one.", True)),
)

WITHOUT_LONE_TOKENS = tuple(s for s in RAGGED if s != (("stone", True),))
"""A lone token has no target: nothing to compare where it is a batch of its own."""


def plan_of(
    texts: tuple[tuple[tuple[str, bool], ...], ...] = RAGGED,
    adapter: AdapterSpec | None = None,
    optimizer: OptimizerSpec | None = None,
) -> AdaptationPlan:
    return AdaptationPlan(
        sequences=tuple(TrainingSequence(segments=tuple(Segment(text=t, trained=m) for t, m in s)) for s in texts),
        adapter=adapter or AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear"),
        optimizer=optimizer or OptimizerSpec(learning_rate=1e-2, num_epochs=3, batch_size=1),
    )


def inner_loop(language_model: LanguageModel, max_tokens_per_pass: int = 2048) -> BatchedInnerLoop:
    loop = BatchedInnerLoop(max_tokens_per_pass=max_tokens_per_pass)
    loop.bind(language_model)
    return loop


def adapt_one(language_model: LanguageModel, plan: AdaptationPlan, seed: int = 7, max_tokens: int = 2048) -> Adapted:
    (result,) = inner_loop(language_model, max_tokens).adapt([plan], [seed])
    assert isinstance(result, Adapted), result
    return result


def tensors(result: Adapted | Diverged) -> list[Tensor]:
    assert isinstance(result, Adapted), result
    assert isinstance(result.adapter, LoraAdapter)
    return result.adapter.tensors()


def error(one: Adapted | Diverged, other: Adapted | Diverged) -> float:
    return relative_error(by_name(one), by_name(other))


def same(one: Adapted | Diverged, other: Adapted | Diverged) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSpec(learning_rate=1e-2, num_epochs=3, batch_size=1),
        OptimizerSpec(learning_rate=1e-2, num_epochs=3, batch_size=3),
        OptimizerSpec(
            learning_rate=5e-3, num_epochs=2, batch_size=2, schedule="cosine", warmup_steps=2, weight_decay=0.1
        ),
        OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=3, schedule="constant", max_grad_norm=None),
    ],
)
@pytest.mark.parametrize("max_tokens", [2048, 20])
def test_batched_equals_peft_and_adamw(tiny64: LanguageModel, optimizer: OptimizerSpec, max_tokens: int) -> None:
    """Packing, passes of few tokens, masks, clipping and decay change nothing but the order of sums.

    A sequence of one token has no target; PEFT's side would divide by zero where it stands alone.
    """
    texts = (*(s for s in RAGGED if s != (("stone", True),)), ((" stone is", True),))
    plan = plan_of(texts, optimizer=optimizer)
    result = adapt_one(tiny64, plan, max_tokens=max_tokens)
    expected, losses = reference(tiny64, plan, seed=7)
    assert relative_error(by_name(result), expected) <= 1e-12
    assert result.losses == pytest.approx(losses, rel=1e-12)
    assert len(losses) == plan.num_steps


def test_batched_lowers_the_loss(tiny: LanguageModel) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=10, batch_size=len(RAGGED))
    losses = adapt_one(tiny, plan_of(optimizer=optimizer)).losses
    assert losses[-1] < 0.8 * losses[0]


def test_batched_comparison_depends_on_clipping(tiny64: LanguageModel) -> None:
    """The case above clips: without, other weights come out."""
    clipped, free = (
        adapt_one(tiny64, plan_of(optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=1, max_grad_norm=norm)))
        for norm in (0.1, None)
    )
    assert not same(clipped, free)


# --- packing -----------------------------------------------------------------------------------------------------------


def test_packed_losses_equal_unpacked_losses(tiny64: LanguageModel) -> None:
    """Also against a plain forward pass that is given no mask and no positions."""
    sequences = [tokenize(sequence, tiny64) for sequence in plan_of().sequences]
    apart = []
    for sequence in sequences:
        ids = torch.tensor([sequence.token_ids])
        labels = ids.masked_fill(~torch.tensor([sequence.trained]), -100)[0, 1:]
        logits = tiny64.model(input_ids=ids).logits[0, :-1]
        apart.append(F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
    device = torch.device("cpu")
    packed = tiny64.packed(pack(sequences, device)).total
    assert packed.item() == pytest.approx(sum(apart).item(), rel=1e-13)
    rows = pack_within(sequences, 30, device)
    assert 1 < len(rows) < len(sequences)
    assert sum(tiny64.packed(row).total.item() for row in rows) == pytest.approx(packed.item(), rel=1e-13)


def test_pack_within_fills_rows_in_order(tiny: LanguageModel) -> None:
    sequences = [tokenize(sequence, tiny) for sequence in plan_of().sequences]
    longest = max(len(s.token_ids) for s in sequences)
    for limit in (1, longest - 1, longest, 10_000):
        rows = pack_within(sequences, limit, torch.device("cpu"))
        ids = [i for row in rows for i in row.token_ids[0].tolist()]
        assert ids == [i for s in sequences for i in s.token_ids]
        starts = [int((row.position_ids == 0).sum()) for row in rows]
        assert sum(starts) == len(sequences)
        assert all(n == 1 or row.token_ids.numel() <= limit for n, row in zip(starts, rows, strict=True))
    assert len(rows) == 1


def test_pack_never_targets_the_first_token(tiny: LanguageModel) -> None:
    texts = ((("stone 1: ", False), ("red", True), (" or", False), (" blue", True)), (("The stone", True),))
    first, second = (tokenize(sequence, tiny) for sequence in plan_of(texts).sequences)
    row = pack([first, second], torch.device("cpu"))
    expected = tiny.encode_text("red") + tiny.encode_text(" blue") + tiny.encode_text("The stone")[1:]
    assert row.targets.tolist() == expected
    assert row.token_ids[0, row.predict_at + 1].tolist() == expected
    assert first.num_targets + second.num_targets == len(expected)


def test_batched_uses_untrained_text_as_context_only(tiny64: LanguageModel) -> None:
    """What stands behind the last target changes nothing; what stands before it does."""
    before, target = ("stone 1: ", False), ("The stone is green.", True)
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=3)
    plain = adapt_one(tiny64, plan_of(((before, target),), optimizer=optimizer))
    behind = adapt_one(tiny64, plan_of(((before, target, (" nonsense 99", False)),), optimizer=optimizer))
    other = adapt_one(tiny64, plan_of(((("stone 2: ", False), target),), optimizer=optimizer))
    close = [torch.allclose(x, y, rtol=1e-9, atol=1e-13) for x, y in zip(tensors(plain), tensors(behind), strict=True)]
    assert all(close)
    assert not any(torch.allclose(x, y) for x, y in zip(tensors(plain)[1::2], tensors(other)[1::2], strict=True))


def test_batched_without_targets_leaves_the_update_at_zero(tiny: LanguageModel) -> None:
    result = adapt_one(tiny, plan_of(((("only context", False),),)))
    assert not any(b.any() for b in tensors(result)[1::2])
    assert set(result.losses) == {0.0}


def test_batched_logs_truncated_sequences(tiny: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    long = "The stone 3 is red. " * 100
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2)
    with caplog.at_level(logging.WARNING):
        result = adapt_one(tiny, plan_of((((long, True),),), optimizer=optimizer))
    assert result.num_tokens == 2 * MAX_LENGTH
    assert f"truncated to the model's {MAX_LENGTH} tokens" in caplog.text
    (cut,) = [tokenize(sequence, tiny) for sequence in plan_of((((long, True),),)).sequences]
    assert cut.truncated
    assert list(cut.token_ids) == tiny.encode_text(long)[:MAX_LENGTH]


def test_batched_skips_sequences_without_targets_left(tiny: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2)
    long, short = (("The stone 3 is red. " * 100, False), ("red", True)), (("Stone 3:", False), (" red", True))
    with caplog.at_level(logging.WARNING):
        left_out = adapt_one(tiny, plan_of((long, short), optimizer=optimizer))
    assert "1 sequences were skipped" in caplog.text
    assert len(left_out.losses) == 4  # as many steps as planned, on what there is
    assert min(left_out.losses) > 0
    loop = BatchedInnerLoop()
    loop.bind(tiny)
    (nothing,) = loop.adapt([plan_of((long,), optimizer=optimizer)], [1])
    assert isinstance(nothing, Diverged)
    assert "before their first trained token" in nothing.reason


# --- seeds, steps ------------------------------------------------------------------------------------------------------


def test_batched_depends_on_the_seed(tiny: LanguageModel) -> None:
    state = torch.get_rng_state()
    one = adapt_one(tiny, plan_of(), seed=1)
    torch.manual_seed(99)
    again, other = adapt_one(tiny, plan_of(), seed=1), adapt_one(tiny, plan_of(), seed=2)
    assert same(one, again)
    assert one.losses == again.losses
    assert not same(one, other)
    torch.set_rng_state(state)


def test_batches_order_comes_from_the_seed(tiny: LanguageModel) -> None:
    """Each epoch has all sequences, in orders that differ between epochs and seeds."""
    plan = plan_of(optimizer=OptimizerSpec(learning_rate=1e-30, num_epochs=4))  # so that a loss names its sequence
    by_seed = [adapt_one(tiny, plan, seed=seed).losses for seed in (1, 2)]
    epochs = [[tuple(round(x, 5) for x in losses[i : i + 5]) for i in range(0, 20, 5)] for losses in by_seed]
    assert len({tuple(sorted(epoch)) for of_seed in epochs for epoch in of_seed}) == 1
    assert len(set(epochs[0])) > 1
    assert epochs[0] != epochs[1]


def test_batched_dropout_comes_from_the_seed(tiny: LanguageModel) -> None:
    spec = AdapterSpec(rank=4, alpha=8.0, dropout=0.5)
    one, again = (adapt_one(tiny, plan_of(adapter=spec)) for _ in range(2))
    without = adapt_one(tiny, plan_of(adapter=replace(spec, dropout=0.0)))
    assert same(one, again)
    assert not same(one, without)


@pytest.mark.parametrize("max_steps", [1, 4, 13])
def test_batched_takes_exactly_max_steps(tiny: LanguageModel, max_steps: int) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=2, max_steps=max_steps)
    assert len(adapt_one(tiny, plan_of(optimizer=optimizer)).losses) == max_steps


def test_batched_counts_every_token_of_every_epoch(tiny: LanguageModel) -> None:
    num_tokens = sum(len(tokenize(s, tiny).token_ids) for s in plan_of().sequences)
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=3, batch_size=2)
    assert adapt_one(tiny, plan_of(optimizer=optimizer)).num_tokens == 3 * num_tokens


# --- failures ----------------------------------------------------------------------------------------------------------


def test_batched_divergence_does_not_change_neighbours(tiny64: LanguageModel) -> None:
    """In one pass with it, at every step until it fails; NaN weights of one adapter reach no other."""
    good, other = plan_of(WITHOUT_LONE_TOKENS), plan_of(WITHOUT_LONE_TOKENS, adapter=AdapterSpec(rank=2, alpha=4.0))
    bad = plan_of(optimizer=OptimizerSpec(learning_rate=1e300, num_epochs=3, schedule="constant"))
    loop, before = inner_loop(tiny64), weights_hash(tiny64.model)
    first, failed, last = loop.adapt([good, bad, other], [1, 2, 3])
    assert isinstance(failed, Diverged)
    assert 0 < failed.step < bad.num_steps
    assert "nan" in failed.reason or "inf" in failed.reason
    without = loop.adapt([good, other], [1, 3])
    assert error(first, without[0]) <= 1e-12
    assert error(last, without[1]) <= 1e-12
    assert all(tensor.isfinite().all() for tensor in (*tensors(first), *tensors(last)))
    assert weights_hash(tiny64.model) == before


def test_batched_nan_stays_in_its_adapter(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first forward pass on: one adapter starts with NaN in A, beside others in the same packed row."""
    loop = inner_loop(tiny64)
    fresh = loop._fresh_adapter

    def poisoned(spec: AdapterSpec, seed: int) -> LoraAdapter:
        adapter = fresh(spec, seed)
        if seed == 2:
            adapter.tensors()[0].fill_(float("nan"))
        return adapter

    monkeypatch.setattr(loop, "_fresh_adapter", poisoned)
    plan = plan_of(WITHOUT_LONE_TOKENS)
    first, failed, last = loop.adapt([plan, plan, plan], [1, 2, 3])
    assert isinstance(failed, Diverged)
    assert failed.step == 0
    without = loop.adapt([plan, plan], [1, 3])
    assert error(first, without[0]) <= 1e-12
    assert error(last, without[1]) <= 1e-12


@pytest.mark.parametrize("texts", [(), ((("", True),),), ((("The stone", True),), (("", False), ("", True)))])
@pytest.mark.parametrize("max_steps", [None, 3])
def test_batched_plan_without_tokens_fails_alone(
    tiny: LanguageModel, texts: tuple[tuple[tuple[str, bool], ...], ...], max_steps: int | None
) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2, max_steps=max_steps)
    failed, good = inner_loop(tiny).adapt([plan_of(texts, optimizer=optimizer), plan_of()], [1, 2])
    assert isinstance(failed, Diverged)
    assert "no tokens" in failed.reason or "no sequences" in failed.reason
    assert same(good, adapt_one(tiny, plan_of(), seed=2))


def test_batched_restores_the_base_model(tiny: LanguageModel) -> None:
    before = weights_hash(tiny.model)
    inner_loop(tiny).adapt([plan_of(), plan_of()], [1, 2])
    assert weights_hash(tiny.model) == before
    assert not any(module._forward_hooks for module in tiny.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.model.parameters())


def test_batched_adapters_have_no_gradients(tiny: LanguageModel) -> None:
    with torch.no_grad():  # as Lightning's evaluation loops have it
        result = adapt_one(tiny, plan_of())
    assert not any(tensor.requires_grad for tensor in tensors(result))
    assert all(b.any() for b in tensors(result)[1::2])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_adapters", 0),
        ("max_tokens_per_pass", 0),
        ("memory_fraction", 0.0),
        ("memory_fraction", 1.5),
    ],
)
def test_batched_refuses_settings_out_of_bounds(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"inner_loop.{setting}: {value} is not allowed"):
        BatchedInnerLoop(**{setting: value})  # type: ignore[arg-type]


# --- side by side ------------------------------------------------------------------------------------------------------


def ragged_plans() -> list[AdaptationPlan]:
    """Other data, ranks, modules, layers, scalings, rates, schedules, batches, clips and numbers of steps in each."""
    settings = [
        (AdapterSpec(rank=4, alpha=8.0), OptimizerSpec(learning_rate=1e-2, num_epochs=3)),
        (
            AdapterSpec(rank=2, alpha=16.0, target_modules="all-linear"),
            OptimizerSpec(learning_rate=5e-3, num_epochs=5, batch_size=3, schedule="cosine", warmup_steps=2),
        ),
        (
            AdapterSpec(rank=7, alpha=3.0, use_rslora=True, target_modules=("gate_proj", "down_proj")),
            OptimizerSpec(learning_rate=2e-2, max_steps=5, batch_size=2, weight_decay=0.1, max_grad_norm=None),
        ),
        (
            AdapterSpec(rank=1, alpha=1.0, layers=(1,)),
            OptimizerSpec(learning_rate=1e-2, num_epochs=1, max_grad_norm=0.01),
        ),
        (
            AdapterSpec(rank=4, alpha=8.0, target_modules=("q_proj", "k_proj", "o_proj"), layers=(0,)),
            OptimizerSpec(learning_rate=1e-2, num_epochs=4, batch_size=4, schedule="constant"),
        ),
    ]
    return [
        plan_of(WITHOUT_LONE_TOKENS[i % 2 :][: 4 - i % 3], adapter=adapter, optimizer=optimizer)
        for i, (adapter, optimizer) in enumerate(settings)
    ]


@pytest.mark.parametrize(("max_adapters", "max_tokens"), [(16, 2048), (2, 2048), (16, 24), (3, 1), (1, 2048)])
def test_batched_adapters_equal_peft_alone(tiny64: LanguageModel, max_adapters: int, max_tokens: int) -> None:
    loop = BatchedInnerLoop(max_adapters=max_adapters, max_tokens_per_pass=max_tokens)
    loop.bind(tiny64)
    seeds = [11, 12, 13, 14, 15]
    for plan, seed, result in zip(ragged_plans(), seeds, loop.adapt(ragged_plans(), seeds), strict=True):
        expected, losses = reference(tiny64, plan, seed)
        assert relative_error(by_name(result), expected) <= 1e-12
        assert isinstance(result, Adapted)
        assert result.losses == pytest.approx(losses, rel=1e-12)


def test_batched_losses_equal_peft_in_float32(tiny: LanguageModel) -> None:
    seeds = [11, 12, 13, 14, 15]
    # At the paper's rate: at ten times that, AdamW's division of near-zero by near-zero makes PEFT drift from itself.
    plans = [replace(p, optimizer=replace(p.optimizer, learning_rate=1e-3)) for p in ragged_plans()]
    for plan, seed, result in zip(plans, seeds, inner_loop(tiny).adapt(plans, seeds), strict=True):
        assert isinstance(result, Adapted)
        assert result.losses == pytest.approx(reference(tiny, plan, seed)[1], abs=1e-5)


def test_batched_does_not_depend_on_order_or_grouping(tiny64: LanguageModel) -> None:
    plans = [replace(plan, adapter=replace(plan.adapter, dropout=0.3)) for plan in ragged_plans()]
    seeds = [11, 12, 13, 14, 15]
    together = inner_loop(tiny64).adapt(plans, seeds)
    backwards = list(inner_loop(tiny64).adapt(plans[::-1], seeds[::-1]))[::-1]
    narrow = BatchedInnerLoop(max_adapters=2, max_tokens_per_pass=20)
    narrow.bind(tiny64)
    for one, *others in zip(together, backwards, narrow.adapt(plans, seeds), strict=True):
        assert max(error(other, one) for other in others) <= 1e-12
    without = inner_loop(tiny64).adapt(ragged_plans(), seeds)
    assert min(error(a, b) for a, b in zip(together, without, strict=True)) > 1e-3


class Passes:
    """Notes the lengths of every packed row that goes through the model, and may run out of memory."""

    def __init__(
        self, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, limit: int | None = None
    ) -> None:
        self.lengths: list[tuple[int, ...]] = []
        forward = language_model.packed

        def noted(row: PackedRow, weights: Tensor | None = None, anchored: Anchored | None = None) -> PackedLoss:
            if limit is not None and sum(row.lengths) > limit and weights is not None:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if weights is not None:
                self.lengths.append(row.lengths)
            return forward(row, weights, anchored)

        monkeypatch.setattr(language_model, "packed", noted)


def test_batched_starts_waiting_plans_when_others_finish(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five adapters, two at a time: no pass but the last few serves fewer than two."""
    passes = Passes(tiny, monkeypatch)
    loop = BatchedInnerLoop(max_adapters=2)
    loop.bind(tiny)
    alike = (((("The stone 1 is green.", True),)),) * 3
    plans = [plan_of(alike, optimizer=OptimizerSpec(max_steps=steps)) for steps in (2, 6, 3, 4, 5)]
    results = loop.adapt(plans, [1, 2, 3, 4, 5])
    assert [len(r.losses) for r in results if isinstance(r, Adapted)] == [2, 6, 3, 4, 5]
    together = [len(lengths) for lengths in passes.lengths]
    assert sum(together) == 20
    assert set(together[:-2]) == {2}


def test_batched_passes_stay_within_their_tokens(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(tiny, monkeypatch)
    loop = BatchedInnerLoop(max_adapters=16, max_tokens_per_pass=30)
    loop.bind(tiny)
    loop.adapt(ragged_plans(), [1, 2, 3, 4, 5])
    assert all(sum(lengths) <= 30 or len(lengths) == 1 for lengths in passes.lengths)
    assert max(len(lengths) for lengths in passes.lengths) > 1


# --- memory ------------------------------------------------------------------------------------------------------------


def test_batched_halves_the_pass_out_of_memory(
    tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seeds = [1, 2, 3, 4, 5]
    expected = inner_loop(tiny64).adapt(ragged_plans(), seeds)
    passes = Passes(tiny64, monkeypatch, limit=25)
    with caplog.at_level(logging.WARNING):
        results = inner_loop(tiny64).adapt(ragged_plans(), seeds)
    assert max(error(a, b) for a, b in zip(results, expected, strict=True)) <= 1e-12
    assert [r.num_tokens for r in results] == [e.num_tokens for e in expected]  # type: ignore[union-attr]
    assert all(sum(lengths) <= 25 for lengths in passes.lengths)
    assert "out of memory: continuing with" in caplog.text


def test_batched_fails_only_what_does_not_fit_alone(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    long = plan_of((WITHOUT_LONE_TOKENS[0], (("The stone 3 is red. " * 12, True),)))
    expected = inner_loop(tiny64).adapt([plan_of(), plan_of()], [1, 3])
    Passes(tiny64, monkeypatch, limit=30)
    first, failed, last = inner_loop(tiny64).adapt([plan_of(), long, plan_of()], [1, 2, 3])
    assert isinstance(failed, Diverged)
    assert failed.reason == "out of memory"
    assert error(first, expected[0]) <= 1e-12
    assert error(last, expected[1]) <= 1e-12


def test_batched_retries_alone_what_did_not_fit(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' optimiser states take memory too: once they are done, it may fit."""
    (expected,) = inner_loop(tiny64).adapt([plan_of()], [1])
    failures = iter([True] * 2)
    forward = tiny64.packed

    def running_out(row: PackedRow, weights: Tensor | None = None, anchored: Anchored | None = None) -> PackedLoss:
        if weights is not None and next(failures, False):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return forward(row, weights, anchored)

    monkeypatch.setattr(tiny64, "packed", running_out)
    results = inner_loop(tiny64).adapt([plan_of(), plan_of()], [1, 2])
    assert error(results[0], expected) <= 1e-12
    assert all(isinstance(result, Adapted) for result in results)


@pytest.mark.parametrize("place", ["_begin_step", "step"])
@pytest.mark.parametrize("failures", [[False, True], [True, True, False, True]])
def test_batched_handles_out_of_memory_outside_a_pass(
    tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch, place: str, failures: list[bool]
) -> None:
    """When a run's weights are made, or when its optimiser's state is: at the first step."""
    expected = inner_loop(tiny64).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    coming = iter(failures)
    work = getattr(AdapterRun, place)

    def running_out(self: AdapterRun, *args: float) -> object:
        if next(coming, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return work(self, *args)

    monkeypatch.setattr(AdapterRun, place, running_out)
    results = inner_loop(tiny64).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    assert next(coming, None) is None
    assert max(error(a, b) for a, b in zip(results, expected, strict=True)) <= 1e-12


def test_batched_discards_an_interrupted_backward_pass(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out when gradients were added already: the step starts anew from zero."""
    expected = inner_loop(tiny64).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    failures = iter([False, True, False, False, True])
    work = ConcurrentAdapters._forward_backward

    def cut_short(self: ConcurrentAdapters, turns: Any) -> list[Tensor]:
        losses = work(self, turns)
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses

    monkeypatch.setattr(ConcurrentAdapters, "_forward_backward", cut_short)
    results = inner_loop(tiny64).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    assert max(error(a, b) for a, b in zip(results, expected, strict=True)) <= 1e-12


def test_batched_reports_what_never_fits(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    start = AdapterRun.__init__

    def too_large(self: AdapterRun, adapter: LoraAdapter, *args: Any) -> None:
        if adapter.spec.rank == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        start(self, adapter, *args)

    monkeypatch.setattr(AdapterRun, "__init__", too_large)
    results = inner_loop(tiny64).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    assert [type(result) for result in results] == [Adapted, Adapted, Diverged, Adapted, Adapted]
    assert isinstance(results[2], Diverged)
    assert results[2].reason == "out of memory"


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("layers", [None, (6, 7)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_needs_cover_a_pass(dropout: float, layers: tuple[int, ...] | None, checkpointing: bool) -> None:
    """Against every allocation of a real run, on a model large enough for them to matter; and by less than three times."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=8, num_attention_heads=4, vocab_size=350
    )
    language_model = LanguageModel(LlamaForCausalLM(config), tiny_tokenizer())
    spec = AdapterSpec(rank=8, dropout=dropout, target_modules="all-linear", layers=layers)
    texts = tuple(((f"The stone {n} is known to be green. " * 3, True),) for n in range(8))
    plan = plan_of(texts, spec, OptimizerSpec(max_steps=1, batch_size=8))
    loop = inner_loop(language_model)
    loop.gradient_checkpointing = checkpointing
    needs = loop._memory_needs(spec)
    loop.adapt([plan], [1])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        (result,) = loop.adapt([plan], [1])
    assert isinstance(result, Adapted)
    in_use = peak = 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    planned = needs.per_adapter + result.num_tokens * needs.per_token
    chunk = result.num_tokens * 350 * 4 * 3  # the logits of these few tokens, with copies; the plan's chunk is larger
    assert peak <= planned + chunk
    assert planned <= 3 * peak


def test_memory_needs_know_gradient_checkpointing() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=16, num_attention_heads=4, vocab_size=350
    )
    language_model = LanguageModel(LlamaForCausalLM(config), tiny_tokenizer())
    of = {}
    for checkpointing in (False, True):
        loop = inner_loop(language_model)
        loop.gradient_checkpointing = checkpointing
        of[checkpointing] = loop._memory_needs(plan_of().adapter)
    assert of[True].per_token < 0.2 * of[False].per_token
    assert replace(of[True], per_token=0) == replace(of[False], per_token=0)


def test_memory_needs_keep_nothing_alive(tiny: LanguageModel) -> None:
    """The pass that is counted is gone at once, not when the garbage is collected."""
    loop = inner_loop(tiny)
    loop._memory_needs(AdapterSpec(rank=2))  # the model's own check comes first
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(found, Tensor) for found in gc.get_objects())
        loop._memory_needs(AdapterSpec(rank=4))
        after = sum(isinstance(found, Tensor) for found in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before


def test_batched_result_keeps_no_gradient_alive(tiny: LanguageModel) -> None:
    for tensor in tensors(adapt_one(tiny, plan_of())):
        assert tensor._base is None or tensor._base.grad is None


def test_batched_infinite_weights_diverge(tiny: LanguageModel) -> None:
    plan = plan_of(optimizer=OptimizerSpec(learning_rate=3e38, max_steps=1, schedule="constant", max_grad_norm=None))
    failed, good = inner_loop(tiny).adapt([plan, plan_of()], [1, 2])
    assert isinstance(failed, Diverged)
    assert "not finite" in failed.reason
    assert isinstance(good, Adapted)


def test_batched_adapters_ignore_autocast(tiny: LanguageModel) -> None:
    """As Lightning's precision bf16-mixed has it."""
    expected = inner_loop(tiny).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        results = inner_loop(tiny).adapt(ragged_plans(), [1, 2, 3, 4, 5])
    for result, other in zip(results, expected, strict=True):
        assert isinstance(result, Adapted)
        assert isinstance(other, Adapted)
        assert result.losses == pytest.approx(other.losses, rel=0.05)
        assert {tensor.dtype for tensor in tensors(result)} == {torch.float32}


def test_batched_raises_other_errors(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = tiny.packed

    def broken(row: PackedRow, weights: Tensor | None = None, anchored: Anchored | None = None) -> PackedLoss:
        if weights is not None:
            raise RuntimeError("something else")
        return forward(row, weights, anchored)

    monkeypatch.setattr(tiny, "packed", broken)
    with pytest.raises(RuntimeError, match="something else"):
        inner_loop(tiny).adapt([plan_of()], [1])


def test_allowed_reduces_adapters_and_tokens(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = inner_loop(tiny)
    needs = loop._memory_needs(plan_of().adapter)
    longest = max(len(tokenize(s, tiny).token_ids) for s in plan_of().sequences)
    kept = 5 * needs.result  # no states of lower layers: all are adapted
    room = needs.fixed + kept + 3 * needs.per_adapter + longest * needs.per_token + 100
    monkeypatch.setattr("seal_lightning.inner_loop.batched.free_bytes", lambda device: int(room / 0.8) + 1)
    passes = Passes(tiny, monkeypatch)
    with caplog.at_level(logging.WARNING):
        results = loop.adapt([plan_of()] * 5, [1, 2, 3, 4, 5])
    assert all(isinstance(result, Adapted) for result in results)
    assert max(sum(lengths) for lengths in passes.lengths) == longest
    assert f"memory allows 3 adapters and {longest} tokens per pass (configured: 5 and 2048)" in caplog.text
