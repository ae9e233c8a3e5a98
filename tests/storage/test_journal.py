"""Journals and the attempt store: no stored record is lost, a torn tail is cut, other damage is an error."""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import TypeAdapter
from storage.test_records import ATTEMPT, EXAM, MALFORMED, attempts

from seal_lightning.core import Attempt, AttemptStatus, ExamScores, QuestionScore, SelfEdit
from seal_lightning.core.errors import RunError
from seal_lightning.storage.attempt_store import AttemptStore, journals
from seal_lightning.storage.journal import DamagedLine, Journal, _line

ADAPTER = TypeAdapter(Attempt)


def small(count: int) -> list[Attempt]:
    """Short records, so that a test may try every byte."""
    return [replace(MALFORMED, attempt_id=f"r0-t-e2-s{i}", repeat=i) for i in range(count)]


def journal_of(folder: Path, *records: Attempt) -> Journal[Attempt]:
    """A closed journal that holds these records."""
    journal = Journal(folder / "attempts.rank0.jsonl", Attempt)
    for record in records:
        journal.append(record)
    journal.close()
    return journal


def lines_of(journal: Journal[Attempt]) -> list[bytes]:
    return journal.path.read_bytes().splitlines(keepends=True)


# --- round trip ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [ATTEMPT, MALFORMED], ids=["full", "minimal"])
def test_journal_reads_what_was_appended(tmp_path: Path, record: Attempt) -> None:
    journal = journal_of(tmp_path, record)
    (found,) = journal.read()
    assert found == record
    assert type(found.status) is AttemptStatus
    assert len(lines_of(journal)) == 1


def test_journal_read_creates_no_file(tmp_path: Path) -> None:
    assert Journal(tmp_path / "round_0" / "attempts.rank0.jsonl", Attempt).read() == []
    assert not list(tmp_path.iterdir())


def test_journal_numbers_continue_after_reopening(tmp_path: Path) -> None:
    records = attempts(6)
    journal = journal_of(tmp_path, *records[:2])
    journal.append(records[2])  # reopened by itself after a close
    journal.append(records[3])
    journal.close()
    journal.close()
    journal_of(tmp_path, *records[4:])  # by another object, as after a resume
    assert [line.split(b",")[0] for line in lines_of(journal)] == [b'{"seq":%d' % i for i in range(6)]
    assert journal.read() == records


def test_journal_append_is_visible_at_once(tmp_path: Path) -> None:
    writer, reader = (Journal(tmp_path / "attempts.rank0.jsonl", Attempt) for _ in range(2))
    for count, record in enumerate(attempts(3), 1):
        writer.append(record)
        assert len(reader.read()) == count
    writer.close()


def test_journal_reads_nan_scores_as_none(tmp_path: Path) -> None:
    """JSON has no NaN; an attempt that met one must not make the journal unreadable."""
    exam = ExamScores(questions=(QuestionScore(question_id="q", log_prob=math.nan, f1=math.inf),))
    (found,) = journal_of(tmp_path, replace(ATTEMPT, after=exam, reward=-math.inf, final_loss=math.inf)).read()
    assert found.after == ExamScores(questions=(QuestionScore(question_id="q"),))
    assert (found.final_loss, found.reward) == (None, None)
    assert found.before == EXAM


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "record",
    [
        replace(ATTEMPT, edit=SelfEdit(task_id="t", edit_index=0, text="\ud800")),
        replace(ATTEMPT, edit=SelfEdit(task_id="t", edit_index=0, text="", directives=nested(230))),
        replace(ATTEMPT, adapt_seconds=math.inf),
    ],
    ids=["lone surrogate", "nested deeper than can be read", "an infinity where a number must be"],
)
def test_journal_refuses_records_it_cannot_read_back(tmp_path: Path, record: Attempt) -> None:
    journal = journal_of(tmp_path, *small(1))
    before = journal.path.read_bytes()
    with pytest.raises(RunError, match=r"attempts\.rank0\.jsonl: a record cannot be stored"):
        journal.append(record)
    assert journal.path.read_bytes() == before
    journal.append(small(2)[1])
    assert journal.read() == small(2)
    journal.close()


# --- a torn tail --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_journal_cuts_a_torn_tail_at_any_byte(tmp_path: Path) -> None:
    records = small(3)
    journal = journal_of(tmp_path, *records)
    whole = journal.path.read_bytes()
    second_end = len(b"".join(lines_of(journal)[:2]))
    for size in range(second_end, len(whole)):
        journal.path.write_bytes(whole[:size])
        assert journal.read() == records[:2], size
        assert journal.path.read_bytes() == whole[:size], "a reader changed the file; its writer may still be at it"
        journal_of(tmp_path, records[2])
        assert journal.path.read_bytes() == whole, size


