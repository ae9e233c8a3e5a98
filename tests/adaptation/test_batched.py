"""The sequential inner loop against PEFT, torch's AdamW and transformers' schedule, written out here with padded batches."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from fakes import MAX_LENGTH, weights_hash
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import get_scheduler

from seal_lightning.adaptation import BatchedInnerLoop
from seal_lightning.adaptation.tokenizing import tokenize
from seal_lightning.errors import ConfigError
from seal_lightning.language_model import LanguageModel
from seal_lightning.lora import LoraAdapter, init_adapter
from seal_lightning.packed import pack, pack_within
from seal_lightning.seeds import derive_seed
from seal_lightning.types import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    Diverged,
    OptimizerSpec,
    Segment,
    TrainingSequence,
)

RAGGED = (
    (("stone 1: ", False), ("The stone 1 is green.", True)),
    (("The stone 2 is blue, and it is known to be blue.", True),),
    (("Question: ", False), ("what is the colour?", False), (" Answer: red", True), ("\n", False)),
    (("stone", True),),
    (("1. ", False), ("First the amber stone", True), (" - ", False), ("then the black one.", True)),
)


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


def same(one: Adapted | Diverged, other: Adapted | Diverged) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(one), tensors(other), strict=True))


def reference(language_model: LanguageModel, plan: AdaptationPlan, seed: int) -> tuple[dict[str, Tensor], list[float]]:
    """Supervised finetuning as anyone would write it: PEFT, right-padded batches, labels of −100, AdamW, clipping."""
    spec, options = plan.adapter, plan.optimizer
    assert isinstance(spec.target_modules, str)
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=spec.target_modules, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(language_model.model), config)
    start = init_adapter(language_model.model, spec, torch.Generator().manual_seed(derive_seed(seed, "adapter")))
    layers = {name: model.base_model.model.get_submodule(name) for name in start.weights}
    with torch.no_grad():
        for name, (a, b) in start.weights.items():
            layers[name].lora_A["default"].weight.copy_(a)
            layers[name].lora_B["default"].weight.copy_(b)
    rows = []
    for sequence in plan.sequences:
        ids = [language_model.encode_text(segment.text) for segment in sequence.segments]
        labels = [i if s.trained else [-100] * len(i) for i, s in zip(ids, sequence.segments, strict=True)]
        rows.append((sum(ids, []), sum(labels, [])))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = get_scheduler(options.schedule, optimizer, options.warmup_steps, plan.num_steps)
    losses: list[float] = []
    for epoch in range(options.num_epochs):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch)))
        for batch in order.split(options.batch_size):
            width = max(len(rows[i][0]) for i in batch)
            ids = torch.tensor([rows[i][0] + [0] * (width - len(rows[i][0])) for i in batch])
            labels = torch.tensor([rows[i][1] + [-100] * (width - len(rows[i][1])) for i in batch])
            mask = torch.tensor([[1] * len(rows[i][0]) + [0] * (width - len(rows[i][0])) for i in batch])
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
            loss.backward()
            if options.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    weights = {}
    for name, layer in layers.items():
        weights[f"{name}.A"] = layer.lora_A["default"].weight.detach()
        weights[f"{name}.B"] = layer.lora_B["default"].weight.detach()
    return weights, losses


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
def test_training_equals_peft_and_adamw(tiny64: LanguageModel, optimizer: OptimizerSpec, max_tokens: int) -> None:
    """Packing, passes of few tokens, masks, clipping and decay change nothing but the order of sums.

    A sequence of one token has no target; PEFT's side would divide by zero where it stands alone.
    """
    texts = (*(s for s in RAGGED if s != (("stone", True),)), ((" stone is", True),))
    plan = plan_of(texts, optimizer=optimizer)
    result = adapt_one(tiny64, plan, max_tokens=max_tokens)
    expected, losses = reference(tiny64, plan, seed=7)
    assert isinstance(result.adapter, LoraAdapter)
    found = {
        f"{n}.{letter}": t for n, pair in result.adapter.weights.items() for letter, t in zip("AB", pair, strict=True)
    }
    assert found.keys() == expected.keys()
    worst = max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in found)
    assert worst <= 1e-10
    assert result.losses == pytest.approx(losses, rel=1e-10)
    assert len(losses) == plan.num_steps


def test_training_lowers_the_loss(tiny: LanguageModel) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=10, batch_size=len(RAGGED))
    losses = adapt_one(tiny, plan_of(optimizer=optimizer)).losses
    assert losses[-1] < 0.8 * losses[0]


def test_clipping_is_felt_by_the_comparison(tiny64: LanguageModel) -> None:
    """The case above clips: without, other weights come out."""
    clipped, free = (
        adapt_one(tiny64, plan_of(optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=1, max_grad_norm=norm)))
        for norm in (0.1, None)
    )
    assert not same(clipped, free)


# --- packing -----------------------------------------------------------------------------------------------------------


def test_packed_losses_equal_unpacked_ones(tiny64: LanguageModel) -> None:
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


def test_packing_fills_rows_in_order_and_a_long_one_stands_alone(tiny: LanguageModel) -> None:
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


def test_targets_are_the_trained_tokens_and_never_the_first(tiny: LanguageModel) -> None:
    texts = ((("stone 1: ", False), ("red", True), (" or", False), (" blue", True)), (("The stone", True),))
    first, second = (tokenize(sequence, tiny) for sequence in plan_of(texts).sequences)
    row = pack([first, second], torch.device("cpu"))
    expected = tiny.encode_text("red") + tiny.encode_text(" blue") + tiny.encode_text("The stone")[1:]
    assert row.targets.tolist() == expected
    assert row.token_ids[0, row.predict_at + 1].tolist() == expected
    assert first.num_targets + second.num_targets == len(expected)


def test_untrained_text_matters_as_context_only(tiny64: LanguageModel) -> None:
    """What stands behind the last target changes nothing; what stands before it does."""
    before, target = ("stone 1: ", False), ("The stone is green.", True)
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=3)
    plain = adapt_one(tiny64, plan_of(((before, target),), optimizer=optimizer))
    behind = adapt_one(tiny64, plan_of(((before, target, (" nonsense 99", False)),), optimizer=optimizer))
    other = adapt_one(tiny64, plan_of(((("stone 2: ", False), target),), optimizer=optimizer))
    close = [torch.allclose(x, y, rtol=1e-9, atol=1e-13) for x, y in zip(tensors(plain), tensors(behind), strict=True)]
    assert all(close)
    assert not any(torch.allclose(x, y) for x, y in zip(tensors(plain)[1::2], tensors(other)[1::2], strict=True))


def test_nothing_trained_leaves_the_update_at_zero(tiny: LanguageModel) -> None:
    result = adapt_one(tiny, plan_of(((("only context", False),),)))
    assert not any(b.any() for b in tensors(result)[1::2])
    assert set(result.losses) == {0.0}


def test_a_sequence_over_the_context_is_cut_and_told(tiny: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    long = "The stone 3 is red. " * 100
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2)
    with caplog.at_level(logging.WARNING):
        result = adapt_one(tiny, plan_of((((long, True),),), optimizer=optimizer))
    assert result.num_tokens == 2 * MAX_LENGTH
    assert f"over the model's {MAX_LENGTH} tokens" in caplog.text
    (cut,) = [tokenize(sequence, tiny) for sequence in plan_of((((long, True),),)).sequences]
    assert cut.truncated
    assert list(cut.token_ids) == tiny.encode_text(long)[:MAX_LENGTH]


# --- seeds, steps ------------------------------------------------------------------------------------------------------


def test_the_seed_decides(tiny: LanguageModel) -> None:
    state = torch.get_rng_state()
    one = adapt_one(tiny, plan_of(), seed=1)
    torch.manual_seed(99)
    again, other = adapt_one(tiny, plan_of(), seed=1), adapt_one(tiny, plan_of(), seed=2)
    assert same(one, again)
    assert one.losses == again.losses
    assert not same(one, other)
    torch.set_rng_state(state)


def test_the_order_of_the_data_comes_from_the_seed(tiny: LanguageModel) -> None:
    """Each epoch has all sequences, in orders that differ between epochs and seeds."""
    plan = plan_of(optimizer=OptimizerSpec(learning_rate=1e-30, num_epochs=4))  # so that a loss names its sequence
    by_seed = [adapt_one(tiny, plan, seed=seed).losses for seed in (1, 2)]
    epochs = [[tuple(round(x, 5) for x in losses[i : i + 5]) for i in range(0, 20, 5)] for losses in by_seed]
    assert len({tuple(sorted(epoch)) for of_seed in epochs for epoch in of_seed}) == 1
    assert len(set(epochs[0])) > 1
    assert epochs[0] != epochs[1]


def test_dropout_is_used_and_made_from_the_seed(tiny: LanguageModel) -> None:
    spec = AdapterSpec(rank=4, alpha=8.0, dropout=0.5)
    one, again = (adapt_one(tiny, plan_of(adapter=spec)) for _ in range(2))
    without = adapt_one(tiny, plan_of(adapter=replace(spec, dropout=0.0)))
    assert same(one, again)
    assert not same(one, without)


@pytest.mark.parametrize("max_steps", [1, 4, 13])
def test_max_steps_is_exact_whatever_the_epochs(tiny: LanguageModel, max_steps: int) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=2, max_steps=max_steps)
    assert len(adapt_one(tiny, plan_of(optimizer=optimizer)).losses) == max_steps


def test_num_tokens_counts_every_token_of_every_epoch(tiny: LanguageModel) -> None:
    num_tokens = sum(len(tokenize(s, tiny).token_ids) for s in plan_of().sequences)
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=3, batch_size=2)
    assert adapt_one(tiny, plan_of(optimizer=optimizer)).num_tokens == 3 * num_tokens


# --- failures ----------------------------------------------------------------------------------------------------------


def test_a_plan_that_diverges_fails_alone(tiny: LanguageModel) -> None:
    good = plan_of()
    bad = plan_of(optimizer=OptimizerSpec(learning_rate=1e30, num_epochs=3, schedule="constant"))
    loop, before = inner_loop(tiny), weights_hash(tiny.model)
    first, failed, last = loop.adapt([good, bad, good], [1, 2, 3])
    assert isinstance(failed, Diverged)
    assert 0 < failed.step < bad.num_steps
    assert "nan" in failed.reason or "inf" in failed.reason
    assert same(first, adapt_one(tiny, good, seed=1))
    assert same(last, adapt_one(tiny, good, seed=3))
    assert weights_hash(tiny.model) == before


@pytest.mark.parametrize("texts", [(), ((("", True),),), ((("The stone", True),), (("", False), ("", True)))])
@pytest.mark.parametrize("max_steps", [None, 3])
def test_a_plan_without_tokens_fails_alone(
    tiny: LanguageModel, texts: tuple[tuple[tuple[str, bool], ...], ...], max_steps: int | None
) -> None:
    optimizer = OptimizerSpec(learning_rate=1e-2, num_epochs=2, max_steps=max_steps)
    failed, good = inner_loop(tiny).adapt([plan_of(texts, optimizer=optimizer), plan_of()], [1, 2])
    assert isinstance(failed, Diverged)
    assert "no tokens" in failed.reason
    assert same(good, adapt_one(tiny, plan_of(), seed=2))


def test_the_base_model_ends_as_it_was(tiny: LanguageModel) -> None:
    before = weights_hash(tiny.model)
    inner_loop(tiny).adapt([plan_of(), plan_of()], [1, 2])
    assert weights_hash(tiny.model) == before
    assert not any(module._forward_hooks for module in tiny.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.model.parameters())


def test_the_adapter_outlives_the_loop_without_gradients(tiny: LanguageModel) -> None:
    with torch.no_grad():  # as Lightning's evaluation loops have it
        result = adapt_one(tiny, plan_of())
    assert not any(tensor.requires_grad for tensor in tensors(result))
    assert all(b.any() for b in tensors(result)[1::2])


def test_a_pass_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="max_tokens_per_pass"):
        BatchedInnerLoop(max_tokens_per_pass=0)
