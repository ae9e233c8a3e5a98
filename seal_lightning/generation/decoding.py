"""Free text from a batch of prompts, by transformers' ``generate``: seeded sampling, stops per row, mixed adapters.

Each row draws from uniform numbers made from its own seed, so its neighbours in the batch change its text by rounding only,
and no global generator is read or moved.

Shapes: B rows of a batch, U rows with different prompts, T tokens, V vocabulary, K most likely tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from seal_lightning.core import Completion, FinishReason, SamplingSpec
from seal_lightning.distributed import interruption
from seal_lightning.generation.row_batches import (
    common_prefix,
    keep_rows,
    keeps_all_tokens,
    left_padded,
    one_row_each,
    positions,
    preallocated_cache,
)
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, routed

Report = Callable[[list[int]], None]
"""Called after each token with the ids of the first row so far; an exception that it raises ends the generation."""

# A nucleus is first looked for among so many tokens, which is cheaper than sorting the whole vocabulary.
_MOST_LIKELY = 1024
# A shorter common prefix (in tokens) costs more than it saves: an additional pass through all layers.
_MIN_SHARED_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """One request of a batch, with its prompt as token ids."""

    index: int
    prompt: list[int]
    sampling: SamplingSpec
    adapter: LoraAdapter | None
    seed: int


class TextBatch:
    """A batch of rows that write free text; rows with the same adapter must be neighbours."""

    def __init__(self, rows: Sequence[TextRow], language_model: LanguageModel, report: Report | None = None) -> None:
        self.rows = rows
        self.language_model = language_model
        self.report = report
        self.cache = preallocated_cache(language_model.model)

    def write(self) -> list[Completion]:
        """Return one completion per row; rows that have ended leave the batch when they are half of it."""
        num_shared = self._num_shared()
        prompts = [row.prompt for row in self.rows]
        ids_BT, mask_BT = left_padded(prompts, self.language_model.pad_id, self.language_model.device, num_shared)
        width = ids_BT.shape[1]
        self._prefill(ids_BT, mask_BT, num_shared)
        active = list(range(len(self.rows)))
        written: dict[int, list[int]] = {}
        while active:
            ids_BT, ended = self._generate([self.rows[i] for i in active], ids_BT, mask_BT, width)
            kept = [position for position, has_ended in enumerate(ended) if not has_ended]
            written |= {i: ids_BT[at, width:].tolist() for at, i in enumerate(active) if ended[at]}
            active = [active[position] for position in kept]
            if active:
                new_mask = mask_BT.new_ones(len(mask_BT), ids_BT.shape[1] - mask_BT.shape[1])
                ids_BT, mask_BT = ids_BT[kept], torch.cat([mask_BT, new_mask], dim=1)[kept]
                keep_rows(self.cache, kept, ids_BT.device)
        return [finish_completion(written[i], row.sampling, self.language_model) for i, row in enumerate(self.rows)]

    def _generate(
        self, rows: Sequence[TextRow], ids_BT: Tensor, mask_BT: Tensor, prompt_width: int
    ) -> tuple[Tensor, list[bool]]:
        """Write until half of the rows have ended; return all ids and which rows have ended."""
        specs = [row.sampling for row in rows]
        stops = RowStops(rows, self.language_model, prompt_width, self.report)
        sampler = SeededSampling(specs, [row.seed for row in rows], prompt_width)
        with routed(self.language_model.model, one_row_each([row.adapter for row in rows])):
            ids: Tensor = self.language_model.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                past_key_values=self.cache,
                generation_config=GenerationConfig(
                    do_sample=False,  # the sampler leaves a single token to choose from
                    max_new_tokens=max(spec.max_new_tokens for spec in specs) - (ids_BT.shape[1] - prompt_width),
                    pad_token_id=self.language_model.pad_id,
                ),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([stops]),
            )
        return ids, stops.ended

    def _num_shared(self) -> int:
        """Tokens with which all prompts begin (an instruction, worked examples), if computing them once pays off.

        0 where rows have different adapters, and with a sliding window, which would count the pads behind them.
        """
        same_adapter = len({id(row.adapter) for row in self.rows}) == 1
        prompts_differ = len({tuple(row.prompt) for row in self.rows}) > 1
        if not (same_adapter and prompts_differ and keeps_all_tokens(self.cache)):
            return 0
        num_shared = common_prefix([row.prompt for row in self.rows])
        return num_shared if num_shared >= _MIN_SHARED_TOKENS else 0

    def _prefill(self, ids_BT: Tensor, mask_BT: Tensor, num_shared: int) -> None:
        """Compute keys and values once for the common prefix, and once for prompts that several rows have (k edits).

        The last token is left to ``generate``, which needs its logits.
        """
        keys = [(tuple(row.prompt), id(row.adapter)) for row in self.rows]
        first_row = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = sorted(first_row.values())
        repeated = len(unique) < len(keys) and ids_BT.shape[1] >= 2
        if num_shared:
            self._read([0], ids_BT[:, :num_shared], mask_BT[:, :num_shared])
            keep_rows(self.cache, [0] * len(unique if repeated else keys), ids_BT.device)
        if repeated:
            self._read(unique, ids_BT[:, :-1], mask_BT[:, :-1])
            position = {row: i for i, row in enumerate(unique)}
            keep_rows(self.cache, [position[first_row[key]] for key in keys], ids_BT.device)

    def _read(self, rows: list[int], ids_BT: Tensor, mask_BT: Tensor) -> None:
        """Append the keys and values of these rows' tokens that are not in the cache yet."""
        model, known = self.language_model.model, self.cache.get_seq_length()
        ids_UT, mask_UT = ids_BT[rows], mask_BT[rows]
        if known >= ids_UT.shape[1]:  # the prompts differ in their last token only
            return
        with routed(model, one_row_each([self.rows[i].adapter for i in rows])):
            model(
                input_ids=ids_UT[:, known:],
                attention_mask=mask_UT,
                position_ids=positions(mask_UT)[:, known:],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )


