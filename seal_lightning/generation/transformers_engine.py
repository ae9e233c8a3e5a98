"""The in-process engine: transformers' ``generate`` and packed forward passes; adapters are mixed in every batch.

Shapes: B requests of a batch, T tokens left-padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from seal_lightning.core import (
    Adapter,
    ChoiceScoreRequest,
    Completion,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import Engine
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.generation.constrained import OpenedText, SchemaTokens, SlotRow, fill_slots
from seal_lightning.generation.decoding import (
    RowStops,
    SeededSampling,
    TokenListener,
    by_adapter,
    common_start,
    finish_completion,
    keep_rows,
    keeps_all_tokens,
    left_padded,
    merge_rows,
    one_row_each,
    positions,
    preallocated_cache,
)
from seal_lightning.generation.prompt_lengths import encode_prompt_and_target
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter, routed
from seal_lightning.models.out_of_memory import retry_in_halves
from seal_lightning.models.packed import TokenizedSequence, pack
from seal_lightning.models.packed.rows import group_by_tokens

_WORTH_SHARING = 32
"""Tokens: fewer cost more than they save, an additional pass through all layers."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One request of a batch on its way."""

    index: int
    prompt: list[int]
    sampling: SamplingSpec
    adapter: LoraAdapter | None
    seed: int
    report: Callable[[list[int]], None] | None = None
    """Receives the ids written so far after each token; only of a row that is alone in its batch."""


