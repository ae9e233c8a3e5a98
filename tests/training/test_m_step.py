"""The M-step's loss: the tokens the policy chose, and nothing of the prompt."""

from __future__ import annotations

import pytest
import torch
from fakes import MAX_LENGTH
from torch.nn import functional as F

from seal_lightning.callbacks.rest_em_buffer import buffer_row
from seal_lightning.core import Attempt, AttemptStatus, BufferRow, Candidate, ChatMessage, Prompt, SelfEdit
from seal_lightning.core.errors import RunError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import pack_within
from seal_lightning.training.m_step import tokenize_row

CHAT = (ChatMessage(role="user", content="The stone 3 is red."),)


def row_of(
    prompt: Prompt = "The stone 3 is red.\nFacts:\n",
    text: str = "",
    token_ids: tuple[int, ...] = (),
    chosen: tuple[bool, ...] | None = None,
) -> BufferRow:
    return BufferRow(
        task_id="t", edit_index=0, prompt=prompt, text=text, token_ids=token_ids, reward=1.0, chosen=chosen
    )


@pytest.mark.parametrize("prompt", ["The stone 3 is red.\nFacts:\n", CHAT])
def test_tokenize_row_trains_exactly_the_edit_s_tokens(tiny: LanguageModel, prompt: Prompt) -> None:
    """The ids are those the policy chose: not those its text would get, and with its end token or without."""
    ids = tuple(tiny.encode_text("r")) + tuple(tiny.encode_text("ed"))
    assert list(ids) != tiny.encode_text("red")
    for chosen in (ids, (*ids, tiny.eos_ids[0])):
        row = tokenize_row(row_of(prompt, "red", chosen), tiny)
        prompt_ids = tiny.encode_prompt(prompt)
        assert list(row.token_ids) == [*prompt_ids, *chosen]
        assert list(row.trained) == [False] * len(prompt_ids) + [True] * len(chosen)
        assert row.num_targets == len(chosen)
        assert not row.truncated


@pytest.mark.parametrize("prompt", ["The stone 3 is red.\nFacts:\n", CHAT])
def test_tokenize_row_trains_chosen_tokens_only(tiny: LanguageModel, prompt: Prompt) -> None:
    ids, chosen = (70, 71, 72, tiny.eos_ids[0]), (False, True, True, False)
    row = tokenize_row(row_of(prompt, token_ids=ids, chosen=chosen), tiny)
    prompt_ids = tiny.encode_prompt(prompt)
    assert list(row.token_ids) == [*prompt_ids, *ids]
    assert list(row.trained) == [*[False] * len(prompt_ids), *chosen]
    assert row.num_targets == 2


def test_m_step_loss_is_a_plain_cross_entropy(tiny64: LanguageModel) -> None:
    ids, chosen = (70, 71, 72, 73), (False, True, False, True)
    row = row_of(token_ids=ids, chosen=chosen)
    prompt = tiny64.encode_prompt(row.prompt)
    with torch.no_grad():
        logits = tiny64.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        (packed,) = pack_within([tokenize_row(row, tiny64)], 1000, tiny64.device)
        total = tiny64.packed(packed).total.item()
    expected = F.cross_entropy(logits[[1, 3]], torch.tensor([71, 73]), reduction="sum").item()
    assert total == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("chosen", [(), (True,), (True, True, False)])
def test_tokenize_row_refuses_a_mask_of_another_length(tiny: LanguageModel, chosen: tuple[bool, ...]) -> None:
    with pytest.raises(RunError, match=f"edit 0 of task t has 2 tokens but {len(chosen)} entries"):
        tokenize_row(row_of(token_ids=(70, 71), chosen=chosen), tiny)


def test_buffer_row_keeps_chosen() -> None:
    edit = SelfEdit(task_id="t", edit_index=2, text="ab", token_ids=(70, 71), chosen=(False, True))
    attempt = Attempt(
        attempt_id="r0-t-e2-s0", round=0, repeat=0, seed=1, edit=edit, status=AttemptStatus.SCORED, reward=0.5
    )
    candidate = Candidate(task_id="t", edit_index=2, attempts=(attempt,))
    assert buffer_row(candidate, "x").chosen == (False, True)


def test_tokenize_row_tokenises_another_writer_s_edit(tiny: LanguageModel) -> None:
    row = tokenize_row(row_of(text="It is red."), tiny)
    trained = [i for i, t in zip(row.token_ids, row.trained, strict=True) if t]
    assert trained == [*tiny.encode_text("It is red."), tiny.eos_ids[0]]


def test_tokenize_row_truncates_to_the_context(tiny: LanguageModel) -> None:
    prompt_ids = tiny.encode_prompt(row_of().prompt)
    chosen = tuple(range(1, 1 + MAX_LENGTH))
    row = tokenize_row(row_of(token_ids=chosen), tiny)
    assert row.truncated
    assert list(row.token_ids) == [*prompt_ids, *chosen][:MAX_LENGTH]
    assert row.num_targets == MAX_LENGTH - len(prompt_ids)


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_m_step_loss_is_the_mean_over_chosen_tokens(tiny64: LanguageModel, max_tokens: int) -> None:
    """Against a plain forward pass a row, whatever the passes; the mean is over tokens, not over rows."""
    rows = [row_of(token_ids=tuple(tiny64.encode_text(text))) for text in ("red", "It is red and known to be so.")]
    rows.append(row_of(prompt=CHAT, text="A stone."))
    total, count = 0.0, 0
    for row in rows:
        prompt = tiny64.encode_prompt(row.prompt)
        edit = list(row.token_ids) or [*tiny64.encode_text(row.text), tiny64.eos_ids[0]]
        with torch.no_grad():
            logits = tiny64.model(input_ids=torch.tensor([prompt + edit])).logits[0]
        total += F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(edit), reduction="sum").item()
        count += len(edit)
    sequences = [tokenize_row(row, tiny64) for row in rows]
    assert sum(sequence.num_targets for sequence in sequences) == count
    packed = pack_within(sequences, max_tokens, tiny64.device)
    assert len(packed) == {1: 3, 60: 2, 10_000: 1}[max_tokens]
    with torch.no_grad():
        assert sum(tiny64.packed(row).total.item() for row in packed) == pytest.approx(total, rel=1e-12)