# --- sampling and stops


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Temperature and top-p sampling with a seed per row.

    It leaves the sampled token as the only possible one, so that greedy decoding picks it. Rows of temperature 0 pass.
    """

    def __init__(self, specs: Sequence[SamplingSpec], seeds: Sequence[int], prompt_length: int) -> None:
        self.specs = specs
        self.prompt_length = prompt_length
        longest = max(spec.max_new_tokens for spec in specs)
        self.draws_BT = torch.stack(
            [torch.rand(longest, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [B, V] with all but the sampled token at −inf."""
        step = input_ids.shape[1] - self.prompt_length
        rows = [i for i, spec in enumerate(self.specs) if spec.temperature > 0]
        if not rows:
            return scores
        temperature = torch.tensor([self.specs[i].temperature for i in rows], device=scores.device)
        top_p = torch.tensor([self.specs[i].top_p for i in rows], device=scores.device)
        draw = self.draws_BT[rows, step].to(scores.device)
        sampled = nucleus_token(scores[rows].float() / temperature[:, None], top_p, draw)
        only = torch.full_like(scores[rows], float("-inf")).scatter_(1, sampled[:, None], 0.0)
        return scores.index_copy(0, torch.tensor(rows, device=scores.device), only)


def nucleus_token(logits_BV: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    """Return the token at each row's draw in [0, 1) of its renormalised nucleus, by the inverse cumulative distribution."""
    probs_BV = torch.softmax(logits_BV, dim=-1)
    probs_BK, order_BK = probs_BV.topk(min(_MOST_LIKELY, probs_BV.shape[1]), dim=-1)
    token_B = _token_at_draw(probs_BK, order_BK, top_p_B, draw_B)
    wide = (probs_BK.sum(dim=-1) < top_p_B).nonzero().squeeze(1)
    if len(wide):
        probs_BK, order_BK = torch.sort(probs_BV[wide], dim=-1, descending=True, stable=True)
        token_B[wide] = _token_at_draw(probs_BK, order_BK, top_p_B[wide], draw_B[wide])
    return token_B


def _token_at_draw(probs_BK: Tensor, order_BK: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    before_BK = torch.cumsum(probs_BK, dim=-1) - probs_BK
    kept_BK = probs_BK * (before_BK < top_p_B[:, None])
    cumulative_BK = torch.cumsum(kept_BK, dim=-1)
    rank_B = (cumulative_BK <= draw_B[:, None] * cumulative_BK[:, -1:]).sum(dim=-1)
    last_B = ((kept_BK > 0).sum(dim=-1) - 1).clamp(min=0)  # a row of NaN has no nucleus: any token will do
    return order_BK.gather(1, torch.minimum(rank_B, last_B)[:, None]).squeeze(1)


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Finds the rows that have ended: an end token, a stop string in their text, or their maximal number of tokens.

    It stops the batch when half of the rows have ended, so that the others continue without them, or when a row that has
    ended would grow over the model's context.
    """

    TAIL_TOKENS = 24
    """Tokens at the end that are searched for stop strings."""

    def __init__(
        self, rows: Sequence[TextRow], language_model: LanguageModel, prompt_length: int, report: Report | None
    ) -> None:
        self.rows = rows
        self.language_model = language_model
        self.prompt_length = prompt_length
        self.report = report
        self.ended = [False] * len(rows)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return [B] booleans: all true when the batch stops, else all false."""
        interruption.check()
        if self.report is not None:
            self.report(input_ids[0, self.prompt_length :].tolist())
        num_written = input_ids.shape[1] - self.prompt_length
        tails = input_ids[:, -min(num_written, self.TAIL_TOKENS) :].tolist()
        for i, (row, tail) in enumerate(zip(self.rows, tails, strict=True)):
            self.ended[i] = self.ended[i] or self._ends(row.sampling, tail, num_written)
        room = self.language_model.max_length - num_written
        is_full = any(ended and len(row.prompt) >= room for ended, row in zip(self.ended, self.rows, strict=True))
        stop = is_full or 2 * sum(self.ended) >= len(self.ended)
        return torch.full((len(self.rows),), stop, device=input_ids.device)

    def _ends(self, spec: SamplingSpec, tail: list[int], num_written: int) -> bool:
        if num_written >= spec.max_new_tokens or tail[-1] in self.language_model.eos_ids:
            return True
        return bool(spec.stop) and _has_stop(self.language_model.decode(tail), spec)


def finish_completion(ids: list[int], spec: SamplingSpec, language_model: LanguageModel) -> Completion:
    """Return the completion up to its end: an end token, a stop string, or the maximal number of tokens.

    Args:
        ids: the tokens written, possibly with more behind the end.
        spec: the settings that say when a text ends.
        language_model: the model that decodes them.
    """
    ids = ids[: spec.max_new_tokens]
    finish = FinishReason.LENGTH
    end = next((i for i, token in enumerate(ids) if token in language_model.eos_ids), None)
    if end is not None:
        ids, finish = ids[: end + 1], FinishReason.STOP
    text = language_model.decode(ids)
    if _has_stop(text, spec):
        low, high = 1, len(ids)  # the first token that completes a stop string
        while low < high:
            middle = (low + high) // 2
            found = _has_stop(language_model.decode(ids[:middle]), spec)
            low, high = (low, middle) if found else (middle + 1, high)
        ids, finish = ids[:low], FinishReason.STOP
        text = text[: min(at for stop in spec.stop if (at := text.find(stop)) >= 0)]
    return Completion(text=text, token_ids=tuple(ids), finish_reason=finish)


def _has_stop(text: str, spec: SamplingSpec) -> bool:
    return any(stop in text for stop in spec.stop)
