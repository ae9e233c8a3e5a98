"""The report's sections on self-edits: the best and the worst of a task, and what held-out ones did to the answers."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core.evaluation_records import Condition, ConditionResult
from seal_lightning.core.exam_records import mean
from seal_lightning.reporting.document import (
    Block,
    Column,
    Columns,
    ReportSection,
    Table,
    TextBlock,
    capped,
    without_empty_columns,
)
from seal_lightning.reporting.result_tables import protocol_name
from seal_lightning.reporting.runs import ScoredEdit, StoredEvaluation, StoredRound, StoredRun
from seal_lightning.reporting.text import excerpt, label

MAX_RUNS = 6
"""Runs whose edits are shown."""
TASKS_PER_ROUND = 3
HELD_OUT_TASKS = 3
"""Best tasks shown, and as many worst ones."""
MAX_CHARACTERS = 4_000
"""Shown of an edit or a passage."""
_MAX_QUESTIONS = 8


def training_edits_section(runs: Sequence[StoredRun]) -> ReportSection | None:
    """Return the section on the tasks of the first and last round at which edits differ most; None without attempts."""
    blocks: list[Block] = []
    for run in [run for run in runs if run.rounds][:MAX_RUNS]:
        if run.missing_contexts is not None:
            text = (
                f"{run.name}: the passages are not shown beside the edits, because {run.missing_contexts}. Where an edit was "
                "kept, the prompt it was written for is shown instead."
            )
            blocks.append(TextBlock(text=text))
        for found in {found.index: found for found in (run.rounds[0], run.rounds[-1])}.values():
            blocks += _of_round(run, found)
    if not blocks:
        return None
    intro = (
        "For each round the tasks whose edits' rewards lie farthest apart. Rewards of one task are compared, because tasks "
        f"are not equally hard. Texts are cut at {MAX_CHARACTERS:,} characters; `seal attempts RUN --show ID` prints all."
    )
    return ReportSection(title="Best and worst self-edits in training", blocks=(TextBlock(text=intro), *blocks))


def _of_round(run: StoredRun, found: StoredRound) -> list[Block]:
    by_task: dict[str, list[ScoredEdit]] = {}
    for edit in found.edits():
        by_task.setdefault(edit.row.task_id, []).append(edit)
    ranked = {task: sorted(edits, key=lambda e: (-e.reward, e.row.edit_index)) for task, edits in by_task.items()}
    spreads = {task: edits[0].reward - edits[-1].reward for task, edits in ranked.items() if len(edits) > 1}
    if not spreads:
        text = f"{run.name}, round {found.index}: no task has two edits with a reward, so none are compared."
        return [TextBlock(text=text)]
    chosen = sorted(spreads, key=lambda task: (-spreads[task], task))[:TASKS_PER_ROUND]
    return [_best_and_worst(run, found, task, ranked[task]) for task in chosen]


def _best_and_worst(run: StoredRun, found: StoredRound, task: str, edits: Sequence[ScoredEdit]) -> Columns:
    columns = [_context(run, found, task)]
    for name, edit in (("Best", edits[0]), ("Worst", edits[-1])):
        kept = ", kept for the M-step" if edit.is_kept else ""
        heading = f"{name} of {len(edits)}: edit {edit.row.edit_index}, reward {edit.reward:.4f}{kept}"
        text = excerpt(edit.row.edit_text[:MAX_CHARACTERS], MAX_CHARACTERS)
        more = edit.row.num_characters - MAX_CHARACTERS
        columns.append(
            Column(heading=heading, text=f"{text} … (and {more:,} more characters)" if more > 0 else text or "(empty)")
        )
    return Columns(title=f"{run.name}, round {found.index}: {label(task)}", columns=tuple(columns))


def _context(run: StoredRun, found: StoredRound, task: str) -> Column:
    if text := run.contexts.get(task):
        return Column(heading="What is to be learned", text=excerpt(text, MAX_CHARACTERS))
    if prompt := found.prompts.get(task):
        return Column(heading="The prompt", text=excerpt(prompt, MAX_CHARACTERS))
    return Column(heading="What is to be learned", text="(not known here)")


def held_out_edits_section(runs: Sequence[StoredRun]) -> ReportSection | None:
    """Return the section on the tasks of each run's newest test that gained most and least from the final edits."""
    blocks: list[Block] = []
    for run in [run for run in runs if run.tests][:MAX_RUNS]:
        tests = [t for t in run.tests if any(r.condition is Condition.SELF_EDIT and r.edits for r in t.results)]
        if tests:
            blocks += _of_test(run, tests[-1])
    if not blocks:
        return None
    intro = (
        "Gain: mean log-probability of the gold answers after adaptation on the self-edits less that of the same policy "
        "without adaptation. Of several edits of a task the first is shown, with the answers of its own adapted copy; the "
        "gain is the mean over them. In a protocol of several steps the answers are those after the last step."
    )
    return ReportSection(title="Self-edits on held-out tasks", blocks=(TextBlock(text=intro), *blocks))


