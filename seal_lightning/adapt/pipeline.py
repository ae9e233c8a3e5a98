"""Pipeline of ``seal adapt``, from passages to an adapted folder: questions, edits, final training, exams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from rich.console import Console

from seal_lightning import __version__
from seal_lightning.adapt.configuration import Configuration
from seal_lightning.adapt.edit_selection import EditSelection, SelectedEdit
from seal_lightning.adapt.exam import (
    ADAPTED,
    BEFORE,
    PASSAGES_ONLY,
    ExamCondition,
    StoredExam,
    by_exam,
    exam_record,
    probe_exam,
)
from seal_lightning.adapt.final_training import FinalTraining, anchor_spec
from seal_lightning.adapt.material import Material, QuestionSplit, split_of
from seal_lightning.adapt.model_card import model_card
from seal_lightning.adapt.record import AdaptedFolder, AdaptedRecord, Asking, BaseModel, ExamRecord
from seal_lightning.adapt.starting_model import StartingModel
from seal_lightning.adapt.workspace import Progress, Workspace
from seal_lightning.core import Measurement
from seal_lightning.evaluation.reference_exams import EVERYTHING
from seal_lightning.models.lora import LoraAdapter, save_adapter, scaled_adapter, sum_adapters, truncated_adapter
from seal_lightning.models.pretrained import EMBEDDED
from seal_lightning.storage.atomic_files import placing_folder, write_bytes
from seal_lightning.storage.journal import RecordFile

THESE = "these documents"
"""Name of the exam on the documents of this adaptation."""
_PACKAGES = ("torch", "transformers", "peft", "lightning")


@dataclass(frozen=True, kw_only=True)
class EditRecord:
    """A line of ``edits.jsonl``: a self-edit, its reward, and whether it was kept."""

    passage_id: str
    title: str
    edit_index: int
    text: str
    kept: bool
    reward: float | None
    """By the questions that select; null in the file if the edit is malformed, diverged or could not be scored."""
    reward_of_passage_alone: float | None
    """In as many steps as the edit takes."""
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptPipeline:
    """One adaptation."""

    configuration: Configuration
    material: Material
    folder: AdaptedFolder
    work: Workspace
    start: StartingModel
    earlier: Sequence[LoraAdapter] = ()
    """LoRAs that are merged into the model's weights beyond the pretrained ones, see :meth:`StartingModel.install`."""
    continual: bool = False
    """Whether passages are learned one after another."""
    progress: Progress = field(default_factory=lambda: Progress(Console(quiet=True)))

    def run(self) -> AdaptedRecord:
        """Do everything that is not done yet, and write the adapted folder. Returns its record."""
        module, spec = self.configuration.module, self.configuration.spec
        for mitigation in module.protocol.against_forgetting:
            mitigation.bind(module.held_out_runner, module.learner)
            mitigation.check(self.material.passages)
        split = split_of(self.material, module, spec, self.work, self.progress)
        these = [StoredExam(exam=THESE, by=split.by, passage=passage) for passage in split.examining]
        selected, adapted, control = self._trained(split)
        adapter, as_examined = self._total_adapter(adapted)
        exams = self._exams(these, as_examined, control)
        record = self._record(selected, exams)
        with placing_folder(self.folder.adapter) as scratch:
            save_adapter(adapter, scratch, base_model=_absolute(module.pretrained.location()))
            write_bytes(scratch / "README.md", model_card(record, self.folder.name).encode(errors="backslashreplace"))
        RecordFile(self.folder.edits, EditRecord).write([edit for one in selected for edit in _edit_records(one)])
        RecordFile(self.folder.exam, StoredExam).write([*these, *self._earlier_exams])
        self.folder.write_record(record)  # last: it marks the folder as complete
        return record

    def _trained(self, split: QuestionSplit) -> tuple[list[SelectedEdit], LoraAdapter, LoraAdapter | None]:
        """Select edits and train on them; returns the selection, the update and the control's."""
        module, spec = self.configuration.module, self.configuration.spec
        selection = EditSelection(
            module.held_out_runner,
            self.work,
            num_edits=module.num_edits,
            num_repeats=module.num_repeats,
            keep=spec.keep,
        )
        anchor = anchor_spec(module, spec, self.work)
        training = FinalTraining(module, self.work, anchor, control=spec.control and spec.keep > 0)
        passages = split.selecting
        if self.continual:
            selected: list[SelectedEdit] = []

            def select(index: int) -> SelectedEdit:
                selected.extend(selection.select([passages[index]], index, lambda parts: None))
                return selected[-1]

            total = len(passages) * (1 + training.control)
            with self.work.timed("edits and learning"), self.progress.phase("edits and learning", total) as advance:
                return selected, *training.one_by_one(len(passages), select, advance)
        with self.work.timed("edits"), self.progress.phase("edits", len(passages)) as advance:
            selected = selection.select(passages, 0, advance)
        total = sum(step.plan.num_steps for step in training.planned(selected).values() if step.plan is not None)
        with self.work.timed("learning"), self.progress.phase("learning", total) as advance:
            return selected, *training.together(selected, advance)

    def _total_adapter(self, new: LoraAdapter) -> tuple[LoraAdapter, LoraAdapter]:
        """Return the adapter of the pretrained model, and the same as an update of the starting model."""
        total = sum_adapters([*self.earlier, new]) if self.earlier else new
        written = truncated_adapter(total, self.configuration.spec.max_rank)
        if written is total:
            return written, new
        self.progress.say(f"the updates have a total rank of {total.spec.rank}; truncated to {written.spec.rank}")
        undone = [scaled_adapter(adapter, -1.0) for adapter in self.earlier]
        return written, sum_adapters([written, *undone]) if undone else written

    def _exams(
        self, these: Sequence[StoredExam], adapter: LoraAdapter, control: LoraAdapter | None
    ) -> list[ExamRecord]:
        """Give the exam on these documents, the earlier ones and the probe under every condition."""
        spec, runner = self.configuration.spec, self.configuration.module.held_out_runner
        conditions = [ExamCondition(name=BEFORE, adapter=None)]
        if control is not None:
            conditions.append(ExamCondition(name=PASSAGES_ONLY, adapter=control, required=False))
        elif spec.control and spec.keep:
            self.progress.say("training on the passages alone in as many steps diverged: there is no control")
        conditions.append(ExamCondition(name=ADAPTED, adapter=adapter))
        exams = by_exam([*these, *self._earlier_exams, *probe_exam()])
        needs = EVERYTHING if spec.answers else frozenset({Measurement.LIKELIHOOD})
        found = []
        with self.work.timed("exams"), self.progress.phase("exams", len(exams)) as advance:
            for exam in exams:
                found.append(exam_record(exam, runner, conditions, needs))
                advance(1)
        return found

    @cached_property
    def _earlier_exams(self) -> list[StoredExam]:
        """The exams of the adaptation that this one starts from, under names that refer to it."""
        if (folder := self.start.adapted) is None:
            return []
        stored = RecordFile(folder.exam, StoredExam).read()
        taken = {one.exam for one in stored}
        names = (f"earlier documents ({folder.name}{number})" for number in chain([""], (f" {n}" for n in count(2))))
        name = next(name for name in names if name not in taken)
        return [replace(one, exam=name) if one.exam == THESE else one for one in stored]

    def _record(self, selected: Sequence[SelectedEdit], exams: Sequence[ExamRecord]) -> AdaptedRecord:
        module, pretrained = self.configuration.module, self.configuration.module.pretrained
        domain: Any = module.domain
        wording = domain.exam_wording
        return AdaptedRecord(
            base=BaseModel(
                source=_absolute(pretrained.source),
                revision=pretrained.revision,
                dtype=pretrained.dtype,
                trust_remote_code=pretrained.trust_remote_code,
            ),
            asking=Asking(
                style=domain.exam_style,
                topic=wording.topic,
                question=wording.question,
                answer=wording.answer,
                chat_instruction=wording.chat_instruction,
                max_answer_tokens=domain.max_answer_tokens,
            ),
            documents=self.material.documents,
            skipped=self.material.skipped,
            exams=tuple(exams),
            earlier=self.start.earlier_names(),
            num_passages=len(selected),
            num_edits=sum(len(one.candidates) for one in selected),
            num_kept=sum(len(one.kept) for one in selected),
            seed=module.seed,
            seconds=self.work.seconds(),
            versions={"seal-lightning": __version__, **{name: version(name) for name in _PACKAGES}},
            settings={**self.configuration.settings, "start": self.start.identity()},
        )


def _absolute(source: str) -> str:
    """Return a folder's absolute path, for readers in another directory; a hub id as it is."""
    return str(Path(source).resolve()) if source != EMBEDDED and Path(source).is_dir() else source


def _edit_records(selected: SelectedEdit) -> list[EditRecord]:
    kept = {edit.edit_index for edit in selected.kept}
    return [
        EditRecord(
            passage_id=selected.passage.task_id,
            title=selected.passage.title,
            edit_index=candidate.edit_index,
            text=candidate.attempts[0].edit.text,
            kept=candidate.edit_index in kept,
            reward=candidate.reward,
            reward_of_passage_alone=alone.reward if (alone := selected.alone.get(candidate.edit_index)) else None,
            failure=candidate.attempts[0].failure,
        )
        for candidate in selected.candidates
    ]
