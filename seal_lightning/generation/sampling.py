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

from seal_lightning.types import SamplingSpec


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
        chosen = _nucleus_token(scores[rows].float() / temperature[:, None], top_p, draw)
        picked = torch.full_like(scores[rows], float("-inf")).scatter_(1, chosen[:, None], 0.0)
        return scores.index_copy(0, torch.tensor(rows, device=scores.device), picked)


def _nucleus_token(logits_BV: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    """The token at each row's draw in [0, 1) of its renormalised nucleus, by inverting the cumulative distribution."""
    probs_BV, order_BV = torch.sort(torch.softmax(logits_BV, dim=-1), dim=-1, descending=True, stable=True)
    before_BV = torch.cumsum(probs_BV, dim=-1) - probs_BV
    kept_BV = probs_BV * (before_BV < top_p_B[:, None])
    cumulative_BV = torch.cumsum(kept_BV, dim=-1)
    rank_B = (cumulative_BV <= draw_B[:, None] * cumulative_BV[:, -1:]).sum(dim=-1)
    last_B = (kept_BV > 0).sum(dim=-1) - 1
    return order_BV.gather(1, torch.minimum(rank_B, last_B)[:, None]).squeeze(1)


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Ends a row when one of its stop strings appears in what it wrote, or when it has written its number of tokens."""

    TAIL_TOKENS = 24

    def __init__(self, specs: Sequence[SamplingSpec], prompt_length: int, decode: Callable[[list[int]], str]) -> None:
        self.specs = specs
        self.prompt_length = prompt_length
        self.decode = decode

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """[batch] booleans: which rows are done."""
        written = input_ids.shape[1] - self.prompt_length
        return torch.tensor(
            [self._done(i, input_ids, written) for i in range(len(self.specs))], device=input_ids.device
        )

    def _done(self, row: int, input_ids: Tensor, written: int) -> bool:
        spec = self.specs[row]
        if written >= spec.max_new_tokens:
            return True
        if not spec.stop:
            return False
        tail = self.decode(input_ids[row, -min(written, self.TAIL_TOKENS) :].tolist())
        return any(stop in tail for stop in spec.stop)
