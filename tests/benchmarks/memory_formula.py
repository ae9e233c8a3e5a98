"""How much memory a strategy takes on each device, by a formula: docs/memory.md has it in words, and its table.

Before a run, :mod:`seal_lightning.inner_loop.memory` counts on the model itself; this is for choosing model and machine. It
holds for decoders of Llama's and Qwen2's make, with LoRA on all seven linear layers.

Everything is in bytes. ``s`` is the size of a number of the base's dtype: 2 for bfloat16, 4 for float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Of a weight: 4 bits, a scale of one byte for 64 weights, and one of four bytes for 256 scales (double quantisation)."""
_CHUNK_ELEMENTS = {"cpu": 31 << 18, "cuda": 1 << 27}
"""Logits held at once, as in :mod:`seal_lightning.models.packed.losses`."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes of a decoder, as its ``config.json`` has them."""

    name: str
    source: str
    """The hub id whose ``config.json`` they are from."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""
    qkv_bias: bool = False

    @property
    def linear_sizes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's q, k, v, o, gate, up and down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        e, i = self.hidden, self.intermediate
        return ((e, q), (e, kv), (e, kv), (q, e), (e, i), (e, i), (i, e))

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers that LoRA adapts and 4 bits shrink."""
        return self.layers * sum(a * b for a, b in self.linear_sizes)

    @property
    def embedding_parameters(self) -> int:
        """Embedding, and output head where it is another one."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden * self.layers + self.hidden
        return self.linear_parameters + self.embedding_parameters + self.layers * biases + norms

    def adapter_parameters(self, rank: int) -> int:
        """Of a LoRA on all linear layers."""
        return self.layers * rank * sum(a + b for a, b in self.linear_sizes)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained at once. Defaults are those of an accelerator."""

    size: int = 2
    """s, bytes of a number of the base: 2 or 4."""
    quantized: bool = False
    """Whether linear layers are in 4 bits."""
    checkpointing: bool = False
    adapters: int = 32
    """M ≥ 1, in training at once (``inner_loop.max_adapters``)."""
    candidates: int = 48
    """K ≥ M, plans a call; their trained adapters stay until they are examined (``model.candidates_per_call``)."""
    rank: int = 32
    """≥ 1, of the inner loop's adapters."""
    tokens: int = 8192
    """T ≥ 1, of a pass."""
    policy_rank: int = 64
    """≥ 1, of the M-step's LoRA."""
    device: Literal["cpu", "cuda"] = "cuda"


@dataclass(frozen=True, kw_only=True)
class Needed:
    """Bytes on one device."""

    weights: float
    states: float
    """What is trained, its gradients and its optimiser's states."""
    activations: float
    """What a pass keeps for its backward pass, the layer that is at work, and the logits of a chunk."""

    @property
    def total(self) -> float:
        """The peak."""
        return self.weights + self.states + self.activations


def inner_loop(decoder: Decoder, work: Work) -> Needed:
    """M LoRA adapters trained side by side on a frozen base: float32 weight, gradient and AdamW's two moments each."""
    adapter = 4 * decoder.adapter_parameters(work.rank)
    return Needed(
        weights=base_weights(decoder, work),
        states=adapter * (max(work.candidates, work.adapters) + 3 * work.adapters),
        activations=_activations(decoder, work, work.rank),
    )


def m_step(decoder: Decoder, work: Work, ranks: int = 1) -> Needed:
    """The policy's LoRA trained on a frozen base; with several ranks DDP keeps a second copy of its gradient."""
    adapter = 4 * decoder.adapter_parameters(work.policy_rank)
    return Needed(
        weights=base_weights(decoder, work),
        states=adapter * (4 if ranks == 1 else 5),
        activations=_activations(decoder, work, work.policy_rank, by_autograd=True),
    )


def full_finetuning(decoder: Decoder, work: Work) -> Needed:
    """All weights trained by AdamW, which works on float32 copies of narrower ones; all logits of a pass are made at once.

    When a narrower model's gradients are made float32 for the step, the pass is over: only the larger of the two counts.
    """
    p, s = decoder.parameters, work.size
    logits = work.tokens * decoder.vocabulary * (8 if s == 4 else 8 + s)
    return Needed(
        weights=s * p,
        states=(8 if s == 4 else 12) * p + s * p,
        activations=max(_kept(decoder, work, rank=0) + logits, (4 - s) * p),
    )


def sharded(decoder: Decoder, work: Work, needed: Needed, ranks: int, *, offloaded: bool = False) -> Needed:
    """The same with the base split over ranks layer by layer (FSDP): two layers and the embeddings are there as a whole.

    Args:
        decoder: the base.
        work: as for ``needed``.
        needed: of one device that holds the base as a whole.
        ranks: ≥ 2.
        offloaded: whether a rank's share of the base waits in host memory.
    """
    layer = work.size * decoder.linear_parameters / decoder.layers
    gathered = 2 * layer + work.size * decoder.embedding_parameters
    share = 0.0 if offloaded else needed.weights / ranks
    return Needed(weights=share + gathered, states=needed.states, activations=needed.activations)


def base_weights(decoder: Decoder, work: Work) -> float:
    """The base; in 4 bits its embeddings, head and norms stay as they are."""
    if not work.quantized:
        return work.size * decoder.parameters
    rest = decoder.parameters - decoder.linear_parameters
    return NF4_BYTES * decoder.linear_parameters + work.size * rest


def kv_cache(decoder: Decoder, size: int) -> int:
    """Of one token of one text that is being written."""
    return 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * size


def kept_per_token(decoder: Decoder, size: int, rank: int, *, by_autograd: bool = False) -> int:
    """What a layer keeps of a token for its backward pass.

    (2s + 8) E + 4s I + 3s Q + 2s G + 4 H + 28 R: two norms' inputs in float32 and their outputs; four tensors of the MLP;
    queries, what attention gives and the same before the output layer; keys and values; attention's normaliser; A x of seven
    LoRAs in float32. Linear layers keep nothing else: their weights are frozen.

    The M-step's LoRA goes through autograd, which keeps the seven inputs in float32 where the base is narrower: 4 (5 E + Q
    + I) in place of s (2 E + Q + I).
    """
    d, s = decoder, size
    q, g = d.heads * d.head_dim, d.kv_heads * d.head_dim
    own, shared = 5 * d.hidden + q + d.intermediate, 2 * d.hidden + q + d.intermediate
    widened = 4 * own - s * shared if by_autograd and s < 4 else 0
    return (2 * s + 8) * d.hidden + 4 * s * d.intermediate + 3 * s * q + 2 * s * g + 4 * d.heads + 28 * rank + widened


def _kept(decoder: Decoder, work: Work, rank: int, *, by_autograd: bool = False) -> float:
    """Of a pass: all layers' (with checkpointing their inputs), and once more a layer's, for gradients on their way."""
    layer = kept_per_token(decoder, work.size, rank, by_autograd=by_autograd)
    if work.checkpointing:
        return work.tokens * (decoder.layers * work.size * decoder.hidden + 2 * layer)
    return work.tokens * (decoder.layers * layer + layer)


def _activations(decoder: Decoder, work: Work, rank: int, *, by_autograd: bool = False) -> float:
    chunk = min(_CHUNK_ELEMENTS[work.device], work.tokens * decoder.vocabulary)
    return _kept(decoder, work, rank, by_autograd=by_autograd) + chunk * (8 if work.size == 4 else 8 + work.size)