def _of_test(run: StoredRun, test: StoredEvaluation) -> list[Block]:
    final = max(r.round for r in test.results if r.condition is Condition.SELF_EDIT)
    edited, unadapted = (_by_task(test, c, final) for c in (Condition.SELF_EDIT, Condition.NO_ADAPTATION))
    gains = {task: _gain(results, unadapted.get(task, [])) for task, results in edited.items()}
    ranked = sorted(edited, key=lambda task: (-(gains[task] or 0.0), task))
    half = min(HELD_OUT_TASKS, (len(ranked) + 1) // 2)
    worst = ranked[max(half, len(ranked) - HELD_OUT_TASKS) :]
    texts = {  # in a protocol of several steps an edit is stored with the exam after its own step
        r.task_id: r.edits[0].text
        for r in reversed(test.results)
        if r.condition is Condition.SELF_EDIT and r.round == final and r.edits
    }
    blocks: list[Block] = []
    for place, tasks in (("among the most gained", ranked[:half]), ("among the least gained", worst)):
        for task in tasks:
            gain = gains[task]
            what = f"{place}, gain not known" if gain is None else f"{place}, gain {gain:+.3f} nats"
            blocks.append(_held_out(run, test, edited[task][0], texts.get(task), what))
    return blocks


def _by_task(test: StoredEvaluation, condition: Condition, round_index: int) -> dict[str, list[ConditionResult]]:
    found: dict[str, list[ConditionResult]] = {}
    for result in test.last_results():
        if result.condition is condition and result.round == round_index:
            found.setdefault(result.task_id, []).append(result)
    return found


def _gain(results: Sequence[ConditionResult], unadapted: Sequence[ConditionResult]) -> float | None:
    after, before = (
        mean([r.scores.log_prob for r in found if r.scores.log_prob is not None]) for found in (results, unadapted)
    )
    return None if after is None or before is None else after - before


def _held_out(run: StoredRun, test: StoredEvaluation, result: ConditionResult, edit: str | None, what: str) -> Columns:
    task = result.task_id
    stored = test.tasks.get(task)
    context = (stored.context if stored is not None else "") or run.contexts.get(task) or "(not known here)"
    learned = "not adapted: " + label(result.failure) if result.failure is not None else f"after round {result.round}"
    text = "(not in the file)" if edit is None else excerpt(edit, MAX_CHARACTERS) or "(empty)"
    columns = (
        Column(heading="What is to be learned", text=excerpt(context, MAX_CHARACTERS)),
        Column(heading=f"Self-edit, {learned}", text=text),
    )
    title = f"{run.name}, {protocol_name(test)}: {label(task)} ({what})"
    return Columns(title=title, columns=columns, below=_answers(test, result))


def _answers(test: StoredEvaluation, result: ConditionResult) -> Table | None:
    questions = test.tasks[result.task_id].questions if result.task_id in test.tasks else {}
    rows = []
    for score in result.scores.questions[:_MAX_QUESTIONS]:
        stored = questions.get(score.question_id)
        rows.append(
            (
                label(stored.question if stored and stored.question else score.question_id, 240),
                label(" / ".join(stored.gold[:4]), 240) if stored and stored.gold else "–",
                "–" if score.answer is None else label(score.answer, 240) or "(empty)",
                "–" if score.verdict is None else score.verdict.status.value,
                "–" if score.log_prob is None else f"{score.log_prob:.2f}",
            )
        )
    if not rows:
        return None
    headings, known = without_empty_columns(("question", "gold answer", "answer", "verdict", "log-prob (nats)"), rows)
    texts = [i for i, heading in enumerate(headings) if heading != "log-prob (nats)"]
    return Table(title="Answers of the adapted model", headings=headings, rows=capped(known), text_columns=texts)
