"""``seal replay RUN ATTEMPT_ID``: redo one stored attempt alone and compare its reward."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.cli.commands.attempts import find_attempt
from seal_lightning.cli.commands.loading import load_run
from seal_lightning.core import Attempt, Trial
from seal_lightning.core.errors import RunError, shown
from seal_lightning.reporting.document import print_line
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir

TOLERANCE = 1e-5
"""Two computations of a reward in float32 on one machine differ by rounding only."""


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 0 when the attempt ends as stored, its reward within 1e-5, else 1."""
    parser = argparse.ArgumentParser(prog="seal replay", description="Redo one stored attempt alone.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("attempt_id", help="as in round_*/attempts.rank*.jsonl, for instance r0-some-task-1a2b3c-e0-s0")
    options = parser.parse_args(args)
    run = RunDir.named(options.run, "RUN")
    stored = find_attempt(run, options.attempt_id)
    again = replay(run, stored)
    difference = None if stored.reward is None or again.reward is None else abs(stored.reward - again.reward)
    same = stored.status is again.status and (stored.reward == again.reward or (difference or 0.0) <= TOLERANCE)
    for name, attempt in (("stored", stored), ("replayed", again)):
        parts = ", ".join(f"{part} {value:.6g}" for part, value in attempt.reward_breakdown.items())
        print_line(f"{name:<8}  {attempt.status.value}  reward {attempt.reward}{f'  ({parts})' if parts else ''}")
    if not same:
        sys.stderr.write(f"seal replay: the rewards differ by {difference}, more than {TOLERANCE}\n")
    return 0 if same else 1


def replay(run: RunDir, stored: Attempt) -> Attempt:
    """Redo an attempt with the policy of its round, its stored edit and its seed."""
    module, data = load_run(run)
    module.configure_model()
    if stored.round > 0:
        merged = merged_rounds(run)
        if len(merged) < stored.round:
            raise RunError(f"{run.checkpoints} has {len(merged)} merged rounds; the attempt is of round {stored.round}")
        module.loaded_policy.load_merged_states(merged[: stored.round])
    data.setup("fit")
    tasks = {task.task_id: task for task in data.tasks("train")}
    if stored.task_id not in tasks:
        raise RunError(f"the training data of {run.config} lacks the task {shown(stored.task_id)} of the attempt")
    task = tasks[stored.task_id]
    # The questions that were written for the attempt stay; their scores are measured again.
    exams = {name: replace(exam, before=None) for name, exam in stored.auxiliary_exams.items()}
    auxiliary = module.runner.auxiliary_exams([task], stored.round, [replace(stored, auxiliary_exams=exams)])
    trial = Trial(task=task, edit=stored.edit, round=stored.round, repeat=stored.repeat, seed=stored.seed)
    return module.runner.run([trial], before=module.runner.before([task]), auxiliary=auxiliary)[0]
