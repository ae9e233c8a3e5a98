"""Adapted folders as ``seal adapt`` leaves them, of a tiny model with a random adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from seal_lightning.adapt.record import (
    AdaptedFolder,
    AdaptedRecord,
    Asking,
    BaseModel,
    ConditionScores,
    DocumentRecord,
    ExamRecord,
    questions_sha256,
)
from seal_lightning.core import AdapterSpec
from seal_lightning.core.estimates import Estimate
from seal_lightning.models.lora import LoraAdapter, init_adapter, save_adapter
from seal_lightning.models.pretrained import Pretrained

SPEC = AdapterSpec(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj", "down_proj"))


ASKING = Asking(style="base", max_answer_tokens=12)
STRONG = AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear")
"""With B of 0.3 it changes what the tiny model says."""


def random_adapter(source: str, seed: int = 0, spec: AdapterSpec = SPEC, size: float = 0.1) -> LoraAdapter:
    """An adapter whose update is not zero."""
    model = Pretrained(source=source).load().model
    generator = torch.Generator().manual_seed(seed)
    adapter = init_adapter(model, spec, generator)
    filled = {n: (a, torch.randn(b.shape, generator=generator) * size) for n, (a, b) in adapter.weights.items()}
    return replace(adapter, weights=filled)


def adapted_record(source: str, name: str = "a", **changes: object) -> AdaptedRecord:
    """A record with two exams."""
    before, adapted = Estimate(mean=-3.0, standard_error=0.25, n=4), Estimate(mean=-1.5, standard_error=0.2, n=4)
    exams = tuple(
        ExamRecord(
            name=exam,
            num_questions=8,
            num_passages=4,
            by=by,
            scores=(
                ConditionScores(
                    condition="before", log_prob=before, accuracy=Estimate(mean=0.25, standard_error=0.1, n=4)
                ),
                ConditionScores(
                    condition="adapted",
                    log_prob=adapted,
                    accuracy=Estimate(mean=0.75, standard_error=0.125, n=4),
                    gain=Estimate(mean=1.5, standard_error=0.3, n=4),
                ),
            ),
            questions_sha256=questions_sha256([(exam, f"{of}?", "yes")]),
        )
        for exam, by, of in (("these documents", "the model", name), ("probe", "this package", "probe"))
    )
    record = AdaptedRecord(
        base=BaseModel(source=source),
        asking=Asking(),
        documents=(DocumentRecord(path=f"/home/me/docs/{name}.txt", sha256=64 * name[0], kind="text", num_passages=4),),
        exams=exams,
        num_passages=4,
        num_edits=20,
        num_kept=12,
        seconds={"propose": 10.0, "train": 30.5},
        versions={"seal_lightning": "0.1.0", "torch": "2.13.0"},
        settings={"rank": 4, "learning_rate": 1e-3, "name": name},
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def write_adapted(
    folder: Path, source: Path | str, seed: int = 0, spec: AdapterSpec = SPEC, **changes: object
) -> AdaptedFolder:
    """An adapted folder with edits, and work that a resume would go on from."""
    adapted = AdaptedFolder(folder)
    save_adapter(random_adapter(str(source), seed, spec), adapted.adapter, str(source))
    adapted.edits.write_text(json.dumps({"edit": f"of {folder.name}", "kept": True}) + "\n")
    adapted.work.mkdir()
    (adapted.work / "attempts.jsonl").write_text("{}\n")
    adapted.write_record(adapted_record(str(source), folder.name, **changes))
    return adapted


def write_asked(folder: Path, base: Path, seed: int = 0, asking: Asking = ASKING) -> Path:
    """An adapted folder whose model says other things than its base; returns its path."""
    adapted = AdaptedFolder(folder)
    save_adapter(random_adapter(str(base), seed, STRONG, 0.3), adapted.adapter, base_model=str(base))
    adapted.edits.write_text("")
    adapted.write_record(AdaptedRecord(base=BaseModel(source=str(base)), asking=asking))
    return folder


def write_plain(folder: Path, base: Path | str, of: Path, seed: int = 0) -> Path:
    """A PEFT folder and nothing else, for the model ``of``, that names ``base``; returns it."""
    save_adapter(random_adapter(str(of), seed, STRONG, 0.3), folder, base_model=str(base))
    return folder
