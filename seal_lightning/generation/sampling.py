"""Choosing tokens: seeded row by row, and stopped row by row.

Each row draws from a table of uniform numbers made from its own seed, so a row's text depends on its neighbours in the
batch by rounding only, and no global generator is read or moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from seal_lightning.core import SamplingSpec
from seal_lightning.distributed import interruption

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
