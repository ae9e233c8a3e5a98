"""Mean log-probabilities of training texts under a model, adapted or not; a merge gate compares them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from seal_lightning.core import Adapter, TrainingSequence, WholeModel
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter, routed
from seal_lightning.models.packed import TokenizedSequence, pack
from seal_lightning.models.packed.rows import group_by_tokens

_MAX_TOKENS = {"cpu": 512}


@torch.no_grad()
def mean_log_probs(
    language_model: LanguageModel, sequences: Sequence[TrainingSequence], adapter: Adapter | None = None
) -> list[float]:
    """Return the mean log-probability (nats) of each sequence's trained tokens; sequences without any are skipped."""
    found = [sequence for sequence in (tokenize(s, language_model) for s in sequences) if sequence.num_targets]
    with adapter.installed() if isinstance(adapter, WholeModel) else nullcontext():
        groups = group_by_tokens(found, _MAX_TOKENS.get(language_model.device.type, 8192))
        return [mean for group in groups for mean in _of_group(language_model, group, adapter)]


def _of_group(
    language_model: LanguageModel, group: Sequence[TokenizedSequence], adapter: Adapter | None
) -> list[float]:
    row = pack(group, language_model.device)
    lora = adapter if isinstance(adapter, LoraAdapter) else None
    with routed(language_model.model, [AdapterRows(size=sum(row.lengths), adapter=lora)]):
        losses = language_model.packed(row).losses
    return [-float(part.mean()) for part in torch.split(losses.double(), list(row.num_targets))]
