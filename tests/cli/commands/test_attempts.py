"""``seal attempts``: what it lists, in what order, what it says of damage, and that it starts without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from storage.test_records import ATTEMPT, EXAM, MALFORMED

from seal_lightning.cli.main import main
from seal_lightning.core import Attempt, AttemptStatus, PlanSummary
from seal_lightning.reporting.text import escape_invisible
from seal_lightning.storage.attempt_store import AttemptStore, journals

ROOT = Path(__file__).resolve().parents[3]
ADAPTER = TypeAdapter(Attempt)
NASTY = "[bold red]x[/bold red] [/] :smile: \x1b[31mred\x1b]0;title\x07 \x9b2J \r\b\x00\x7f \u202egnp.exe \u2028 tab\t."


def attempt(name: str, round_index: int, reward: float | None, tokens: int, **changes: object) -> Attempt:
    """A scored attempt at task ``name``, unless the changes say otherwise."""
    plan = PlanSummary(num_sequences=1, num_steps=tokens // 10, num_tokens=tokens, learning_rate=1e-3, rank=4)
    made = replace(ATTEMPT, attempt_id=f"r{round_index}-{name}-e0-s0", round=round_index, reward=reward, plan=plan)
    made = replace(made, edit=replace(ATTEMPT.edit, task_id=name, edit_index=0, text=f"About {name}."), repeat=0)
    return replace(made, reward_breakdown={"after": -1.0, "before": -1.5}, **changes)  # type: ignore[arg-type]


def failed(name: str, round_index: int, status: AttemptStatus, failure: str) -> Attempt:
    made = attempt(name, round_index, None, 0, status=status, failure=failure)
    return replace(made, plan=None, reward_breakdown={}, adapt_seconds=0.0, examine_seconds=0.0)


STORED = {
    (0, 0): [
        attempt("maud-1", 0, -0.5, 300, adapt_seconds=3.0),
        attempt("maud-2", 0, -0.25, 100, adapt_seconds=1.0),
        failed("nils-1", 0, AttemptStatus.MALFORMED, "empty: no sequence in ''"),
    ],
    (0, 1): [
        attempt("nils-2", 0, -0.75, 200, adapt_seconds=2.0),
        failed("nils-3", 0, AttemptStatus.DIVERGED, "loss nan, gradient norm 3.1e+05"),
    ],
    (1, 0): [
        attempt("maud-1", 1, -0.25, 300, adapt_seconds=5.0),
        attempt("maud-2", 1, None, 100, status=AttemptStatus.UNSCORED, adapt_seconds=4.0),
        failed("nils-1", 1, AttemptStatus.MALFORMED, "too long: 9 characters"),
        failed("nils-3", 1, AttemptStatus.DIVERGED, "loss inf, gradient norm nan"),
    ],
    (10, 0): [attempt("maud-1", 10, 0.125, 50, adapt_seconds=0.5)],
}
IDS = [a.attempt_id for attempts in STORED.values() for a in attempts]


def write_run(run: Path, stored: dict[tuple[int, int], Sequence[Attempt]]) -> Path:
    """A run directory as `seal fit` would leave it, by (round, rank)."""
    for (round_index, rank), attempts in stored.items():
        store = AttemptStore(run / f"round_{round_index}", rank)
        for made in attempts:
            store.add(made)
        store.close()
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", STORED)


def ids(capsys: pytest.CaptureFixture, run: Path, *options: str) -> list[str]:
    """The ids of the attempts that --json lists, in order."""
    assert main(["attempts", str(run), "--json", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return [ADAPTER.validate_json(line).attempt_id for line in captured.out.splitlines()]


def said(capsys: pytest.CaptureFixture, run: Path, *options: str) -> str:
    """What is printed without --json."""
    assert main(["attempts", str(run), *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def error(capsys: pytest.CaptureFixture, *args: str, code: int = 1) -> str:
    assert main(["attempts", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def process(*args: str, code: str = "", **options: object) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    start = ["-c", code] if code else ["-m", "seal_lightning", "attempts"]
    return subprocess.run(
        [sys.executable, *start, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )  # type: ignore[call-overload]


# --- which, and in what order -------------------------------------------------------------------------------------------


def test_attempts_keep_stored_order(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert ids(capsys, run) == IDS
    assert ids(capsys, run, "--descending") == IDS[::-1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--round", "1"], ["r1-maud-1", "r1-maud-2", "r1-nils-1", "r1-nils-3"]),
        (["--round", "7"], []),
        (["--task", "maud-1"], ["r0-maud-1", "r1-maud-1", "r10-maud-1"]),
        (["--task", "maud"], []),
        (["--task", "nils-[13]", "--round", "0"], ["r0-nils-1", "r0-nils-3"]),
        (["--task", "*-2"], ["r0-maud-2", "r0-nils-2", "r1-maud-2"]),
        (["--task", "MAUD-*"], []),
        (["--status", "unscored"], ["r1-maud-2"]),
        (["--status", "malformed", "--status", "unscored"], ["r0-nils-1", "r1-maud-2", "r1-nils-1"]),
        (["--min-reward", "-0.25"], ["r0-maud-2", "r1-maud-1", "r10-maud-1"]),
        (["--max-reward", "-0.5"], ["r0-maud-1", "r0-nils-2"]),
        (["--min-reward", "-0.5", "--max-reward", "0"], ["r0-maud-1", "r0-maud-2", "r1-maud-1"]),
        (["--min-reward", "1", "--max-reward", "0"], []),
        (["--limit", "2"], ["r0-maud-1", "r0-maud-2"]),
        (["--limit", "0"], []),
        (["--task", "maud-*", "--round", "0", "--status", "scored", "--max-reward", "-0.3"], ["r0-maud-1"]),
    ],
)
def test_attempts_filters(options: list[str], expected: list[str], run: Path, capsys: pytest.CaptureFixture) -> None:
    assert ids(capsys, run, *options) == [f"{name}-e0-s0" for name in expected]


def test_attempts_task_named_like_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [attempt("a[1]", 0, 0.0, 10), attempt("a1", 0, 0.0, 10)]})
    assert ids(capsys, run, "--task", "a[1]") == ["r0-a[1]-e0-s0", "r0-a1-e0-s0"]


SCORELESS = ["r0-nils-1", "r0-nils-3", "r1-maud-2", "r1-nils-1", "r1-nils-3"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["reward"], ["r0-nils-2", "r0-maud-1", "r0-maud-2", "r1-maud-1", "r10-maud-1", *SCORELESS]),
        (["reward", "--descending"], ["r10-maud-1", "r0-maud-2", "r1-maud-1", "r0-maud-1", "r0-nils-2", *SCORELESS]),
        (["reward", "--descending", "--limit", "2"], ["r10-maud-1", "r0-maud-2"]),
        (["tokens", "--limit", "4"], ["r10-maud-1", "r0-maud-2", "r1-maud-2", "r0-nils-2"]),
        (["tokens", "--descending", "--limit", "3"], ["r0-maud-1", "r1-maud-1", "r0-nils-2"]),
        (["seconds", "--descending", "--limit", "3"], ["r1-maud-1", "r1-maud-2", "r0-maud-1"]),
        (["task", "--limit", "4"], ["r0-maud-1", "r1-maud-1", "r10-maud-1", "r0-maud-2"]),
        (["round", "--descending", "--limit", "2"], ["r10-maud-1", "r1-maud-1"]),
    ],
)
def test_attempts_sort_puts_unknown_values_last(
    options: list[str], expected: list[str], run: Path, capsys: pytest.CaptureFixture
) -> None:
    assert ids(capsys, run, "--sort", *options) == [f"{name}-e0-s0" for name in expected]


def test_attempts_sort_equals_by_id(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = [attempt(name, 0, 0.5, 10) for name in "dbac"]
    run = write_run(tmp_path / "run", {(0, 0): made[:2], (0, 1): made[2:]})
    for options in ([], ["--descending"]):
        assert ids(capsys, run, "--sort", "reward", *options) == [f"r0-{name}-e0-s0" for name in "abcd"]


def test_attempts_order_rounds_by_number(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path / "run", {(r, 0): [attempt("t", r, 0.5, 10)] for r in (10, 2)})
    assert ids(capsys, run) == ["r2-t-e0-s0", "r10-t-e0-s0"]


def test_attempts_list_duplicates_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = attempt("maud-1", 0, 0.5, 10)
    first, second = write_run(tmp_path / "a", {(0, 0): [made]}), write_run(tmp_path / "b", {(0, 1): [made]})
    (second / "round_0" / "attempts.rank1.jsonl").rename(first / "round_0" / "attempts.rank1.jsonl")
    assert ids(capsys, first) == [made.attempt_id]


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_attempts_json_lines_are_the_records(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    nasty = replace(ATTEMPT, attempt_id="r0-t-e9-s0", edit=replace(ATTEMPT.edit, text=NASTY))
    run = write_run(tmp_path / "run", {(0, 0): [ATTEMPT, MALFORMED, nasty]})
    assert main(["attempts", str(run), "--json"]) == 0
    out = capsys.readouterr().out
    assert [ADAPTER.validate_json(line) for line in out.splitlines()] == [ATTEMPT, MALFORMED, nasty]
    assert out.isascii()
    assert out.replace("\n", "").isprintable()


def test_attempts_show_as_json(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert ids(capsys, run, "--show", IDS[3]) == [IDS[3]]


# --- the table ----------------------------------------------------------------------------------------------------------


def rows_of(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def test_attempts_table_has_a_row_per_attempt(run: Path, capsys: pytest.CaptureFixture) -> None:
    rows = rows_of(said(capsys, run, "--round", "0"))
    assert rows == [
        ["r0-maud-1-e0-s0", "0", "scored", "-0.5000", "+0.5000", "300", "30", "3.0", "About maud-1."],
        ["r0-maud-2-e0-s0", "0", "scored", "-0.2500", "+0.5000", "100", "10", "1.0", "About maud-2."],
        ["r0-nils-1-e0-s0", "0", "malformed", "–", "–", "–", "–", "0.0", "empty: no sequence in ''"],
        ["r0-nils-2-e0-s0", "0", "scored", "-0.7500", "+0.5000", "200", "20", "2.0", "About nils-2."],
        ["r0-nils-3-e0-s0", "0", "diverged", "–", "–", "–", "–", "0.0", "loss nan, gradient norm 3.1e+05"],
    ]


def test_attempts_summary_covers_all_matches(run: Path, capsys: pytest.CaptureFixture) -> None:
    lines = said(capsys, run, "--limit", "1").splitlines()
    assert lines[-8:] == [
        "… and 9 more; --limit 10 shows all",
        "10 attempts: 5 scored, 1 unscored, 2 malformed, 2 diverged",
        "  failed 2 ×  loss #, gradient norm #",
        "  failed 1 ×  empty",
        "  failed 1 ×  too long",
        "round 0: reward -0.5000 ± 0.1443 (n = 3)",
        "round 1: reward -0.2500 (n = 1)",
        "round 10: reward 0.1250 (n = 1)",
    ]
    assert len(rows_of("\n".join(lines))) == 1


def test_attempts_summary_of_some(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert said(capsys, run, "--limit", "0", "--status", "malformed", "--round", "1").splitlines() == [
        "… and 1 more; --limit 1 shows all",
        "1 of 10 stored attempt: 1 malformed",
        "  failed 1 ×  too long",
        "round 1: no reward",
    ]
    assert said(capsys, run, "--task", "none") == "none of the 10 stored attempts matches\n"


def test_attempts_table_is_cut_at_fifty_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = [attempt(f"task-{i:03}", 0, float(i), 10) for i in range(60)]
    run = write_run(tmp_path / "run", {(0, 0): made})
    out = said(capsys, run)
    assert len(rows_of(out)) == 50
    assert "… and 10 more" in out
    assert len(rows_of(said(capsys, run, "--limit", "60"))) == 60
    assert len(ids(capsys, run)) == 60


@pytest.mark.parametrize("width", ["40", "150", "200"])
def test_attempts_table_never_breaks_ids(
    width: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    made = attempt("a-task-with-a-name-" + "x" * 120, 0, -1.0, 10)
    made = replace(made, edit=replace(made.edit, text="多字" * 200))
    out = said(capsys, write_run(tmp_path / "run", {(0, 0): [made]}))
    (row,) = rows_of(out)
    assert row[0] == made.attempt_id
    assert row[1:4] == ["0", "scored", "-1.0000"]
    assert row[-1].endswith("…")


def test_failure_kind() -> None:
    def kind(failure: str) -> str | None:
        return replace(MALFORMED, failure=failure).failure_kind

    assert kind("empty: no sequence in 'a: b'") == "empty"
    assert kind("loss 12.5, gradient norm nan") == kind("loss nan, gradient norm 1e-07")
    assert kind("sequence 31 of the plan has no tokens") == "sequence # of the plan has no tokens"
    assert kind("no info") == "no info"
    assert kind("") == ""
    assert len(kind("x" * 1000)) == 80


# --- one attempt --------------------------------------------------------------------------------------------------------


def test_attempts_show_prints_everything(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    after = replace(EXAM, questions=(replace(EXAM.questions[0], log_prob=-0.05, f1=1.0, answer="Zürich"),))
    run = write_run(tmp_path / "run", {(0, 0): [MALFORMED], (0, 1): [replace(ATTEMPT, after=after)]})
    out = said(capsys, run, "--show", ATTEMPT.attempt_id)
    for line in (
        "attempt     r0-t-e1-s2",
        "of          task t, round 0, edit 1, repeat 2",
        "status      scored",
        "reward      -0.333333  (after -0.333333, before -2.5)",
        "plan        2 sequences (1 dropped), 20 steps, 400 tokens, learning rate 0.001, rank 32",
        "final loss  0.3",
        "seconds     1.250 adapting, 0.000 examining",
        "seeds       9223372036854775807 inner loop, 7 edit",
        "question    q0",
        "    after   log-prob -0.0500 over 3 tokens  exact match 0  F1 1.000  correct (recall 1.00)  answer 'Zürich'",
        "question    q1",
        "    before  unscored (down)",
        'directives  {"epochs": 3, "masks": [true, null, {"a": 0.25}], "name": "é"}',
        f"edit        {len(ATTEMPT.edit.text)} characters, 3 tokens, ended by length",
        "    line one",
        "    line two\\r",
        "    \\ttab � ü",
    ):
        assert line in out.splitlines()
    assert "    before  log-prob -0.1000 over 3 tokens  exact match 0  F1 0.667  correct" in out
    assert "failure" not in out


def test_attempts_show_malformed_edit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = said(capsys, write_run(tmp_path / "run", {(0, 0): [MALFORMED]}), "--show", MALFORMED.attempt_id)
    assert "status      malformed\nfailure     empty\nreward      –\nfinal loss  –\n" in out
    assert "directives  none\nedit        0 characters, 0 tokens\n" in out


def test_attempts_show_indents_edits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = replace(ATTEMPT, reward=-2.0, edit=replace(ATTEMPT.edit, text="a\nreward      1\r\nstatus      scored"))
    run = write_run(tmp_path / "run", {(0, 0): [made]})
    lines = said(capsys, run, "--show", made.attempt_id).splitlines()
    assert [line for line in lines if line.startswith("reward")] == ["reward      -2  (after -0.333333, before -2.5)"]


def test_attempts_show_keeps_long_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = replace(ATTEMPT, edit=replace(ATTEMPT.edit, text="word " * 500 + "end"))
    run = write_run(tmp_path / "run", {(0, 0): [made]})
    assert "    " + made.edit.text in said(capsys, run, "--show", made.attempt_id).splitlines()


# --- what models wrote cannot steer the terminal ------------------------------------------------------------------------


def nasty_attempt(status: AttemptStatus) -> Attempt:
    question = replace(EXAM.questions[0], question_id=f"q{NASTY}", answer=NASTY)
    exam = replace(EXAM, questions=(question,))
    edit = replace(ATTEMPT.edit, task_id=f"t{NASTY}", text=f"{NASTY}\n{NASTY}", directives={NASTY: [NASTY]})
    made = replace(ATTEMPT, attempt_id=f"r0-t{NASTY}-e0-s0", edit=edit, before=exam, after=exam)
    made = replace(made, reward_breakdown={NASTY: 1.0})
    return made if status is AttemptStatus.SCORED else replace(made, status=status, failure=f"{NASTY}\n{NASTY}")


@pytest.mark.parametrize("status", [AttemptStatus.SCORED, AttemptStatus.MALFORMED])
@pytest.mark.parametrize("show", [False, True])
def test_attempts_print_hostile_text_as_text(
    status: AttemptStatus, show: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = nasty_attempt(status)
    run = write_run(tmp_path / "run", {(0, 0): [made]})
    out = said(capsys, run, *(["--show", made.attempt_id] if show else []))
    assert out.replace("\n", "").isprintable()
    assert "[bold red]x[/bold red] [/] :smile: \\x1b[31mred" in out
    assert main(["attempts", str(run), "--show", "none"]) == 1
    assert capsys.readouterr().err.replace("\n", "").isprintable()
    assert main(["attempts", str(run), "--show", NASTY]) == 1
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_escape_invisible() -> None:
    assert escape_invisible("é 漢 😀 [b] \\n") == "é 漢 😀 [b] \\n"
    nasty = "\x1b[0m\n\t\x9b\u202e\ud800\U000e0001"
    assert escape_invisible(nasty, keep="") == "\\x1b[0m\\n\\t\\x9b\\u202e\\ud800\\U000e0001"


# --- errors -------------------------------------------------------------------------------------------------------------


def test_attempts_without_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no is not a run directory" in error(capsys, str(tmp_path / "no"))
    (tmp_path / "file").touch()
    assert "it must be a folder" in error(capsys, str(tmp_path / "file"))


def test_attempts_of_an_empty_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("round_0", "round_x", "results"):
        (tmp_path / name).mkdir()
    for options in ([], ["--json"], ["--repair"], ["--show", "x"]):
        assert "has no attempts: there is no round_*/attempts.rank*.jsonl" in error(capsys, str(tmp_path), *options)
    (tmp_path / "round_0" / "attempts.rank0.jsonl").write_bytes(b'{"seq":0,')
    assert "has no attempts: its journals are empty" in error(capsys, str(tmp_path))


def test_attempts_refuse_links_and_pipes(run: Path, capsys: pytest.CaptureFixture) -> None:
    path = run / "round_0" / "attempts.rank7.jsonl"
    path.symlink_to("/etc/passwd")
    assert "outside the run directory" in error(capsys, str(run))
    path.unlink()
    os.mkfifo(path)
    assert "neither a file nor a folder" in error(capsys, str(run), "--repair")


def test_attempts_show_unknown_id_names_others(run: Path, capsys: pytest.CaptureFixture) -> None:
    told = error(capsys, str(run), "--show", "r0-nobody-e0-s0")
    assert "has no attempt 'r0-nobody-e0-s0'; its first are " + ", ".join(IDS[:3]) in told
    assert IDS[3] not in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--limit", "-1"], "--limit: -1 is not allowed; it must be at least 0"),
        (["--round", "-1"], "--round: -1 is not allowed; it must be at least 0"),
        (["--min-reward", "nan"], "--min-reward: nan is not allowed; it must be a number"),
        (["--max-reward", "nan"], "--max-reward: nan is not allowed"),
    ],
)
def test_attempts_refuse_numbers_out_of_bounds(
    options: list[str], told: str, run: Path, capsys: pytest.CaptureFixture
) -> None:
    assert told in error(capsys, str(run), *options)


@pytest.mark.parametrize(
    "options",
    [
        ["--status", "good"],
        ["--sort", "age"],
        ["--limit", "x"],
        ["--min-reward", "x"],
        ["--repair", "--show", "x"],
        ["--x"],
    ],
)
def test_attempts_refuse_unknown_options(options: list[str], run: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["attempts", str(run), *options])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "seal attempts: error:" in captured.err


def test_attempts_change_nothing(run: Path, capsys: pytest.CaptureFixture) -> None:
    with (run / "round_0" / "attempts.rank0.jsonl").open("ab") as file:
        file.write(b'{"seq":3,"crc')  # the run is going on
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")}
    for options in ([], ["--json"], ["--show", IDS[0]]):
        assert main(["attempts", str(run), *options]) == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")} == before
    assert len(capsys.readouterr().out) > 0


# --- damage and repair --------------------------------------------------------------------------------------------------


def damage(run: Path) -> Path:
    """Flip a byte of the second line of round 0, rank 0."""
    path = run / "round_0" / "attempts.rank0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:80] + bytes([lines[1][80] ^ 1]) + lines[1][81:]
    path.write_bytes(b"".join(lines))
    return path


def test_attempts_repair_damaged_journal(run: Path, capsys: pytest.CaptureFixture) -> None:
    path = damage(run)
    damaged = path.read_bytes()
    for options in ([], ["--json"], ["--show", IDS[0]]):
        told = error(capsys, str(run), *options)
        assert f"{path}, line 2: its checksum is wrong" in told
        assert "seal attempts RUN --repair" in told
    assert path.read_bytes() == damaged

    aside = path.with_name("attempts.rank0.jsonl.damaged-1")
    assert said(capsys, run, "--repair").splitlines() == [
        f"{path}: 2 attempts kept, 1 lost; the file as it was: {aside}",
        "  `seal fit --resume RUN` makes the lost attempts again",
        f"{run}/round_0/attempts.rank1.jsonl: not damaged, 2 attempts",
        f"{run}/round_1/attempts.rank0.jsonl: not damaged, 4 attempts",
        f"{run}/round_10/attempts.rank0.jsonl: not damaged, 1 attempts",
    ]
    assert aside.read_bytes() == damaged
    assert ids(capsys, run) == [name for name in IDS if name != IDS[1]]
    assert "damaged-1" not in said(capsys, run, "--repair")


def test_attempts_repair_needs_idle_journal(run: Path, capsys: pytest.CaptureFixture) -> None:
    store = AttemptStore(run / "round_0", 0)
    store.add(attempt("maud-3", 0, 0.5, 10))
    path = damage(run)
    before = path.read_bytes()
    assert f"{path} is being written by another process" in error(capsys, str(run), "--repair")
    assert path.read_bytes() == before
    store.close()
    assert "3 attempts kept, 1 lost" in said(capsys, run, "--repair")
    assert len(journals(path.parent)[0].read()) == 3


# --- the process --------------------------------------------------------------------------------------------------------


def test_attempts_start_without_torch(run: Path) -> None:
    code = f"""
