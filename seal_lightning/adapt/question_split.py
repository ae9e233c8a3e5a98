"""The questions on passages: the model's own or a user's, dealt to those that choose edits and those that examine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.adapt.progress import Progress
from seal_lightning.adapt.spec import AdaptSpec
from seal_lightning.adapt.workspace import Workspace, WrittenQuestions
from seal_lightning.core import Measurement
from seal_lightning.core.interfaces import AnyDomain, Engine
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.knowledge import Passage, Question
from seal_lightning.scoring.rewards.own_questions import OwnQuestions

PASSAGES_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Passages with their questions in two halves that share none."""

    choosing: tuple[Passage, ...]
    """All passages; their questions choose among edits. Some may have none."""
    examining: tuple[Passage, ...]
    """Those that have questions which nobody saw before the exam."""
    by: str
    """Who wrote the questions of the exam."""


def dealt(passages: Sequence[Passage], by: str) -> Dealt:
    """Every other question to the exam, counted through all passages: of those with a single one half are examined."""
    choosing, examining = [], []
    turn = 0
    for passage in passages:
        halves: tuple[list[Question], list[Question]] = ([], [])
        for question in passage.questions:
            halves[turn % 2].append(question)
            turn += 1
        examining.append(replace(passage, questions=tuple(halves[0])))
        choosing.append(replace(passage, questions=tuple(halves[1])))
    return Dealt(choosing=tuple(choosing), examining=tuple(p for p in examining if p.questions), by=by)


def with_own_questions(given: Dealt, written: Mapping[str, Passage]) -> Dealt:
    """Where a user's questions leave none to choose edits by, the model's own do."""
    choosing = tuple(p if p.questions else written.get(p.task_id, p) for p in given.choosing)
    return replace(given, choosing=choosing)


def own_questions(
    passages: Sequence[Passage],
    domain: AnyDomain,
    engine: Engine,
    spec: AdaptSpec,
    seed: int,
    work: Workspace,
    progress: Progress,
) -> list[Passage]:
    """The passages with questions that the model writes about them, before and apart from any edit."""
    known = {written.task_id: written.questions for written in work.questions.read()}
    examiner = OwnQuestions(
        frozenset({Measurement.LIKELIHOOD}), spec.num_questions, spec.question_retries, spec.question_sampling
    )
    examiner.bind(domain, engine)
    if not passages:
        return []
    with progress.phase("questions", len(passages)) as advance:
        for start in range(0, len(passages), PASSAGES_AT_ONCE):
            batch = passages[start : start + PASSAGES_AT_ONCE]
            if any(passage.task_id not in known for passage in batch):
                seeds = {passage.task_id: derive_seed(seed, "questions", passage.task_id) for passage in batch}
                for passage, paper in zip(batch, examiner.build(batch, seeds), strict=True):
                    if passage.task_id not in known:
                        known[passage.task_id] = paper.questions
                        work.questions.append(WrittenQuestions(task_id=passage.task_id, questions=paper.questions))
            advance(len(batch))
    return [_asking(domain, passage, known[passage.task_id]) for passage in passages]


def _asking(domain: AnyDomain, passage: Passage, questions: Sequence[tuple[str, str]]) -> Passage:
    asking = domain.with_questions(passage, questions)
    assert isinstance(asking, Passage)
    return asking
