"""What adapters on a disk say about themselves: adapted folders, and plain PEFT folders as far as they say. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.record import AdaptedRecord, ExamRecord, held_before
from seal_lightning.core import JSON
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.core.names import checked_run_dir
from seal_lightning.reporting.text import label

_MOST_CONFIG_BYTES = 2**20
_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An adapter that was found."""

    path: Path
    name: str
    """The folder's own."""
    base: str
    """The base model's hub id, folder, or ``embedded``; blank where nothing says so."""
    revision: str | None
    rank: int | None
    """None where no adapter says so."""
    num_modules: int | None
    """Linear layers that are adapted, where they are named one by one."""
    num_bytes: int
    """On the disk, of the whole folder."""
    has_merged: bool
    """Whether a full model is part of it."""
    written: str
    """Day and minute, UTC."""
    record: AdaptedRecord | None
    """None of a plain PEFT folder."""


def listed(path: str | Path, what: str = "DIR") -> Listed:
    """The adapter in a folder that a user named.

    Raises :class:`ConfigError` for what is no path of a folder, :class:`RunError` for a folder that has no adapter.
    """
    folder = checked_run_dir(path, what)
    if (folder / _CONFIG).exists() and not (folder / "adapted.json").exists():
        adapter, record, dated = folder, None, folder / _CONFIG
    else:
        adapted = AdaptedFolder.named(path, what)
        adapter, record, dated = adapted.adapter, adapted.record(), adapted.record_file
    config = _adapter_config(adapter / _CONFIG)
    said = config.get("base_model_name_or_path")
    revision, rank, modules = config.get("revision"), config.get("r"), config.get("target_modules")
    return Listed(
        path=folder,
        name=folder.resolve().name,
        base=record.base.source if record is not None else said if isinstance(said, str) else "",
        revision=record.base.revision if record is not None else revision if isinstance(revision, str) else None,
        rank=rank if isinstance(rank, int) and not isinstance(rank, bool) else None,
        num_modules=len(modules) if isinstance(modules, list) else None,
        num_bytes=num_bytes(folder),
        has_merged=record is not None and (folder / "merged").is_dir(),
        written=datetime.fromtimestamp(dated.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M"),
        record=record,
    )


def num_bytes(folder: Path) -> int:
    """Of the regular files in a folder; links are not followed."""
    files = (path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_size for path in files)


def lines_of(found: Listed) -> Iterator[str]:
    """The adapter in plain words."""
    rank = "rank unknown" if found.rank is None else f"rank {found.rank}"
    modules = "" if found.num_modules is None else f" on {found.num_modules} modules"
    at = f" at {label(found.revision)}" if found.revision else ""
    base = label(found.base) if found.base else "a model that it does not name"
    yield f"{label(found.name)}  ({label(str(found.path), 300)})"
    size = shown_size(found.num_bytes) + (" with a full model" if found.has_merged else "")
    yield f"  of {base}{at}, {rank}{modules}, {size}, written {found.written} UTC"
    if found.record is None:
        yield "  a plain PEFT folder: nothing says what it was trained on"
        return
    yield from map("  {}".format, _record_lines(found.record))


def _record_lines(record: AdaptedRecord) -> Iterator[str]:
    documents = f"{_counted(len(record.documents), 'document')}, {_counted(record.num_passages, 'passage')}"
    skipped = f", {len(record.skipped)} left out" if record.skipped else ""
    yield f"{documents}{skipped}; {record.num_kept} of {_counted(record.num_edits, 'edit')} kept"
    if record.earlier:
        yield f"on top of {', '.join(map(label, record.earlier))}"
    if not record.exams:
        yield "no exam: what it knows was not measured"
    elif note := before_note(record):
        yield f"before: {note}"
    for exam in record.exams:
        yield f"{label(exam.name)} ({_counted(exam.num_questions, 'question')} by {label(exam.by)}): {exam_line(exam)}"


def before_note(record: AdaptedRecord) -> str:
    """``with NAME, …`` where the exams' ``before`` is not the base as it is; else empty."""
    held = held_before(record)
    return f"with {', '.join(map(label, held))}" if held else ""


def exam_line(exam: ExamRecord) -> str:
    """Before → adapted in one line: log-probability of the answers in nats, its paired gain, and accuracy."""
    before, adapted = exam.scores_of("before"), exam.scores_of("adapted")
    log_probs = [shown_estimate(None if each is None else each.log_prob) for each in (before, adapted)]
    text = f"log-prob {log_probs[0]} → {log_probs[1]}"
    if adapted is not None and adapted.gain is not None:
        text += f", gain {shown_estimate(adapted.gain, signed=True)}"
    accuracies = [None if each is None else each.accuracy for each in (before, adapted)]
    if any(accuracies):
        text += f"; accuracy {shown_estimate(accuracies[0])} → {shown_estimate(accuracies[1])}"
    return text


def shown_size(size: int) -> str:
    """Bytes in the unit that fits."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _adapter_config(path: Path) -> dict[str, JSON]:
    """What is to be shown only; who loads the adapter checks it. Raises :class:`RunError` where it cannot be read."""
    if not path.is_file():
        raise RunError(f"{path} is not there, or no file: the folder has no adapter")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_CONFIG_BYTES + 1)
        if len(content) > _MOST_CONFIG_BYTES:
            raise RunError(f"{path} has more than {_MOST_CONFIG_BYTES} bytes: it is no adapter's configuration")
        config = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as JSON: {shown(str(error), 200)}") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is no adapter's configuration: it is a {type(config).__name__}")
    return config
