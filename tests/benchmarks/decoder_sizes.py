"""The sizes of the models in docs/memory.md, from the ``config.json`` of each on the hub."""

from __future__ import annotations

from benchmarks.memory_formula import Decoder


def _qwen(
    name: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> Decoder:
    return Decoder(
        name=name,
        source=f"Qwen/{name}",
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        vocabulary=vocabulary,
        tied=hidden < 3584,
        qkv_bias=True,
    )


SMOLLM2_135M = Decoder(
    name="SmolLM2-135M",
    source="HuggingFaceTB/SmolLM2-135M-Instruct",
    hidden=576,
    intermediate=1536,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    vocabulary=49_152,
    tied=True,
)
LLAMA_3_2_1B = Decoder(
    name="Llama-3.2-1B",
    source="meta-llama/Llama-3.2-1B-Instruct",
    hidden=2048,
    intermediate=8192,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    vocabulary=128_256,
    tied=True,
)
LLAMA_3_1_70B = Decoder(
    name="Llama-3.1-70B",
    source="meta-llama/Llama-3.1-70B",
    hidden=8192,
    intermediate=28_672,
    layers=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    vocabulary=128_256,
    tied=False,
)
DECODERS: tuple[Decoder, ...] = (
    SMOLLM2_135M,
    LLAMA_3_2_1B,
    _qwen("Qwen2.5-3B", 2048, 11_008, 36, 16, 2, 151_936),
    _qwen("Qwen2.5-7B", 3584, 18_944, 28, 28, 4, 152_064),
    _qwen("Qwen2.5-14B", 5120, 13_824, 48, 40, 8, 152_064),
    _qwen("Qwen2.5-32B", 5120, 27_648, 64, 40, 8, 152_064),
    LLAMA_3_1_70B,
)
