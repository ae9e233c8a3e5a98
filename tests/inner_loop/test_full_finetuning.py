"""Full finetuning against plain torch, and weights that are put back."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from fakes import ToyDomain, ToyTasks, weights_hash
from torch.nn import functional as F

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AdapterSpec,
    Diverged,
    Measurement,
    OptimizerSpec,
    SamplingSpec,
    SelfEdit,
)
from seal_lightning.core.errors import ConfigError, ModelError, RunError, StopRequested
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.generation import PolicyWriter, TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.schedule import batches, learning_rate_factor
from seal_lightning.inner_loop.tokenizing import trainable_sequences
from seal_lightning.inner_loop.whole_weights import FinetunedWeights, merge, scratch_weights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import LikelihoodReward

TASKS = ToyTasks(3).load()
OPTIMIZER = OptimizerSpec(
    learning_rate=1e-3, num_epochs=3, batch_size=2, warmup_ratio=0.2, weight_decay=0.1, max_grad_norm=0.5
)


def plan(optimizer: OptimizerSpec = OPTIMIZER) -> AdaptationPlan:
    text = "It is known to all.\nIt is a stone.\nStones have colours, as all of us know."
    return ToyDomain(AdapterSpec(rank=2, alpha=4.0), optimizer).plan(
        TASKS[0], SelfEdit(task_id=TASKS[0].task_id, edit_index=0, text=text)
    )


def adapted(language_model: LanguageModel, optimizer: OptimizerSpec = OPTIMIZER, **settings: int) -> Adapted:
    loop = FullFinetuning(**settings)
    loop.bind(language_model)
    (result,) = loop.adapt([plan(optimizer)], [7])
    assert isinstance(result, Adapted)
    return result


def weights(result: Adapted) -> dict[str, torch.Tensor]:
    assert isinstance(result.adapter, FinetunedWeights)
    return result.adapter.weights


def in_plain_torch(language_model: LanguageModel) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training, sequence by sequence, through the model's own loss."""
    model = copy.deepcopy(language_model.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay)
    sequences = trainable_sequences(plan(), language_model)
    assert isinstance(sequences, list)
    losses = []
    for step, batch in enumerate(batches(sequences, plan(), 7)):
        total = torch.zeros((), dtype=torch.float64)
        for sequence in batch:
            ids = torch.tensor([sequence.token_ids])
            mask = torch.tensor(sequence.trained[1:])
            logits = model(input_ids=ids).logits[0, :-1]
            total = total + F.cross_entropy(logits[mask], ids[0, 1:][mask], reduction="sum")
        loss = total / sum(sequence.num_targets for sequence in batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = OPTIMIZER.learning_rate * learning_rate_factor(OPTIMIZER, step, 6)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("max_tokens", [4, 1000])
def test_full_finetuning_equals_plain_torch(tiny64: LanguageModel, max_tokens: int) -> None:
    losses, expected = in_plain_torch(tiny64)
    result = adapted(tiny64, max_tokens_per_pass=max_tokens)
    assert result.losses == pytest.approx(losses, rel=1e-10)
    found = weights(result)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-10) for name in expected)
    untouched = dict(tiny64.model.named_parameters())
    assert all(not torch.equal(found[name], untouched[name]) for name in found), "head and embeddings learn too"


def test_full_finetuning_keeps_small_updates_in_bfloat16(tiny_folder: object) -> None:
    """They add up in float32, and the model has their rounded sum."""
    optimizer = OptimizerSpec(learning_rate=1e-5, max_steps=40, batch_size=8, schedule="constant")
    narrow = Pretrained(source=str(tiny_folder), dtype="bfloat16").load()
    start = {name: parameter.detach().clone() for name, parameter in narrow.model.named_parameters()}
    found = weights(adapted(narrow, optimizer))
    changed = sum(int((found[name] != start[name]).sum()) for name in start)
    assert changed > 0.05 * sum(tensor.numel() for tensor in start.values())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_scratch_weights_restore_after_errors(tiny64: LanguageModel) -> None:
    before = weights_hash(tiny64.model)
    with pytest.raises(RuntimeError, match="on the way"):
        _change_and_fail(tiny64)
    assert weights_hash(tiny64.model) == before


def _change_and_fail(language_model: LanguageModel) -> None:
    with scratch_weights(language_model):
        with torch.no_grad():
            for parameter in language_model.model.parameters():
                parameter.mul_(1.5)
        raise RuntimeError("on the way")


