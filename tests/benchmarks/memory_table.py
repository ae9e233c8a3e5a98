"""The table of docs/memory.md, and its formula against measured peaks of SmolLM2-135M, each in a fresh process (Linux).

python tests/benchmarks/memory_table.py
python tests/benchmarks/memory_table.py --measure [--json FILE] [--only NAME …]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decoder_sizes import DECODERS, SMOLLM2_135M
from benchmarks.memory_formula import GIB, Decoder, Needed, Work, full_finetuning, inner_loop, m_step, sharded

TABLE_WORK = {"adapters": 8, "candidates": 16, "tokens": 4096}
"""What the table is for; ranks are 32 (inner loop) and 64 (M-step)."""
MIB = 1 << 20
SEQUENCE_TOKENS = 128


def table() -> str:
    """GiB a device by model and strategy, in bfloat16."""
    plain, saving = Work(**TABLE_WORK), Work(**TABLE_WORK, checkpointing=True)
    nf4 = Work(**TABLE_WORK, checkpointing=True, quantized=True)

    def split(d: Decoder, ranks: int, offloaded: bool = False) -> Needed:
        return sharded(d, saving, m_step(d, saving), ranks, offloaded=offloaded)

    columns: tuple[tuple[str, Callable[[Decoder], Needed]], ...] = (
        ("weights", lambda d: Needed(weights=2 * d.parameters, states=0, activations=0)),
        ("inner loop", lambda d: inner_loop(d, plain)),
        ("… checkpointed", lambda d: inner_loop(d, saving)),
        ("… and 4 bits", lambda d: inner_loop(d, nf4)),
        ("M-step", lambda d: m_step(d, plain)),
        ("… checkpointed, DDP", lambda d: m_step(d, saving, ranks=2)),
        ("full finetuning", lambda d: full_finetuning(d, plain)),
        ("… checkpointed", lambda d: full_finetuning(d, saving)),
        ("FSDP 2", lambda d: split(d, 2)),
        ("FSDP 4", lambda d: split(d, 4)),
        ("FSDP 8", lambda d: split(d, 8)),
        ("FSDP 8, offloaded", lambda d: split(d, 8, offloaded=True)),
    )
    lines = ["| model | " + " | ".join(name for name, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for decoder in DECODERS:
        cells = [f"{needed(decoder).total / GIB:.1f}" for _, needed in columns]
        lines.append(f"| {decoder.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training that is run and reckoned."""

    strategy: str
    dtype: str = "float32"
    quantized: bool = False
    checkpointing: bool = False
    adapters: int = 1
    tokens: int = 512

    @property
    def name(self) -> str:
        """As in the table."""
        parts = [self.strategy, "4 bits, " + self.dtype if self.quantized else self.dtype]
        parts += [f"{self.adapters} adapters"] * (self.strategy == "inner loop")
        return ", ".join([*parts, f"{self.tokens} tokens", *["checkpointed"] * self.checkpointing])

    def needed(self) -> Needed:
        """By the formula."""
        work = Work(
            size=4 if self.dtype == "float32" else 2,
            quantized=self.quantized,
            checkpointing=self.checkpointing,
            adapters=self.adapters,
            candidates=self.adapters,
            tokens=self.tokens,
            device="cpu",
        )
        return {"inner loop": inner_loop, "M-step": m_step, "full finetuning": full_finetuning}[self.strategy](
            SMOLLM2_135M, work
        )


def cases() -> list[Case]:
    """What fits a small machine."""
    found = []
    for dtype in ("float32", "bfloat16"):
        for strategy, adapters, tokens in (
            ("inner loop", 1, 512),
            ("inner loop", 8, 1024),
            ("M-step", 1, 512),
            ("full finetuning", 1, 512),
        ):
            for checkpointing in (False, True):
                found.append(
                    Case(strategy=strategy, dtype=dtype, adapters=adapters, tokens=tokens, checkpointing=checkpointing)
                )
    four_bits = Case(
        strategy="inner loop", dtype="bfloat16", quantized=True, adapters=8, tokens=1024, checkpointing=True
    )
    return [*found, four_bits]


# --- in the measuring process


def measured(case: Case) -> dict[str, float]:
    """MiB above what the process had before the model was read: the model alone, and the peak."""
    import torch

    from seal_lightning.models.pretrained import Pretrained

    torch.set_num_threads(1)
    (torch.rand(64, 64) @ torch.rand(64, 64)).sum()
    work = {"inner loop": _inner_loop, "M-step": _m_step, "full finetuning": _full_finetuning}[case.strategy]
    before = _resident()
    quantization: Any = "nf4" if case.quantized else None
    pretrained = Pretrained(dtype=case.dtype, quantization=quantization)  # type: ignore[arg-type]
    train = work(case, pretrained)
    _trim()
    loaded = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    train()
    return {"loaded": (loaded - before) / MIB, "peak": (_status("VmHWM") - before) / MIB}


