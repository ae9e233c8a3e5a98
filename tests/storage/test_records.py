"""Record files: they read what was written, and damage is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    BufferRow,
    ChatMessage,
    ExamScores,
    FinishReason,
    PlanSummary,
    QuestionScore,
    SelfEdit,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.errors import RunError
from seal_lightning.storage.journal import RecordFile, from_plain, to_plain

EXAM = ExamScores(
    questions=(
        QuestionScore(
            question_id="q0",
            log_prob=-0.1 - 1e-17,
            num_target_tokens=3,
            answer='Zürich \u2028\n"quoted" \x00 \U0001f600',
            verdict=Verdict(question_id="q0", status=VerdictStatus.CORRECT, reason="recall 1.00"),
            exact_match=0.0,
            f1=2 / 3,
        ),
        QuestionScore(
            question_id="q1", verdict=Verdict(question_id="q1", status=VerdictStatus.UNSCORED, reason="down")
        ),
    )
)
ATTEMPT = Attempt(
    attempt_id="r0-t-e1-s2",
    round=0,
    repeat=2,
    seed=2**63 - 1,
    edit=SelfEdit(
        task_id="t",
        edit_index=1,
        text="line one\nline two\r\n\ttab � ü",
        token_ids=(1, 2, 49151),
        finish_reason=FinishReason.LENGTH,
        seed=7,
        directives={"epochs": 3, "masks": [True, None, {"a": 0.25}], "name": "é"},
    ),
    status=AttemptStatus.SCORED,
    plan=PlanSummary(num_sequences=2, num_steps=20, num_tokens=400, learning_rate=1e-3, rank=32, dropped_sequences=1),
    before=EXAM,
    after=EXAM,
    final_loss=0.1 + 0.2,
    reward=-1 / 3,
    reward_breakdown={"after": -1 / 3, "before": -2.5},
    adapt_seconds=1.25,
    examine_seconds=1e-9,
)
MALFORMED = Attempt(
    attempt_id="r0-t-e2-s0",
    round=0,
    repeat=0,
    seed=0,
    edit=SelfEdit(task_id="t", edit_index=2, text=""),
    status=AttemptStatus.MALFORMED,
    failure="empty",
)


def attempts(count: int) -> list[Attempt]:
    return [replace(ATTEMPT, attempt_id=f"r0-t-e1-s{i}", repeat=i) for i in range(count)]


@pytest.mark.parametrize("record", [ATTEMPT, MALFORMED])
def test_record_file_reads_what_was_written(tmp_path: Path, record: Attempt) -> None:
    file = RecordFile(tmp_path / "attempts.jsonl", Attempt)
    file.write([record])
    (found,) = file.read()
    assert found == record
    assert type(found.status) is AttemptStatus
    assert found.before == record.before
    assert len(file.path.read_bytes().splitlines()) == 1
    assert from_plain(to_plain([record], Attempt), Attempt) == [record]


@pytest.mark.parametrize(
    "prompt", ["plain\ntext", (ChatMessage(role="system", content="é"), ChatMessage(role="user", content=""))]
)
def test_record_file_keeps_the_prompts_type(tmp_path: Path, prompt: str | tuple[ChatMessage, ...]) -> None:
    row = BufferRow(task_id="t", edit_index=0, prompt=prompt, text="x", token_ids=(5,), reward=0.5)
    file = RecordFile(tmp_path / "new" / "accepted.jsonl", BufferRow)
    file.write([row, row])
    assert file.read() == [row, row]
    assert from_plain(to_plain([row], BufferRow), BufferRow) == [row]
    file.write([])
    assert file.read() == []
    assert [path.name for path in file.path.parent.iterdir()] == ["accepted.jsonl"]


def test_record_file_missing_is_empty(tmp_path: Path) -> None:
    assert RecordFile(tmp_path / "none.jsonl", Attempt).read() == []


@pytest.mark.parametrize("damage", [b'{"attempt_id": "r0', b"\x00\x00\x00", b"", b'{"attempt_id": 3}', b"[]"])
@pytest.mark.parametrize("line", [1, 3, 4])
def test_record_file_damage_names_the_line(tmp_path: Path, damage: bytes, line: int) -> None:
    """The file was written as a whole, so no crash can have torn it."""
    file = RecordFile(tmp_path / "accepted.jsonl", Attempt)
    file.write(attempts(4))
    lines = file.path.read_bytes().split(b"\n")
    lines[line - 1] = damage
    file.path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=rf"accepted\.jsonl, line {line}: not a stored record"):
        file.read()


def test_record_file_failed_write_changes_nothing(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "attempts.jsonl", Attempt)
    file.write(attempts(2))

    def failing() -> Iterator[Attempt]:
        yield ATTEMPT
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.write(failing())
    assert file.read() == attempts(2)
    assert [path.name for path in tmp_path.iterdir()] == ["attempts.jsonl"]
