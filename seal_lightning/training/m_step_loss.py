"""The M-step's loss: masked cross-entropy on the tokens the policy chose (ReST-EM, §3.1, equation 2).

With a binary reward, the policy gradient over kept samples is supervised finetuning on them; the prompt is never trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seal_lightning.core import BufferRow
from seal_lightning.core.errors import RunError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import PackedRow, TokenizedSequence, pack_within


def tokenize_row(row: BufferRow, language_model: LanguageModel) -> TokenizedSequence:
    """Prompt tokens without loss, then the edit's own tokens with it: all of them, or those the policy chose.

    An edit from another writer has no tokens: its text is tokenised and ended with the model's end token. What is over the
    model's context is cut off at the end.

    Raises :class:`RunError` where ``chosen`` is of another length than the tokens.
    """
    prompt = language_model.encode_prompt(row.prompt)
    edit = list(row.token_ids) or [*language_model.encode_text(row.text), language_model.eos_ids[0]]
    chosen = [True] * len(edit) if row.chosen is None else list(row.chosen)
    if len(chosen) != len(edit):
        raise RunError(
            f"the accepted edit {row.edit_index} of task {row.task_id} has {len(edit)} tokens but says of {len(chosen)} "
            "whether they were chosen; it was stored wrongly: remove it, or start a new run"
        )
    limit = language_model.max_length
    ids, trained = [*prompt, *edit], [False] * len(prompt) + chosen
    return TokenizedSequence(token_ids=tuple(ids[:limit]), trained=tuple(trained[:limit]), truncated=len(ids) > limit)


def pack_rows(rows: Sequence[BufferRow], language_model: LanguageModel, max_tokens: int) -> list[PackedRow]:
    """A batch's rows as packed rows of at most ``max_tokens`` (a longer row stands alone)."""
    sequences = [tokenize_row(row, language_model) for row in rows]
    return pack_within(sequences, max_tokens, torch.device(language_model.device))


def num_trained_tokens(rows: Sequence[BufferRow], language_model: LanguageModel) -> int:
    """Over how many tokens the batch's loss is the mean."""
    return max(1, sum(tokenize_row(row, language_model).num_targets for row in rows))
