"""Records on the disk: what goes in comes out, a torn tail is lost alone, damage elsewhere is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.attempt_store import AttemptStore
from seal_lightning.errors import RunError
from seal_lightning.records import RecordFile, from_plain, to_plain
from seal_lightning.types import (
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


def file_of(folder: Path, *records: Attempt) -> RecordFile[Attempt]:
    file = RecordFile(folder / "attempts.jsonl", Attempt)
    for record in records:
        file.append(record)
    return file


@pytest.mark.parametrize("record", [ATTEMPT, MALFORMED])
def test_an_attempt_comes_back_as_it_was(tmp_path: Path, record: Attempt) -> None:
    file = file_of(tmp_path, record)
    (found,) = file.read()
    assert found == record
    assert type(found.status) is AttemptStatus
    assert found.before == record.before
    assert len(file.path.read_bytes().splitlines()) == 1


@pytest.mark.parametrize(
    "prompt", ["plain\ntext", (ChatMessage(role="system", content="é"), ChatMessage(role="user", content=""))]
)
def test_a_buffer_row_keeps_its_kind_of_prompt(tmp_path: Path, prompt: str | tuple[ChatMessage, ...]) -> None:
    row = BufferRow(task_id="t", edit_index=0, prompt=prompt, text="x", token_ids=(5,), reward=0.5)
    file = RecordFile(tmp_path / "new" / "accepted.jsonl", BufferRow)
    file.write([row, row])
    assert file.read() == [row, row]
    assert from_plain(to_plain([row], BufferRow), BufferRow) == [row]
    file.write([])
    assert file.read() == []
    assert [path.name for path in file.path.parent.iterdir()] == ["accepted.jsonl"]


def test_a_score_that_is_no_number_reads_as_not_measured(tmp_path: Path) -> None:
    """JSON has no NaN; an attempt that met one must not make the file unreadable."""
    exam = ExamScores(questions=(QuestionScore(question_id="q", log_prob=math.nan),))
    (found,) = file_of(tmp_path, replace(ATTEMPT, after=exam, reward=None, final_loss=math.inf)).read()
    assert found.after == ExamScores(questions=(QuestionScore(question_id="q"),))
    assert found.final_loss is None


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert RecordFile(tmp_path / "none.jsonl", Attempt).read() == []


# --- damage ------------------------------------------------------------------------------------------------------------


def test_a_torn_tail_is_lost_alone_wherever_it_tore(tmp_path: Path) -> None:
    whole = file_of(tmp_path, *attempts(3)).path.read_bytes()
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for size in (second_end, second_end + 1, (second_end + len(whole)) // 2, len(whole) - 1):
        path = tmp_path / "attempts.jsonl"
        path.write_bytes(whole[:size])
        file = RecordFile(path, Attempt)
        assert file.read() == attempts(3)[:2]
        assert path.read_bytes() == whole[:size], "a reader changed the file; its writer may still be at it"
        file.append(attempts(3)[2])
        assert path.read_bytes() == whole


def test_a_file_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_bytes(b'{"attempt_id": "r0')
    assert RecordFile(path, Attempt).read() == []
    file_of(tmp_path, ATTEMPT)
    assert RecordFile(path, Attempt).read() == [ATTEMPT]


@pytest.mark.parametrize("damage", [b'{"attempt_id": "r0', b"\x00\x00\x00", b"", b'{"attempt_id": 3}', b"[]"])
def test_damage_in_the_middle_names_file_and_line(tmp_path: Path, damage: bytes) -> None:
    file = file_of(tmp_path, *attempts(4))
    lines = file.path.read_bytes().split(b"\n")
    lines[2] = damage
    file.path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=r"attempts\.jsonl, line 3: not a stored record") as caught:
        file.read()
    assert "Remove the line" in str(caught.value)


# --- the attempt store ---------------------------------------------------------------------------------------------------


def test_a_store_knows_what_any_rank_stored_before(tmp_path: Path) -> None:
    first, second, third, fourth = attempts(4)
    for rank, attempt in ((0, first), (1, second), (3, third)):
        AttemptStore(tmp_path, rank).add(attempt)
    again = AttemptStore(tmp_path, 0)
    assert again.all() == [first, second, third]
    assert again.get(second.attempt_id) == second
    assert again.get(fourth.attempt_id) is None
    again.add(fourth)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"attempts.rank{r}.jsonl" for r in (0, 1, 3)]
    assert RecordFile(tmp_path / "attempts.rank0.jsonl", Attempt).read() == [first, fourth]
    assert AttemptStore(tmp_path, 7).all() == [first, fourth, second, third]


def test_a_store_never_touches_another_rank_s_file(tmp_path: Path) -> None:
    """That rank may be writing right now: its half line is neither read nor cut."""
    theirs = tmp_path / "attempts.rank1.jsonl"
    AttemptStore(tmp_path, 1).add(attempts(2)[0])
    with theirs.open("ab") as file:
        file.write(b'{"attempt_id": "r0-t-e')
    written = theirs.read_bytes()
    mine = AttemptStore(tmp_path, 0)
    mine.add(attempts(2)[1])
    assert mine.all() == attempts(2)
    assert theirs.read_bytes() == written


def test_a_store_in_memory_keeps_what_it_is_given(tmp_path: Path) -> None:
    store = AttemptStore(None)
    store.add(ATTEMPT)
    assert (store.all(), store.get(ATTEMPT.attempt_id)) == ([ATTEMPT], ATTEMPT)
    assert AttemptStore(None).all() == []
