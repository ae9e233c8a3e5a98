"""Selection of self-edits: each is tried beside the passage alone in as many steps, and the better ones are kept."""

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

EDITS_AT_ONCE = 32
"""Edits that are written in one call of the engine, rounded down to whole passages."""


@dataclass(frozen=True, kw_only=True)
class SelectedEdit:
    """A passage with its edits that are kept."""

    passage: Passage
    kept: tuple[SelfEdit, ...]
    """Best first; empty if no edit beat the passage alone, or there is no question to select by."""
    candidates: tuple[Candidate, ...] = ()
    """All edits, with their attempts."""
    alone: Mapping[int, Candidate] = field(default_factory=dict)
    """By edit index, the passage alone in as many steps as the edit takes; a malformed edit has none."""


class EditSelection:
    """Writes edits, tries them and stores every attempt.

    Args:
        runner: how edits are written and tried.
        work: the store of edits and attempts.
        num_edits: k ≥ 1, edits per passage.
        num_repeats: ≥ 1, inner seeds per edit.
        keep: ≥ 0, most edits that are kept per passage.
    """

    def __init__(self, runner: AttemptRunner, work: Workspace, *, num_edits: int, num_repeats: int, keep: int) -> None:
        self.runner = runner
        self.work = work
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.keep = keep
        self._edits = {(w.step, w.edit.task_id, w.edit.edit_index): w.edit for w in work.edits.read()}

    def select(self, passages: Sequence[Passage], step: int, advance: Callable[[int], None]) -> list[SelectedEdit]:
        """Select the edits of each passage by its questions; ``step`` keeps the seeds of successive steps apart.

        ``advance`` is called for every batch of passages.
        """
        size = max(1, EDITS_AT_ONCE // self.num_edits)
        selected: list[SelectedEdit] = []
        for start in range(0, len(passages), size):
            batch = passages[start : start + size]
            tried = self._tried([p for p in batch if p.questions and self.keep], step)
            selected += [tried.get(p.task_id, SelectedEdit(passage=p, kept=())) for p in batch]
            advance(len(batch))
        return selected

    def _tried(self, passages: Sequence[Passage], step: int) -> dict[str, SelectedEdit]:
        edits = self._written(passages, step)
        num_steps = {p.task_id: self._num_steps(p, edits[p.task_id]) for p in passages}
        trials = [t for p in passages for t in self._trials(p, edits[p.task_id], num_steps[p.task_id], step)]
        attempts: dict[str, dict[int, list[Attempt]]] = {}
        for attempt in self.runner.run(trials, self.work.attempts):
            attempts.setdefault(attempt.task_id, {}).setdefault(attempt.edit.edit_index, []).append(attempt)
        return {p.task_id: self._selected(p, attempts[p.task_id], num_steps[p.task_id]) for p in passages}

    def _written(self, passages: Sequence[Passage], step: int) -> dict[str, list[SelfEdit]]:
        """Return the edits of each passage; if one is missing, the whole batch is written, so that they are the same."""
        keys = {p.task_id: [(step, p.task_id, index) for index in range(self.num_edits)] for p in passages}
        if any(key not in self._edits for of_passage in keys.values() for key in of_passage):
            for edit in self.runner.propose(passages, self.num_edits, f"adapt {step}"):
                key = (step, edit.task_id, edit.edit_index)
                if key not in self._edits:
                    self._edits[key] = self.work.edits.append(WrittenEdit(step=step, edit=edit)).edit
        return {task_id: [self._edits[key] for key in of_passage] for task_id, of_passage in keys.items()}

    def _num_steps(self, passage: Passage, edits: Sequence[SelfEdit]) -> dict[int, int]:
        """Return the optimiser steps of each edit's plan, by edit index; malformed edits have none."""
        found: dict[int, int] = {}
        for edit in edits:
            with suppress(MalformedEdit):  # its attempt reports this
                found[edit.edit_index] = self.runner.plan(passage, edit).num_steps
        return found

    def _trials(
        self, passage: Passage, edits: Sequence[SelfEdit], num_steps: Mapping[int, int], step: int
    ) -> list[Trial]:
        """Return the trials of every edit, and then of the passage alone for each number of steps that an edit takes."""
        alone = self.runner.domain.plan_without_edit(passage)
        controls = [
            (
                SelfEdit(task_id=passage.task_id, edit_index=index, text=""),
                replace(alone, optimizer=replace(alone.optimizer, max_steps=steps)),
            )
            for steps, index in self._control_indices(num_steps).items()
        ]
        return [
            replace(self.runner.trial(passage, edit, step, repeat), plan=plan)
            for edit, plan in [*((edit, None) for edit in edits), *controls]
            for repeat in range(self.num_repeats)
        ]

    def _control_indices(self, num_steps: Mapping[int, int]) -> dict[int, int]:
        """Return the edit index of the control for each number of steps: those behind the edits' own."""
        return {steps: self.num_edits + i for i, steps in enumerate(sorted(set(num_steps.values())))}

    def _selected(
        self, passage: Passage, attempts: Mapping[int, list[Attempt]], num_steps: Mapping[int, int]
    ) -> SelectedEdit:
        candidates = {
            index: Candidate(task_id=passage.task_id, edit_index=index, attempts=tuple(of_edit))
            for index, of_edit in attempts.items()
        }
        controls = self._control_indices(num_steps)
        alone = {index: candidates[controls[steps]] for index, steps in num_steps.items()}
        edits = [candidates[index] for index in range(self.num_edits)]
        better = [(_reward(edit), edit) for edit in edits if edit.edit_index in alone]
        better = [
            (r, edit) for r, edit in better if math.isfinite(r) and r > _reward(alone[edit.edit_index]) > -math.inf
        ]
        best = sorted(better, key=lambda pair: (-pair[0], pair[1].edit_index))[: self.keep]
        return SelectedEdit(
            passage=passage,
            kept=tuple(edit.attempts[0].edit for _, edit in best),
            candidates=tuple(edits),
            alone=alone,
        )


def _reward(candidate: Candidate) -> float:
    """Return the candidate's reward; minus infinity if it has none."""
    return -math.inf if candidate.reward is None else candidate.reward
