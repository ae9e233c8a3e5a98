"""A KL anchor in both inner loops, against autograd with whole logits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from fakes import ToyDomain, ToyTasks, weights_hash
from peft_reference import by_name, relative_error
from torch import Tensor
from torch.nn import functional as F

from seal_lightning.core import AdaptationPlan, Adapted, AdapterSpec, AnchorSpec, Diverged, OptimizerSpec, SelfEdit
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import InnerLoop
from seal_lightning.core.seeds import derive_seed
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.likelihoods import mean_log_probs
from seal_lightning.inner_loop.schedule import anchor_batches, batches
from seal_lightning.inner_loop.tokenizing import anchor_sequences, trainable_sequences
from seal_lightning.inner_loop.whole_weights import FinetunedWeights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, applied, init_adapter
from seal_lightning.models.packed import TokenizedSequence

TASKS = ToyTasks(6).load()
SPEC = AdapterSpec(rank=2, alpha=4.0, target_modules="all-linear")
OPTIMIZER = OptimizerSpec(learning_rate=0.02, num_epochs=4, batch_size=2, schedule="constant", max_grad_norm=None)
DOMAIN = ToyDomain(SPEC, OPTIMIZER)
ANCHORS = tuple(sequence for task in TASKS[2:5] for sequence in DOMAIN.plan_without_edit(task).sequences)


def plan(weight: float | None = 2.0, batch_size: int | None = None) -> AdaptationPlan:
    found = DOMAIN.plan(TASKS[0], SelfEdit(task_id=TASKS[0].task_id, edit_index=0, text="A stone.\nIt is known."))
    anchor = None if weight is None else AnchorSpec(sequences=ANCHORS, weight=weight, batch_size=batch_size)
    return replace(found, anchor=anchor)


def adapted(loop: InnerLoop, language_model: LanguageModel, *plans: AdaptationPlan) -> list[Adapted]:
    loop.bind(language_model)
    results = loop.adapt(plans, [7] * len(plans))
    assert all(isinstance(result, Adapted) for result in results), results
    return [result for result in results if isinstance(result, Adapted)]


def loss(
    model: torch.nn.Module, teacher: torch.nn.Module, batch: list[TokenizedSequence], held: list[TokenizedSequence]
) -> Tensor:
    """Mean cross-entropy of the batch's targets + 2 · mean KL of the anchors', one sequence at a time, logits as a whole."""

    def logits(of: torch.nn.Module, sequence: TokenizedSequence) -> Tensor:
        whole: Tensor = of(input_ids=torch.tensor([sequence.token_ids])).logits[0, :-1]
        return whole[torch.tensor(sequence.trained[1:])].log_softmax(1)

    crosses, divergences = [], []
    for sequence in batch:
        targets = torch.tensor(sequence.token_ids)[torch.tensor(sequence.trained)]
        crosses.append(F.nll_loss(logits(model, sequence), targets, reduction="none"))
    for sequence in held:
        with torch.no_grad():
            before = logits(teacher, sequence)
        divergences.append(F.kl_div(logits(model, sequence), before, reduction="none", log_target=True).sum(1))
    return torch.cat(crosses).mean() + 2 * torch.cat(divergences).mean()


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("max_tokens", [2048, 12])
def test_anchored_adapters_equal_plain_autograd(tiny64: LanguageModel, batch_size: int | None, max_tokens: int) -> None:
    wanted = plan(batch_size=batch_size)
    before = weights_hash(tiny64.model)
    (found,) = adapted(BatchedInnerLoop(max_tokens_per_pass=max_tokens), tiny64, wanted)
    assert weights_hash(tiny64.model) == before
    teacher = copy.deepcopy(tiny64.model)
    start = init_adapter(tiny64.model, SPEC, torch.Generator().manual_seed(derive_seed(7, "adapter")))
    for tensor in start.tensors():
        tensor.requires_grad_(True)
    optimizer = torch.optim.AdamW(start.tensors(), lr=OPTIMIZER.learning_rate, weight_decay=0.0)
    sequences, anchors = trainable_sequences(wanted, tiny64), anchor_sequences(wanted, tiny64)
    assert not isinstance(sequences, Diverged)
    losses = []
    for batch, held in zip(batches(sequences, wanted, 7), anchor_batches(anchors, wanted, 7), strict=True):
        assert len(held) in ((3,) if batch_size is None else (1, 2))
        with applied(tiny64.model, start):
            value = loss(tiny64.model, teacher, batch, held)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert found.losses == pytest.approx(losses, rel=1e-10)
    expected = {
        f"{n}.{letter}": t.detach() for n, pair in start.weights.items() for letter, t in zip("AB", pair, strict=True)
    }
    assert relative_error(by_name(found), expected) <= 1e-9


def test_anchored_full_finetuning_equals_plain_autograd(tiny64: LanguageModel) -> None:
    wanted = plan(batch_size=2)
    before = weights_hash(tiny64.model)
    (found,) = adapted(FullFinetuning(max_tokens_per_pass=12), tiny64, wanted)
    assert weights_hash(tiny64.model) == before
    teacher, model = copy.deepcopy(tiny64.model), copy.deepcopy(tiny64.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=0.0)
    sequences, anchors = trainable_sequences(wanted, tiny64), anchor_sequences(wanted, tiny64)
    assert not isinstance(sequences, Diverged)
    losses = []
    for batch, held in zip(batches(sequences, wanted, 7), anchor_batches(anchors, wanted, 7), strict=True):
        value = loss(model, teacher, batch, held)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert found.losses == pytest.approx(losses, rel=1e-10)
    assert isinstance(found.adapter, FinetunedWeights)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found.adapter.weights[name], parameter, rtol=1e-7, atol=1e-9), name


def test_anchor_does_not_change_plans_beside_it(tiny64: LanguageModel) -> None:
    alone = by_name(adapted(BatchedInnerLoop(), tiny64, plan(None))[0])
    anchored, beside = adapted(BatchedInnerLoop(), tiny64, plan(), plan(None))
    assert relative_error(by_name(beside), alone) <= 1e-12
    assert relative_error(by_name(anchored), alone) > 1e-2
    assert anchored.num_tokens > beside.num_tokens


@pytest.mark.parametrize("loop", [BatchedInnerLoop, FullFinetuning])
def test_anchor_reduces_the_change(loop: type[InnerLoop], tiny64: LanguageModel) -> None:
    before = mean_log_probs(tiny64, ANCHORS)
    moved = []
    for weight in (None, 20.0):
        (found,) = adapted(loop(), tiny64, plan(weight))
        after = mean_log_probs(tiny64, ANCHORS, found.adapter)
        moved.append(max(abs(b - a) for b, a in zip(before, after, strict=True)))
    assert moved[1] < 0.5 * moved[0]


def test_mean_log_probs_are_the_adapted_model_s(tiny64: LanguageModel) -> None:
    (found,) = adapted(BatchedInnerLoop(), tiny64, plan())
    assert isinstance(found.adapter, LoraAdapter)
    values = mean_log_probs(tiny64, ANCHORS, found.adapter)
    for sequence, value in zip(anchor_sequences(plan(), tiny64), values, strict=True):
        with torch.no_grad(), applied(tiny64.model, found.adapter):
            logits = tiny64.model(input_ids=torch.tensor([sequence.token_ids])).logits[0, :-1].log_softmax(1)
        chosen = logits.gather(1, torch.tensor(sequence.token_ids)[1:, None]).squeeze(1)
        assert value == pytest.approx(float(chosen[torch.tensor(sequence.trained[1:])].mean()), abs=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequences": ()}, "anchor.sequences"),
        ({"sequences": ANCHORS, "weight": 0.0}, "anchor.weight: 0.0 is not allowed; it must be above 0"),
        ({"sequences": ANCHORS, "batch_size": 0}, "anchor.batch_size: 0 is not allowed; it must be at least 1"),
    ],
)
def test_anchor_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnchorSpec(**settings)
