"""Stored runs as reports read them: attempts as rows, rounds, and results files of tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import Attempt, AttemptStatus, BufferRow, Prompt, RankPhase
from seal_lightning.core.errors import RunError
from seal_lightning.core.estimates import Estimate, clustered
from seal_lightning.core.evaluation_records import Arm, ConditionResult, EvaluationRecord
from seal_lightning.core.exam_records import mean
from seal_lightning.storage.attempt_store import journals
from seal_lightning.storage.journal import RecordFile
from seal_lightning.storage.run_dir import RunDir

if TYPE_CHECKING:
    import pandas as pd

MAX_TESTS = 12
"""Results files of a run that a report reads: the newest."""
KEPT_CHARACTERS = 6_000
"""Of an edit or a prompt in a report; a round may hold gigabytes of them."""

_RESULTS_NAME = re.compile(r"test(?:-(\d+))?\.json")

# --- attempts


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One stored attempt as a flat row, without its tokens and answers."""

    attempt_id: str
    round: int
    """From 0."""
    task_id: str
    edit_index: int
    """Index of the edit among those of its task and round."""
    repeat: int
    """Index of the inner seed; the edit is the same."""
    status: str
    """``scored``, ``unscored``, ``malformed`` or ``diverged``."""
    failure: str | None
    """Why there is no reward."""
    failure_kind: str | None
    """The failure without its details."""
    reward: float | None
    score_before: float | None
    """The reward's score without adaptation, where the reward keeps it."""
    score_after: float | None
    num_sequences: int
    """Sequences trained on; as the numbers below 0 where nothing was trained."""
    num_steps: int
    """Optimiser steps."""
    num_tokens: int
    """Tokens trained on, all epochs together."""
    learning_rate: float | None
    rank: int | None
    """Of the adapter."""
    final_loss: float | None
    adapt_seconds: float
    examine_seconds: float
    seed: int
    """Of the inner loop."""
    edit_text: str
    num_characters: int
    """Of the whole edit."""

    @classmethod
    def of(cls, attempt: Attempt, limit: int | None = None) -> AttemptRow:
        """Return an attempt's row; ``limit`` cuts the edit's text."""
        plan, parts = attempt.plan, attempt.reward_breakdown
        return cls(
            attempt_id=attempt.attempt_id,
            round=attempt.round,
            task_id=attempt.task_id,
            edit_index=attempt.edit.edit_index,
            repeat=attempt.repeat,
            status=attempt.status.value,
            failure=attempt.failure,
            failure_kind=attempt.failure_kind,
            reward=attempt.reward,
            score_before=parts.get("before"),
            score_after=parts.get("after"),
            num_sequences=plan.num_sequences if plan else 0,
            num_steps=plan.num_steps if plan else 0,
            num_tokens=plan.num_tokens if plan else 0,
            learning_rate=plan.learning_rate if plan else None,
            rank=plan.rank if plan else None,
            final_loss=attempt.final_loss,
            adapt_seconds=attempt.adapt_seconds,
            examine_seconds=attempt.examine_seconds,
            seed=attempt.seed,
            edit_text=attempt.edit.text[:limit],
            num_characters=len(attempt.edit.text),
        )

    @property
    def edit(self) -> tuple[str, int]:
        """Task id and edit index: the edit within its round."""
        return self.task_id, self.edit_index


def load_attempts(run_dir: str | Path) -> pd.DataFrame:
    """Load the stored attempts of a run as a table, one row per attempt, in the order of rounds and of storing.

    The columns are the fields of :class:`AttemptRow`; values that were not measured are missing (NaN or None).

    Args:
        run_dir: the folder that ``seal fit`` wrote, or is writing.

    Raises:
        RunError: no such folder, no attempts in it, or a damaged journal.
    """
    import pandas as pd  # takes half a second: only when a table is wanted

    folders = round_folders(RunDir.named(run_dir, "run_dir"))
    rows = [asdict(row) for _, folder in folders for row in _rows(folder)]
    return pd.DataFrame(rows, columns=[one.name for one in fields(AttemptRow)])


def round_folders(run: RunDir, *, required: bool = True) -> list[tuple[int, Path]]:
    """Return index and folder of each round with a journal. Raises :class:`RunError` without any if ``required``."""
    if not run.path.is_dir():
        raise RunError(f"{run.path} is not a run directory: no such folder")
    numbered = [(int(path.name[6:]), path) for path in run.path.glob("round_*") if path.name[6:].isdecimal()]
    found = sorted((index, path) for index, path in numbered if journals(path))
    if required and not found:
        raise RunError(f"{run.path} has no attempts: there is no round_*/attempts.rank*.jsonl. Is it a run directory?")
    return found


def _rows(folder: Path, limit: int | None = None) -> list[AttemptRow]:
    """Read journal by journal, so that only one of them is whole in memory."""
    rows: dict[str, AttemptRow] = {}
    for journal in journals(folder):
        for attempt in journal.read():
            rows.setdefault(attempt.attempt_id, AttemptRow.of(attempt, limit))
    return list(rows.values())


# --- rounds


@dataclass(frozen=True, kw_only=True)
class ScoredEdit:
    """An edit with all its repeats."""

    row: AttemptRow
    """Its first repeat."""
    reward: float
    """Mean over the repeats that were scored."""
    is_kept: bool
    """Whether the M-step trained on it."""