@pytest.mark.parametrize("tail", [b"\x00" * 40, b"\x00" * 40 + b"\n", b'{"seq":2,"crc":"', b"\xff\xfe\n", b"\n"])
def test_journal_cuts_a_garbage_tail(tmp_path: Path, tail: bytes) -> None:
    journal = journal_of(tmp_path, *small(2))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + tail)
    assert journal.read() == small(2)
    journal_of(tmp_path, small(3)[2])
    assert journal.read() == small(3)
    assert journal.path.read_bytes().startswith(whole)


def test_journal_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "attempts.rank0.jsonl"
    path.write_bytes(b'{"seq":0,"crc":"')
    assert Journal(path, Attempt).read() == []
    journal_of(tmp_path, ATTEMPT)
    assert Journal(path, Attempt).read() == [ATTEMPT]


# --- damage -------------------------------------------------------------------------------------------------------------


def flipped(line: bytes) -> bytes:
    return line[:60] + bytes([line[60] ^ 1]) + line[61:]


class Damage(NamedTuple):
    line: int
    """Which the error names."""
    lines: Callable[[list[bytes]], list[bytes]]
    """What becomes of four lines."""
    kept: str
    """The records that a repair keeps …"""
    lost: int
    """… and how many it says are lost."""


DAMAGE = {
    "a flipped byte": Damage(2, lambda n: [n[0], flipped(n[1]), n[2], n[3]], "023", 1),
    "a line gone": Damage(2, lambda n: [n[0], n[2], n[3]], "023", 1),
    "the last but one gone": Damage(3, lambda n: [n[0], n[1], n[3]], "013", 1),
    "the first gone": Damage(1, lambda n: n[1:], "123", 1),
    "a line twice": Damage(3, lambda n: [n[0], n[1], n[1], n[2], n[3]], "0123", 0),
    "the last twice": Damage(5, lambda n: [*n, n[3]], "0123", 0),
    "two lines swapped": Damage(2, lambda n: [n[0], n[2], n[1], n[3]], "0123", 0),
    "the last two swapped": Damage(3, lambda n: [n[0], n[1], n[3], n[2]], "0123", 0),
    "a blank line": Damage(3, lambda n: [n[0], n[1], b"\n", n[2], n[3]], "0123", 0),
    "a line end gone": Damage(2, lambda n: [n[0], n[1][:-1], n[2], n[3]], "03", 2),
    "the last line end but one gone": Damage(3, lambda n: [n[0], n[1], n[2][:-1], n[3]], "01", 2),
    "NULs": Damage(2, lambda n: [n[0], b"\x00" * len(n[1]), n[2], n[3]], "03", 2),
    "a line of NULs": Damage(2, lambda n: [n[0], b"\x00" * (len(n[1]) - 1) + b"\n", n[2], n[3]], "023", 1),
    "a cut line": Damage(2, lambda n: [n[0], n[1][:50] + b"\n", n[2], n[3]], "023", 1),
    "a wrong checksum": Damage(2, lambda n: [n[0], n[1].replace(n[1][16:24], b"00000000"), n[2], n[3]], "023", 1),
    "another number": Damage(2, lambda n: [n[0], n[1].replace(b'"seq":1', b'"seq":2'), n[2], n[3]], "023", 1),
    "no journal's line": Damage(2, lambda n: [n[0], b'{"attempt_id":"r0"}\n', n[2], n[3]], "023", 1),
    "no attempt": Damage(2, lambda n: [n[0], _line(1, b'{"attempt_id":3}'), n[2], n[3]], "023", 1),
    "no attempt at the end": Damage(5, lambda n: [*n, _line(4, b"[]")], "0123", 1),
    "no JSON": Damage(2, lambda n: [n[0], _line(1, b"{"), n[2], n[3]], "023", 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_journal_damage_names_file_and_line(tmp_path: Path, damage: Damage) -> None:
    journal = journal_of(tmp_path, *small(4))
    damaged = b"".join(damage.lines(lines_of(journal)))
    journal.path.write_bytes(damaged)
    for attempt_it in (journal.read, lambda: journal.append(ATTEMPT), lambda: AttemptStore(tmp_path)):
        with pytest.raises(DamagedLine, match=rf"attempts\.rank0\.jsonl, line {damage.line}: ") as caught:
            attempt_it()
        assert "--repair" in str(caught.value)
    assert journal.path.read_bytes() == damaged
    assert [path.name for path in tmp_path.iterdir()] == ["attempts.rank0.jsonl"]
    with journal.path.open("ab") as file:  # the refused append has let go of the file
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_or_none(journal: Journal[Attempt]) -> list[Attempt] | None:
    try:
        return journal.read()
    except DamagedLine:
        return None


@pytest.mark.slow
def test_journal_notices_every_flipped_byte(tmp_path: Path) -> None:
    """Every byte of a journal: it is told, or it is the last line that is lost, as if it were torn."""
    journal = journal_of(tmp_path, *small(3))
    whole = journal.path.read_bytes()
    last = len(b"".join(lines_of(journal)[:2]))
    for position, byte in enumerate(whole):
        for other in {byte ^ 1, ord("\n")} - {byte}:
            journal.path.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
            found = read_or_none(journal)
            assert found is None or (position >= last and found == small(2)), (position, other)


# --- repair -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_repair_keeps_intact_lines_and_the_old_file(tmp_path: Path, damage: Damage) -> None:
    journal = journal_of(tmp_path, *small(4))
    damaged = b"".join(damage.lines(lines_of(journal)))
    journal.path.write_bytes(damaged)
    aside = tmp_path / "attempts.rank0.jsonl.damaged-1"
    assert journal.repair() == (damage.lost, aside)
    assert aside.read_bytes() == damaged
    assert journal.read() == [small(4)[int(i)] for i in damage.kept]
    assert journal.repair() == (0, None), "what was repaired is whole"
    journal.append(ATTEMPT)
    journal.close()
    assert journal.read()[-1] == ATTEMPT
    assert AttemptStore(tmp_path).all() == journal.read(), "the file set aside counts as a journal"


def test_repair_leaves_intact_and_torn_journals(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, *small(2))
    for content in (journal.path.read_bytes(), journal.path.read_bytes() + b'{"seq":2,"cr'):
        journal.path.write_bytes(content)
        assert journal.repair() == (0, None)
        assert journal.path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["attempts.rank0.jsonl"]


def test_repair_numbers_the_old_files(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, *small(3))
    for number in (1, 2):
        lines = lines_of(journal)
        journal.path.write_bytes(b"".join([flipped(lines[0]), *lines[1:]]))
        assert journal.repair() == (1, tmp_path / f"attempts.rank0.jsonl.damaged-{number}")
    assert journal.read() == small(3)[2:]


def test_repair_keeps_two_records_of_one_number(tmp_path: Path) -> None:
    """Two writers where the file system cannot lock: both made something."""
    first, second, third = small(3)
    path = tmp_path / "attempts.rank0.jsonl"
    path.write_bytes(b"".join(_line(i, ADAPTER.dump_json(r)) for i, r in ((0, first), (1, second), (1, third))))
    journal = Journal(path, Attempt)
    assert journal.repair()[0] == 0
    assert journal.read() == [first, second, third]


def test_repair_of_a_file_without_an_intact_line(tmp_path: Path) -> None:
    path = tmp_path / "attempts.rank0.jsonl"
    path.write_bytes(b"x\ny\nz\n")
    assert Journal(path, Attempt).repair() == (3, tmp_path / "attempts.rank0.jsonl.damaged-1")
    assert path.read_bytes() == b""


# --- two writers --------------------------------------------------------------------------------------------------------


def test_journal_refuses_a_second_writer(tmp_path: Path) -> None:
    journal, other = (Journal(tmp_path / "attempts.rank0.jsonl", Attempt) for _ in range(2))
    first, second, third = attempts(3)
    journal.append(first)
    for change in (lambda: other.append(second), other.repair):
        with pytest.raises(RunError, match="is being written by another process"):
            change()
    assert other.read() == [first], "reading needs no lock"
    journal.close()
    other.append(second)
    with pytest.raises(RunError, match="is being written by another process"):
        journal.append(third)
    other.close()
    journal.append(third)
    journal.close()
    assert journal.read() == [first, second, third]


def test_journal_close_unlocks_despite_a_fork(tmp_path: Path) -> None:
    """Such as a data loader's worker: it inherits the open file, and with it the lock."""
    journal, other = (Journal(tmp_path / "attempts.rank0.jsonl", Attempt) for _ in range(2))
    journal.append(attempts(1)[0])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        journal.close()
        other.append(attempts(2)[1])
        other.close()
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)
    assert journal.read() == attempts(2)


def test_journal_refuses_a_file_replaced_while_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the record would go into the file that `repair` has just taken away."""
    journal = journal_of(tmp_path, *small(2))
    content = journal.path.read_bytes()
    lock = Journal._lock

    def replace_first(self: Journal[Attempt], descriptor: int) -> None:
        new = tmp_path / "new"
        new.write_bytes(content)
        new.replace(journal.path)
        lock(self, descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_lock", replace_first)
        with pytest.raises(RunError, match="was replaced while it was being opened"):
            journal.append(ATTEMPT)
    assert journal.path.read_bytes() == content
    journal.append(ATTEMPT)
    journal.close()
    assert journal.read() == [*small(2), ATTEMPT]


# --- a disk that refuses ------------------------------------------------------------------------------------------------


class FailingOs:
    """``os``, in which the named calls fail as often as is said; a failing ``write`` first writes half."""

    def __init__(self, **failures: tuple[int, int]) -> None:
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in self.failures:
            return call

        def failing(*args: Any) -> Any:
            code, times = self.failures[name]
            if times == 0:
                return call(*args)
            self.failures[name] = (code, times - 1)
            if name == "write":
                os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise OSError(code, os.strerror(code))

        return failing


REFUSALS = {
    "the disk is full": {"write": (errno.ENOSPC, 1)},
    "the quota is used up": {"write": (errno.EDQUOT, 1)},
    "the disk is failing": {"fsync": (errno.EIO, 1)},
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("num_before", [0, 2])
def test_journal_failed_append_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: dict[str, tuple[int, int]], num_before: int
) -> None:
    journal = journal_of(tmp_path, *attempts(num_before))
    journal.append(replace(ATTEMPT, attempt_id="open"))
    before = journal.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("seal_lightning.storage.atomic_files.os", FailingOs(**refusal))
        with pytest.raises(RunError, match="could not be written") as caught:
            journal.append(MALFORMED)
    assert str(journal.path) in str(caught.value)
    assert os.strerror(next(iter(refusal.values()))[0]) in str(caught.value)
    assert "--resume" in str(caught.value)
    assert journal.path.read_bytes() == before
    journal.append(MALFORMED)
    journal.close()
    assert journal.path.read_bytes().startswith(before)
    assert journal.read()[num_before + 1 :] == [MALFORMED]


def test_journal_short_writes_make_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pieces(FailingOs):
        @staticmethod
        def write(descriptor: int, data: memoryview) -> int:
            return os.write(descriptor, data[:7])

    monkeypatch.setattr("seal_lightning.storage.atomic_files.os", Pieces())
    assert journal_of(tmp_path, *attempts(2)).read() == attempts(2)


@pytest.mark.parametrize("refused", ["write", "fsync"])
@pytest.mark.parametrize("closed", [False, True])
def test_journal_cuts_a_failed_append_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, closed: bool
) -> None:
    """Half a line, or the whole line of a record that was not acknowledged: nothing may be joined to it."""
    first, second = attempts(2)
    journal = journal_of(tmp_path, first)
    journal.append(second)
    before = journal.path.read_bytes()
    with monkeypatch.context() as patch:
        failing = FailingOs(**{refused: (errno.EIO, 1), "ftruncate": (errno.EIO, 1)})
        patch.setattr("seal_lightning.storage.atomic_files.os", failing)
        with pytest.raises(RunError, match="could not be written"):
            journal.append(MALFORMED)
        assert failing.failures["ftruncate"] == (errno.EIO, 0)
    assert len(journal.path.read_bytes()) > len(before), "the test has not left anything"
    if closed:
        journal.close()
    journal.append(MALFORMED)
    journal.close()
    assert journal.path.read_bytes().startswith(before)
    assert journal.read() == [first, second, MALFORMED]


def test_journal_appends_nothing_after_an_uncut_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_of(tmp_path, ATTEMPT)
    journal.append(replace(ATTEMPT, attempt_id="open"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "seal_lightning.storage.atomic_files.os", FailingOs(write=(errno.EIO, 1), ftruncate=(errno.EIO, 1))
        )
        with pytest.raises(RunError):
            journal.append(MALFORMED)
        left = journal.path.read_bytes()
        patch.setattr("seal_lightning.storage.journal.os", FailingOs(ftruncate=(errno.EIO, 1)))
        with pytest.raises(RunError, match="could not be written"):
            journal.append(MALFORMED)
        assert journal.path.read_bytes() == left
        journal.append(MALFORMED)
    journal.close()
    assert len(journal.read()) == 3


def test_journal_interrupted_append_keeps_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a notebook, after the bytes are written and before they are counted."""
    journal = journal_of(tmp_path, ATTEMPT)

    class Interrupted(FailingOs):
        @staticmethod
        def fsync(descriptor: int) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        journal.append(replace(ATTEMPT, attempt_id="open"))
        patch.setattr("seal_lightning.storage.atomic_files.os", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            journal.append(MALFORMED)
    journal.append(MALFORMED)
    journal.close()
    assert [record.attempt_id for record in journal.read()] == [ATTEMPT.attempt_id, "open", MALFORMED.attempt_id]


def test_journal_reports_an_impossible_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="could not be written"):
        Journal(tmp_path / "file" / "attempts.rank0.jsonl", Attempt).append(ATTEMPT)


def test_repair_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_of(tmp_path, *small(3))
    damaged = b"".join(lines_of(journal)[1:])
    journal.path.write_bytes(damaged)
    monkeypatch.setattr("seal_lightning.storage.atomic_files.os", FailingOs(fsync=(errno.EIO, 1)))
    with pytest.raises(RunError, match="could not be written"):
        journal.repair()
    assert journal.path.read_bytes() == damaged
    assert [path.name for path in tmp_path.iterdir()] == ["attempts.rank0.jsonl"]


# --- the attempt store --------------------------------------------------------------------------------------------------


def test_attempt_store_reads_all_ranks_journals(tmp_path: Path) -> None:
    first, second, third, fourth = attempts(4)
    for rank, attempt in ((0, first), (1, second), (3, third)):
        store = AttemptStore(tmp_path, rank)
        store.add(attempt)
        store.close()
    again = AttemptStore(tmp_path, 0)
    assert again.all() == [first, second, third]
    assert again.get(second.attempt_id) == second
    assert again.get(fourth.attempt_id) is None
    again.add(fourth)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"attempts.rank{r}.jsonl" for r in (0, 1, 3)]
    assert Journal(tmp_path / "attempts.rank0.jsonl", Attempt).read() == [first, fourth]
    assert AttemptStore(tmp_path, 7).all() == [first, fourth, second, third]
    again.close()


