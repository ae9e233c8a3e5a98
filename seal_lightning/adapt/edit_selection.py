"""Which self-edits are worth learning: each is tried alone, beside the passage alone, and the better ones are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from seal_lightning.adapt.workspace import Workspace, WrittenEdit
from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import Attempt, Candidate, SelfEdit, Trial
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.domains.knowledge import Passage
from seal_lightning.scoring.selection import best_of_k

EDITS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class SelectedEdit:
    """What is learned of a passage: the passage, and the edits that were kept."""

    passage: Passage
    kept: tuple[SelfEdit, ...]
    """Best first; none where no edit beat the passage alone, or nothing could choose."""
    candidates: tuple[Candidate, ...] = ()
    """All edits, with their attempts."""
    alone: Mapping[int, Candidate] = field(default_factory=dict)
    """By edit index, the passage alone for as many steps as the edit takes; none of an edit that is malformed."""


class EditSelection:
    """Tries edits and keeps what was tried.

    Args:
        runner: how edits are proposed and tried.
        work: where that is stored.
        num_edits: k ≥ 1, a passage.
        num_repeats: ≥ 1, inner seeds an edit.
        at_once: ≥ 1, trials that the inner loop is given at once.
        keep: ≥ 0, edits kept a passage at most.
    """

    def __init__(
        self, runner: AttemptRunner, work: Workspace, *, num_edits: int, num_repeats: int, at_once: int, keep: int
    ) -> None:
        self.runner = runner
        self.work = work
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.at_once = at_once
        self.keep = keep
        self._edits = {(w.step, w.edit.task_id, w.edit.edit_index): w.edit for w in work.edits.read()}

    def choices(self, passages: Sequence[Passage], step: int, advance: Callable[[int], None]) -> list[SelectedEdit]:
        """What is to be learned of each passage, whose questions choose; ``step`` keeps the seeds of steps apart.

        ``advance`` hears of each passage.
        """
        size = max(1, EDITS_AT_ONCE // self.num_edits)
        choices: list[SelectedEdit] = []
        for start in range(0, len(passages), size):
            batch = passages[start : start + size]
            asked = [passage for passage in batch if passage.questions and self.keep]
            chosen = dict(zip((p.task_id for p in asked), self._tried(asked, step), strict=True))
            choices += [chosen.get(p.task_id, SelectedEdit(passage=p, kept=())) for p in batch]
            advance(len(batch))
        return choices

    def _tried(self, passages: Sequence[Passage], step: int) -> list[SelectedEdit]:
        edits = self._written(passages, step)
        controls = {p.task_id: self._controls(p, edits[p.task_id]) for p in passages}
        trials = [t for p in passages for t in self._trials(p, edits[p.task_id], controls[p.task_id], step)]
        found: dict[str, dict[int, list[Attempt]]] = {}
        for attempt in self.runner.run(trials, self.work.attempts, candidates_per_call=self.at_once):
            found.setdefault(attempt.task_id, {}).setdefault(attempt.edit.edit_index, []).append(attempt)
        return [self._choice(p, found[p.task_id], controls[p.task_id]) for p in passages]

    def _written(self, passages: Sequence[Passage], step: int) -> dict[str, list[SelfEdit]]:
        """The edits of each passage; where one is missing, the whole batch is written, so that they are the same."""
        keys = {p.task_id: [(step, p.task_id, index) for index in range(self.num_edits)] for p in passages}
        if any(key not in self._edits for of_passage in keys.values() for key in of_passage):
            for edit in self.runner.propose(passages, self.num_edits, f"adapt {step}"):
                key = (step, edit.task_id, edit.edit_index)
                if key not in self._edits:
                    self._edits[key] = self.work.edits.append(WrittenEdit(step=step, edit=edit)).edit
        return {task_id: [self._edits[key] for key in of_passage] for task_id, of_passage in keys.items()}

    def _controls(self, passage: Passage, edits: Sequence[SelfEdit]) -> dict[int, int]:
        """By edit index, the steps of the edit's plan, which the passage alone is to take too; none of a malformed edit."""
        steps: dict[int, int] = {}
        for edit in edits:
            with suppress(MalformedEdit):  # told by its attempt
                steps[edit.edit_index] = self.runner.plan(passage, edit).num_steps
        return steps

    def _trials(
        self, passage: Passage, edits: Sequence[SelfEdit], controls: Mapping[int, int], step: int
    ) -> list[Trial]:
        """Every edit, and behind them the passage alone, once for each number of steps that an edit takes."""
        tried = [(edit, None) for edit in edits]
        alone = self.runner.domain.plan_without_edit(passage)
        for place, num_steps in enumerate(sorted(set(controls.values()))):
            nothing = SelfEdit(task_id=passage.task_id, edit_index=self.num_edits + place, text="")
            plan = replace(alone, optimizer=replace(alone.optimizer, max_steps=num_steps))
            tried.append((nothing, plan))  # type: ignore[arg-type]
        return [
            replace(self.runner.trial(passage, edit, step, repeat), plan=plan)
            for edit, plan in tried
            for repeat in range(self.num_repeats)
        ]

    def _choice(
        self, passage: Passage, attempts: dict[int, list[Attempt]], controls: Mapping[int, int]
    ) -> SelectedEdit:
        candidates = {
            index: Candidate(task_id=passage.task_id, edit_index=index, attempts=tuple(of_edit))
            for index, of_edit in attempts.items()
        }
        places = {num_steps: self.num_edits + i for i, num_steps in enumerate(sorted(set(controls.values())))}
        alone = {index: candidates[places[num_steps]] for index, num_steps in controls.items()}
        edits = [candidates[index] for index in range(self.num_edits)]
        better = [edit for edit in edits if edit.edit_index in alone and _beats(edit, alone[edit.edit_index])]
        kept = best_of_k(better, self.keep)
        return SelectedEdit(
            passage=passage,
            kept=tuple(candidate.attempts[0].edit for candidate in kept),
            candidates=tuple(edits),
            alone=alone,
        )


def _beats(edit: Candidate, alone: Candidate) -> bool:
    """Whether both were scored and the edit taught more."""
    rewards = (edit.reward, alone.reward)
    return all(r is not None and math.isfinite(r) for r in rewards) and (edit.reward or 0.0) > (alone.reward or 0.0)
