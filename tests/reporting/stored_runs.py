"""Run directories as `seal fit` and `seal test` leave them, made of real records and the results files' documented format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from storage.test_records import ATTEMPT

from seal_lightning.core import Attempt, AttemptStatus, BufferRow, PlanSummary
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
    question_id: str, log_prob: float | None, status: str | None = None, f1: float | None = None
) -> dict[str, Any]:
    verdict = None if status is None else {"question_id": question_id, "status": status, "reason": ""}
    return {"question_id": question_id, "log_prob": log_prob, "answer": "it", "verdict": verdict, "f1": f1}


def result(
    condition: str, round_index: int, task: str, questions: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """One result of format 2."""
    edits = [{"text": f"Notes on {task}", "edit_index": 0, "task_id": task}] if condition == "self_edit" else []
    made = {
        "condition": condition,
        "round": round_index,
        "name": "",
        "sequence": 0,
        "step": 0 if condition in ("no_adaptation", "in_context") else 1,
        "place": 0,
        "task_id": task,
        "scores": {"questions": list(questions)},
        "num_steps": 4,
        "num_sequences": 2,
        "num_tokens": 50.0,
        "failure": None,
        "failed_edits": 0,
        "edits": edits,
        "adapt_seconds": 1.5,
    }
    return made | more


def estimate(mean: float, error: float | None = 0.1, n: int = 4) -> dict[str, Any]:
    return {"mean": mean, "standard_error": error, "n": n}


def row(condition: str, round_index: int, label: str, log_prob: float = -2.0, **more: Any) -> dict[str, Any]:
    made = {
        "label": label,
        "condition": condition,
        "round": round_index,
        "name": "",
        "num_tasks": 4,
        "num_questions": 8,
    }
    scores = {
        "log_prob": estimate(log_prob),
        "accuracy": estimate(0.25),
        "num_steps": estimate(4.0, 0.0),
        "solved": None,
    }
    return made | {"num_failed": 0, "num_unscored": 0} | scores | more


def results_file(results: Sequence[Any], **more: Any) -> dict[str, Any]:
    """A results file of format 2, single passage unless told otherwise."""
    protocol = {"name": "single passage", "class": "SinglePassage", "settings": {}, "num_steps": 1, "num_sequences": 4}
    made = {
        "format": 2,
        "protocol": protocol,
        "model": {"pretrained": "tiny", "student": None},
        "seed": 1,
        "world_size": 1,
    }
    made |= {"device": "cpu", "seconds": 12.5, "peak_memory_bytes": 3 * 2**30, "table": [], "matrices": [], "tasks": {}}
    return made | {"results": list(results)} | more


def write_test(run: Path, content: object, name: str = "test") -> Path:
    path = run / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
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
    table = [
        row("no_adaptation", 2, "no adaptation, policy after round 2", -3.0 + shift),
        row("self_edit", 2, "passage + self-edit after round 2", -2.0 + shift),
    ]
    questions = {
        "q1": {"question": "What is it?", "gold": ["a stone", "stone"]},
        "q2": {"question": "Why?", "gold": ["so"]},
    }
    tasks = {
        task: {"context": f"Passage of {task}.", "questions": questions} for task in ("olga", "petr", "rosa", "sven")
    }
    write_test(run, results_file(results, table=table, tasks=tasks))
    return run


def continual(num_steps: int = 3, num_sequences: int = 2) -> dict[str, Any]:
    """A test of several steps: each passage is known at its own step and loses 0.25 with each one after it."""
    protocol = {"name": "continual self-edits", "class": "ContinualSelfEdits", "settings": {}}
    protocol |= {"num_steps": num_steps, "num_sequences": num_sequences}
    results = []
    for sequence in range(num_sequences):
        for place in range(num_steps):
            task = f"task-{sequence}-{place}"
            where = {"sequence": sequence, "place": place}
            results.append(result("no_adaptation", 0, task, [question("q", -4.0 - sequence, "wrong")], **where))
            for step in range(place + 1, num_steps + 1):
                score = -2.0 - sequence - 0.25 * (step - place - 1)
                results.append(result("self_edit", 0, task, [question("q", score, "correct")], step=step, **where))
    mean = [[-4.5] * num_steps]
    mean += [[-2.5 - 0.25 * (i - j - 1) if j < i else None for j in range(num_steps)] for i in range(1, num_steps + 1)]
    arm = {"label": "passage + self-edit before training", "condition": "self_edit", "round": 0, "name": ""}
    blank = [[None] * num_steps] * (num_steps + 1)
    counts = [[0 if cell is None else 2 for cell in line] for line in mean]
    matrix = arm | {
        "score": "log_prob",
        "mean": mean,
        "standard_error": blank,
        "standard_deviation": blank,
        "n": counts,
    }
    table = [row("no_adaptation", 0, "no adaptation"), row("self_edit", 0, arm["label"])]
    return results_file(results, protocol=protocol, matrices=[matrix], table=table)