def test_attempt_store_counts_duplicates_once(tmp_path: Path) -> None:
    told = [replace(ATTEMPT, reward=reward) for reward in (0.25, 0.75)]
    for rank in (1, 0):
        journal_of(tmp_path, told[rank]).path.rename(tmp_path / f"attempts.rank{rank}.jsonl")
    assert len(journals(tmp_path)) == 2
    assert AttemptStore(tmp_path).all() == [told[0]], "the first rank's is the one, for every rank"


def test_attempt_store_leaves_other_ranks_files(tmp_path: Path) -> None:
    """That rank may be writing right now: its half line is neither read nor cut, and its lock is not asked for."""
    theirs = AttemptStore(tmp_path, 1)
    theirs.add(attempts(1)[0])
    path = tmp_path / "attempts.rank1.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq":1,"crc":"')
    written, changed = path.read_bytes(), path.stat().st_mtime_ns
    mine = AttemptStore(tmp_path, 0)
    mine.add(attempts(2)[1])
    mine.close()
    assert mine.all() == attempts(2)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (written, changed)
    theirs.close()


def test_journals_are_in_rank_order(tmp_path: Path) -> None:
    for rank in (10, 2, 9, 0, 11):
        (tmp_path / f"attempts.rank{rank}.jsonl").touch()
    for name in ("attempts.rank0.jsonl.damaged-1", ".attempts.rank0.jsonl.7.tmp", "accepted.jsonl"):
        (tmp_path / name).touch()
    assert [journal.path.name for journal in journals(tmp_path)] == [
        f"attempts.rank{rank}.jsonl" for rank in (0, 2, 9, 10, 11)
    ]


def test_attempt_store_drops_non_finite_reward_parts(tmp_path: Path) -> None:
    """A reward of somebody else's may have them."""
    told = replace(ATTEMPT, reward_breakdown={"after": 0.5, "before": math.nan, "ratio": math.inf})
    store = AttemptStore(tmp_path)
    store.add(told)
    store.close()
    expected = [replace(ATTEMPT, reward_breakdown={"after": 0.5})]
    assert store.all() == expected
    assert AttemptStore(tmp_path).all() == expected


def test_attempt_store_forgets_a_failed_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AttemptStore(tmp_path)
    monkeypatch.setattr("seal_lightning.storage.atomic_files.os", FailingOs(write=(errno.ENOSPC, 1)))
    with pytest.raises(RunError):
        store.add(ATTEMPT)
    assert store.all() == []
    store.add(ATTEMPT)
    store.close()
    assert AttemptStore(tmp_path).all() == [ATTEMPT]


def test_attempt_store_in_memory() -> None:
    store = AttemptStore(None)
    store.add(ATTEMPT)
    assert (store.all(), store.get(ATTEMPT.attempt_id)) == ([ATTEMPT], ATTEMPT)
    assert AttemptStore(None).all() == []
    store.close()
