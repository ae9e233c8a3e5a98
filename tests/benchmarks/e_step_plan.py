"""How long an E-step would take on many GPUs: measured seconds of attempts, put through the schedule that ranks follow.

    python tests/benchmarks/e_step_plan.py runs/quickstart --tasks 2067 --edits 5 --repeats 3 --ranks 1 8 64

Tasks are drawn from the run's, with all their attempts' seconds; ``--attempt_seconds`` scales them to a mean that was
measured elsewhere. *Shared* is the schedule of :mod:`seal_lightning.distributed.work_queue`; *dealt* gives each rank every
n-th task beforehand, as this project did before. A simulation: talking to the store is counted at ``--claim_seconds``, and an
attempt in a small call is taken to be as quick as in a large one, which favours *shared*. Take a run that was not
interrupted: its seconds of writing are those of its last start.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from seal_lightning.core import RankPhase
from seal_lightning.distributed.work_queue import batch_sizes, call_sizes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import RecordFile


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run's attempts took."""

    attempts: Sequence[Sequence[float]]
    """By task: seconds of its attempts, adapting and examining."""
    writing: float
    """Seconds an edit, in a batch."""

    @classmethod
    def of(cls, run_dir: Path, mean_seconds: float | None) -> Measured:
        """From the journals of round 0."""
        by_task: dict[str, list[float]] = {}
        edits = set()
        for attempt in AttemptStore(run_dir / "round_0").all():
            by_task.setdefault(attempt.task_id, []).append(attempt.adapt_seconds + attempt.examine_seconds)
            edits.add((attempt.task_id, attempt.edit.edit_index))
        ranks = RecordFile(run_dir / "round_0" / "ranks.e_step.jsonl", RankPhase).read()
        writing = sum(one.split["propose"] for one in ranks) / len(edits)
        times = [t for each in by_task.values() for t in each]
        mean = sum(times) / len(times)
        scale = 1.0 if mean_seconds is None else mean_seconds / mean
        return cls(attempts=[[t * scale for t in each] for each in by_task.values()], writing=writing * scale)


@dataclass
class Batch:
    """Some tasks whose edits one rank writes."""

    writing: float
    calls: list[float]
    ready: float = float("inf")


def batches_of(
    tasks: Sequence[Sequence[float]], writing: float, options: argparse.Namespace, ranks: int
) -> list[Batch]:
    """The E-step as it is cut up for so many ranks."""
    per_task, batches, start = options.edits * options.repeats, [], 0
    for size in batch_sizes(len(tasks), options.tasks_per_batch, ranks):
        seconds = iter([t for task in tasks[start : start + size] for t in task])
        left = (len(tasks) - start) * per_task
        sizes = call_sizes(size * per_task, left=left, most=options.at_once, num_ranks=ranks)
        calls = [sum(islice(seconds, n)) + options.claim_seconds for n in sizes]
        batches.append(Batch(writing=writing * options.edits * size + options.claim_seconds, calls=calls))
        start += size
    return batches


def shared(tasks: Sequence[Sequence[float]], writing: float, options: argparse.Namespace, ranks: int) -> float:
    """Seconds until the last rank is ready, each taking the next piece when it is free."""
    batches, ends = batches_of(tasks, writing, options, ranks), [0.0]
    begun, own = 0, dict.fromkeys(range(ranks), Batch(writing=0.0, calls=[]))
    free = [(0.0, rank) for rank in range(ranks)]
    while free:
        now, rank = heapq.heappop(free)
        if own[rank].calls:
            heapq.heappush(free, (now + own[rank].calls.pop(0), rank))
        elif begun < len(batches):
            own[rank] = batches[begun]
            own[rank].ready = now + own[rank].writing
            begun += 1
            heapq.heappush(free, (own[rank].ready, rank))
        elif (batch := next((b for b in batches[::-1] if b.calls and b.ready <= now), None)) is not None:
            heapq.heappush(free, (now + batch.calls.pop(0), rank))
        elif waiting := [b.ready for b in batches if b.calls]:
            heapq.heappush(free, (min(waiting), rank))
        else:
            ends.append(now)
    return max(ends)


def dealt(tasks: Sequence[Sequence[float]], writing: float, options: argparse.Namespace, ranks: int) -> float:
    """Seconds until the last rank is ready, each having every n-th batch."""
    size = max(1, min(options.tasks_per_batch, -(-len(tasks) // ranks)))
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    seconds = [sum(sum(task) + writing * options.edits for task in batch) for batch in batches]
    return max(sum(seconds[rank::ranks]) for rank in range(ranks))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tasks", type=int, default=2067)
    parser.add_argument("--edits", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks_per_batch", type=int, default=10)
    parser.add_argument("--at_once", type=int, default=48, help="model.candidates_per_call")
    parser.add_argument("--attempt_seconds", type=float, default=None)
    parser.add_argument("--claim_seconds", type=float, default=0.001)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    measured = Measured.of(options.run, options.attempt_seconds)
    print("| ranks | hours, shared | efficiency | hours, dealt | efficiency |\n|---|---|---|---|---|")
    for ranks in options.ranks:
        hours: dict[str, list[float]] = {"shared": [], "dealt": []}
        shares: dict[str, list[float]] = {"shared": [], "dealt": []}
        for seed in range(options.seeds):
            chance = random.Random(seed)
            drawn = [chance.choice(measured.attempts) for _ in range(options.tasks)]
            tasks = [chance.choices(task, k=options.edits * options.repeats) for task in drawn]
            work = sum(map(sum, tasks)) + measured.writing * options.edits * options.tasks
            for name, schedule in (("shared", shared), ("dealt", dealt)):
                seconds = schedule(tasks, measured.writing, options, ranks)
                hours[name].append(seconds / 3600)
                shares[name].append(work / (seconds * ranks))
        cells = [f"{shown(hours[name])} | {shown(shares[name])}" for name in ("shared", "dealt")]
        print(f"| {ranks} | {' | '.join(cells)} |")


def shown(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3g} ± {error:.1g}"


if __name__ == "__main__":
    main()
