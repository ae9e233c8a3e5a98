"""Self-edits to read: the best and the worst of a task beside its passage, and what held-out ones did to the answers."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.reporting.blocks import (
    Block,
    Column,
    Columns,
    Paragraph,
    Section,
    Table,
    capped,
    without_empty_columns,
)
from seal_lightning.reporting.result_files import StoredResult, TestResult
from seal_lightning.reporting.result_tables import protocol_name
from seal_lightning.reporting.runs import Round, StoredRun, TriedEdit
from seal_lightning.reporting.text import label, visible

MAX_RUNS = 6
"""Runs whose edits are shown."""
TASKS_A_ROUND = 3
HELD_OUT_TASKS = 3
"""Best ones, and as many worst ones."""
MAX_CHARACTERS = 4_000
"""Shown of an edit or a passage."""
_MAX_QUESTIONS = 8


def training_edits_section(runs: Sequence[StoredRun]) -> Section | None:
    """Of the first and the last round: the tasks at which edits differ most. None without attempts."""
    blocks: list[Block] = []
    shown_runs = [run for run in runs if run.rounds][:MAX_RUNS]
    for run in shown_runs:
        if run.missing_contexts is not None:
            text = f"{run.name}: the passages are not shown beside the edits, because {run.missing_contexts}. Where an edit "
            blocks.append(Paragraph(text=text + "was kept, the prompt it was written for is shown instead."))
        for found in dict.fromkeys(run.rounds[i].index for i in (0, -1)):
            blocks += _of_round(run, next(r for r in run.rounds if r.index == found))
    if not blocks:
        return None
    intro = (
        "For each round the tasks whose edits' rewards lie farthest apart. Rewards of one task are compared, because tasks "
        f"are not equally hard. Texts are cut at {MAX_CHARACTERS:,} characters; `seal attempts RUN --show ID` prints all."
    )
    return Section(title="Best and worst self-edits in training", blocks=(Paragraph(text=intro), *blocks))


def _of_round(run: StoredRun, found: Round) -> list[Block]:
    by_task: dict[str, list[TriedEdit]] = {}
    for edit in found.edits():
        by_task.setdefault(edit.task_id, []).append(edit)
    ranked = {task: sorted(edits, key=lambda e: (-e.reward, e.edit_index)) for task, edits in by_task.items()}
    compared = [(edits[0].reward - edits[-1].reward, task) for task, edits in ranked.items() if len(edits) > 1]
    if not compared:
        text = f"{run.name}, round {found.index}: no task has two edits with a reward, so none are compared."
        return [Paragraph(text=text)]
    chosen = [task for _, task in sorted(compared, key=lambda pair: (-pair[0], pair[1]))[:TASKS_A_ROUND]]
    return [_pair(run, found, task, ranked[task]) for task in chosen]


def _pair(run: StoredRun, found: Round, task: str, edits: Sequence[TriedEdit]) -> Columns:
    best, worst = edits[0], edits[-1]
    columns = [_context(run, found, task)]
    for name, edit in (("Best", best), ("Worst", worst)):
        kept = ", kept for the M-step" if edit.is_kept else ""
        heading = f"{name} of {len(edits)}: edit {edit.edit_index}, reward {edit.reward:.4f}{kept}"
        columns.append(Column(heading=heading, text=_cut(edit.text, edit.num_characters)))
    return Columns(title=f"{run.name}, round {found.index}: {label(task)}", columns=tuple(columns))


def _cut(text: str, num_characters: int) -> str:
    """An edit that may have been cut when it was read."""
    shown = visible(text[:MAX_CHARACTERS], MAX_CHARACTERS)
    more = num_characters - min(len(text), MAX_CHARACTERS)
    return f"{shown} … (and {more:,} more characters)" if more > 0 else shown or "(empty)"


def _context(run: StoredRun, found: Round, task: str) -> Column:
    if text := run.contexts.get(task):
        return Column(heading="What is to be learned", text=visible(text, MAX_CHARACTERS))
    if prompt := found.prompts.get(task):
        return Column(heading="The prompt", text=visible(prompt, MAX_CHARACTERS))
    return Column(heading="What is to be learned", text="(not known here)")


def held_out_edits_section(runs: Sequence[StoredRun]) -> Section | None:
    """Of each run's newest test with self-edits: the tasks that gained most and least from the final policy's edits."""
    blocks: list[Block] = []
    for run in [run for run in runs if run.tests][:MAX_RUNS]:
        tests = [test for test in run.tests if any(r.condition == "self_edit" and r.edits for r in test.results)]
        if tests:
            blocks += _of_test(run, tests[-1])
    if not blocks:
        return None
    intro = (
        "Gain: mean log-probability of the gold answers after adaptation on the self-edits less that of the same policy "
        "without adaptation. Of several edits of a task the first is shown, with the answers of its own adapted copy; the "
        "gain is the mean over them. In a protocol of several steps the answers are those after the last step."
    )
    return Section(title="Self-edits on held-out tasks", blocks=(Paragraph(text=intro), *blocks))


def _of_test(run: StoredRun, test: StoredResult) -> list[Block]:
    final = max(r.round for r in test.results if r.condition == "self_edit")
    edited = _last_steps([r for r in test.results if r.condition == "self_edit" and r.round == final])
    unadapted = _last_steps([r for r in test.results if r.condition == "no_adaptation" and r.round == final])
    gains = {task: _gain(results, unadapted.get(task, [])) for task, results in edited.items()}
    ranked = sorted(edited, key=lambda task: (-(gains[task] or 0.0), task))
    half = min(HELD_OUT_TASKS, (len(ranked) + 1) // 2)
    worst = ranked[max(half, len(ranked) - HELD_OUT_TASKS) :]
    texts = {  # in a protocol of several steps an edit stands where its own step was examined
        r.task_id: r.edits[0].text
        for r in reversed(test.results)
        if r.condition == "self_edit" and r.round == final and r.edits
    }
    return [
        _held_out(run, test, task, edited[task][0], texts.get(task), f"{place}, {_shown_gain(gains[task])}")
        for place, tasks in (("among the most gained", ranked[:half]), ("among the least gained", worst))
        for task in tasks
    ]


def _last_steps(results: Sequence[TestResult]) -> dict[str, list[TestResult]]:
    """By task, the results after the last step at which it was examined."""
    found: dict[str, list[TestResult]] = {}
    for result in results:
        others = found.setdefault(result.task_id, [])
        if others and others[0].step < result.step:
            others.clear()
        if not others or others[0].step == result.step:
            others.append(result)
    return found


def _gain(results: Sequence[TestResult], unadapted: Sequence[TestResult]) -> float | None:
    after = [r.scores.log_prob for r in results if r.scores.log_prob is not None]
    before = [r.scores.log_prob for r in unadapted if r.scores.log_prob is not None]
    return sum(after) / len(after) - sum(before) / len(before) if after and before else None


def _shown_gain(gain: float | None) -> str:
    return "gain not known" if gain is None else f"gain {gain:+.3f} nats"


def _held_out(
    run: StoredRun, test: StoredResult, task: str, result: TestResult, edit: str | None, what: str
) -> Columns:
    stored = test.tasks.get(task)
    context = (stored.context if stored is not None else "") or run.contexts.get(task) or "(not known here)"
    learned = "not adapted: " + label(result.failure) if result.failure is not None else f"after round {result.round}"
    text = "(not in the file)" if edit is None else visible(edit, MAX_CHARACTERS) or "(empty)"
    columns = (
        Column(heading="What is to be learned", text=visible(context, MAX_CHARACTERS)),
        Column(heading=f"Self-edit, {learned}", text=text),
    )
    title = f"{run.name}, {protocol_name(test)}: {label(task)} ({what})"
    return Columns(title=title, columns=columns, below=_answers(test, task, result))


def _answers(test: StoredResult, task: str, result: TestResult) -> Table | None:
    questions = test.tasks[task].questions if task in test.tasks else {}
    rows = []
    for score in result.scores.questions[:_MAX_QUESTIONS]:
        asked = questions.get(score.question_id)
        rows.append(
            (
                label(asked.question if asked is not None and asked.question else score.question_id, 240),
                label(" / ".join(asked.gold[:4]), 240) if asked is not None and asked.gold else "–",
                "–" if score.answer is None else label(score.answer, 240) or "(empty)",
                "–" if score.verdict is None else score.verdict.status.value,
                "–" if score.log_prob is None else f"{score.log_prob:.2f}",
            )
        )
    if not rows:
        return None
    headings, known = without_empty_columns(("question", "gold answer", "answer", "verdict", "log-prob (nats)"), rows)
    num_text = len(headings) - ("log-prob (nats)" in headings)
    return Table(title="Answers of the adapted model", headings=headings, rows=capped(known), num_text_columns=num_text)
