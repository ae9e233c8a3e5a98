"""Constrained decoding: a schema's texts are given, and the model chooses at its choices only.

What is certain up to the next place where allowed texts part is fed as one chunk, so a batch takes as many passes as its
longest row has such places: one a choice, where its options differ in their first token. Rows
take different options, hence chunks of different lengths; they are padded on the left, and the pads, which stay in the
cache as holes, are masked.

Shapes: B rows still going, T columns so far, C columns of a chunk, V vocabulary, K allowed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seal_lightning.core import Completion, FinishReason
from seal_lightning.distributed import interruption
from seal_lightning.generation.batching import left_padded, one_row_each, positions
from seal_lightning.generation.kv_cache import keep_rows, roomy_cache
from seal_lightning.generation.schema_tokens import SchemaTokens, Walk
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, routed


@dataclass(frozen=True, kw_only=True)
class SlotRow:
    """One request of a batch."""

    index: int
    prompt: list[int]
    schema: SchemaTokens
    adapter: LoraAdapter | None
    temperature: float = 1.0
    seed: int = 0
    given: tuple[int, ...] | None = None
    """The completion's ids, where only their probability is asked for."""


@torch.no_grad()
def fill_slots(rows: Sequence[SlotRow], language_model: LanguageModel) -> list[Completion]:
    """One completion a row, in order; rows with the same adapter should be neighbours."""
    if len(rows) > 1 and _holes_matter(rows, language_model):
        return [completion for row in rows for completion in fill_slots([row], language_model)]
    choosing = [row for row in rows if row.schema.has_choices]
    walked = iter(_Batch(choosing, language_model).walked() if choosing else [])
    walks = [next(walked) if row.schema.has_choices else Walk(row.schema) for row in rows]
    return [
        Completion(
            text=row.schema.text(walk.choices),
            token_ids=tuple(walk.token_ids),
            finish_reason=FinishReason.STOP,
            chosen=tuple(walk.chosen),
            choices=walk.choices,
            log_prob=walk.log_prob,
        )
        for row, walk in zip(rows, walks, strict=True)
    ]


def _holes_matter(rows: Sequence[SlotRow], language_model: LanguageModel) -> bool:
    """Whether a sliding window, which counts columns and so holes too, is shorter than what it slides over."""
    windows = [getattr(layer, "sliding_window", None) for layer in roomy_cache(language_model.model).layers]
    longest = max(len(row.prompt) + row.schema.max_tokens for row in rows)
    return any(window is not None and window < longest for window in windows)


class _Batch:
    """Rows that are walked through their schemas together."""

    def __init__(self, rows: Sequence[SlotRow], language_model: LanguageModel) -> None:
        self.language_model = language_model
        self.rows = rows
        self.walks = [Walk(row.schema) for row in rows]
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        self.draws = [
            torch.rand(row.schema.max_tokens, generator=generator, dtype=torch.float64)
            for row, generator in zip(rows, generators, strict=True)
        ]
        self.num_fed = [len(walk.token_ids) for walk in self.walks]
        self.going = list(range(len(rows)))
        """Rows whose text is not over, in the order of the cache's."""
        self.cache = roomy_cache(language_model.model)

    def walked(self) -> list[Walk]:
        """Every row to its end."""
        mask_BT, logits_BV = self._first_pass()
        while True:
            self._choose(logits_BV)
            kept = [place for place, i in enumerate(self.going) if self.walks[i].allowed]
            if not kept:
                return self.walks
            if len(kept) < len(self.going):
                self.going = [self.going[place] for place in kept]
                mask_BT = mask_BT[kept]
                keep_rows(self.cache, kept, mask_BT.device)
            mask_BT, logits_BV = self._pass_over_new_tokens(mask_BT)

    def _first_pass(self) -> tuple[Tensor, Tensor]:
        """Prompts and what comes before the first choice, computed once where rows share them (a task's k edits)."""
        starts = [row.prompt + walk.token_ids for row, walk in zip(self.rows, self.walks, strict=True)]
        keys = [(tuple(start), id(row.adapter)) for start, row in zip(starts, self.rows, strict=True)]
        first_row = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = sorted(first_row.values())
        ids_UT, mask_UT = self._padded([starts[i] for i in unique])
        logits_UV = self._forward(unique, ids_UT, mask_UT)
        place = {row: i for i, row in enumerate(unique)}
        repeats = [place[first_row[key]] for key in keys]
        if len(unique) < len(keys):
            keep_rows(self.cache, repeats, ids_UT.device)
        return mask_UT[repeats], logits_UV[repeats]

    def _pass_over_new_tokens(self, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What each row took since the last pass; the attention mask grows by as many columns."""
        ids_BC, mask_BC = self._padded([self.walks[i].token_ids[self.num_fed[i] :] for i in self.going])
        for i in self.going:
            self.num_fed[i] = len(self.walks[i].token_ids)
        mask_BT = torch.cat([mask_BT, mask_BC], dim=1)
        return mask_BT, self._forward(self.going, ids_BC, mask_BT)

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return left_padded(ids, self.language_model.pad_id, self.language_model.device)

    def _forward(self, rows: Sequence[int], ids_BC: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits [B, V] behind each row's last token; keys and values are appended to the cache."""
        interruption.check()
        model = self.language_model.model
        with routed(model, one_row_each([self.rows[i].adapter for i in rows])):
            logits: Tensor = model(
                input_ids=ids_BC,
                attention_mask=mask_BT,
                position_ids=positions(mask_BT)[:, -ids_BC.shape[1] :],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1]

    def _choose(self, logits_BV: Tensor) -> None:
        """Let every row that is going take a token."""
        allowed = [self.walks[i].allowed for i in self.going]
        widest = max(map(len, allowed))
        index_BK = torch.tensor([tokens + tokens[:1] * (widest - len(tokens)) for tokens in allowed])
        logits_BK = logits_BV.gather(1, index_BK.to(logits_BV.device)).double().cpu()
        for i, tokens, logits_K in zip(self.going, allowed, logits_BK, strict=True):
            row, walk, logits = self.rows[i], self.walks[i], logits_K[: len(tokens)]
            if row.given is not None:
                option = tokens.index(row.given[len(walk.token_ids)])
            else:
                option = _drawn(logits, row.temperature, self.draws[i][walk.num_chosen])
            walk.take(tokens[option], float(torch.log_softmax(logits, dim=0)[option]))


def _drawn(logits_K: Tensor, temperature: float, draw: Tensor) -> int:
    """The option at a draw in [0, 1) of the allowed tokens' distribution; at temperature 0 the likeliest."""
    if temperature == 0:
        return int(logits_K.argmax())
    probs_K = torch.softmax((logits_K - logits_K.max()) / temperature, dim=0)
    return min(int((probs_K.cumsum(dim=0) <= draw).sum()), len(logits_K) - 1)
