"""Run directories as `seal fit` and `seal test` leave them, made of the real records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter
from storage.test_records import ATTEMPT

from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    BufferRow,
    ExamScores,
    PlanSummary,
    QuestionScore,
    SelfEdit,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.estimates import Estimate
from seal_lightning.core.evaluation_records import (
    Condition,
    ConditionResult,
    ConditionRow,
    EvaluationRecord,
    HeldOutQuestion,
    HeldOutTask,
    ProtocolRecord,
    ScoreMatrix,
    TestedModel,
)
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import RecordFile

NASTY = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> | `a` ``` [x](javascript:alert(1)) $x^$ "
    "\x1b[31m \u202e {{ 7*7 }} \x00"
)
PLAN = PlanSummary(num_sequences=2, num_steps=4, num_tokens=100, learning_rate=1e-3, rank=4)


def attempt(task: str, edit: int, round_index: int, reward: float | None, text: str = "", repeat: int = 0) -> Attempt:
    """A scored attempt, or a malformed one where there is no reward."""
    made = replace(
        ATTEMPT,
        attempt_id=f"r{round_index}-{task}-e{edit}-s{repeat}",
        round=round_index,
        repeat=repeat,
        reward=reward,
        plan=PLAN,
        edit=replace(ATTEMPT.edit, task_id=task, edit_index=edit, text=text or f"Edit {edit} about {task}."),
        reward_breakdown={} if reward is None else {"after": reward, "before": -2.0},
        adapt_seconds=2.0,
        examine_seconds=0.5,
    )
    if reward is not None:
        return made
    return replace(made, status=AttemptStatus.MALFORMED, failure="empty: no sequence", plan=None, after=None)


def write_round(run: Path, index: int, attempts: Sequence[Attempt], kept: Sequence[tuple[str, int]] = ()) -> None:
    store = AttemptStore(run / f"round_{index}")
    for made in attempts:
        store.add(made)
    store.close()
    rewards = {(a.task_id, a.edit.edit_index): a.reward for a in attempts}
    rows = [
        BufferRow(
            task_id=task,
            edit_index=edit,
            prompt=f"Prompt of {task}",
            text="x",
            token_ids=(),
            reward=rewards[task, edit] or 0.0,
        )
        for task, edit in kept
    ]
    RecordFile(run / f"round_{index}" / "accepted.jsonl", BufferRow).write(rows)


def question(
    question_id: str, log_prob: float | None, status: str | None = None, f1: float | None = None, answer: str = "it"
) -> QuestionScore:
    verdict = None if status is None else Verdict(question_id=question_id, status=VerdictStatus(status))
    return QuestionScore(question_id=question_id, log_prob=log_prob, answer=answer, verdict=verdict, f1=f1)


def result(
    condition: str, round_index: int, task: str, questions: Sequence[QuestionScore], **more: Any
) -> ConditionResult:
    """A result of an own step, or of an exam before any."""
    unadapted = condition in ("no_adaptation", "in_context")
    edit = SelfEdit(task_id=task, edit_index=0, text=f"Notes on {task}")
    made = {
        "condition": Condition(condition),
        "round": round_index,
        "task_id": task,
        "scores": ExamScores(questions=tuple(questions)),
        "step": 0 if unadapted else 1,
        "taught": not unadapted,
        "num_steps": 4,
        "num_tokens": 50.0,
        "edits": (edit,) if condition == "self_edit" else (),
        "adapt_seconds": 1.5,
    }
    return ConditionResult(**(made | more))


def row(condition: str, round_index: int, label: str, log_prob: float = -2.0, **more: Any) -> ConditionRow:
    made = {
        "label": label,
        "condition": Condition(condition),
        "round": round_index,
        "num_tasks": 4,
        "num_questions": 8,
        "log_prob": Estimate(mean=log_prob, standard_error=0.1, n=4),
        "accuracy": Estimate(mean=0.25, standard_error=0.1, n=4),
        "num_steps": Estimate(mean=4.0, standard_error=0.0, n=4),
    }
    return ConditionRow(**(made | more))


def evaluation(results: Sequence[ConditionResult], **more: Any) -> EvaluationRecord:
    """A test, of single passages unless ``more`` says otherwise."""
    made: dict[str, Any] = {
        "protocol": ProtocolRecord(class_name="SinglePassage", num_sequences=4),
        "model": TestedModel(pretrained="tiny"),
        "inner_loop": "BatchedInnerLoop",
        "edits_per_task": 1,
        "seed": 1,
        "world_size": 1,
        "device": "cpu",
        "seconds": 12.5,
        "peak_memory_bytes": 3 * 2**30,
        "results": tuple(results),
    }
    return EvaluationRecord(**(made | more))


def held_out(context: str, *questions: tuple[str, str, Sequence[str]]) -> HeldOutTask:
    """A task of (id, question, gold answers)."""
    return HeldOutTask(
        context=context, questions={i: HeldOutQuestion(question=q, gold=tuple(g)) for i, q, g in questions}
    )


def write_test(run: Path, record: EvaluationRecord, name: str = "test") -> Path:
    path = run / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(TypeAdapter(EvaluationRecord).dump_json(record))
    return path


def settings(
    seed: int = 1, domain: str = "seal_lightning.domains.knowledge.KnowledgeDomain", **model: Any
) -> dict[str, Any]:
    """A configuration that `load_run` accepts; no model is loaded for it."""
    source = "seal_lightning.domains.knowledge.BundledPassages"
    return {
        "run_dir": f"runs/seed-{seed}",
        "seed_everything": seed,
        "trainer": {"callbacks": [{"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 1}}]},
        "model": {
            "domain": {"class_path": domain},
            "pretrained": {"source": "embedded"},
            "reward": {"class_path": "seal_lightning.scoring.rewards.LikelihoodReward"},
            "rounds": 2,
            "num_edits": 2,
            "seed": seed,
            **model,
        },
        "data": {
            "train": {"class_path": source, "init_args": {"split": "train", "limit": 2}},
            "test": {"class_path": source, "init_args": {"split": "test", "limit": 2}},
        },
    }


def write_settings(run: Path, content: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(content))


def write_run(run: Path, seed: int = 1, shift: float = 0.0, **model: Any) -> Path:
    """Two rounds at two tasks, one edit of each kept, and one test."""
    write_settings(run, settings(seed, **model))
    for index in (0, 1):
        attempts = [
            attempt(task, edit, index, -2.0 + 0.5 * edit + index + shift, repeat=0)
            for task in ("maud", "nils")
            for edit in (0, 1)
        ]
        write_round(run, index, [*attempts, attempt("maud", 2, index, None)], [("maud", 1), ("nils", 1)])
    results = [
        result(
            condition,
            round_index,
            task,
            [question("q1", log_prob + shift, "correct", 0.5), question("q2", log_prob - 1)],
        )
        for condition, round_index, log_prob in (
            ("no_adaptation", 2, -3.0),
            ("self_edit", 0, -2.5),
            ("self_edit", 2, -2.0),
        )
        for task in ("olga", "petr", "rosa", "sven")
    ]
    table = (
        row("no_adaptation", 2, "no adaptation, policy after round 2", -3.0 + shift),
        row("self_edit", 2, "passage + self-edit after round 2", -2.0 + shift),
    )
    questions = ("q1", "What is it?", ["a stone", "stone"]), ("q2", "Why?", ["so"])
    tasks = {task: held_out(f"Passage of {task}.", *questions) for task in ("olga", "petr", "rosa", "sven")}
    write_test(run, evaluation(results, table=table, tasks=tasks))
    return run


def continual(num_steps: int = 3, num_sequences: int = 2) -> EvaluationRecord:
    """A test of several steps: each passage is learned at its own step and loses 0.25 with each one after it."""
    name = "continual self-edits"
    protocol = ProtocolRecord(
        name=name, class_name="ContinualSelfEdits", num_steps=num_steps, num_sequences=num_sequences
    )
    results = []
    for sequence in range(num_sequences):
        for place in range(num_steps):
            task = f"task-{sequence}-{place}"
            where = {"sequence": sequence, "place": place}
            results.append(result("no_adaptation", 0, task, [question("q", -4.0 - sequence, "wrong")], **where))
            for step in range(place + 1, num_steps + 1):
                score = question("q", -2.0 - sequence - 0.25 * (step - place - 1), "correct")
                results.append(result("self_edit", 0, task, [score], step=step, taught=step == place + 1, **where))
    mean: list[list[float | None]] = [[-4.5] * num_steps]
    mean += [[-2.5 - 0.25 * (i - j - 1) if j < i else None for j in range(num_steps)] for i in range(1, num_steps + 1)]
    label = "passage + self-edit before training"
    table = row("no_adaptation", 0, "no adaptation"), row("self_edit", 0, label)
    return evaluation(results, protocol=protocol, matrices=(matrix(mean, label=label),), table=table)


def matrix(mean: Sequence[Sequence[float | None]], label: str = "self-edit", score: str = "log_prob") -> ScoreMatrix:
    """A matrix of two episodes without known errors."""
    blank: Any = tuple((None,) * len(line) for line in mean)
    return ScoreMatrix(
        label=label,
        score=score,
        condition=Condition.SELF_EDIT,
        round=0,
        mean=tuple(map(tuple, mean)),
        standard_deviation=blank,
        standard_error=blank,
        n=tuple(tuple(0 if cell is None else 2 for cell in line) for line in mean),
    )
