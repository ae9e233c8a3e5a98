"""What ``results/test.json`` holds: how a test was made, its table and matrices, and every answer behind them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer

from seal_lightning.evaluation import ConditionResult, ConditionRow
from seal_lightning.evaluation.matrix import MatrixEstimate
from seal_lightning.evaluation.table import arm_label
from seal_lightning.evaluation.unadapted_exams import asked_questions
from seal_lightning.storage.journal import to_plain
from seal_lightning.training.module import SealModule

FORMAT = 2
"""The first had neither protocol nor matrices."""


def test_record(
    trainer: Trainer,
    module: SealModule,
    rows: Sequence[ConditionRow],
    results: Sequence[ConditionResult],
    seconds: float,
) -> dict[str, Any]:
    """A test as plain values; ``seconds`` is how long it took."""
    names = module.domain.condition_names
    return {
        "format": FORMAT,
        **_circumstances(trainer, module),
        "seconds": seconds,
        "table": [asdict(row) for row in rows],
        "matrices": [
            {"label": arm_label(names, matrix.arm), "score": score, **_plain(matrix)}
            for score, matrices in module.test_matrices.items()
            for matrix in matrices
        ],
        "tasks": _tasks(trainer, module),
        "results": to_plain(results, ConditionResult),
    }


test_record.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _circumstances(trainer: Trainer, module: SealModule) -> dict[str, Any]:
    """What a reader of the results must know about how they were made."""
    episodes = module.test_episodes
    return {
        "protocol": {
            "name": module.protocol.name,
            "class": type(module.protocol).__name__,
            "settings": _json(module.protocol.settings),
            "num_steps": max(len(episode.steps) for episode in episodes),
            "num_sequences": len(episodes),
        },
        "model": {
            "pretrained": module.pretrained.source,
            "student": module.student.source if module.student is not None else None,
        },
        "inner_loop": type(module.inner_loop).__name__,
        "edits_per_task": module.test_edits,
        "seed": module.seed,
        "world_size": trainer.world_size,
        "device": str(module.device),
        "peak_memory_bytes": _peak_memory(module.device),
    }


def _tasks(trainer: Trainer, module: SealModule) -> dict[str, Any]:
    """What was to be learned, and what was asked."""
    found = {}
    for task in trainer.datamodule.tasks("test"):  # type: ignore[attr-defined]
        questions = asked_questions(module.domain, task)
        found[task.task_id] = {
            "context": module.domain.context_text(task),
            "questions": {q.question_id: {"question": q.question, "gold": list(q.gold_answers)} for q in questions},
        }
    return found


def _peak_memory(device: torch.device) -> int:
    """Of the accelerator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _plain(matrix: MatrixEstimate) -> dict[str, Any]:
    fields = asdict(matrix)
    arm: dict[str, Any] = fields.pop("arm")
    return arm | fields


def _json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if is_dataclass(value) else value for name, value in settings.items()}  # type: ignore[arg-type]
