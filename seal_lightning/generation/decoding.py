"""Rows side by side in a batch: in the order of their adapters, and padded on the left.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from seal_lightning.core import Completion, FinishReason, SamplingSpec
from seal_lightning.distributed import interruption
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter


def finish_completion(ids: list[int], spec: SamplingSpec, language_model: LanguageModel) -> Completion:
    """What was written, up to its own end: an end token, a stop string, or the number of tokens.

    Args:
        ids: the tokens written, and perhaps more behind the end.
        spec: says when a text ends.
        language_model: decodes them.
    """
    ids = ids[: spec.max_new_tokens]
    finish = FinishReason.LENGTH
    end = next((i for i, token in enumerate(ids) if token in language_model.eos_ids), None)
    if end is not None:
        ids, finish = ids[: end + 1], FinishReason.STOP
    text = language_model.decode(ids)
    cut = min((at for stop in spec.stop if (at := text.find(stop)) >= 0), default=None)
    if cut is not None:
        ids, finish = _ids_up_to_stop(ids, spec.stop, language_model), FinishReason.STOP
        text = text[:cut]
    return Completion(text=text, token_ids=tuple(ids), finish_reason=finish)


def _ids_up_to_stop(ids: list[int], stops: tuple[str, ...], language_model: LanguageModel) -> list[int]:
    """The ids up to and with the token that completed the first stop string."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        text = language_model.decode(ids[:middle])
        low, high = (low, middle) if any(stop in text for stop in stops) else (middle + 1, high)
    return ids[:low]


_LIKELIEST = 1024
"""A nucleus is looked for among so many tokens first, which is cheaper than sorting a whole vocabulary."""


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Temperature and top-p sampling whose draws come from each request's own seed.

    It leaves the chosen token as the only possible one, so that greedy decoding picks it. Rows of temperature 0 pass.
    """

    def __init__(self, specs: Sequence[SamplingSpec], seeds: Sequence[int], prompt_length: int) -> None:
        self.specs = specs
        self.prompt_length = prompt_length
        self.draws_BT = torch.stack(
            [
                torch.rand(max(s.max_new_tokens for s in specs), generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [batch, vocabulary] in, the same with all but the chosen token at −inf out."""
        step = input_ids.shape[1] - self.prompt_length
        rows = [i for i, spec in enumerate(self.specs) if spec.temperature > 0]
        if not rows:
            return scores
        temperature = torch.tensor([self.specs[i].temperature for i in rows], device=scores.device)
        top_p = torch.tensor([self.specs[i].top_p for i in rows], device=scores.device)
        draw = self.draws_BT[rows, step].to(scores.device)
        chosen = nucleus_token(scores[rows].float() / temperature[:, None], top_p, draw)
        picked = torch.full_like(scores[rows], float("-inf")).scatter_(1, chosen[:, None], 0.0)
        return scores.index_copy(0, torch.tensor(rows, device=scores.device), picked)


