"""Peak memory of two processes that each read SmolLM2-135M, and of two of which one reads for both (Linux).

python tests/benchmarks/shared_loading.py
"""

from __future__ import annotations

import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from seal_lightning.models.pretrained import Pretrained


def resident_mib(key: str) -> float:
    """``VmRSS`` or its peak, ``VmHWM``."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024


def load(rank: int, shared: bool, dtype: str, port: int) -> None:
    """Load as a run does, and print what it took."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    pretrained = Pretrained(dtype=dtype, share_across_ranks=shared)  # type: ignore[arg-type]
    for parameter in pretrained.load(together=True).model.parameters():
        parameter.sum()  # a file's pages are resident when they are read
    how = "rank 0 reads" if shared else "each reads"
    print(f"| {dtype} | {how} | {rank} | {resident_mib('VmHWM') - before:.0f} |\n", end="", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Print a Markdown table."""
    print("| dtype | | rank | peak MiB |\n|---|---|---|---|", flush=True)
    for dtype in ("float32", "bfloat16"):
        for shared in (False, True):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            mp.spawn(load, args=(shared, dtype, port), nprocs=2)


if __name__ == "__main__":
    main()
