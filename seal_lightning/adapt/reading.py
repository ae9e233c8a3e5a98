"""What an adaptation learns: documents read into passages, and a user's questions on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seal_lightning.adapt.adapting import Material
from seal_lightning.adapt.record import DocumentRecord, SkippedRecord
from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge import Documents
from seal_lightning.domains.knowledge.question_file import MatchedQuestions, matched, read_questions
from seal_lightning.models.pretrained import Pretrained

_MOST_REFUSED = 3


def read_material(
    paths: Sequence[str], questions: str | None, pretrained: Pretrained, passage_tokens: int, out: Path
) -> Material:
    """The passages of documents, cut by the model's own tokens, with the questions that came in a file or in documents.

    What lies in ``out`` is left out of folders. Raises :class:`DataError` for what cannot be read, for documents in which
    nothing is left to learn, and for questions none of which is about them.
    """
    tokenizer = pretrained.tokenizer()

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    source = Documents(paths=list(paths), passage_tokens=passage_tokens)
    source.count_tokens = count_tokens
    source.leave_out = (out,)
    passages = source.load()
    skipped = [SkippedRecord(path=one.where, reason=one.problem) for one in source.skipped]
    if questions is not None:
        found = matched(read_questions(questions), passages)
        _check_matched(found, questions, len(passages))
        passages = list(found.passages)
        skipped += [
            SkippedRecord(path=questions, reason=f"{one.where}: {shown(one.question)} is about none of the passages")
            for one in found.unmatched
        ]
        skipped += [
            SkippedRecord(path=questions, reason=f"{one.where}: {shown(one.question)} is asked before it")
            for one in found.repeated
        ]
    return Material(
        passages=tuple(passages),
        has_questions=any(passage.questions for passage in passages),
        documents=tuple(
            DocumentRecord(path=one.path, sha256=one.sha256, kind=one.kind, num_passages=one.num_passages)
            for one in source.documents
        ),
        skipped=tuple(skipped),
    )


def _check_matched(found: MatchedQuestions, path: str, num_passages: int) -> None:
    if any(passage.questions for passage in found.passages):
        return
    named = "; ".join(f"{one.where}: {shown(one.question)}" for one in found.unmatched[:_MOST_REFUSED])
    raise DataError(
        f"--questions {path}: none of its {len(found.unmatched)} questions is about one of the {num_passages} passages: no "
        f"passage has its answer, or half of its words ({named}). Nothing was computed. Give questions on these documents, "
        "or leave --questions out"
    )


def job_of(
    material: Material, questions: str | None, settings: dict[str, Any], policy: dict[str, Any], *, continual: bool
) -> dict[str, Any]:
    """What makes one adaptation another than the next: documents by their content, questions, settings, the start."""
    digest = None if questions is None else hashlib.sha256(Path(questions).expanduser().read_bytes()).hexdigest()
    return {
        "settings": settings,
        "documents": {one.path: one.sha256 for one in material.documents},
        "questions": digest,
        "policy": policy,
        "continual": continual,
    }
