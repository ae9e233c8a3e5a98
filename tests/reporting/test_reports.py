"""What stands in a report: numbers checked by hand, hostile text, bounds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from reporting.stored_runs import (
    NASTY,
    attempt,
    continual,
    evaluation,
    held_out,
    matrix,
    question,
    result,
    row,
    settings,
    write_round,
    write_run,
    write_settings,
    write_test,
)

from seal_lightning.core import RankPhase, SelfEdit
from seal_lightning.core.evaluation_records import EvaluationRecord, TestedModel
from seal_lightning.reporting.document import (
    Block,
    Chart,
    Columns,
    Report,
    Table,
    TextBlock,
    html_page,
    markdown_text,
    show_table,
)
from seal_lightning.reporting.forgetting import forgetting_section
from seal_lightning.reporting.published import published_section
from seal_lightning.reporting.report import make_report
from seal_lightning.reporting.runs import StoredRun, read_run
from seal_lightning.reporting.settings import are_seeds_of_one, run_differences, settings_section
from seal_lightning.reporting.text import excerpt, label
from seal_lightning.storage.journal import RecordFile
from seal_lightning.storage.run_dir import RunDir


def read(path: Path) -> StoredRun:
    return read_run(RunDir(path), path.name)


def blocks_of(report: Report) -> list[Block]:
    return [block for section in report.sections for block in section.blocks]


def table(report: Report, title: str) -> Table:
    """The table (or a chart's numbers) whose title has these words."""
    blocks = blocks_of(report)
    tables = [b for b in blocks if isinstance(b, Table)] + [
        b.numbers for b in blocks if isinstance(b, Chart) and b.numbers
    ]
    return next(t for t in tables if title in t.title)


class Page(HTMLParser):
    """The tags of a page, what they refer to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


# --- numbers ------------------------------------------------------------------------------------------------------------


def test_phases_table_shares_ranks_time(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    split = {"propose": 5.0, "adapt": 10.0, "examine": 5.0, "idle": 0.0, "other": 0.0}
    idle = {"propose": 2.0, "adapt": 4.0, "examine": 2.0, "idle": 12.0, "other": 0.0}
    ranks = [
        RankPhase(rank=rank, host="h", phase="e_step", seconds=20.0, split=spent, num_attempts=3)
        for rank, spent in enumerate((split, idle))
    ]
    RecordFile(run / "round_0" / "ranks.e_step.jsonl", RankPhase).write(ranks)
    found = table(make_report([read(run)]), "Phases")
    cells = dict(zip(found.headings, found.rows[0], strict=True))
    assert cells["phase"] == "run, round 0, E-step"
    assert (cells["ranks"], cells["seconds"], cells["attempts per minute"]) == ("2", "20.0", "18.0")
    assert (cells["propose"], cells["adapt"], cells["idle"]) == ("17.5%", "35.0%", "30.0%")
    assert cells["slowest rank"] == "+43%"
    assert "judge" not in cells


def test_rewards_by_round(tmp_path: Path) -> None:
    report = make_report([read(write_run(tmp_path / "run"))])
    found = table(report, "Rewards by round")
    assert found.headings[1:4] == ("attempts", "reward of all", "kept edits")
    # Each task's two edits have −2 and −1.5 in round 0: the mean over tasks is −1.75, equal for both.
    assert found.rows[0] == (
        "run, round 0",
        "5",
        "-1.7500 ± 0.0000",
        "2",
        "-1.5000 ± 0.0000",
        "-2.0000 ± 0.0000",
        "-1.7500 ± 0.0000",
    )
    assert found.rows[1][2] == "-0.7500 ± 0.0000"
    assert table(report, "How attempts ended").rows[0] == ("0", "4", "0", "1", "0", "1 × empty")
    costs = table(report, "Attempts in training").rows[0]
    assert costs == ("run, round 0", "5", "4", "16", "400", "10.0 s", "2.5 s", "40")
    assert table(report, "Tests").rows[0][1:] == ("12", "18.0 s", "600", "12.5 s", "3.00 GiB", "cpu")


def test_reward_error_is_over_tasks(tmp_path: Path) -> None:
    """Ten edits of one task are not ten independent observations."""
    rewards = {"maud": [0.0] * 10, "nils": [1.0] * 10}
    write_round(tmp_path, 0, [attempt(t, i, 0, r) for t, values in rewards.items() for i, r in enumerate(values)])
    (found,) = read(tmp_path).rounds
    reward = found.over_tasks()
    assert reward is not None
    assert (reward.mean, reward.standard_error, reward.n) == (0.5, 0.5, 2)


def test_best_and_worst_edits_side_by_side(tmp_path: Path) -> None:
    run = tmp_path / "run"
    near = [attempt("near", i, 0, -1.0 - 0.01 * i) for i in range(3)]
    far = [attempt("far", i, 0, 0.0 - i, f"far edit {i}") for i in range(3)]
    failed_one = [attempt("bad", 0, 0, 5.0), attempt("bad", 0, 0, None, repeat=1), attempt("bad", 1, 0, 0.0)]
    write_round(run, 0, [*near, *far, *failed_one], [("far", 0)])
    stored = replace(read(run), contexts={"far": "Passage of far."})
    pairs = [block for block in blocks_of(make_report([stored])) if isinstance(block, Columns)]
    assert [pair.title for pair in pairs] == ["run, round 0: far", "run, round 0: near"]
    assert [column.text for column in pairs[0].columns] == ["Passage of far.", "far edit 0", "far edit 2"]
    assert pairs[0].columns[1].heading == "Best of 3: edit 0, reward 0.0000, kept for the M-step"
    assert pairs[1].columns[0].text == "(not known here)"


def test_missing_contexts_show_prompts_of_kept_edits(tmp_path: Path) -> None:
    stored = replace(read(write_run(tmp_path / "run")), missing_contexts="there is no disk")
    blocks = blocks_of(make_report([stored]))
    assert any(isinstance(b, TextBlock) and "because there is no disk" in b.text for b in blocks)
    first = next(b for b in blocks if isinstance(b, Columns))
    assert (first.columns[0].heading, first.columns[0].text) == ("The prompt", "Prompt of maud")


def test_held_out_edits_with_gain_and_answers(tmp_path: Path) -> None:
    pairs = [
        b for b in blocks_of(make_report([read(write_run(tmp_path / "run"))])) if isinstance(b, Columns) and b.below
    ]
    assert len(pairs) == 4
    assert pairs[0].title == "run, single passage, LoRA: olga (among the most gained, gain +1.000 nats)"
    assert pairs[0].columns[0].text == "Passage of olga."
    assert pairs[0].columns[1].text == "Notes on olga"
    assert pairs[0].below is not None
    assert pairs[0].below.rows[0] == ("What is it?", "a stone / stone", "it", "correct", "-2.00")


def test_seeds_of_one_configuration_are_pooled(tmp_path: Path) -> None:
    runs = [read(write_run(tmp_path / f"s{seed}", seed, shift)) for seed, shift in ((1, 0.0), (2, 0.2), (3, 0.4))]
    assert are_seeds_of_one(runs)
    report = make_report(runs)
    found = table(report, "log-prob (nats) of the runs side by side")
    assert found.headings == ("condition", "s1", "s2", "s3", "mean over runs")
    assert found.rows[1] == (
        "passage + self-edit after round 2",
        "-2.00 ± 0.10",
        "-1.80 ± 0.10",
        "-1.60 ± 0.10",
        "-1.80 ± 0.12",
    )
    assert table(report, "Rewards by round").rows[-2][:3] == ("mean over 3 runs, round 0", "", "-1.5500 ± 0.1155")


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": 2, "num_edits": 9}])
def test_other_runs_are_not_pooled(tmp_path: Path, other: dict[str, int]) -> None:
    runs = [read(write_run(tmp_path / "a", 1)), read(write_run(tmp_path / "b", **other))]
    assert not are_seeds_of_one(runs)
    report = make_report(runs)
    assert table(report, "side by side").headings == ("condition", "a", "b")
    assert any(isinstance(b, TextBlock) and "No mean over runs" in b.text for b in blocks_of(report))
    assert [name for name, _ in run_differences(runs)] == [
        name for name in ("model.num_edits",) if "num_edits" in other
    ]


@pytest.mark.parametrize("other", [{"edits_per_task": 2}, {"inner_loop": "FullFinetuning"}, {"results": ()}])
def test_tests_of_another_kind_are_not_pooled(tmp_path: Path, other: dict[str, Any]) -> None:
    """The runs differ in their seeds only, but were tested on other questions or in another way."""
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab", 1)]
    test = read(runs[1]).tests[0]
    record = EvaluationRecord(**{one.name: getattr(test, one.name) for one in fields(EvaluationRecord)})
    write_test(runs[1], replace(record, **other))
    headings = [
        block.headings for block in blocks_of(make_report([read(run) for run in runs])) if isinstance(block, Table)
    ]
    assert not any("mean over runs" in of_table for of_table in headings if of_table[0] == "condition")


def test_protocols_get_a_table_each(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_test(run, continual(), "test-2")
    titles = [block.title for block in blocks_of(make_report([read(run)])) if isinstance(block, Table)]
    assert "single passage, LoRA (run, test.json)" in titles
    assert "continual self-edits, 3 steps, 2 sequences, LoRA (run, test-2.json)" in titles


# --- forgetting ---------------------------------------------------------------------------------------------------------


def test_forgetting_table_by_hand(tmp_path: Path) -> None:
    write_test(tmp_path / "run", continual())
    section = forgetting_section([read(tmp_path / "run")])
    assert section is not None
    numbers = next(block for block in section.blocks if isinstance(block, Table) and "log-prob" in block.title)
    # Own step −2 and −3 by sequence; of three places the last loses nothing, the others 0.25 and 0.5.
    assert numbers.rows == (
        (
            "passage + self-edit before training",
            "run, test.json",
            "-4.50 ± 0.50",
            "-2.50 ± 0.50",
            "-2.75 ± 0.50",
            "+2.00 ± 0.00",
            "-0.38 ± 0.00",
            "0.81 ± 0.00",
        ),
    )
    (chart,) = [block for block in section.blocks if isinstance(block, Chart)]
    assert chart.numbers is not None
    assert chart.numbers.rows[0] == ("before", "-4.50", "-4.50", "-4.50")
    assert chart.numbers.rows[1] == ("after step 1", "-2.50", "–", "–")
    assert ElementTree.fromstring(chart.picture).tag.endswith("svg")


def test_forgetting_needs_several_steps(tmp_path: Path) -> None:
    assert forgetting_section([read(write_run(tmp_path / "run"))]) is None


def test_heat_map_of_empty_and_large_matrices(tmp_path: Path) -> None:
    large = matrix([[0.001 * i + j for j in range(300)] for i in range(300)], score="accuracy")
    write_test(tmp_path / "run", replace(continual(), matrices=(matrix([[None, None]] * 3), large, matrix([]))))
    section = forgetting_section([read(tmp_path / "run")])
    assert section is not None
    pictures = [block.picture for block in section.blocks if isinstance(block, Chart)]
    assert len(pictures) == 2
    assert max(map(len, pictures)) < 500_000


# --- what the paper reports ---------------------------------------------------------------------------------------------


def published(tmp_path: Path, domain: str, test: EvaluationRecord) -> str:
    write_settings(tmp_path, settings(domain=domain))
    write_test(tmp_path, test)
    section = published_section([read(tmp_path)])
    return "" if section is None else markdown_text(Report(title="", subtitle="", sections=(section,)))


def test_published_tables_fit_domain_and_protocol(tmp_path: Path) -> None:
    knowledge = "seal_lightning.domains.knowledge.KnowledgeDomain"
    single = published(tmp_path / "single", knowledge, evaluation([]))
    assert "| SEAL, after round 2 | 47.0 | 37.0 |" in single
    assert "| rewrites | 49.4 | 55.3 | 55.6 | 54.4 |" in single
    assert "ANOTHER MODEL" in single
    assert "GPT-4.1" in single
    assert "64 sequences" not in single
    assert "| after all eight | 19 |" in published(tmp_path / "continual", knowledge, continual())
    arc = published(tmp_path / "arc", "seal_lightning.domains.arc.ArcDomain", evaluation([]))
    assert "72.5" in arc
    assert "passage" not in arc
    assert published(tmp_path / "other", "my.Domain", evaluation([])) == ""


# --- settings -----------------------------------------------------------------------------------------------------------


def test_settings_hide_secrets(tmp_path: Path) -> None:
    judge = {
        "class_path": "my.Judge",
        "init_args": {"api_key": "sk-12345", "max_new_tokens": 7, "tokens": ["sk-12345"]},
    }
    runs = [read(write_run(tmp_path / "run", grader=judge)), read(write_run(tmp_path / "b"))]
    text = html_page(make_report(runs)) + markdown_text(make_report(runs))
    assert "sk-12345" not in text
    assert "max_new_tokens: 7" in text
    assert settings_section(runs).blocks


# --- hostile text, bounds -----------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path) -> StoredRun:
    """A run each text of which wants out."""
    run = tmp_path / "run"
    write_settings(run, settings(name=NASTY.replace("\x00", "").replace("\x1b", "")))
    write_round(run, 0, [attempt(NASTY, i, 0, -1.0 * i, NASTY + str(i)) for i in range(3)], [(NASTY, 0)])
    broken = attempt(NASTY, 3, 0, None)
    write_round(
        run, 1, [replace(broken, failure=NASTY), attempt(NASTY, 0, 1, 0.5, NASTY), attempt(NASTY, 1, 1, 0.7, NASTY)]
    )
    scores = [question(NASTY, -1.0, "correct", answer=NASTY)]
    edit = SelfEdit(task_id=NASTY, edit_index=0, text=NASTY)
    results = (
        result("self_edit", 0, NASTY, scores, edits=(edit,), failure=NASTY),
        result("no_adaptation", 0, NASTY, scores),
    )
    content = continual()
    record = replace(
        content,
        matrices=(replace(content.matrices[0], label=NASTY, score=NASTY),),
        protocol=replace(content.protocol, name=NASTY),
        table=(row("self_edit", 0, NASTY, name=NASTY), *content.table),
        results=content.results + results,
        tasks={NASTY: held_out(NASTY, (NASTY, NASTY, [NASTY]))},
        device=NASTY,
        model=TestedModel(pretrained="tiny", student=NASTY),
    )
    write_test(run, record)
    return replace(read(run), name=NASTY, contexts={NASTY: NASTY})


def test_html_escapes_hostile_text(hostile: StoredRun) -> None:
    text = html_page(make_report([hostile]))
    page = Page(text)
    assert "script" not in page.tags
    assert set(page.references) == {r for r in page.references if re.match(r"#s\d+$|data:image/svg\+xml;base64,", r)}
    assert page.tags.count("img") == len([b for b in blocks_of(make_report([hostile])) if isinstance(b, Chart)])
    assert "<script>alert(1)</script>" in page.text  # shown as what it is
    assert "{{ 7*7 }}" in page.text
    assert not {"\x00", "\x1b", "\u202e"} & set(text)
    for block in blocks_of(make_report([hostile])):
        if isinstance(block, Chart):
            for element in ElementTree.fromstring(block.picture).iter():
                assert element.tag.rsplit("}")[-1] not in ("script", "foreignObject", "a")
                links = [value for name, value in element.attrib.items() if name.endswith("href")]
                assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_page_policy_forbids_scripts_and_requests(hostile: StoredRun) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html_page(make_report([hostile])))
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'")


def test_markdown_escapes_hostile_text(hostile: StoredRun) -> None:
    text = markdown_text(make_report([hostile]))
    outside, fence, width = [], "", 0
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            outside.append(line)
            if line.startswith("| "):
                cells = len(re.findall(r"(?<!\\)\|", line))
                assert width in (0, cells), line
                width = cells
            else:
                width = 0
    assert fence == ""
    assert not {"\x00", "\x1b", "\u202e"} & set(text)
    assert not [line for line in outside if re.search(r"(?<!\\)<|(?<!\\)\]\(|(?<!\\)`", line)]
    assert len(outside) > 50


@pytest.mark.slow
def test_report_of_a_huge_run_is_bounded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    big = "x <&> 'ü' " * 2_000
    attempts = [attempt(f"task-{i % 200}", i // 200, 0, (i * 37 % 101) / 100, big) for i in range(800)]
    write_round(run, 0, attempts, [(f"task-{i}", 0) for i in range(200)])
    for index in range(1, 30):
        write_round(run, index, attempts[:2] + attempts[200:202])
    results = [
        result(
            c,
            0,
            f"task-{i}",
            [question(f"q{j}", -1.0) for j in range(30)],
            edits=(SelfEdit(task_id=f"task-{i}", edit_index=0, text=big),),
        )
        for c in ("no_adaptation", "self_edit")
        for i in range(100)
    ]
    rows = tuple(row("other_writer", i, f"writer {big[:5000]}", name=str(i)) for i in range(500))
    write_test(run, evaluation(results, table=rows, tasks={f"task-{i}": held_out(big) for i in range(100)}))
    stored = replace(read(run), contexts={f"task-{i}": big for i in range(200)})
    report = make_report([stored])
    assert len(html_page(report)) < 1_500_000
    assert len(markdown_text(report)) < 1_000_000
    text = html_page(report)
    assert "more characters)" in text
    assert "… and 380 more" in text
    assert "evenly spaced quantiles" in text
    assert "Of 30 rounds, 12 are drawn" in text


def test_excerpt_cuts_and_escapes() -> None:
    assert excerpt("x" * 30, 10) == "x" * 10 + " … (and 20 more characters)"
    assert excerpt("a\r\nb\tc\x00\u200b", 99) == "a\nb\tc\\x00\\u200b"
    assert len(excerpt("\x00" * 10**6, 10)) < 100
    assert label(" two\n lines " + "x" * 500, 20) == "two lines xxxxxxx…"


def test_report_is_deterministic(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert html_page(make_report([read(run)])) == html_page(make_report([read(run)]))


def test_print_table_is_never_narrower_than_its_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    cells = ("x" * 120, "[bold]1[/bold]\x1b[31m")
    show_table(Table(title="[red]all", headings=("name", "value"), rows=(cells,), footer=(("mean", "2"),)))
    lines = capsys.readouterr().out.splitlines()
    assert "[red]all" in lines[0]
    assert any("x" * 120 in line and r"[bold]1[/bold]\x1b[31m" in line for line in lines)
    assert any("mean" in line for line in lines)