def test_merge_lasts_until_scratch_weights_end(tiny64: LanguageModel) -> None:
    before = weights_hash(tiny64.model)
    full = adapted(tiny64)
    loop = BatchedInnerLoop()
    loop.bind(tiny64)
    (lora,) = loop.adapt([plan()], [3])
    assert isinstance(lora, Adapted)
    hashes = set()
    for adapter in (full.adapter, lora.adapter):
        with scratch_weights(tiny64):
            merge(tiny64, adapter)
            assert tiny64.merged == ((lora.adapter,) if adapter is lora.adapter else None)
            hashes.add(weights_hash(tiny64.model))
        assert weights_hash(tiny64.model) == before
        assert tiny64.merged == ()
    assert len(hashes | {before}) == 3
    with pytest.raises(ModelError, match="cannot be merged"):
        merge(tiny64, Adapter())


def test_exam_runner_installs_whole_models(tiny64: LanguageModel) -> None:
    """Mixed with the model as it is, each exam has the scores it has alone, and the weights end as they were."""
    before = weights_hash(tiny64.model)
    engine, loop = TransformersEngine(), FullFinetuning()
    engine.bind(tiny64)
    loop.bind(tiny64)
    domain = ToyDomain()
    runner = AttemptRunner(
        domain=domain,
        writer=PolicyWriter(domain, engine, SamplingSpec(max_new_tokens=4)),
        engine=engine,
        inner_loop=loop,
        grader=LocalRules(),
        reward=LikelihoodReward(),
        seed=1,
    )
    results = loop.adapt([plan(), plan()], [derive_seed(1, "a"), derive_seed(1, "b")])
    first, second = (result.adapter for result in results if isinstance(result, Adapted))
    candidates = [(TASKS[0], first), (TASKS[0], None), (TASKS[0], second), (TASKS[1], first)]
    needs = frozenset(Measurement)
    together = runner.examine(candidates, needs)
    alone = [runner.examine([candidate], needs)[0] for candidate in candidates]
    assert [exam.log_prob for exam in together] == pytest.approx([exam.log_prob for exam in alone], abs=1e-12)
    assert [exam.questions[0].answer for exam in together] == [exam.questions[0].answer for exam in alone]
    assert len({exam.log_prob for exam in together}) == 4
    assert weights_hash(tiny64.model) == before


def test_full_finetuning_checks_max_tokens() -> None:
    with pytest.raises(ConfigError, match="max_tokens_per_pass: 0 is not allowed"):
        FullFinetuning(max_tokens_per_pass=0)


def test_full_finetuning_halves_passes_out_of_memory(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training starts again and ends as one that never ran out; where nothing is left to halve, it says what it takes."""
    expected = weights(adapted(tiny64))
    before = weights_hash(tiny64.model)
    whole = FullFinetuning._forward_backward
    tried: list[int] = []

    def scarce(self: FullFinetuning, batch: object, max_tokens: int) -> float:
        tried.append(max_tokens)
        if max_tokens > 100 or (max_tokens > 40 and len(tried) > 4):
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch, max_tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(FullFinetuning, "_forward_backward", scarce)
    found = weights(adapted(tiny64))
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-10) for name in expected)
    assert tried[:3] == [512, 256, 128]
    monkeypatch.setattr(FullFinetuning, "_forward_backward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(RunError, match="out of memory in full finetuning with a single sequence per pass"):
        adapted(tiny64)
    assert weights_hash(tiny64.model) == before
    assert not any(p.requires_grad for p in tiny64.model.parameters())


def test_full_finetuning_diverges_on_infinities(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = FullFinetuning()
    loop.bind(tiny64)
    one_step = replace(plan(), optimizer=OptimizerSpec(learning_rate=1e308, max_steps=1, max_grad_norm=None))
    (last,) = loop.adapt([replace(one_step, optimizer=replace(one_step.optimizer, weight_decay=1e300))], [1])
    assert isinstance(last, Diverged)
    assert last.reason == "weights not finite after the last step"
    finite = FullFinetuning._forward_backward

    def infinite(self: FullFinetuning, batch: object, max_tokens: int) -> float:
        loss = finite(self, batch, max_tokens)  # type: ignore[arg-type]
        next(self.language_model.model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(FullFinetuning, "_forward_backward", infinite)
    (result,) = loop.adapt([plan()], [1])
    assert isinstance(result, Diverged)
    assert "gradient norm inf" in result.reason
    assert result.step == 0


def test_full_finetuning_stops_between_steps(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise StopRequested("told to stop", exit_code=143)

    before = weights_hash(tiny64.model)
    monkeypatch.setattr(interruption, "check", stop)
    with pytest.raises(StopRequested):
        adapted(tiny64)
    assert weights_hash(tiny64.model) == before


def test_full_finetuning_logs_truncated_sequences(tiny64: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    tiny64.model.config.max_position_embeddings = 8
    with caplog.at_level("WARNING"):
        adapted(tiny64)
    assert "sequences were truncated to the model's 8 tokens" in caplog.text
