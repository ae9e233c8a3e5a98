"""Material of an adaptation: passages read from documents, and questions on them in two disjoint halves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seal_lightning.adapt.configuration import AdaptSpec
from seal_lightning.adapt.record import DocumentRecord, SkippedRecord
from seal_lightning.adapt.workspace import Progress, Workspace, WrittenQuestions
from seal_lightning.core import Measurement
from seal_lightning.core.errors import DataError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.knowledge import Documents, Passage, Question
from seal_lightning.domains.knowledge.question_file import MatchedQuestions, match_questions, read_questions
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.rewards.own_questions_reward import OwnQuestionsExam
from seal_lightning.training.module import SealModule

PASSAGES_AT_ONCE = 32
"""Passages on which questions are written in one call of the engine."""
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Material:
    """The passages to be learned, as they were read."""

    passages: tuple[Passage, ...]
    """With the user's questions, if any were given; these replace all others."""
    has_questions: bool
    documents: tuple[DocumentRecord, ...] = ()
    skipped: tuple[SkippedRecord, ...] = ()


def read_material(
    paths: Sequence[str], questions: str | None, pretrained: Pretrained, passage_tokens: int, out: Path
) -> Material:
    """Read documents into passages, cut by the model's own tokens, with questions from a file or from the documents.

    Folders are read without what is in ``out``. Raises :class:`DataError` for a document that cannot be read, for
    documents without a passage, and for questions none of which is about them.
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
        found = match_questions(read_questions(questions), passages)
        _check_matched(found, questions)
        passages = list(found.passages)
        for one, problem in [
            *((one, "is about none of the passages") for one in found.unmatched),
            *((one, "repeats an earlier question") for one in found.repeated),
        ]:
            skipped.append(SkippedRecord(path=questions, reason=f"{one.where}: {shown(one.question)} {problem}"))
    return Material(
        passages=tuple(passages),
        has_questions=any(passage.questions for passage in passages),
        documents=tuple(
            DocumentRecord(path=one.path, sha256=one.sha256, kind=one.kind, num_passages=one.num_passages)
            for one in source.documents
        ),
        skipped=tuple(skipped),
    )


def _check_matched(found: MatchedQuestions, path: str) -> None:
    if any(passage.questions for passage in found.passages):
        return
    named = "; ".join(f"{one.where}: {shown(one.question)}" for one in found.unmatched[:_MAX_NAMED])
    raise DataError(
        f"--questions {path}: none of its {len(found.unmatched)} questions is about one of the {len(found.passages)} "
        f"passages: no passage has its answer, or half of its words ({named}). Give questions on these documents, or omit "
        "--questions"
    )


def job_of(
    material: Material, questions: str | None, settings: dict[str, Any], policy: dict[str, Any], *, continual: bool
) -> dict[str, Any]:
    """Return what identifies an adaptation: documents by their content, questions, settings, the starting model."""
    digest = None if questions is None else hashlib.sha256(Path(questions).expanduser().read_bytes()).hexdigest()
    return {
        "settings": settings,
        "documents": {one.path: one.sha256 for one in material.documents},
        "questions": digest,
        "policy": policy,
        "continual": continual,
    }


@dataclass(frozen=True, kw_only=True)
class QuestionSplit:
    """Passages with their questions in two disjoint halves."""

    selecting: tuple[Passage, ...]
    """All passages; their questions select among edits. Some may have none."""
    examining: tuple[Passage, ...]
    """The passages with questions that nothing uses before the exam."""
    by: str
    """The author of the exam's questions: ``the model`` or ``the user``."""


def split_questions(passages: Sequence[Passage], by: str) -> QuestionSplit:
    """Give every other question to the exam, counted through all passages, so that single questions are halved too."""
    selecting, examining = [], []
    turn = 0
    for passage in passages:
        halves: tuple[list[Question], list[Question]] = ([], [])
        for question in passage.questions:
            halves[turn % 2].append(question)
            turn += 1
        examining.append(replace(passage, questions=tuple(halves[0])))
        selecting.append(replace(passage, questions=tuple(halves[1])))
    return QuestionSplit(selecting=tuple(selecting), examining=tuple(p for p in examining if p.questions), by=by)


def with_own_questions(given: QuestionSplit, written: Mapping[str, Passage]) -> QuestionSplit:
    """Fill in the model's own questions where a user's leave none to select edits by."""
    selecting = tuple(p if p.questions else written.get(p.task_id, p) for p in given.selecting)
    return replace(given, selecting=selecting)


def own_questions(
    passages: Sequence[Passage], module: SealModule, spec: AdaptSpec, work: Workspace, progress: Progress
) -> list[Passage]:
    """Return the passages with questions that the model writes about them, independently of any edit."""
    if not passages:
        return []
    known = {written.task_id: written.questions for written in work.questions.read()}
    examiner = OwnQuestionsExam(
        frozenset({Measurement.LIKELIHOOD}), spec.num_questions, spec.question_retries, spec.question_sampling
    )
    examiner.bind(module.domain, module.engine)
    with progress.phase("questions", len(passages)) as advance:
        for start in range(0, len(passages), PASSAGES_AT_ONCE):
            batch = passages[start : start + PASSAGES_AT_ONCE]
            # A batch of which one is missing is written again as a whole, so that a resume computes the same.
            if any(passage.task_id not in known for passage in batch):
                seeds = {passage.task_id: derive_seed(module.seed, "questions", passage.task_id) for passage in batch}
                for passage, paper in zip(batch, examiner.build(batch, seeds), strict=True):
                    if passage.task_id not in known:
                        known[passage.task_id] = paper.questions
                        work.questions.append(WrittenQuestions(task_id=passage.task_id, questions=paper.questions))
            advance(len(batch))
    asking: Callable[..., Any] = module.domain.with_questions  # a knowledge domain's gives a passage
    return [asking(passage, known[passage.task_id]) for passage in passages]


def split_of(
    material: Material, module: SealModule, spec: AdaptSpec, work: Workspace, progress: Progress
) -> QuestionSplit:
    """Split the user's questions, or else the model's own, into those that select edits and those that examine.

    Raises :class:`DataError` if nothing is left to examine with.
    """
    passages = material.passages
    given = split_questions(passages, "the user") if material.has_questions else None
    if given is not None and not spec.keep:
        return given  # nothing is selected
    wanting = list(passages) if given is None else [p for p in given.selecting if not p.questions]
    with work.timed("questions"):
        written = own_questions(wanting, module, spec, work, progress)
    if given is not None:
        return with_own_questions(given, {passage.task_id: passage for passage in written})
    split = split_questions(written, "the model")
    if num_silent := sum(not passage.questions for passage in written):
        progress.say(f"{num_silent} of {len(written)} passages got no usable question; they are learned without edits")
    if not split.examining:
        raise DataError(
            f"the model wrote no usable question on any of {len(written)} passages, so there is no exam. Give your own "
            "with --questions, or retry with --adapt.question_retries 5 and another --out"
        )
    return split
