"""oneDNN against torch's own choice for float32 products with a frozen weight, forward and backward, interleaved.

python tests/benchmarks/frozen_linear.py
"""

from __future__ import annotations

import statistics
import time

import torch

from seal_lightning.models import frozen_linear as module
from seal_lightning.models.frozen_linear import frozen_linear

SHAPES = ((576, 192), (576, 576), (576, 1536), (1536, 576), (576, 49_152))
"""(in, out) of SmolLM2-135M's layers."""


def gflops(x: torch.Tensor, weights: list[torch.Tensor], onednn: bool, repeats: int = 20) -> float:
    """Median rate over fresh weights, so that they come from memory as in a model."""
    module._AVAILABLE = onednn
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        frozen_linear(x, weights[i % len(weights)])
        seconds.append(time.perf_counter() - start)
    return float(2 * x.numel() * weights[0].shape[0] / statistics.median(seconds) / 1e9)


def main() -> None:
    """Print a Markdown table."""
    print("| rows | in → out | direction | torch GFLOP/s | oneDNN GFLOP/s | gain |")
    print("|---|---|---|---|---|---|")
    for rows in (64, 160, 384):
        for inputs, outputs in SHAPES:
            weights = [torch.randn(outputs, inputs) for _ in range(max(1, min(40, 50_000_000 // (inputs * outputs))))]
            backward = [weight.t() for weight in weights]
            for direction, x, used in (
                ("forward", torch.randn(rows, inputs), weights),
                ("backward", torch.randn(rows, outputs), backward),
            ):
                plain, ours = gflops(x, used, False), gflops(x, used, True)
                print(
                    f"| {rows} | {inputs} → {outputs} | {direction} | {plain:.0f} | {ours:.0f} | {ours / plain:.2f} |"
                )


if __name__ == "__main__":
    main()
