"""``seal adapt`` from passages to an adapted folder: questions, edits, trials, one training, exams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from typing import Any

from seal_lightning.adapt.anchoring import anchoring
from seal_lightning.adapt.card import model_card
from seal_lightning.adapt.configuration import Configuration
from seal_lightning.adapt.edit_selection import EditSelection, SelectedEdit
from seal_lightning.adapt.examining import ADAPTED as AFTER
from seal_lightning.adapt.examining import BEFORE, Condition, StoredExam, by_exam, sat, seconds_by_phase
from seal_lightning.adapt.examining import CONTROL as WITHOUT_EDITS
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.learning import ADAPTED, CONTROL, Learned, Learning
from seal_lightning.adapt.probe import probe_passages
from seal_lightning.adapt.progress import Progress
from seal_lightning.adapt.question_split import Dealt, dealt, own_questions, with_own_questions
from seal_lightning.adapt.record import (
    AdaptedRecord,
    Asking,
    BaseModel,
    DocumentRecord,
    ExamRecord,
    SkippedRecord,
)
from seal_lightning.adapt.workspace import Workspace
from seal_lightning.core import JSON, Measurement
from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge import Passage
from seal_lightning.evaluation.unadapted_exams import EVERYTHING
from seal_lightning.models.lora import LoraAdapter, save_adapter, scaled_adapter, sum_adapters, truncated_adapter
from seal_lightning.models.pretrained import EMBEDDED
from seal_lightning.storage.atomic_files import placing_folder, write_bytes
from seal_lightning.storage.journal import RecordFile

THESE = "these documents"
PROBE = "probe"
_PACKAGES = ("seal-lightning", "torch", "transformers", "peft", "lightning")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is to be learned, as it was read."""

    passages: tuple[Passage, ...]
    """With a user's questions where they were given, in the place of all others."""
    has_questions: bool
    documents: tuple[DocumentRecord, ...] = ()
    skipped: tuple[SkippedRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KeptEdit:
    """A line of ``edits.jsonl``: a self-edit, what it was worth, and whether it was learned."""

    passage_id: str
    title: str
    edit_index: int
    text: str
    kept: bool
    reward: float | None
    """By the questions that choose; None where nothing could be measured."""
    reward_of_passage_alone: float | None
    """For as many steps as the edit takes."""
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptPipeline:
    """One adaptation.

    ``earlier`` are the LoRAs in the model's weights beside what was pretrained; ``earlier_exams`` those of the adaptation it
    goes on from, whose name is ``earlier_name``.
    """

    configuration: Configuration
    material: Material
    folder: AdaptedFolder
    work: Workspace
    continual: bool
    start: Mapping[str, JSON] = field(default_factory=dict)
    """What tells the start from others, see :meth:`StartingModel.identity`."""
    earlier: Sequence[LoraAdapter] = ()
    earlier_names: tuple[str, ...] = ()
    earlier_exams: Sequence[StoredExam] = ()
    progress: Progress = field(default_factory=Progress)

    def run(self) -> AdaptedRecord:
        """Do what is not done yet, and write everything. Returns what the folder says about itself."""
        for mitigation in self._module.protocol.against_forgetting:
            mitigation.bind(self._module.held_out_runner, self._module.learner)
            mitigation.check(self.material.passages)
        questions = self._questions()
        choices, learned = self._learned(questions)
        adapter, as_examined = self._written_adapter(learned[ADAPTED].adapter)
        exams = self._exams(questions, learned, as_examined)
        record = self._record(choices, exams)
        self._write(adapter, choices, questions, record)
        return record

    @property
    def _module(self) -> Any:
        return self.configuration.module

    # --- questions and edits

    def _questions(self) -> Dealt:
        """Whose questions choose, and whose examine."""
        module, passages = self.configuration.module, self.material.passages
        given = dealt(passages, "the user") if self.material.has_questions else None
        asked = list(passages) if given is None else [p for p in given.choosing if not p.questions]
        if given is not None and not self.configuration.spec.keep:
            return given  # nothing is to be chosen
        with self.work.timed("questions"):
            written = own_questions(
                asked, module.domain, module.engine, self.configuration.spec, module.seed, self.work, self.progress
            )
        if given is not None:
            return with_own_questions(given, {passage.task_id: passage for passage in written})
        own = dealt(written, "the model")
        silent = sum(not passage.questions for passage in written)
        if silent:
            self.progress.say(
                f"{silent} of {len(written)} passages have no question that can be asked: learned as they are"
            )
        if not own.examining:
            raise DataError(
                f"the model wrote no question that can be asked on any of {len(written)} passages: there is no exam. "
                "Give your own with --questions, or ask again with --adapt.question_retries 5 and another --out"
            )
        return own

    def _learned(self, questions: Dealt) -> tuple[list[SelectedEdit], dict[str, Learned]]:
        """What was chosen of each passage, and what was learned."""
        module, spec = self.configuration.module, self.configuration.spec
        trying = EditSelection(
            module.held_out_runner,
            self.work,
            num_edits=module.num_edits,
            num_repeats=module.num_repeats,
            at_once=module.candidates_per_call,
            keep=spec.keep,
        )
        anchor = anchoring(module, spec, self.work.anchor)
        learning = Learning(module, self.work, anchor, control=spec.control and spec.keep > 0)
        passages = questions.choosing
        if self.continual:
            return self._one_by_one(passages, trying, learning)
        with self.work.timed("edits"), self.progress.phase("edits", len(passages)) as advance:
            choices = trying.choices(passages, 0, advance)
        total = sum(p.plan.num_steps for p in learning.planned(choices).values() if p.plan is not None)
        with self.work.timed("learning"), self.progress.phase("learning", total) as advance:
            return choices, learning.together(choices, advance)

    def _one_by_one(
        self, passages: Sequence[Passage], trying: EditSelection, learning: Learning
    ) -> tuple[list[SelectedEdit], dict[str, Learned]]:
        choices: list[SelectedEdit] = []

        def choose(place: int) -> SelectedEdit:
            (choice,) = trying.choices([passages[place]], place, lambda parts: None)
            choices.append(choice)
            return choice

        total = len(passages) * (1 + learning.control)
        with self.work.timed("edits and learning"), self.progress.phase("edits and learning", total) as advance:
            learned = learning.one_by_one(len(passages), choose, advance)
        return choices, learned

    # --- what comes out

    def _written_adapter(self, new: LoraAdapter) -> tuple[LoraAdapter, LoraAdapter]:
        """The adapter of the pretrained model, and the same as an update of the model it was started from."""
        everything = sum_adapters([*self.earlier, new]) if self.earlier else new
        written = truncated_adapter(everything, self.configuration.spec.max_rank)
        if written is everything:
            return written, new
        self.progress.say(f"the updates have rank {everything.spec.rank} together; they are cut to {written.spec.rank}")
        undone = [scaled_adapter(adapter, -1.0) for adapter in self.earlier]
        return written, sum_adapters([written, *undone]) if undone else written

    def _exams(self, questions: Dealt, learned: dict[str, Learned], adapted: LoraAdapter) -> list[ExamRecord]:
        """These documents under every condition; earlier ones and the probe before and after."""
        spec, runner = self.configuration.spec, self.configuration.module.held_out_runner
        before, after = Condition(name=BEFORE, adapter=None), Condition(name=AFTER, adapter=adapted)
        control = learned.get(CONTROL)
        if control is None and spec.control and spec.keep:
            self.progress.say("the passages alone could not be learned in as many steps: there is no control")
        between = [] if control is None else [Condition(name=WITHOUT_EDITS, adapter=control.adapter, required=False)]
        exams = by_exam(self._exams_of_these(questions))
        others = by_exam([*self.earlier_exams, *_probe()])
        needs = EVERYTHING if spec.answers else frozenset({Measurement.LIKELIHOOD})
        found = []
        with self.work.timed("exams"), self.progress.phase("exams", len(exams) + len(others)) as advance:
            for exam in exams.values():
                found.append(sat(exam, runner, [before, *between, after], needs))
                advance(1)
            for exam in others.values():
                found.append(sat(exam, runner, [before, *between, after], needs))
                advance(1)
        return found

    def _exams_of_these(self, questions: Dealt) -> list[StoredExam]:
        return [StoredExam(exam=THESE, by=questions.by, passage=passage) for passage in questions.examining]

    def _record(self, choices: Sequence[SelectedEdit], exams: Sequence[ExamRecord]) -> AdaptedRecord:
        module, pretrained = self.configuration.module, self.configuration.module.pretrained
        return AdaptedRecord(
            base=BaseModel(
                source=_lasting(pretrained.source),
                revision=pretrained.revision,
                dtype=pretrained.dtype,
                trust_remote_code=pretrained.trust_remote_code,
            ),
            asking=_asking(module.domain),
            documents=self.material.documents,
            skipped=self.material.skipped,
            exams=tuple(exams),
            earlier=self.earlier_names,
            num_passages=len(choices),
            num_edits=sum(len(choice.candidates) for choice in choices),
            num_kept=sum(len(choice.kept) for choice in choices),
            seed=module.seed,
            seconds=seconds_by_phase(self.work.seconds()),
            versions={name: found for name in _PACKAGES if (found := _version(name))},
            settings={**self.configuration.settings, "start": dict(self.start)},
        )

    def _write(
        self, adapter: LoraAdapter, choices: Sequence[SelectedEdit], questions: Dealt, record: AdaptedRecord
    ) -> None:
        """Everything, the record last."""
        edits = [edit for choice in choices for edit in _edits(choice)]
        with placing_folder(self.folder.adapter) as scratch:
            save_adapter(adapter, scratch, base_model=_lasting(self.configuration.module.pretrained.location()))
            write_bytes(scratch / "README.md", model_card(record, self.folder.name).encode(errors="backslashreplace"))
        RecordFile(self.folder.edits, KeptEdit).write(edits)
        RecordFile(self.folder.exam, StoredExam).write([*self._exams_of_these(questions), *self.earlier_exams])
        self.folder.write_record(record)


def _lasting(source: str) -> str:
    """A hub id as it is, a folder by its whole path: whoever asks the adapted model may be elsewhere."""
    return str(Path(source).resolve()) if source != EMBEDDED and Path(source).is_dir() else source


def _asking(domain: Any) -> Asking:
    wording = domain.exam_wording
    return Asking(
        style=domain.exam_style,
        topic=wording.topic,
        question=wording.question,
        answer=wording.answer,
        chat_instruction=wording.chat_instruction,
        max_answer_tokens=domain.max_answer_tokens,
    )


def _edits(choice: SelectedEdit) -> list[KeptEdit]:
    kept = {edit.edit_index for edit in choice.kept}
    return [
        KeptEdit(
            passage_id=choice.passage.task_id,
            title=choice.passage.title,
            edit_index=candidate.edit_index,
            text=candidate.attempts[0].edit.text,
            kept=candidate.edit_index in kept,
            reward=_finite(candidate.reward),
            reward_of_passage_alone=_alone(choice, candidate.edit_index),
            failure=candidate.attempts[0].failure,
        )
        for candidate in choice.candidates
    ]


def _alone(choice: SelectedEdit, edit_index: int) -> float | None:
    alone = choice.alone.get(edit_index)
    return None if alone is None else _finite(alone.reward)


def _finite(reward: float | None) -> float | None:
    """A malformed or diverged edit's reward is minus infinity, which JSON has not."""
    return reward if reward is not None and abs(reward) != float("inf") else None


def _probe() -> list[StoredExam]:
    return [StoredExam(exam=PROBE, by="this package", passage=passage) for passage in probe_passages()]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def earlier_exams(folder: AdaptedFolder) -> list[StoredExam]:
    """The exams of an adaptation that another one goes on from, under names that say whose they were."""
    stored = RecordFile(folder.exam, StoredExam).read()
    taken = {one.exam for one in stored}
    numbered = (f"{folder.name} {number}" for number in count(2))
    names = (f"earlier documents ({name})" for name in chain([folder.name], numbered))
    name = next(name for name in names if name not in taken)
    return [replace(one, exam=name) if one.exam == THESE else one for one in stored]
