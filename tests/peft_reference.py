"""The inner loop as anyone would write it: PEFT, padded batches, AdamW, transformers' schedules, one adapter alone."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import get_scheduler

from seal_lightning.core import AdaptationPlan, Adapted, Diverged
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, init_adapter


def reference(language_model: LanguageModel, plan: AdaptationPlan, seed: int) -> tuple[dict[str, Tensor], list[float]]:
    """Supervised finetuning as anyone would write it: PEFT, right-padded batches, labels of −100, AdamW, clipping."""
    spec, options = plan.adapter, plan.optimizer
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        use_rslora=spec.use_rslora,
        target_modules=list(spec.target_modules) if isinstance(spec.target_modules, tuple) else spec.target_modules,
        layers_to_transform=list(spec.layers) if spec.layers is not None else None,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(copy.deepcopy(language_model.model), config)
    start = init_adapter(language_model.model, spec, torch.Generator().manual_seed(derive_seed(seed, "adapter")))
    layers = {name: model.base_model.model.get_submodule(name) for name in start.weights}
    with torch.no_grad():
        for name, (a, b) in start.weights.items():
            layers[name].lora_A["default"].weight.copy_(a)
            layers[name].lora_B["default"].weight.copy_(b)
    rows = []
    for sequence in plan.sequences:
        begin = language_model.bos_ids
        ids = [begin, *(language_model.encode_text(segment.text) for segment in sequence.segments)]
        masks = [False, *(segment.trained for segment in sequence.segments)]
        labels = [i if trained else [-100] * len(i) for i, trained in zip(ids, masks, strict=True)]
        rows.append((sum(ids, []), sum(labels, [])))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = get_scheduler(options.schedule, optimizer, options.warmup_steps, plan.num_steps)
    losses: list[float] = []
    for epoch in range(plan.num_steps):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch)))
        for batch in order.split(options.batch_size):
            if len(losses) == plan.num_steps:
                break
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


def by_name(result: Adapted | Diverged) -> dict[str, Tensor]:
    """An adapter's tensors by module and letter."""
    assert isinstance(result, Adapted), result
    assert isinstance(result.adapter, LoraAdapter)
    return {
        f"{n}.{letter}": t for n, pair in result.adapter.weights.items() for letter, t in zip("AB", pair, strict=True)
    }


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a tensor's elements, relative to its largest element; the worst tensor counts."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in found)
