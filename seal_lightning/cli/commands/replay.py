"""``seal replay RUN ATTEMPT_ID``: redo one stored attempt alone and compare its reward."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from seal_lightning.cli.commands.loading import load_run
from seal_lightning.core import Attempt, Trial
from seal_lightning.core.errors import RunError, shown
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir

TOLERANCE = 1e-5
"""Two computations of a reward in float32 on one machine differ by rounding only."""


def main(args: Sequence[str]) -> int:
    """Exit code 0 when the reward is equal to 1e-5 (or the attempt fails as it failed), 1 when it is not."""
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
        Console().print(
            f"{name:<8}  {attempt.status.value}  reward {attempt.reward}{f'  ({parts})' if parts else ''}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not same:
        sys.stderr.write(f"seal replay: the rewards differ by {difference}, more than {TOLERANCE}\n")
    return 0 if same else 1


def find_attempt(run: RunDir, attempt_id: str) -> Attempt:
    """The stored attempt. Raises :class:`RunError` when there is none of that id."""
    folders = sorted(run.path.glob("round_*"))
    if not run.config.exists() or not folders:
        raise RunError(f"{run.path} is no run directory with attempts")
    for folder in folders:
        attempt = AttemptStore(folder).get(attempt_id)
        if attempt is not None:
            return attempt
    known = [a.attempt_id for a in AttemptStore(folders[0]).all()]
    raise RunError(f"{run.path} has no attempt {shown(attempt_id)}; its first are {shown(known[:3])}")


def replay(run: RunDir, stored: Attempt) -> Attempt:
    """Make the attempt again: the policy of its round, its stored edit, its seed."""
    module, data = load_run(run)
    module.configure_model()
    if stored.round > 0:
        merged = merged_rounds(run)
        if len(merged) < stored.round:
            raise RunError(
                f"{run.checkpoints}: {len(merged)} merged rounds; the attempt belongs to round {stored.round}"
            )
        module.loaded_policy.load_merged_states(merged[: stored.round])
    data.setup("fit")
    tasks = {task.task_id: task for task in data.tasks("train")}
    if stored.task_id not in tasks:
        raise RunError(f"the data of {run.config} no longer has the task {shown(stored.task_id)}")
    task = tasks[stored.task_id]
    before = module.runner.before([task])
    auxiliary = module.runner.auxiliary_exams([task], stored.round, [_as_set(stored)])
    trial = Trial(task=task, edit=stored.edit, round=stored.round, repeat=stored.repeat, seed=stored.seed)
    return module.runner.run([trial], before=before, auxiliary=auxiliary)[0]


def _as_set(stored: Attempt) -> Attempt:
    """The attempt with the questions that were written for it; what was measured is measured again."""
    return replace(stored, auxiliary_exams={n: replace(e, before=None) for n, e in stored.auxiliary_exams.items()})
