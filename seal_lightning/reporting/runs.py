"""A run as a report needs it: what was tried each round, without the tokens, and every test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seal_lightning.core import Attempt, AttemptStatus, BufferRow, Prompt, RankPhase
from seal_lightning.core.errors import RunError
from seal_lightning.core.estimates import Estimate, clustered
from seal_lightning.core.exam_records import mean
from seal_lightning.reporting.result_files import StoredResult, read_result, test_files
from seal_lightning.storage.attempt_store import journals
from seal_lightning.storage.journal import RecordFile
from seal_lightning.storage.run_dir import RunDir

MAX_TESTS = 12
"""Results files of a run that are read: the newest."""
KEPT_CHARACTERS = 6_000
"""Of an edit or a prompt: a round may hold gigabytes of them."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """An attempt, small: its edit is cut, its tokens and exams are left in the journal."""

    task_id: str
    edit_index: int
    status: AttemptStatus
    failure_kind: str | None
    text: str
    num_characters: int
    reward: float | None
    before: float | None
    after: float | None
    num_steps: int
    num_tokens: int
    adapt_seconds: float
    examine_seconds: float

    @property
    def was_trained(self) -> bool:
        """Whether there was an adapter."""
        return self.num_steps > 0 or self.num_tokens > 0

    @property
    def edit(self) -> tuple[str, int]:
        """Which of the round's edits."""
        return self.task_id, self.edit_index


@dataclass(frozen=True, kw_only=True)
class TriedEdit:
    """An edit with all its repeats."""

    task_id: str
    edit_index: int
    text: str
    num_characters: int
    reward: float
    """Mean over the repeats that were scored."""
    is_kept: bool


@dataclass(frozen=True, kw_only=True)
class Round:
    """One E-step."""

    index: int
    attempts: tuple[Tried, ...]
    kept: dict[tuple[str, int], float]
    """The rewards of the edits the M-step learned from."""
    prompts: dict[str, str] = field(default_factory=dict)
    """What the policy was asked, by task; of tasks an edit was kept of."""
    phases: tuple[tuple[RankPhase, ...], ...] = ()
    """The E-step's ranks, then the M-step's, where they are known."""

    @property
    def status_counts(self) -> Counter[AttemptStatus]:
        """How many attempts ended in each way."""
        return Counter(tried.status for tried in self.attempts)

    @property
    def reward(self) -> Estimate | None:
        """Of all attempts that have one, over tasks."""
        return clustered((t.task_id, t.reward) for t in self.attempts if t.reward is not None)

    @property
    def kept_reward(self) -> Estimate | None:
        """Of the kept edits, over tasks."""
        return clustered((task_id, reward) for (task_id, _), reward in self.kept.items())

    def over_tasks(self, part: str) -> Estimate | None:
        """The mean over tasks of ``before`` or ``after``, where the reward kept it."""
        values = [(t.task_id, getattr(t, part)) for t in self.attempts]
        return clustered((task_id, value) for task_id, value in values if value is not None)

    def edits(self) -> Iterator[TriedEdit]:
        """The edits that have a reward, none of whose repeats failed."""
        by_edit: dict[tuple[str, int], list[Tried]] = {}
        for tried in self.attempts:
            by_edit.setdefault(tried.edit, []).append(tried)
        for (task_id, edit_index), repeats in by_edit.items():
            reward = mean([t.reward for t in repeats if t.reward is not None])
            if reward is not None and all(t.status in (AttemptStatus.SCORED, AttemptStatus.UNSCORED) for t in repeats):
                yield TriedEdit(
                    task_id=task_id,
                    edit_index=edit_index,
                    text=repeats[0].text,
                    num_characters=repeats[0].num_characters,
                    reward=reward,
                    is_kept=(task_id, edit_index) in self.kept,
                )


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """All that a report says of a run."""

    path: Path
    name: str
    """How the report calls it."""
    settings: dict[str, Any]
    """Its configuration; empty where there is none."""
    rounds: tuple[Round, ...]
    tests: tuple[StoredResult, ...]
    """Oldest first."""
    num_older_tests: int = 0
    """Results files that were left out."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """What is to be learned, by task."""
    missing_contexts: str | None = None
    """Why there are none, where there are none."""

    @property
    def seed(self) -> Any:
        """The run's seed; None where the configuration does not say."""
        model = self.settings.get("model")
        return model.get("seed") if isinstance(model, dict) else None


def read_run(run: RunDir, name: str) -> StoredRun:
    """A run's attempts and tests. Raises :class:`RunError` when it has neither, or where a file is damaged."""
    if not run.path.is_dir():
        raise RunError(f"{run.path} is no run directory: there is no such folder")
    rounds = [_round(index, folder) for index, folder in _round_folders(run)]
    files = test_files(run.path / "results")
    if not files and not any(found.attempts for found in rounds):
        raise RunError(
            f"{run.path} has nothing to report: no attempt in round_*/attempts.rank*.jsonl and no results/test.json. "
            "`seal fit -c CONFIG` makes the attempts, `seal test --run RUN` the results"
        )
    return StoredRun(
        path=run.path,
        name=name,
        settings=run.settings() if run.config.exists() else {},
        rounds=tuple(found for found in rounds if found.attempts),
        tests=tuple(map(read_result, files[-MAX_TESTS:])),
        num_older_tests=max(0, len(files) - MAX_TESTS),
    )


def _round_folders(run: RunDir) -> list[tuple[int, Path]]:
    found = [(int(path.name[6:]), path) for path in run.path.glob("round_*") if path.name[6:].isdecimal()]
    return sorted(found)


def _round(index: int, folder: Path) -> Round:
    """Journal by journal, so that only one at a time is whole in memory."""
    tried: dict[str, Tried] = {}
    for journal in journals(folder):
        for attempt in journal.read():
            tried.setdefault(attempt.attempt_id, _tried(attempt))
    rows = RecordFile(folder / "accepted.jsonl", BufferRow).read()
    phases = [RecordFile(folder / f"ranks.{phase}.jsonl", RankPhase).read() for phase in ("e_step", "m_step")]
    return Round(
        index=index,
        attempts=tuple(tried.values()),
        kept={(row.task_id, row.edit_index): row.reward for row in rows},
        prompts={row.task_id: _prompt_text(row.prompt)[:KEPT_CHARACTERS] for row in rows},
        phases=tuple(tuple(ranks) for ranks in phases if ranks),
    )


def _tried(attempt: Attempt) -> Tried:
    plan, parts = attempt.plan, attempt.reward_breakdown
    return Tried(
        task_id=attempt.task_id,
        edit_index=attempt.edit.edit_index,
        status=attempt.status,
        failure_kind=attempt.failure_kind,
        text=attempt.edit.text[:KEPT_CHARACTERS],
        num_characters=len(attempt.edit.text),
        reward=attempt.reward,
        before=parts.get("before"),
        after=parts.get("after"),
        num_steps=0 if plan is None else plan.num_steps,
        num_tokens=0 if plan is None else plan.num_tokens,
        adapt_seconds=attempt.adapt_seconds,
        examine_seconds=attempt.examine_seconds,
    )


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)
