"""The chunked divergence against autograd, and the packed pass that holds some targets and trains others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from seal_lightning.core.errors import ConfigError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import Anchored, TokenizedSequence, UnadaptedStates, pack
from seal_lightning.models.packed import losses as sizes
from seal_lightning.models.packed.losses import ChunkedDivergence, softcapped


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_divergence_equals_autograd(
    softcap: float | None, bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sizes._CHUNK_ELEMENTS, "cpu", chunk)
    generator = torch.Generator().manual_seed(0)
    now, before = (torch.randn(5, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    head = torch.randn(11, 8, dtype=torch.float64, generator=generator)
    shift = torch.randn(11, dtype=torch.float64, generator=generator) if bias else None
    weights = torch.rand(5, dtype=torch.float64, generator=generator)
    ours, plain = now.clone().requires_grad_(), now.clone().requires_grad_()
    total, each = ChunkedDivergence.apply(ours, before, head, shift, weights, softcap)
    q = softcapped(F.linear(plain, head, shift), softcap).log_softmax(1)
    p = softcapped(F.linear(before, head, shift), softcap).log_softmax(1)
    expected = F.kl_div(q, p, reduction="none", log_target=True).sum(1)
    assert torch.allclose(each, expected, rtol=1e-12)
    assert total.item() == pytest.approx(float((expected.detach() * weights).sum()), rel=1e-12)
    (3 * total).backward()
    (3 * (expected * weights).sum()).backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, plain.grad, rtol=1e-11, atol=1e-13)  # type: ignore[arg-type]
    same, _ = ChunkedDivergence.apply(before.clone().requires_grad_(), before, head, shift, weights, softcap)
    assert abs(same.item()) < 1e-14


def sequences() -> list[TokenizedSequence]:
    parts = [tuple(range(start, start + 6)) for start in (10, 30, 50)]
    found = [TokenizedSequence(token_ids=part, trained=(False, True, True, False, True, True)) for part in parts]
    return [found[0], replace(found[1], anchored=True), found[2]]


def test_packed_forward_mixes_trained_and_anchored_targets(tiny64: LanguageModel) -> None:
    row = pack(sequences(), torch.device("cpu"))
    states = UnadaptedStates(tiny64.packed, max_tokens=4).states([sequences()[1]])
    at = torch.tensor([False] * 4 + [True] * 4 + [False] * 4)
    weights = torch.arange(1.0, 13.0, dtype=torch.float64)
    plain = tiny64.packed(row, weights)
    found = tiny64.packed(row, weights, Anchored(at=at, states=states + 0.1))
    assert torch.equal(found.losses[~at], plain.losses[~at])
    head = tiny64.model.get_output_embeddings().weight
    p, q = tiny64.packed.log_probs(states + 0.1, head, None), tiny64.packed.log_probs(states, head, None)
    expected = (p.exp() * (p - q)).sum(1)
    assert torch.allclose(found.losses[at], expected, rtol=1e-10)
    assert found.total.item() == pytest.approx(float((found.losses * weights).sum()), rel=1e-12)


def test_unadapted_states_are_computed_once(tiny64: LanguageModel) -> None:
    of = UnadaptedStates(tiny64.packed, max_tokens=7)
    first = of.states(sequences())
    with torch.no_grad():
        tiny64.model.get_input_embeddings().weight.mul_(2)
    assert torch.equal(of.states(sequences()), first)
    assert torch.equal(of.states(sequences()[::-1]), torch.cat(torch.split(first, 4)[::-1]))
    assert not torch.equal(UnadaptedStates(tiny64.packed, max_tokens=7).states(sequences()), first)


def test_unadapted_states_reject_other_output_heads(tiny64: LanguageModel) -> None:
    tiny64.packed._chunked = False
    with pytest.raises(ConfigError, match="computes more than a linear layer"):
        UnadaptedStates(tiny64.packed, max_tokens=7)