@dataclass(frozen=True, kw_only=True)
class StoredRound:
    """One E-step."""

    index: int
    attempts: tuple[AttemptRow, ...]
    kept: dict[tuple[str, int], float]
    """Rewards of the edits the M-step trained on."""
    prompts: dict[str, str] = field(default_factory=dict)
    """The policy's prompt, by task with a kept edit."""
    phases: tuple[tuple[RankPhase, ...], ...] = ()
    """The ranks of the E-step and of the M-step, where they are known."""

    @property
    def status_counts(self) -> Counter[str]:
        """Number of attempts by status."""
        return Counter(row.status for row in self.attempts)

    @property
    def kept_reward(self) -> Estimate | None:
        """Mean reward of the kept edits, over tasks."""
        return clustered((task_id, reward) for (task_id, _), reward in self.kept.items())

    def over_tasks(self, column: str = "reward") -> Estimate | None:
        """Return the mean of a column over tasks, where it is known."""
        values = [(row.task_id, getattr(row, column)) for row in self.attempts]
        return clustered((task_id, value) for task_id, value in values if value is not None)

    def edits(self) -> Iterator[ScoredEdit]:
        """Yield the edits that have a reward and no failed repeat."""
        by_edit: dict[tuple[str, int], list[AttemptRow]] = {}
        for row in self.attempts:
            by_edit.setdefault(row.edit, []).append(row)
        for edit, repeats in by_edit.items():
            reward = mean([row.reward for row in repeats if row.reward is not None])
            if reward is not None and {row.status for row in repeats} <= {AttemptStatus.SCORED, AttemptStatus.UNSCORED}:
                yield ScoredEdit(row=repeats[0], reward=reward, is_kept=edit in self.kept)


def _round(index: int, folder: Path) -> StoredRound:
    accepted = RecordFile(folder / "accepted.jsonl", BufferRow).read()
    phases = [RecordFile(folder / f"ranks.{phase}.jsonl", RankPhase).read() for phase in ("e_step", "m_step")]
    return StoredRound(
        index=index,
        attempts=tuple(_rows(folder, KEPT_CHARACTERS)),
        kept={(row.task_id, row.edit_index): row.reward for row in accepted},
        prompts={row.task_id: _prompt_text(row.prompt)[:KEPT_CHARACTERS] for row in accepted},
        phases=tuple(tuple(ranks) for ranks in phases if ranks),
    )


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)


# --- results files


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation(EvaluationRecord):
    """A results file of ``seal test``."""

    path: Path = Path()

    def last_results(self) -> list[ConditionResult]:
        """Return the results after the last step at which each task of each arm and sequence was examined."""
        last: dict[tuple[Arm, int, str], int] = {}
        for result in self.results:
            key = (result.arm, result.sequence, result.task_id)
            last[key] = max(result.step, last.get(key, 0))
        return [r for r in self.results if r.step == last[r.arm, r.sequence, r.task_id]]


@cache
def _parser() -> TypeAdapter[StoredEvaluation]:
    return TypeAdapter(StoredEvaluation)


def results_files(results: Path) -> list[Path]:
    """Return ``test.json``, ``test-2.json`` … of a results folder, oldest first."""
    numbered = [
        (int(found[1] or 1), path)
        for path in results.glob("test*.json")
        if (found := _RESULTS_NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


def read_evaluation(path: Path) -> StoredEvaluation:
    """Read a results file of ``seal test``. Raises :class:`RunError` that names the invalid part."""
    try:
        found = _parser().validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(
            f"{part}: " if i == len(first["loc"]) - 1 else f"{part}." for i, part in enumerate(first["loc"])
        )
        raise RunError(
            f"{path} is not a results file of `seal test` ({where}{first['msg']}). Test again with `seal test --run RUN`"
        ) from error
    return replace(found, path=path)


# --- runs


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as a report shows it."""

    path: Path
    name: str
    """Its name in the report."""
    settings: dict[str, Any]
    """Its configuration; empty where there is none."""
    rounds: tuple[StoredRound, ...]
    tests: tuple[StoredEvaluation, ...]
    """Oldest first."""
    num_older_tests: int = 0
    """Older results files that were not read."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Each task's context."""
    missing_contexts: str | None = None
    """Why there are no contexts, if so."""

    @property
    def seed(self) -> Any:
        """The run's seed; None where the configuration does not say."""
        model = self.settings.get("model")
        return model.get("seed") if isinstance(model, dict) else None


def read_run(run: RunDir, name: str) -> StoredRun:
    """Read a run's attempts and tests. Raises :class:`RunError` when it has neither, or where a file is damaged."""
    rounds = [_round(index, folder) for index, folder in round_folders(run, required=False)]
    files = results_files(run.path / "results")
    if not files and not any(found.attempts for found in rounds):
        raise RunError(
            f"{run.path} has nothing to report: no attempts and no results/test.json. `seal fit -c CONFIG` makes the "
            "attempts, `seal test --run RUN` the results"
        )
    return StoredRun(
        path=run.path,
        name=name,
        settings=run.settings() if run.config.exists() else {},
        rounds=tuple(found for found in rounds if found.attempts),
        tests=tuple(map(read_evaluation, files[-MAX_TESTS:])),
        num_older_tests=max(0, len(files) - MAX_TESTS),
    )