class TransformersEngine(Engine):
    """Asks the bound model itself, in this process.

    Rows of like length share a batch, whatever their adapter; a batch is computed in the order of its adapters, so that
    each has neighbouring rows. When memory runs out, a batch is halved.

    Args:
        max_batch_size: ≥ 1, rows generated at once.
        max_tokens_per_pass: ≥ 1, tokens of one pass that scores targets; a longer request stands alone.
    """

    def __init__(self, max_batch_size: int = 32, max_tokens_per_pass: int = 2048) -> None:
        for name, value in {"max_batch_size": max_batch_size, "max_tokens_per_pass": max_tokens_per_pass}.items():
            if value < 1:
                raise ConfigError(f"engine.{name}: {value} is not allowed; it must be at least 1")
        self.max_batch_size = max_batch_size
        self.max_tokens_per_pass = max_tokens_per_pass

    def bind(self, language_model: LanguageModel) -> None:
        """Ask this model from now on."""
        self.language_model = language_model

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """One completion a request, in order.

        A request with a schema is always answered by the whole text: ``max_new_tokens``, ``top_p`` and ``stop`` touch only
        the free text that may end it. Raises what :class:`SchemaTokens` refuses, and :class:`DataError` for a schema that
        does not fit the model's context behind its prompt.
        """
        slots = self._slot_rows({i: request for i, request in enumerate(requests) if request.schema is not None})
        completions = {row.index: completion for row, completion in self._filled(slots)}
        openings = {row.index: opening for row in slots if (opening := self._opened(row, completions[row.index]))}
        rows = [
            self._free_text_row(requests[row.index], row, openings[row.index]) for row in slots if row.index in openings
        ]
        rows += [
            _Row(
                index=index,
                prompt=prompt,
                sampling=self._within_context(request.sampling, len(prompt)),
                adapter=_lora(request.adapter),
                seed=request.seed,
            )
            for index, request in enumerate(requests)
            if request.schema is None
            for prompt in [self.language_model.encode_prompt(request.prompt)]
        ]
        rows.sort(key=lambda row: (len(row.prompt), row.index))  # like lengths together: little is padded
        for start in range(0, len(rows), self.max_batch_size):
            batch = by_adapter(rows[start : start + self.max_batch_size], lambda row: row.adapter)
            written = retry_in_halves(batch, self._generate_batch)
            completions |= {
                row.index: finish_completion(ids, row.sampling, self.language_model)
                for row, ids in zip(batch, written, strict=True)
            }
        completions |= {index: opening.followed_by(completions[index]) for index, opening in openings.items()}
        return [completions[index] for index in range(len(requests))]

    @torch.no_grad()
    def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingSpec,
        report: Callable[[list[int]], None],
        *,
        adapter: LoraAdapter | None = None,
        seed: int = 0,
    ) -> Completion:
        """Generate one completion, as :meth:`generate` does in a batch of one, and report its ids after each token.

        Args:
            prompt_ids: at least one token, fewer than the model's context.
            sampling: its ``max_new_tokens`` is cut to the rest of the context.
            report: receives the ids written so far; an exception of its own ends the generation.
            adapter: of the bound model; None for the model itself.
            seed: of this completion's draws, 0 to 2**63 − 1.
        """
        sampling = self._within_context(sampling, len(prompt_ids))
        row = _Row(index=0, prompt=[*prompt_ids], sampling=sampling, adapter=adapter, seed=seed, report=report)
        (ids,) = self._generate_batch([row])
        return finish_completion(ids, sampling, self.language_model)

    @torch.no_grad()
    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """The log-probability (nats) of given choices, request by request, in order: as ``generate`` would make them.

        Raises what :class:`SchemaTokens` refuses, and :class:`DataError` as ``generate`` does.
        """
        rows = self._slot_rows(dict(enumerate(requests)))
        found: dict[int, float] = {}
        for row, completion in self._filled(rows):
            assert completion.log_prob is not None
            found[row.index] = completion.log_prob
        return [found[index] for index in range(len(requests))]

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """The log-probability of each target token after its prompt, request by request, in order.

        Raises :class:`DataError` for a prompt and target that do not fit the model's context together.
        """
        adapters = [_lora(request.adapter) for request in requests]
        sequences = [self._with_target(request) for request in requests]
        order = by_adapter(list(range(len(requests))), lambda index: adapters[index])
        scores: dict[int, list[float]] = {}
        position = 0
        for group in group_by_tokens([sequences[i] for i in order], self.max_tokens_per_pass):
            indices = order[position : position + len(group)]
            position += len(group)
            found = retry_in_halves(
                indices, lambda part: self._score_batch([(sequences[i], adapters[i]) for i in part])
            )
            scores |= dict(zip(indices, found, strict=True))
        return [scores[index] for index in range(len(requests))]

    def _slot_rows(self, requests: Mapping[int, GenerationRequest | ChoiceScoreRequest]) -> list[SlotRow]:
        rows = []
        schemas: dict[TextSchema, SchemaTokens] = {}
        for index, request in requests.items():
            assert request.schema is not None
            if request.schema not in schemas:
                schemas[request.schema] = SchemaTokens(request.schema, self.language_model)
            schema, prompt = schemas[request.schema], self.language_model.encode_prompt(request.prompt)
            if len(prompt) + schema.longest > self.language_model.max_length:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens and a schema of up to {schema.longest} do not fit the model's "
                    f"context of {self.language_model.max_length}: {shown(request.schema)}"
                )
            row = SlotRow(index=index, prompt=prompt, schema=schema, adapter=_lora(request.adapter))
            if isinstance(request, ChoiceScoreRequest):
                row = replace(row, given=schema.token_ids(request.choices))
            else:
                sampling = request.sampling
                choosing = sampling.choice_temperature
                row = replace(
                    row, temperature=sampling.temperature if choosing is None else choosing, seed=request.seed
                )
            rows.append(row)
        return sorted(rows, key=lambda row: (len(row.prompt), row.index))

    def _opened(self, row: SlotRow, filled: Completion) -> OpenedText | None:
        """The filled-in text that free text follows; None where the text is over."""
        free_text = row.schema.free_text
        opening = None if free_text is None else free_text.prefix(filled.choices or {})
        return None if opening is None else OpenedText.of(filled, opening, self.language_model)

    def _free_text_row(self, request: GenerationRequest, row: SlotRow, opened: OpenedText) -> _Row:
        prompt = [*row.prompt, *opened.token_ids]
        return _Row(
            index=row.index,
            prompt=prompt,
            sampling=self._within_context(request.sampling, len(prompt)),
            adapter=row.adapter,
            seed=derive_seed(request.seed, "free text"),
        )

    def _filled(self, rows: list[SlotRow]) -> Iterator[tuple[SlotRow, Completion]]:
        for start in range(0, len(rows), self.max_batch_size):
            batch = by_adapter(rows[start : start + self.max_batch_size], lambda row: row.adapter)
            yield from zip(batch, retry_in_halves(batch, self._fill_batch), strict=True)

    def _fill_batch(self, batch: Sequence[SlotRow]) -> list[Completion]:
        return fill_slots(batch, self.language_model)

    def _with_target(self, request: ScoreRequest) -> TokenizedSequence:
        prompt, target = encode_prompt_and_target(request, self.language_model, self.language_model.max_length)
        trained = (False,) * len(prompt) + (True,) * len(target)
        return TokenizedSequence(token_ids=(*prompt, *target), trained=trained)

    def _score_batch(self, batch: Sequence[tuple[TokenizedSequence, LoraAdapter | None]]) -> list[list[float]]:
        interruption.check()
        row = pack([sequence for sequence, _ in batch], self.language_model.device)
        forward = self.language_model.packed
        shares = [AdapterRows(size=len(sequence.token_ids), adapter=adapter) for sequence, adapter in batch]
        with routed(self.language_model.model, merge_rows(shares)):
            losses = forward(row).losses
        return [[-loss for loss in part.tolist()] for part in torch.split(losses, list(row.num_targets))]

    def _generate_batch(self, batch: Sequence[_Row]) -> list[list[int]]:
        """What each row wrote, its own end and perhaps more; rows that are done leave the batch when half of it is."""
        cache = preallocated_cache(self.language_model.model)
        prompts = [row.prompt for row in batch]
        num_shared = self._num_shared(batch, cache)
        ids_BT, mask_BT = left_padded(prompts, self.language_model.pad_id, self.language_model.device, num_shared)
        width = ids_BT.shape[1]
        self._prefill(cache, batch, ids_BT, mask_BT, num_shared)
        left = list(range(len(batch)))
        written: dict[int, list[int]] = {}
        while left:
            rows = [batch[i] for i in left]
            ids_BT, stops = self._written_until_half_is_done(rows, ids_BT, mask_BT, width, cache)
            going = [i for i, done in enumerate(stops.done) if not done]
            for i in set(range(len(left))) - set(going):
                written[left[i]] = ids_BT[i, width:].tolist()
            left = [left[i] for i in going]
            if left:
                ids_BT = ids_BT[going]
                mask_BT = torch.cat(
                    [mask_BT, mask_BT.new_ones(len(mask_BT), ids_BT.shape[1] - mask_BT.shape[1])], dim=1
                )
                mask_BT = mask_BT[going]
                keep_rows(cache, going, ids_BT.device)
        return [written[i] for i in range(len(batch))]

    def _written_until_half_is_done(
        self, rows: Sequence[_Row], ids_BT: Tensor, mask_BT: Tensor, prompt_width: int, cache: DynamicCache
    ) -> tuple[Tensor, RowStops]:
        specs = [row.sampling for row in rows]
        rooms = [self.language_model.max_length - len(row.prompt) for row in rows]
        stops = RowStops(specs, self.language_model.eos_ids, prompt_width, rooms, self.language_model.decode)
        longest = max(spec.max_new_tokens for spec in specs) - (ids_BT.shape[1] - prompt_width)
        listeners = [TokenListener(row.report, prompt_width) for row in rows if row.report is not None]
        shares = one_row_each([row.adapter for row in rows])
        with routed(self.language_model.model, shares):
            ids: Tensor = self.language_model.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                past_key_values=cache,
                generation_config=GenerationConfig(
                    do_sample=False, max_new_tokens=longest, pad_token_id=self.language_model.pad_id
                ),
                logits_processor=LogitsProcessorList([SeededSampling(specs, [r.seed for r in rows], prompt_width)]),
                stopping_criteria=StoppingCriteriaList([*listeners, stops]),
            )
        return ids, stops

    def _within_context(self, spec: SamplingSpec, prompt_length: int) -> SamplingSpec:
        room = self.language_model.max_length - prompt_length
        return replace(spec, max_new_tokens=min(spec.max_new_tokens, room))

    def _num_shared(self, batch: Sequence[_Row], cache: DynamicCache) -> int:
        """Tokens that all prompts begin with (an instruction, worked examples), where they are worth a pass of their own.

        0 where rows have different adapters, and in a sliding window, in which the pads behind them would count.
        """
        alike = len({id(row.adapter) for row in batch}) == 1 and len({tuple(row.prompt) for row in batch}) > 1
        if not alike or not keeps_all_tokens(cache):
            return 0
        num_shared = common_start([row.prompt for row in batch])
        return num_shared if num_shared >= _WORTH_SHARING else 0

    def _prefill(
        self, cache: DynamicCache, batch: Sequence[_Row], ids_BT: Tensor, mask_BT: Tensor, num_shared: int
    ) -> None:
        """Keys and values of what rows share, computed once: how all prompts begin, and prompts that several have (k edits).

        The last token is left to ``generate``, which needs its logits.
        """
        if num_shared:
            self._read(cache, batch[:1], ids_BT[:1, :num_shared], mask_BT[:1, :num_shared])
        keys = [(tuple(row.prompt), id(row.adapter)) for row in batch]
        first_row = {key: i for i, key in reversed(list(enumerate(keys)))}
        if len(first_row) == len(batch) or ids_BT.shape[1] < 2:
            if num_shared:
                keep_rows(cache, [0] * len(batch), ids_BT.device)
            return
        rows = sorted(first_row.values())
        if num_shared:
            keep_rows(cache, [0] * len(rows), ids_BT.device)
        self._read(cache, [batch[i] for i in rows], ids_BT[rows, :-1], mask_BT[rows, :-1])
        place = {row: i for i, row in enumerate(rows)}
        keep_rows(cache, [place[first_row[key]] for key in keys], ids_BT.device)

    def _read(self, cache: DynamicCache, rows: Sequence[_Row], ids_UT: Tensor, mask_UT: Tensor) -> None:
        """Add to a cache the keys and values of the tokens that it has not."""
        model, known = self.language_model.model, cache.get_seq_length()
        if known >= ids_UT.shape[1]:  # prompts that differ in their last token only
            return
        with routed(model, one_row_each([row.adapter for row in rows])):
            model(
                input_ids=ids_UT[:, known:],
                attention_mask=mask_UT,
                position_ids=positions(mask_UT)[:, known:],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )


def _lora(adapter: Adapter | None) -> LoraAdapter | None:
    assert adapter is None or isinstance(adapter, LoraAdapter)
    return adapter
