"""Which self-edits are worth learning: each is tried alone, beside the passage alone, and the better ones are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempting import Attempting
from seal_lightning.callbacks import BestOfK
from seal_lightning.domains.knowledge import Passage
from seal_lightning.errors import MalformedEdit
from seal_lightning.incorporation.workspace import Workspace, WrittenEdit
from seal_lightning.seeds import attempt_id
from seal_lightning.types import AdaptationPlan, Attempt, Candidate, SelfEdit, Trial

EDITS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is learned of a passage: the passage, and the edits that were kept."""

    passage: Passage
    kept: tuple[SelfEdit, ...]
    """Best first; none where no edit beat the passage alone, or nothing could choose."""
    candidates: tuple[Candidate, ...] = ()
    """All edits, with their attempts."""
    alone: Candidate | None = None
    """The passage alone, for as many steps; None where nothing was tried."""


class Trying:
    """Tries edits and keeps what was tried.

    Args:
        attempting: how edits are proposed and tried.
        work: where that is stored.
        num_edits: k ≥ 1, a passage.
        num_repeats: ≥ 1, inner seeds an edit.
        at_once: ≥ 1, trials that the inner loop is given at once.
        keep: ≥ 0, edits kept a passage at most.
    """

    def __init__(
        self, attempting: Attempting, work: Workspace, *, num_edits: int, num_repeats: int, at_once: int, keep: int
    ) -> None:
        self.attempting = attempting
        self.work = work
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.at_once = at_once
        self.keep = keep
        self._edits = {(w.step, w.edit.task_id, w.edit.edit_index): w.edit for w in work.edits.read()}

    def choices(self, passages: Sequence[Passage], step: int, advance: Callable[[int], None]) -> list[Choice]:
        """What is to be learned of each passage, whose questions choose; ``step`` keeps the seeds of steps apart.

        ``advance`` hears of each passage.
        """
        size = max(1, EDITS_AT_ONCE // self.num_edits)
        choices: list[Choice] = []
        for start in range(0, len(passages), size):
            batch = passages[start : start + size]
            asked = [passage for passage in batch if passage.questions and self.keep]
            chosen = dict(zip((p.task_id for p in asked), self._tried(asked, step), strict=True))
            choices += [chosen.get(p.task_id, Choice(passage=p, kept=())) for p in batch]
            advance(len(batch))
        return choices

    def _tried(self, passages: Sequence[Passage], step: int) -> list[Choice]:
        edits = self._written(passages, step)
        trials = [trial for passage in passages for trial in self._trials(passage, edits[passage.task_id], step)]
        missing = [trial for trial in trials if self._stored(trial) is None]
        if missing:
            tasks = list({trial.task.task_id: trial.task for trial in missing}.values())
            before = self.attempting.before(tasks)
            for start in range(0, len(missing), self.at_once):
                for attempt in self.attempting.attempt(missing[start : start + self.at_once], before):
                    self.work.attempts.add(attempt)
        found: dict[str, dict[int, list[Attempt]]] = {}
        for trial in trials:
            stored = self._stored(trial)
            assert stored is not None
            found.setdefault(trial.task.task_id, {}).setdefault(trial.edit.edit_index, []).append(stored)
        return [self._choice(passage, found[passage.task_id]) for passage in passages]

    def _written(self, passages: Sequence[Passage], step: int) -> dict[str, list[SelfEdit]]:
        """The edits of each passage; where one is missing, the whole batch is written, so that they are the same."""
        keys = {p.task_id: [(step, p.task_id, index) for index in range(self.num_edits)] for p in passages}
        if any(key not in self._edits for of_passage in keys.values() for key in of_passage):
            for edit in self.attempting.propose(passages, self.num_edits, f"adapt {step}"):
                key = (step, edit.task_id, edit.edit_index)
                if key not in self._edits:
                    self._edits[key] = self.work.edits.append(WrittenEdit(step=step, edit=edit)).edit
        return {task_id: [self._edits[key] for key in of_passage] for task_id, of_passage in keys.items()}

    def _trials(self, passage: Passage, edits: Sequence[SelfEdit], step: int) -> list[Trial]:
        """Every edit, and behind them the passage alone for as many steps as they take in the mean."""
        plans: list[AdaptationPlan] = []
        for edit in edits:
            try:
                plans.append(self.attempting.domain.plan(passage, edit))
            except MalformedEdit:  # told by its attempt
                continue
        alone = self.attempting.domain.plan_without_edit(passage)
        if plans:
            steps = round(sum(plan.num_steps for plan in plans) / len(plans))
            alone = replace(alone, optimizer=replace(alone.optimizer, max_steps=steps))
        nothing = SelfEdit(task_id=passage.task_id, edit_index=self.num_edits, text="")
        trials = [self.attempting.trial(passage, e, step, r) for e in edits for r in range(self.num_repeats)]
        of_alone = [self.attempting.trial(passage, nothing, step, repeat) for repeat in range(self.num_repeats)]
        return [*trials, *(replace(trial, plan=alone) for trial in of_alone)]

    def _choice(self, passage: Passage, attempts: dict[int, list[Attempt]]) -> Choice:
        candidates = [
            Candidate(task_id=passage.task_id, edit_index=index, attempts=tuple(of_edit))
            for index, of_edit in attempts.items()
        ]
        *edits, alone = candidates
        best = BestOfK(self.keep).select(edits)
        kept = [c for c in best if alone.reward is None or (c.reward is not None and c.reward > alone.reward)]
        return Choice(
            passage=passage,
            kept=tuple(candidate.attempts[0].edit for candidate in kept),
            candidates=tuple(edits),
            alone=alone,
        )

    def _stored(self, trial: Trial) -> Attempt | None:
        return self.work.attempts.get(attempt_id(trial.round, trial.task.task_id, trial.edit.edit_index, trial.repeat))
