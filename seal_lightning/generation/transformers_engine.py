"""The in-process engine: transformers' ``generate`` and forward passes, batched, adapters applied by hooks.

Shapes: B requests of a batch, T tokens left-padded, K kept positions at the end of every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from seal_lightning.errors import ConfigError
from seal_lightning.generation.sampling import RowStops, SeededSampling
from seal_lightning.language_model import LanguageModel
from seal_lightning.lora import LoraAdapter, applied
from seal_lightning.seams import Engine
from seal_lightning.types import Adapter, Completion, FinishReason, GenerationRequest, SamplingSpec, ScoreRequest


class TransformersEngine(Engine):
    """Asks the bound model itself, in this process.

    Requests with the same adapter share batches; adapters take turns.

    Args:
        max_batch_size: ≥ 1, rows of one batch.
    """

    def __init__(self, max_batch_size: int = 32) -> None:
        if max_batch_size < 1:
            raise ConfigError(f"engine.max_batch_size: {max_batch_size} is not allowed; it must be at least 1")
        self.max_batch_size = max_batch_size

    def bind(self, language_model: LanguageModel) -> None:
        """Ask this model from now on."""
        self.language_model = language_model

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """One completion a request, in order."""
        prompts = [self.language_model.encode_prompt(request.prompt) for request in requests]
        completions: dict[int, Completion] = {}
        for adapter, indices in self._batches([r.adapter for r in requests], [len(p) for p in prompts]):
            with applied(self.language_model.model, adapter):
                batch = self._generate_batch([requests[i] for i in indices], [prompts[i] for i in indices])
            completions.update(zip(indices, batch, strict=True))
        return [completions[i] for i in range(len(requests))]

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """The log-probability of each target token after its prompt, request by request, in order."""
        prompts = [self.language_model.encode_prompt(request.prompt) for request in requests]
        targets = [self.language_model.encode_text(request.target) for request in requests]
        lengths = [len(p) + len(t) for p, t in zip(prompts, targets, strict=True)]
        scores: dict[int, list[float]] = {}
        for adapter, indices in self._batches([r.adapter for r in requests], lengths):
            with applied(self.language_model.model, adapter):
                batch = self._score_batch([prompts[i] for i in indices], [targets[i] for i in indices])
            scores.update(zip(indices, batch, strict=True))
        return [scores[i] for i in range(len(requests))]

    def _batches(
        self, adapters: Sequence[Adapter | None], lengths: Sequence[int]
    ) -> Iterator[tuple[LoraAdapter | None, list[int]]]:
        """Request indices by adapter, rows of like length together so that little is padded."""
        groups: dict[int, list[int]] = {}
        for i, adapter in enumerate(adapters):
            groups.setdefault(id(adapter), []).append(i)
        for group in groups.values():
            adapter = adapters[group[0]]
            assert adapter is None or isinstance(adapter, LoraAdapter)
            group.sort(key=lambda i: (lengths[i], i))
            for start in range(0, len(group), self.max_batch_size):
                yield adapter, group[start : start + self.max_batch_size]

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids [B, T] and attention mask [B, T] of rows that all end in the last column."""
        width = max(map(len, rows))
        pads = [width - len(row) for row in rows]
        ids = [[self.language_model.pad_id] * n + list(row) for n, row in zip(pads, rows, strict=True)]
        mask = [[0] * n + [1] * (width - n) for n in pads]
        device = self.language_model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _generate_batch(self, requests: Sequence[GenerationRequest], prompts: Sequence[list[int]]) -> list[Completion]:
        ids_BT, mask_BT = self._left_padded(prompts)
        specs = [self._within_context(r.sampling, len(p)) for r, p in zip(requests, prompts, strict=True)]
        width = ids_BT.shape[1]
        output = self.language_model.model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max(spec.max_new_tokens for spec in specs),
                eos_token_id=list(self.language_model.eos_ids),
                pad_token_id=self.language_model.pad_id,
            ),
            logits_processor=LogitsProcessorList([SeededSampling(specs, [r.seed for r in requests], width)]),
            stopping_criteria=StoppingCriteriaList([RowStops(specs, width, self.language_model.decode)]),
            **self._shared_prefill(prompts, ids_BT, mask_BT),
        )
        written = output[:, width:].tolist()
        return [self._completion(ids, spec) for ids, spec in zip(written, specs, strict=True)]

    def _within_context(self, spec: SamplingSpec, prompt_length: int) -> SamplingSpec:
        room = self.language_model.max_length - prompt_length
        return replace(spec, max_new_tokens=min(spec.max_new_tokens, room))

    def _shared_prefill(self, prompts: Sequence[list[int]], ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Cache]:
        """Keys and values of prompts that several rows share (a task's k edits), computed once; nothing where none are.

        The last token is left to ``generate``, which needs its logits.
        """
        first_row = {tuple(prompt): row for row, prompt in reversed(list(enumerate(prompts)))}
        if len(first_row) == len(prompts) or ids_BT.shape[1] < 2:
            return {}
        rows = sorted(first_row.values())
        mask_UT = mask_BT[rows, :-1]
        cache: Cache = self.language_model.model(
            input_ids=ids_BT[rows, :-1],
            attention_mask=mask_UT,
            position_ids=(mask_UT.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        place = {row: i for i, row in enumerate(rows)}
        repeated = [place[first_row[tuple(prompt)]] for prompt in prompts]
        cache.batch_select_indices(torch.tensor(repeated, device=ids_BT.device))
        return {"past_key_values": cache}

    def _completion(self, ids: list[int], spec: SamplingSpec) -> Completion:
        """What a row wrote, up to its own end: an end token, a stop string, or its number of tokens."""
        ids = ids[: spec.max_new_tokens]
        finish = FinishReason.LENGTH
        end = next((i for i, token in enumerate(ids) if token in self.language_model.eos_ids), None)
        if end is not None:
            ids, finish = ids[: end + 1], FinishReason.STOP
        text = self.language_model.decode(ids)
        cut = min((at for stop in spec.stop if (at := text.find(stop)) >= 0), default=None)
        if cut is not None:
            ids, finish = self._ids_up_to_stop(ids, spec.stop), FinishReason.STOP
            text = text[:cut]
        return Completion(text=text, token_ids=tuple(ids), finish_reason=finish)

    def _ids_up_to_stop(self, ids: list[int], stops: tuple[str, ...]) -> list[int]:
        """The ids up to and with the token that completed the first stop string."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            text = self.language_model.decode(ids[:middle])
            low, high = (low, middle) if any(stop in text for stop in stops) else (middle + 1, high)
        return ids[:low]

    def _score_batch(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> list[list[float]]:
        ids_BT, mask_BT = self._left_padded([p + t for p, t in zip(prompts, targets, strict=True)])
        kept = max(map(len, targets)) + 1
        logits_BKV = self.language_model.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        log_probs_BKV = torch.log_softmax(logits_BKV.to(torch.promote_types(logits_BKV.dtype, torch.float32)), dim=-1)
        next_BK = ids_BT[:, -kept:][:, 1:]
        chosen_BK = log_probs_BKV[:, -kept:-1].gather(2, next_BK[:, :, None]).squeeze(2)
        return [row[len(row) - len(target) :] for row, target in zip(chosen_BK.tolist(), targets, strict=True)]
