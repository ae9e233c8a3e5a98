"""What each reward costs, and how far cheaper ones rank edits as the gold answers' likelihood does; on the same edits.

    python tests/benchmarks/rewards.py --passages 4 --edits 5
    python tests/benchmarks/rewards.py --judge HuggingFaceTB/SmolLM2-1.7B-Instruct --passages 20 --edits 5

The edits are written once and are no part of the times. Then reward after reward, in turn and ``--repeats`` times, from
an engine that has been warmed up: what is set up a task (questions written, the model without adaptation examined) and
what is done an attempt (adapting, examining, judging). Ranks are compared within a task, and the mean over tasks is given
with its standard error: a few tasks say little. On a CPU, seconds are the process's own (of one thread), which do not depend
on what else the machine does; a judge that is asked over the network waits, and costs none of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchmetrics.functional import spearman_corrcoef

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdapterSpec, Attempt, OptimizerSpec, SamplingSpec, SelfEdit, Task
from seal_lightning.core.estimates import estimate, shown_estimate
from seal_lightning.core.interfaces import Reward
from seal_lightning.domains.knowledge import BundledPassages, KnowledgeDomain, Rewrites
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.judges import ModelJudge
from seal_lightning.scoring.rewards import (
    AccuracyReward,
    LikelihoodReward,
    OwnQuestionsReward,
    RetentionReward,
    RubricReward,
)
from seal_lightning.training.module import SealModule

GOLD = "likelihood"


def clock() -> float:
    """Seconds: the processor's where it computes, the wall's where a GPU does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def rewards(judge: str, max_question_tokens: int) -> dict[str, Reward]:
    """By name; the first is what the others' ranks are compared with."""
    writing = SamplingSpec(temperature=0.3, top_p=0.95, max_new_tokens=max_question_tokens)
    marking = ModelJudge(Pretrained(source=judge), use_cache=False, max_unscored=1.0)
    return {
        GOLD: LikelihoodReward(),
        "own questions": OwnQuestionsReward(sampling=writing),
        "rubric": RubricReward(marking),
        "retention": RetentionReward(BundledPassages(split="validation")),
        "accuracy": AccuracyReward(),
    }


class Benchmark:
    """One model, one set of edits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rewards = rewards(options.judge or options.model, options.question_tokens)
        layers = tuple(options.layers) if options.layers else None
        domain = KnowledgeDomain(
            format=Rewrites(num_examples=1),
            max_answer_tokens=16,
            adapter=AdapterSpec(rank=16, alpha=16, target_modules="all-linear", layers=layers),
            optimizer=OptimizerSpec(learning_rate=5e-3, num_epochs=4, batch_size=64, schedule="constant"),
        )
        self.module = SealModule(
            domain=domain,
            pretrained=Pretrained(source=options.model),
            sampling=SamplingSpec(temperature=0.7, top_p=0.95, max_new_tokens=options.edit_tokens),
        )
        self.module.configure_model()
        self.module.to(options.device)
        self.tasks: Sequence[Task] = BundledPassages(split="train", limit=options.passages).load()
        start = clock()
        self.edits = self.module.runner.propose(self.tasks, options.edits, 0)
        self.writing_seconds = clock() - start
        for reward in self.rewards.values():
            for examiner in reward.exam_builders.values():
                examiner.bind(domain, self.module.engine)

    def measured(self, name: str) -> tuple[dict[str, float], list[Attempt]]:
        """Seconds by part, and the attempts."""
        own = self.module.runner
        runner = AttemptRunner(
            domain=own.domain,
            writer=own.writer,
            engine=own.engine,
            inner_loop=own.inner_loop,
            grader=own.grader,
            reward=self.rewards[name],
            seed=own.seed,
        )
        by_id = {task.task_id: task for task in self.tasks}
        start = clock()
        before, auxiliary = runner.before(self.tasks), runner.auxiliary_exams(self.tasks, 0)
        middle = clock()
        trials = [runner.trial(by_id[edit.task_id], edit, 0, 0) for edit in self.edits]
        attempts = runner.run(trials, before=before, auxiliary=auxiliary)
        end = clock()
        return {"a task": (middle - start) / len(self.tasks), "an attempt": (end - middle) / len(trials)}, attempts


def rank_agreement(attempts: Sequence[Attempt], gold: Sequence[Attempt]) -> list[float]:
    """Spearman's correlation of two rewards of the same edits, task by task; tasks without a spread are left out."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for one, other in zip(attempts, gold, strict=True):
        if one.reward is not None and other.reward is not None:
            pairs.setdefault(one.task_id, []).append((one.reward, other.reward))
    found = []
    for of_task in pairs.values():
        ours, theirs = (torch.tensor(column, dtype=torch.float64) for column in zip(*of_task, strict=True))
        if len(of_task) > 2 and ours.std() > 0 and theirs.std() > 0:
            found.append(spearman_corrcoef(ours, theirs).item())
    return found


def table(found: Mapping[str, dict[str, object]]) -> str:
    """Markdown."""
    lines = [
        "| reward | s a task | s an attempt | scored | Spearman with likelihood, within a task |",
        "|" + "---|" * 5,
    ]
    for name, row in found.items():
        seconds = [f"{row[part]:.2f}" for part in ("a task", "an attempt")]
        lines.append(f"| {name} | {' | '.join(seconds)} | {row['scored']} of {row['attempts']} | {row['agreement']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--judge", help="the rubric's model; the same one by default")
    parser.add_argument("--layers", type=int, nargs="*", default=list(range(20, 30)), help="adapted; none given is all")
    parser.add_argument("--passages", type=int, default=4)
    parser.add_argument("--edits", type=int, default=5)
    parser.add_argument("--edit_tokens", type=int, default=96)
    parser.add_argument("--question_tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write everything here, too")
    options = parser.parse_args()
    benchmark = Benchmark(options)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in benchmark.rewards}
    attempts: dict[str, list[Attempt]] = {}
    benchmark.module.runner.examine([(benchmark.tasks[0], None)], frozenset(LikelihoodReward().needs))  # warms up
    for _ in range(options.repeats):
        for name in benchmark.rewards:
            spent, attempts[name] = benchmark.measured(name)
            seconds[name].append(spent)
            print(f"{name}: {spent}", flush=True)
    found: dict[str, dict[str, object]] = {}
    for name, rows in seconds.items():
        row: dict[str, object] = {part: statistics.median(r[part] for r in rows) for part in rows[0]}
        row["scored"] = sum(a.reward is not None for a in attempts[name])
        row["attempts"] = len(attempts[name])
        row["agreement"] = shown_estimate(estimate(rank_agreement(attempts[name], attempts[GOLD])), 2)
        row["rewards"] = [(a.attempt_id, a.reward) for a in attempts[name]]
        found[name] = row
    print(
        f"\n{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    edits = (
        f"{len(benchmark.edits)} edits of {len(benchmark.tasks)} passages, written in {benchmark.writing_seconds:.1f} s"
    )
    print(f"{options.model}: {edits}\n\n{table(found)}")
    asked = {e.task_id: e.auxiliary_exams["own questions"].questions for e in attempts["own questions"]}
    print("\nown questions a passage:", [len(questions) for questions in asked.values()])
    if options.json:
        options.json.write_text(json.dumps({"rewards": found, "questions": asked, "edits": _texts(benchmark.edits)}))


def _texts(edits: Sequence[SelfEdit]) -> list[tuple[str, int, str]]:
    return [(edit.task_id, edit.edit_index, edit.text) for edit in edits]


if __name__ == "__main__":
    main()