import sys
from seal_lightning.cli.main import main
for options in ([], ["--json"], ["--show", {IDS[0]!r}], ["--repair"]):
    assert main(["attempts", {str(run)!r}, *options]) == 0
heavy = {{"torch", "lightning", "transformers", "peft", "torchmetrics", "datasets", "numpy", "jsonargparse"}}
sys.exit(f"imported {{sorted(heavy & sys.modules.keys())}}" if heavy & sys.modules.keys() else 0)
"""
    done = process(code=code)
    assert (done.returncode, done.stderr) == (0, "")


def test_attempts_json_alone_on_stdout(run: Path) -> None:
    done = process(str(run), "--json", "--round", "0")
    assert [json.loads(line)["attempt_id"] for line in done.stdout.splitlines()] == IDS[:5]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "options",
    [["--json"], ["--show", "r0-task-000-e0-s0"]],
)
def test_attempts_survive_closed_pipe(tmp_path: Path, options: list[str]) -> None:
    """``| head``, which may go before anything is written, or between."""
    made = [attempt(f"task-{i:03}", 0, float(i), 10) for i in range(100)]
    made[0] = replace(made[0], edit=replace(made[0].edit, text="line\n" * 100_000))
    run = write_run(tmp_path / "run", {(0, 0): made})
    command = [sys.executable, "-m", "seal_lightning", "attempts", str(run), *options]
    # Buffered, a short output is written at the very end only.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for num_read in (0, 10):
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(num_read)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) in (0, 1)


def test_attempts_in_ascii_terminal(run: Path) -> None:
    done = process(str(run), "--limit", "3", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 attempts" in done.stdout


def test_attempts_usage(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    assert re.search(r"^  seal attempts RUN ", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(SystemExit) as caught:
        main(["attempts", "--help"])
    assert caught.value.code == 0
    assert "--repair" in capsys.readouterr().out
