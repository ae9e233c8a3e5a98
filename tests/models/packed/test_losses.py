"""The chunked loss and its gradient against torch's own, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seal_lightning.models.packed import losses as cross_entropy
from seal_lightning.models.packed.losses import ChunkedCrossEntropy, chunk_rows

VOCABULARY = 50


@pytest.fixture(params=[1, 4, 1000])
def rows_a_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(cross_entropy._CHUNK_ELEMENTS, "cpu", request.param * VOCABULARY)
    assert chunk_rows(VOCABULARY, torch.device("cpu")) == request.param
    return int(request.param)


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    targets = torch.randint(0, VOCABULARY, (11,), generator=generator)
    weights = torch.rand(11, generator=generator, dtype=dtype)
    return normal(11, 8).requires_grad_(), normal(VOCABULARY, 8), normal(VOCABULARY), targets, weights


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("biased", [True, False])
def test_cross_entropy_equals_torch(rows_a_chunk: int, softcap: float | None, biased: bool) -> None:
    hidden, head, bias, targets, weights = data(torch.float64)
    logits = F.linear(hidden, head, bias if biased else None)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    total, losses = ChunkedCrossEntropy.apply(hidden, head, bias if biased else None, targets, weights, softcap)
    assert torch.allclose(losses, expected, rtol=1e-13, atol=0)
    assert total.item() == pytest.approx((expected * weights).sum().item(), rel=1e-13)
    (ours,) = torch.autograd.grad(total, hidden)
    assert (ours - gradient).abs().max() <= 1e-13 * gradient.abs().max()
    assert not losses.requires_grad


def test_cross_entropy_computes_in_float32(rows_a_chunk: int) -> None:
    hidden, head, _, targets, weights = (t.detach() for t in data(torch.float32))
    half = hidden.bfloat16().requires_grad_()
    expected = F.cross_entropy((half @ head.bfloat16().T).float(), targets, reduction="none")
    (gradient,) = torch.autograd.grad((expected * weights).sum(), half)
    total, losses = ChunkedCrossEntropy.apply(half, head.bfloat16(), None, targets, weights, None)
    assert losses.dtype is torch.float32
    assert torch.allclose(losses, expected, rtol=1e-5)
    (ours,) = torch.autograd.grad(total, half)
    assert ours.dtype is torch.bfloat16
    assert torch.allclose(ours.float(), gradient.float(), rtol=0.02, atol=1e-3)


def test_cross_entropy_keeps_nan_in_its_row(rows_a_chunk: int) -> None:
    hidden, head, _, targets, weights = data(torch.float64)
    with torch.no_grad():
        hidden[3] = float("nan")
    total, losses = ChunkedCrossEntropy.apply(hidden, head, None, targets, weights, None)
    (gradient,) = torch.autograd.grad(total, hidden)
    others = torch.arange(11) != 3
    assert losses[others].isfinite().all()
    assert losses[3].isnan()
    assert gradient[others].isfinite().all()


def test_cross_entropy_without_targets_is_zero() -> None:
    hidden, head, _, targets, weights = data(torch.float64)
    total, losses = ChunkedCrossEntropy.apply(hidden[:0], head, None, targets[:0], weights[:0], None)
    assert total.item() == 0
    assert len(losses) == 0
    (gradient,) = torch.autograd.grad(total, hidden)
    assert not gradient.any()