def nucleus_token(logits_BV: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    """The token at each row's draw in [0, 1) of its renormalised nucleus, by inverting the cumulative distribution."""
    probs_BV = torch.softmax(logits_BV, dim=-1)
    probs_BK, order_BK = probs_BV.topk(min(_LIKELIEST, probs_BV.shape[1]), dim=-1)
    chosen_B = _at_draw(probs_BK, order_BK, top_p_B, draw_B)
    wide = (probs_BK.sum(dim=-1) < top_p_B).nonzero().squeeze(1)
    if len(wide):
        probs_BK, order_BK = torch.sort(probs_BV[wide], dim=-1, descending=True, stable=True)
        chosen_B[wide] = _at_draw(probs_BK, order_BK, top_p_B[wide], draw_B[wide])
    return chosen_B


def _at_draw(probs_BK: Tensor, order_BK: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    before_BK = torch.cumsum(probs_BK, dim=-1) - probs_BK
    kept_BK = probs_BK * (before_BK < top_p_B[:, None])
    cumulative_BK = torch.cumsum(kept_BK, dim=-1)
    rank_B = (cumulative_BK <= draw_B[:, None] * cumulative_BK[:, -1:]).sum(dim=-1)
    last_B = ((kept_BK > 0).sum(dim=-1) - 1).clamp(min=0)  # a row of NaN has no nucleus: any token is as wrong
    return order_BK.gather(1, torch.minimum(rank_B, last_B)[:, None]).squeeze(1)


class TokenListener(StoppingCriteria):  # type: ignore[misc]
    """Reports the ids of a batch's first row after each token; an exception of ``report`` ends the generation.

    Args:
        report: called with the ids written so far.
        prompt_length: tokens before them.
    """

    def __init__(self, report: Callable[[list[int]], None], prompt_length: int) -> None:
        self.report = report
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return [batch] booleans, all false: it stops no row."""
        self.report(input_ids[0, self.prompt_length :].tolist())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Knows which rows are done: an end token, a stop string in what was written, or the row's number of tokens.

    It ends the batch when half of the rows are done, so that the others go on without dead weight, or when one that is
    done would grow over the model's context.
    """

    TAIL_TOKENS = 24

    def __init__(
        self,
        specs: Sequence[SamplingSpec],
        end_ids: Sequence[int],
        prompt_length: int,
        rooms: Sequence[int],
        decode: Callable[[list[int]], str],
    ) -> None:
        self.specs = specs
        self.rooms = rooms
        """How many tokens each row may write before the model's context is full."""
        self.end_ids = frozenset(end_ids)
        self.prompt_length = prompt_length
        self.decode = decode
        self.done = [False] * len(specs)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """[batch] booleans: all true when the batch ends, else all false."""
        interruption.check()
        written = input_ids.shape[1] - self.prompt_length
        tails = input_ids[:, -min(written, self.TAIL_TOKENS) :].tolist()
        for row, tail in enumerate(tails):
            self.done[row] = self.done[row] or self._ends(row, tail, written)
        full = any(done and written >= room for done, room in zip(self.done, self.rooms, strict=True))
        ended = full or 2 * sum(self.done) >= len(self.done)
        return torch.full((len(self.done),), ended, device=input_ids.device)

    def _ends(self, row: int, tail: list[int], written: int) -> bool:
        spec = self.specs[row]
        if written >= spec.max_new_tokens or tail[-1] in self.end_ids:
            return True
        if not spec.stop:
            return False
        text = self.decode(tail)
        return any(stop in text for stop in spec.stop)


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [batch, heads, tokens, head size], views of tensors with room for more tokens."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._key_room: Tensor | None = None
        self._value_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._key_room, self.keys = self._appended(self._key_room, self.keys, key_states)
        self._value_room, self.values = self._appended(self._value_room, self.values, value_states)
        return self.keys, self.values

    def _appended(self, room: Tensor | None, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        before = old.shape[-2] if old.numel() else 0
        after = before + new.shape[-2]
        if room is None or room.shape[-2] < after:
            room = new.new_empty(*new.shape[:2], after + max(64, after // 2), new.shape[3])
            if before:
                room[:, :, :before] = old
        room[:, :, before:after] = new
        return room, room[:, :, :after]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep (or repeat) rows of the batch: they become tensors of their own, and the room is given up."""
        super().batch_select_indices(indices)
        self._key_room = self._value_room = None


def preallocated_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model; its full-attention layers grow by half at a time."""
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keep_rows(cache: DynamicCache, rows: list[int], device: torch.device) -> None:
    """Keep (or repeat) rows of the batch, in this order."""
    cache.batch_select_indices(torch.tensor(rows, device=device))


def keeps_all_tokens(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens, and none a window of the last ones only."""
    return all(type(layer) is PreallocatedLayer for layer in cache.layers)


ItemT = TypeVar("ItemT")


def by_adapter(items: list[ItemT], adapter_of: Callable[[ItemT], LoraAdapter | None]) -> list[ItemT]:
    """Items with the same adapter side by side, adapters in the order of their first item."""
    first = {id(adapter_of(item)): place for place, item in reversed(list(enumerate(items)))}
    return sorted(items, key=lambda item: first[id(adapter_of(item))])


def merge_rows(shares: Sequence[AdapterRows]) -> list[AdapterRows]:
    """Neighbouring shares of one adapter as one."""
    together: list[AdapterRows] = []
    for share in shares:
        if together and together[-1].adapter is share.adapter:
            together[-1] = replace(share, size=together[-1].size + share.size)
        else:
            together.append(share)
    return together


def one_row_each(adapters: Sequence[LoraAdapter | None]) -> list[AdapterRows]:
    """The shares of a batch whose rows have these adapters."""
    return merge_rows([AdapterRows(size=1, adapter=adapter) for adapter in adapters])


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, num_shared: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and attention mask [B, T] of rows that all end in the last column.

    The first ``num_shared`` tokens, which all rows have in common, stand in the first columns, before the pads.
    """
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    ids = [[*row[:num_shared], *[pad_id] * n, *row[num_shared:]] for n, row in zip(pads, rows, strict=True)]
    mask = [[1] * num_shared + [0] * n + [1] * (width - n - num_shared) for n in pads]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with alike; each row's last token is not counted."""
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def positions(mask_BT: Tensor) -> Tensor:
    """[B, T] each token's place among its row's real ones; a pad has that of the real token before it, or 0."""
    return (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