def _inner_loop(case: Case, pretrained: Any) -> Callable[[], None]:
    from seal_lightning.inner_loop import BatchedInnerLoop

    language_model = _warm(pretrained.load())
    loop = BatchedInnerLoop(case.adapters, case.tokens, gradient_checkpointing=case.checkpointing)
    loop.bind(language_model)
    plans = [_plan(language_model, case.tokens // case.adapters) for _ in range(case.adapters)]

    def train() -> None:
        results: Any = loop.adapt(plans, list(range(len(plans))))
        assert [result.num_tokens for result in results] == [2 * case.tokens // case.adapters] * case.adapters

    return train


def _full_finetuning(case: Case, pretrained: Any) -> Callable[[], None]:
    from seal_lightning.inner_loop import FullFinetuning
    from seal_lightning.inner_loop import full_finetuning as module

    language_model = _warm(pretrained.load())
    loop = FullFinetuning(case.tokens, gradient_checkpointing=case.checkpointing)
    loop.bind(language_model)
    # The copies of the weights before and after are the host's, which here is the device: they are left out.
    module.scratch_weights = _no_copy
    original = loop._forward_backward

    def train() -> None:
        steps = [0]

        def counted(batch: Any, tokens: int) -> float:
            steps[0] += 1
            if steps[0] > 2:
                raise StopIteration
            return original(batch, tokens)

        loop._forward_backward = counted
        try:
            loop.adapt([_plan(language_model, case.tokens, steps=3)], [1])
        except StopIteration:
            return

    return train


def _m_step(case: Case, pretrained: Any) -> Callable[[], None]:
    import torch

    from seal_lightning.core import AdapterSpec
    from seal_lightning.models.lora import applied
    from seal_lightning.models.packed import TokenizedSequence, gradient_checkpointed, pack
    from seal_lightning.training.policy import Policy

    policy = Policy(pretrained, AdapterSpec(rank=64, alpha=128, target_modules="all-linear"), seed=1)
    forward = _warm(policy.language_model).packed
    ids = tuple(range(1000, 1000 + SEQUENCE_TOKENS))
    sequence = TokenizedSequence(token_ids=ids, trained=(False,) + (True,) * (SEQUENCE_TOKENS - 1))
    row = pack([sequence] * (case.tokens // SEQUENCE_TOKENS), torch.device("cpu"))
    optimizer = torch.optim.AdamW(policy.lora.parameters(), lr=1e-4)

    def train() -> None:
        for _ in range(2):
            with gradient_checkpointed(policy.model, enabled=case.checkpointing), applied(policy.model, policy.adapter):
                forward(row).total.backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def _plan(language_model: Any, tokens: int, steps: int = 2) -> Any:
    from seal_lightning.core import AdaptationPlan, AdapterSpec, OptimizerSpec, Segment, TrainingSequence

    text = " the" * SEQUENCE_TOKENS
    assert len(language_model.encode_text(text)) == SEQUENCE_TOKENS
    sequences = (TrainingSequence(segments=(Segment(text=text, trained=True),)),) * (tokens // SEQUENCE_TOKENS)
    return AdaptationPlan(
        sequences=sequences,
        adapter=AdapterSpec(rank=32, alpha=64, target_modules="all-linear"),
        optimizer=OptimizerSpec(learning_rate=1e-4, batch_size=len(sequences), max_steps=steps),
    )


class _no_copy:
    def __init__(self, model: object) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def _warm(language_model: Any) -> Any:
    """Every weight touched once: a file's pages are resident only then."""
    import torch

    for tensor in (*language_model.model.parameters(), *language_model.model.buffers()):
        tensor.detach().clone()
    with torch.no_grad():
        language_model.model(input_ids=torch.tensor([[1, 2, 3]]))
    language_model.packed  # noqa: B018 - checked at first use
    return language_model


def _trim() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    return _status("VmRSS")


def _status(key: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


# --- in the reporting process


def measure(case: Case) -> dict[str, float]:
    """In a process of its own, whose allocator gives everything over 64 KiB back at once."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, __file__, "--case", case.name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of cases")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        (case,) = (case for case in cases() if case.name == options.case)
        print(json.dumps(measured(case)))
        return
    if not options.measure:
        print(table())
        return
    print(
        "| SmolLM2-135M, 1 thread | formula MiB | measured MiB | formula / measured | model alone, formula | measured |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    rows = {}
    for case in cases():
        if not any(part in case.name for part in options.only):
            continue
        needed, found = case.needed(), measure(case)
        total = needed.total / MIB
        rows[case.name] = {"formula": total, "weights": needed.weights / MIB, **found}
        print(
            f"| {case.name} | {total:.0f} | {found['peak']:.0f} | {total / found['peak']:.2f} | "
            f"{needed.weights / MIB:.0f} | {found['loaded']:.0f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
