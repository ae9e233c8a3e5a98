"""Adapted folders side by side: the same exams, and settings that differ. Read from their records, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.adapt.listing import Listed, before_note
from seal_lightning.adapt.record import AdaptedRecord, ConditionScores, ExamRecord
from seal_lightning.core import JSON
from seal_lightning.core.errors import shown
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.reporting.text import label


@dataclass(frozen=True, kw_only=True)
class SharedExam:
    """An exam whose questions are the same in two folders or more."""

    questions_sha256: str
    names: tuple[str, ...]
    """What the folders call it, in their order."""
    num_questions: int
    by_folder: dict[str, ExamRecord]
    """By the folder's path."""


@dataclass(frozen=True, kw_only=True)
class AdapterComparison:
    """What was found of two folders or more."""

    folders: tuple[Listed, ...]
    shared: tuple[SharedExam, ...]
    own: dict[str, tuple[str, ...]]
    """By the folder's path: names of exams whose questions no other folder was asked."""
    settings: dict[str, dict[str, JSON]]
    """By setting, then by the folder's path: what is not the same everywhere."""


def side_by_side(folders: Sequence[Listed]) -> AdapterComparison:
    """Compare what folders say; a plain PEFT folder has no exams and no settings."""
    exams: dict[str, dict[str, ExamRecord]] = {}
    for folder in folders:
        for exam in folder.record.exams if folder.record else ():
            if exam.questions_sha256:
                exams.setdefault(exam.questions_sha256, {}).setdefault(str(folder.path), exam)
    shared = {digest: by_folder for digest, by_folder in exams.items() if len(by_folder) > 1}
    return AdapterComparison(
        folders=tuple(folders),
        shared=tuple(
            SharedExam(
                questions_sha256=digest,
                names=tuple(dict.fromkeys(exam.name for exam in by_folder.values())),
                num_questions=next(iter(by_folder.values())).num_questions,
                by_folder=by_folder,
            )
            for digest, by_folder in shared.items()
        ),
        own={
            str(f.path): tuple(e.name for e in (f.record.exams if f.record else ()) if e.questions_sha256 not in shared)
            for f in folders
        },
        settings=differing({str(folder.path): _described(folder) for folder in folders}),
    )


def differing(settings: Mapping[str, Mapping[str, JSON]]) -> dict[str, dict[str, JSON]]:
    """The settings that are not the same everywhere; one that is missing is None there."""
    names = dict.fromkeys(name for of_one in settings.values() for name in of_one)
    by_name = {name: {where: of_one.get(name) for where, of_one in settings.items()} for name in names}
    return {
        name: values
        for name, values in by_name.items()
        if any(v != next(iter(values.values())) for v in values.values())
    }


def comparison_lines(found: AdapterComparison) -> Iterator[str]:
    """The comparison in plain words."""
    letters = {str(folder.path): _letter(index) for index, folder in enumerate(found.folders)}
    notes = {str(folder.path): before_note(folder.record) if folder.record else "" for folder in found.folders}
    for folder in found.folders:
        yield f"{letters[str(folder.path)]}  {label(folder.name)}  ({label(str(folder.path), 300)})"
    for exam in found.shared:
        yield ""
        yield f"{' / '.join(map(label, exam.names))}: the same {exam.num_questions} questions"
        for path, record in exam.by_folder.items():
            for scores in record.scores:
                yield f"  {letters[path]}  {_score_line(scores, notes[path])}"
    for path, names in found.own.items():
        if names:
            yield ""
            yield f"{letters[path]} alone was asked (not comparable): {', '.join(map(label, names))}"
    if found.settings:
        yield ""
        yield "settings that differ"
        for name, values in found.settings.items():
            of_each = ", ".join(f"{letters[path]} {label(shown(value, 60))}" for path, value in values.items())
            yield f"  {label(name)}: {of_each}"


def _score_line(scores: ConditionScores, before: str) -> str:
    """``before`` says what the model held before."""
    note = f" ({before})" if before and scores.condition.startswith("before") else ""
    gain = "" if scores.gain is None else f", gain {shown_estimate(scores.gain, signed=True)}"
    accuracy = "" if scores.accuracy is None else f"; accuracy {shown_estimate(scores.accuracy)}"
    return f"{label(scores.condition)}{note}: log-prob {shown_estimate(scores.log_prob)}{gain}{accuracy}"


def _described(folder: Listed) -> dict[str, JSON]:
    """Everything that was chosen, under one name each."""
    base: dict[str, JSON] = {"base": folder.base, "base revision": folder.revision, "rank": folder.rank}
    record: AdaptedRecord | None = folder.record
    if record is None:
        return base
    documents = ", ".join(sorted(document.sha256[:12] for document in record.documents))
    return {**base, "seed": record.seed, "documents (SHA-256)": documents, **_flat(record.settings)}


def _flat(settings: Mapping[str, JSON], prefix: str = "") -> dict[str, JSON]:
    """By dotted name."""
    flat: dict[str, JSON] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"
