"""Whether two processes do twice the work of one: attempts a minute of the E-step, in one run, interleaved.

    python tests/benchmarks/ddp.py --config configs/quickstart.yaml --tasks 8 --repeats 3 --model.reinforce.num_epochs=1

Contenders, each process with one thread: one process; two ranks of one run (DDP); two independent runs, each of every
other task, which is what the machine's memory allows two processes that never talk. Also what each rank did, how its time
was spent, and how well the expected cost of a task, by which ranks order their work, ranks what it took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torchmetrics.functional import spearman_corrcoef

from seal_lightning.core import RankPhase, Task
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.distributed.work_queue import by_falling_cost, expected_cost
from seal_lightning.domains.knowledge import BundledPassages, KnowledgeDomain
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import RecordFile


class EveryOther(TaskSource):
    """Half of the first bundled passages, by their expected cost one to each half."""

    def __init__(self, count: int, half: int) -> None:
        self.count, self.half = count, half

    def load(self) -> Sequence[Task]:
        """The passages."""
        tasks = BundledPassages(split="train", limit=self.count).load()
        return by_falling_cost(KnowledgeDomain(), tasks)[self.half :: 2]


def command(options: argparse.Namespace, run_dir: Path, devices: int, half: int | None = None) -> list[str]:
    """A fit of one round on the first bundled passages, or half of them."""
    train = {
        "class_path": "seal_lightning.domains.knowledge.BundledPassages",
        "init_args": {"split": "train", "limit": options.tasks},
    }
    if half is not None:
        train = {"class_path": "ddp.EveryOther", "init_args": {"count": options.tasks, "half": half}}
    settings = [f"--data.train={json.dumps(train)}", f"--run_dir={run_dir}", "--model.rounds=1"]
    settings += [f"--trainer.devices={devices}", "--trainer.enable_progress_bar=false", *options.more]
    settings += ["--trainer.strategy=ddp"] if devices > 1 else []
    return [sys.executable, "-m", "seal_lightning", "fit", "-c", options.config, *settings]


def run_all(commands: Sequence[list[str]]) -> None:
    """Side by side, one thread a process."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL) for c in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a run failed; its errors stand above")


def ranks_of(run_dir: Path) -> list[RankPhase]:
    """What each rank of a run did in its E-step."""
    return RecordFile(run_dir / "round_0" / "ranks.e_step.jsonl", RankPhase).read()


def rate(ranks: Sequence[RankPhase]) -> float:
    """Attempts a minute of all ranks, until the last one was ready."""
    return 60 * sum(one.num_attempts for one in ranks) / max(one.seconds for one in ranks)


def measure(options: argparse.Namespace, folder: Path, number: int) -> dict[str, list[RankPhase]]:
    """Each contender once, in an order that alternates."""
    one, two = folder / f"one-{number}", folder / f"two-{number}"
    apart = [folder / f"apart-{number}-{part}" for part in range(2)]
    contenders = {
        "one process": [command(options, one, 1)],
        "two ranks": [command(options, two, 2)],
        "two independent": [command(options, folder, 1, half) for half, folder in enumerate(apart)],
    }
    for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
        run_all(contenders[name])
    return {
        "one process": ranks_of(one),
        "two ranks": ranks_of(two),
        "two independent": [rank for run_dir in apart for rank in ranks_of(run_dir)],
    }


def cost_correlation(run_dir: Path, config_tasks: int) -> float:
    """Spearman's rank correlation over tasks of the expected cost and the seconds that its attempts took."""
    seconds: dict[str, float] = {}
    for attempt in AttemptStore(run_dir / "round_0").all():
        seconds[attempt.task_id] = seconds.get(attempt.task_id, 0) + attempt.adapt_seconds + attempt.examine_seconds
    domain = KnowledgeDomain()
    costs = {t.task_id: expected_cost(domain, t) for t in BundledPassages(split="train", limit=config_tasks).load()}
    expected = torch.tensor([float(costs[name]) for name in seconds])
    return float(spearman_corrcoef(expected, torch.tensor(list(seconds.values()))))


def shown(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f} ± {error:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options, options.more = parser.parse_known_args()  # what is unknown here is for `seal fit`
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.repeats):
            for name, ranks in measure(options, Path(folder), number).items():
                rates.setdefault(name, []).append(rate(ranks))
                for one in ranks:
                    spent = ", ".join(f"{k} {v:.1f}" for k, v in one.split.items() if v >= 0.05)
                    print(f"{name}, rank {one.rank}: {one.num_attempts} attempts in {one.seconds:.1f} s ({spent})")
        print(
            f"\nexpected and actual cost, rank correlation {cost_correlation(Path(folder) / 'one-0', options.tasks):.2f}"
        )
    print("\n| | attempts a minute | of one process |\n|---|---|---|")
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["one process"], strict=True)]
        print(f"| {name} | {shown(values)} | {shown(ratios)} |")
    ratios = [a / b for a, b in zip(rates["two ranks"], rates["two independent"], strict=True)]
    print(f"\ntwo ranks against two independent runs: {shown(ratios)}")


if __name__ == "__main__":
    main()
